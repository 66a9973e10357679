//! Service tokens: how programs come through the admin door.

use chrono::{DateTime, Utc};
use tollgate_domain::{Role, ServiceTokenId, TenantId};
use uuid::Uuid;

use crate::{
    auth::role,
    change::Change,
    error::{StoreError, StoreResult},
    page::{Page, PageRequest},
    tx::Store,
};

#[derive(Debug, Clone)]
pub struct ServiceToken {
    pub id: ServiceTokenId,
    pub name: String,
    pub role: Role,
    pub created_at: DateTime<Utc>,
    pub expires_at: Option<DateTime<Utc>>,
    pub revoked_at: Option<DateTime<Utc>>,
}

struct Row {
    token_id: Uuid,
    name: String,
    role: String,
    created_at: DateTime<Utc>,
    expires_at: Option<DateTime<Utc>>,
    revoked_at: Option<DateTime<Utc>>,
}

impl TryFrom<Row> for ServiceToken {
    type Error = StoreError;
    fn try_from(row: Row) -> StoreResult<Self> {
        let role = role(&row.role)?;
        let Row { token_id, name, created_at, expires_at, revoked_at, .. } = row;
        Ok(Self { id: token_id.into(), name, role, created_at, expires_at, revoked_at })
    }
}

/// # Errors
/// When the database does not answer.
pub async fn create(change: &mut Change, token: &ServiceToken, hash: &[u8]) -> StoreResult<()> {
    sqlx::query!(
        "INSERT INTO service_tokens (tenant_id, token_id, name, role, hash, created_at, expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7)",
        change.tenant.uuid(),
        token.id.uuid(),
        token.name,
        token.role.as_str(),
        hash,
        token.created_at,
        token.expires_at,
    )
    .execute(&mut *change.tx)
    .await?;
    Ok(())
}

/// Oldest first, revoked ones included.
///
/// # Errors
/// When the database does not answer.
pub async fn list(store: &Store, tenant: TenantId, page: PageRequest) -> StoreResult<Page<ServiceToken>> {
    let mut tx = store.tenant(tenant).await?;
    let rows = sqlx::query_as!(
        Row,
        "SELECT token_id, name, role, created_at, expires_at, revoked_at FROM service_tokens
         WHERE tenant_id = $1 AND ($2::uuid IS NULL OR token_id > $2) ORDER BY token_id LIMIT $3",
        tenant.uuid(),
        page.after,
        page.fetch(),
    )
    .fetch_all(&mut *tx)
    .await?;
    tx.commit().await?;
    let tokens = rows.into_iter().map(ServiceToken::try_from).collect::<StoreResult<_>>()?;
    Ok(page.cut(tokens, |token: &ServiceToken| token.id.uuid()))
}

/// # Errors
/// `NotFound`.
pub async fn get(store: &Store, tenant: TenantId, id: ServiceTokenId) -> StoreResult<ServiceToken> {
    let mut tx = store.tenant(tenant).await?;
    let row = sqlx::query_as!(
        Row,
        "SELECT token_id, name, role, created_at, expires_at, revoked_at FROM service_tokens WHERE tenant_id = $1 AND token_id = $2",
        tenant.uuid(),
        id.uuid(),
    )
    .fetch_one(&mut *tx)
    .await?;
    tx.commit().await?;
    row.try_into()
}

/// The token, locked until the change ends.
///
/// # Errors
/// `NotFound`.
pub async fn lock(change: &mut Change, id: ServiceTokenId) -> StoreResult<ServiceToken> {
    let row = sqlx::query_as!(
        Row,
        "SELECT token_id, name, role, created_at, expires_at, revoked_at FROM service_tokens
         WHERE tenant_id = $1 AND token_id = $2 FOR UPDATE",
        change.tenant.uuid(),
        id.uuid(),
    )
    .fetch_one(&mut *change.tx)
    .await?;
    row.try_into()
}

/// The first revocation stands.
///
/// # Errors
/// When the database does not answer.
pub async fn revoke(change: &mut Change, id: ServiceTokenId) -> StoreResult<()> {
    sqlx::query!(
        "UPDATE service_tokens SET revoked_at = $3 WHERE tenant_id = $1 AND token_id = $2 AND revoked_at IS NULL",
        change.tenant.uuid(),
        id.uuid(),
        change.now,
    )
    .execute(&mut *change.tx)
    .await?;
    Ok(())
}
