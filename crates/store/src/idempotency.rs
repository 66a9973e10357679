//! Answers that are remembered under the caller's key, in the transaction of the write that they answer.

use chrono::{DateTime, Utc};
use tollgate_domain::{TenantId, tool::sha256};

use crate::{change::Change, error::StoreResult, tenants, tx::Store};

#[derive(Debug, Clone)]
pub struct Kept {
    pub request_hash: Vec<u8>,
    pub status: i16,
    pub sealed_answer: Vec<u8>,
}

/// What an answer is sealed for: one that is moved to another row does not open.
#[must_use]
pub fn purpose(tenant: TenantId, principal: &str, key: &str) -> String {
    format!("idempotency/{tenant}/{principal}/{key}")
}

/// What was answered under this key, if that was after `oldest`. Whoever else uses the same key waits until this
/// transaction ends, and then finds what it has kept.
///
/// # Errors
/// When the database does not answer.
pub async fn find(change: &mut Change, principal: &str, key: &str, oldest: DateTime<Utc>) -> StoreResult<Option<Kept>> {
    let tenant = change.tenant.uuid();
    sqlx::query!("SELECT pg_advisory_xact_lock($1)", lock_of(change.tenant, principal, key)).fetch_one(&mut *change.tx).await?;
    // An answer that is too old is forgotten here as well, so that its key can be used again at once.
    sqlx::query!(
        "DELETE FROM idempotency_keys WHERE tenant_id = $1 AND principal = $2 AND key = $3 AND created_at <= $4",
        tenant,
        principal,
        key,
        oldest,
    )
    .execute(&mut *change.tx)
    .await?;
    let kept = sqlx::query_as!(
        Kept,
        "SELECT request_hash, status, sealed_answer FROM idempotency_keys WHERE tenant_id = $1 AND principal = $2 AND key = $3",
        tenant,
        principal,
        key,
    )
    .fetch_optional(&mut *change.tx)
    .await?;
    Ok(kept)
}

/// Keep an answer for the tenant whose key was looked up, which is not the change's own where that has just been made.
///
/// # Errors
/// When the database does not answer.
pub async fn keep(change: &mut Change, tenant: TenantId, principal: &str, key: &str, answer: &Kept) -> StoreResult<()> {
    let own = change.tenant;
    tenants::enter(change, tenant).await?;
    sqlx::query!(
        "INSERT INTO idempotency_keys (tenant_id, principal, key, request_hash, status, sealed_answer, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
        tenant.uuid(),
        principal,
        key,
        answer.request_hash,
        answer.status,
        answer.sealed_answer,
        change.now,
    )
    .execute(&mut *change.tx)
    .await?;
    tenants::enter(change, own).await
}

/// Forget what was kept before `oldest`, of all tenants.
///
/// # Errors
/// When the database does not answer.
pub async fn forget(store: &Store, oldest: DateTime<Utc>) -> StoreResult<u64> {
    let mut tx = store.control().await?;
    let done = sqlx::query!("DELETE FROM idempotency_keys WHERE created_at <= $1", oldest).execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(done.rows_affected())
}

/// Two keys that share a lock only wait for one another.
fn lock_of(tenant: TenantId, principal: &str, key: &str) -> i64 {
    let hash = sha256(format!("{tenant}\n{principal}\n{key}").as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&hash[..8]);
    i64::from_be_bytes(first)
}
