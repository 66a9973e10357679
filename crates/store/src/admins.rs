//! People who come in through an identity provider whose tokens name no tenant or role.

use chrono::{DateTime, Utc};
use tollgate_domain::{AdminId, Role, TenantId};
use uuid::Uuid;

use crate::{
    auth::role,
    change::Change,
    error::{StoreError, StoreResult},
    page::{Page, PageRequest},
    tx::Store,
};

#[derive(Debug, Clone)]
pub struct Admin {
    pub id: AdminId,
    pub name: String,
    pub issuer: String,
    pub subject: String,
    pub role: Role,
    pub created_at: DateTime<Utc>,
    pub version: i32,
}

struct Row {
    admin_id: Uuid,
    name: String,
    issuer: String,
    subject: String,
    role: String,
    created_at: DateTime<Utc>,
    version: i32,
}

impl TryFrom<Row> for Admin {
    type Error = StoreError;
    fn try_from(row: Row) -> StoreResult<Self> {
        let role = role(&row.role)?;
        let Row { admin_id, name, issuer, subject, created_at, version, .. } = row;
        Ok(Self { id: admin_id.into(), name, issuer, subject, role, created_at, version })
    }
}

/// # Errors
/// `Conflict` when the subject is an admin of this tenant already.
pub async fn create(change: &mut Change, admin: &Admin) -> StoreResult<()> {
    sqlx::query!(
        "INSERT INTO admins (tenant_id, admin_id, name, issuer, subject, role, created_at, updated_at, version)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $7, $8)",
        change.tenant.uuid(),
        admin.id.uuid(),
        admin.name,
        admin.issuer,
        admin.subject,
        admin.role.as_str(),
        admin.created_at,
        admin.version,
    )
    .execute(&mut *change.tx)
    .await
    .map_err(|e| StoreError::from(e).taken("this subject is an admin of this tenant already"))?;
    Ok(())
}

/// Oldest first.
///
/// # Errors
/// When the database does not answer.
pub async fn list(store: &Store, tenant: TenantId, page: PageRequest) -> StoreResult<Page<Admin>> {
    let mut tx = store.tenant(tenant).await?;
    let rows = sqlx::query_as!(
        Row,
        "SELECT admin_id, name, issuer, subject, role, created_at, version FROM admins
         WHERE tenant_id = $1 AND ($2::uuid IS NULL OR admin_id > $2) ORDER BY admin_id LIMIT $3",
        tenant.uuid(),
        page.after,
        page.fetch(),
    )
    .fetch_all(&mut *tx)
    .await?;
    tx.commit().await?;
    let admins = rows.into_iter().map(Admin::try_from).collect::<StoreResult<_>>()?;
    Ok(page.cut(admins, |admin: &Admin| admin.id.uuid()))
}

/// # Errors
/// `NotFound`.
pub async fn get(store: &Store, tenant: TenantId, id: AdminId) -> StoreResult<Admin> {
    let mut tx = store.tenant(tenant).await?;
    let row = sqlx::query_as!(
        Row,
        "SELECT admin_id, name, issuer, subject, role, created_at, version FROM admins WHERE tenant_id = $1 AND admin_id = $2",
        tenant.uuid(),
        id.uuid(),
    )
    .fetch_one(&mut *tx)
    .await?;
    tx.commit().await?;
    row.try_into()
}

/// The admin, locked until the change ends.
///
/// # Errors
/// `NotFound`.
pub async fn lock(change: &mut Change, id: AdminId) -> StoreResult<Admin> {
    let row = sqlx::query_as!(
        Row,
        "SELECT admin_id, name, issuer, subject, role, created_at, version FROM admins
         WHERE tenant_id = $1 AND admin_id = $2 FOR UPDATE",
        change.tenant.uuid(),
        id.uuid(),
    )
    .fetch_one(&mut *change.tx)
    .await?;
    row.try_into()
}

/// # Errors
/// When the database does not answer.
pub async fn delete(change: &mut Change, id: AdminId) -> StoreResult<()> {
    sqlx::query!("DELETE FROM admins WHERE tenant_id = $1 AND admin_id = $2", change.tenant.uuid(), id.uuid())
        .execute(&mut *change.tx)
        .await?;
    Ok(())
}
