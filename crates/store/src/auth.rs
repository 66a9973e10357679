//! Whose bearer is this: the few reads of the admin door that come before a tenant is known.

use chrono::{DateTime, Utc};
use tollgate_domain::{AdminId, PlatformTokenId, Role, ServiceTokenId, TenantId};

use crate::{
    error::{StoreError, StoreResult},
    tx::Store,
};

/// A service token's row, as far as authentication goes.
#[derive(Debug, Clone)]
pub struct ServiceTokenRow {
    pub tenant: TenantId,
    pub tenant_deleted: bool,
    pub name: String,
    pub role: Role,
    pub hash: Vec<u8>,
    pub expires_at: Option<DateTime<Utc>>,
    pub revoked_at: Option<DateTime<Utc>>,
}

#[derive(Debug, Clone)]
pub struct PlatformTokenRow {
    pub hash: Vec<u8>,
    pub revoked_at: Option<DateTime<Utc>>,
}

/// A person's place in one tenant that lives.
#[derive(Debug, Clone)]
pub struct Binding {
    pub admin: AdminId,
    pub tenant: TenantId,
    pub name: String,
    pub role: Role,
}

pub(crate) fn role(text: &str) -> StoreResult<Role> {
    text.parse().map_err(|e| StoreError::Corrupt(format!("role {text:?}: {e}")))
}

/// # Errors
/// When the database does not answer.
pub async fn service_token(store: &Store, id: ServiceTokenId) -> StoreResult<Option<ServiceTokenRow>> {
    let mut tx = store.control().await?;
    let row = sqlx::query!(
        r#"SELECT s.tenant_id, s.name, s.role, s.hash, s.expires_at, s.revoked_at, t.deleted_at IS NOT NULL AS "deleted!"
           FROM service_tokens s JOIN tenants t ON t.tenant_id = s.tenant_id WHERE s.token_id = $1"#,
        id.uuid(),
    )
    .fetch_optional(&mut *tx)
    .await?;
    tx.commit().await?;
    row.map(|row| {
        Ok(ServiceTokenRow {
            tenant: row.tenant_id.into(),
            tenant_deleted: row.deleted,
            name: row.name,
            role: role(&row.role)?,
            hash: row.hash,
            expires_at: row.expires_at,
            revoked_at: row.revoked_at,
        })
    })
    .transpose()
}

/// # Errors
/// When the database does not answer.
pub async fn platform_token(store: &Store, id: PlatformTokenId) -> StoreResult<Option<PlatformTokenRow>> {
    let mut tx = store.control().await?;
    let row = sqlx::query_as!(PlatformTokenRow, "SELECT hash, revoked_at FROM platform_tokens WHERE token_id = $1", id.uuid())
        .fetch_optional(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(row)
}

/// Let a platform token in. Called where the deployment is set up; no route leads here.
///
/// # Errors
/// When the database does not answer.
pub async fn put_platform_token(store: &Store, id: PlatformTokenId, hash: &[u8], now: DateTime<Utc>) -> StoreResult<()> {
    let mut tx = store.control().await?;
    sqlx::query!("INSERT INTO platform_tokens (token_id, hash, created_at) VALUES ($1, $2, $3)", id.uuid(), hash, now)
        .execute(&mut *tx)
        .await?;
    Ok(tx.commit().await?)
}

/// Every platform token stops working.
///
/// # Errors
/// When the database does not answer.
pub async fn revoke_platform_tokens(store: &Store, now: DateTime<Utc>) -> StoreResult<u64> {
    let mut tx = store.control().await?;
    let done = sqlx::query!("UPDATE platform_tokens SET revoked_at = $1 WHERE revoked_at IS NULL", now).execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(done.rows_affected())
}

/// The tenants in which an identity provider's subject is an admin, oldest first.
///
/// # Errors
/// When the database does not answer.
pub async fn bindings(store: &Store, issuer: &str, subject: &str) -> StoreResult<Vec<Binding>> {
    let mut tx = store.control().await?;
    let rows = sqlx::query!(
        "SELECT a.tenant_id, a.admin_id, a.name, a.role FROM admins a JOIN tenants t ON t.tenant_id = a.tenant_id
         WHERE a.issuer = $1 AND a.subject = $2 AND t.deleted_at IS NULL ORDER BY a.admin_id",
        issuer,
        subject,
    )
    .fetch_all(&mut *tx)
    .await?;
    tx.commit().await?;
    rows.into_iter()
        .map(|row| {
            Ok(Binding { admin: row.admin_id.into(), tenant: row.tenant_id.into(), name: row.name, role: role(&row.role)? })
        })
        .collect()
}

/// The tenant with this id or slug, if it lives.
///
/// # Errors
/// When the database does not answer.
pub async fn live_tenant(store: &Store, id_or_slug: &str) -> StoreResult<Option<TenantId>> {
    let id = id_or_slug.parse::<TenantId>().ok().map(TenantId::uuid);
    let mut tx = store.control().await?;
    let found = sqlx::query_scalar!(
        "SELECT tenant_id FROM tenants WHERE (tenant_id = $1 OR ($1 IS NULL AND slug = $2)) AND deleted_at IS NULL",
        id,
        id_or_slug,
    )
    .fetch_optional(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(found.map(TenantId::from_uuid))
}

/// # Errors
/// When the database does not answer.
pub async fn is_live(store: &Store, tenant: TenantId) -> StoreResult<bool> {
    let mut tx = store.control().await?;
    let found = sqlx::query_scalar!("SELECT true FROM tenants WHERE tenant_id = $1 AND deleted_at IS NULL", tenant.uuid())
        .fetch_optional(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(found.is_some())
}
