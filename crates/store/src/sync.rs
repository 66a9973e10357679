//! Synchronising an upstream on demand: an admin asks, a worker that reaches the upstream answers.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use tollgate_domain::{SyncRequestId, TenantId, UpstreamId, WorkerId, tool::UpstreamState};

use crate::{
    error::{StoreError, StoreResult},
    tx::Store,
};

/// Open requests that one look returns at most; whoever waits for an older one has long gone.
const OPEN: i64 = 100;

/// What a worker said about an upstream is forgotten after this long: most likely the worker has ended.
const FORGET: TimeDelta = TimeDelta::hours(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SyncRequest {
    pub tenant: TenantId,
    pub sync_id: SyncRequestId,
    pub upstream_id: UpstreamId,
}

/// Ask for a synchronisation. Workers hear of it by `NOTIFY tollgate_sync`, with the id as payload.
///
/// # Errors
/// [`StoreError::NotFound`] for an upstream that does not exist or is deleted.
pub async fn request(store: &Store, tenant: TenantId, upstream: UpstreamId, now: DateTime<Utc>) -> StoreResult<SyncRequestId> {
    let id = SyncRequestId::mint(now);
    let mut tx = store.tenant(tenant).await?;
    let inserted = sqlx::query!(
        "INSERT INTO sync_requests (tenant_id, sync_id, upstream_id, requested_at)
         SELECT tenant_id, $2, upstream_id, $4 FROM upstreams WHERE tenant_id = $1 AND upstream_id = $3 AND deleted_at IS NULL",
        tenant.uuid(),
        id.uuid(),
        upstream.uuid(),
        now,
    )
    .execute(&mut *tx)
    .await?;
    if inserted.rows_affected() == 0 {
        return Err(StoreError::NotFound);
    }
    sqlx::query!("SELECT pg_notify('tollgate_sync', $1)", id.to_string()).fetch_one(&mut *tx).await?;
    tx.commit().await?;
    Ok(id)
}

/// The answer, once there is one: `{"added", "changed", "removed"}` or `{"error"}`.
///
/// # Errors
/// [`StoreError::NotFound`], or when the database does not answer.
pub async fn answer_of(store: &Store, tenant: TenantId, sync_id: SyncRequestId) -> StoreResult<Option<Value>> {
    let mut tx = store.tenant(tenant).await?;
    let answer = sqlx::query_scalar!(
        "SELECT answer FROM sync_requests WHERE tenant_id = $1 AND sync_id = $2",
        tenant.uuid(),
        sync_id.uuid()
    )
    .fetch_one(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(answer)
}

/// Unanswered requests of all tenants, newest first.
///
/// # Errors
/// When the database does not answer.
pub async fn open_requests(store: &Store) -> StoreResult<Vec<SyncRequest>> {
    let mut tx = store.control().await?;
    let rows = sqlx::query!(
        "SELECT r.tenant_id, r.sync_id, r.upstream_id FROM sync_requests r
         JOIN upstreams u ON u.tenant_id = r.tenant_id AND u.upstream_id = r.upstream_id
         WHERE r.answered_at IS NULL AND u.deleted_at IS NULL ORDER BY r.requested_at DESC LIMIT $1",
        OPEN,
    )
    .fetch_all(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(rows
        .into_iter()
        .map(|r| SyncRequest { tenant: r.tenant_id.into(), sync_id: r.sync_id.into(), upstream_id: r.upstream_id.into() })
        .collect())
}

/// Answer a request. The first answer stands; a later one changes nothing.
///
/// # Errors
/// When the database does not answer.
pub async fn answer(
    store: &Store,
    tenant: TenantId,
    sync_id: SyncRequestId,
    answer: Value,
    now: DateTime<Utc>,
) -> StoreResult<()> {
    let mut tx = store.tenant(tenant).await?;
    sqlx::query!(
        "UPDATE sync_requests SET answer = $3, answered_at = $4 WHERE tenant_id = $1 AND sync_id = $2 AND answered_at IS NULL",
        tenant.uuid(),
        sync_id.uuid(),
        without_nul(answer),
        now,
    )
    .execute(&mut *tx)
    .await?;
    Ok(tx.commit().await?)
}

/// Write down what one worker sees of an upstream. An admin reads the best of what workers said in the last 30 s, so this
/// is repeated at least every 10 s.
///
/// # Errors
/// When the database does not answer.
#[expect(clippy::too_many_arguments, reason = "one row's columns, each of its own type")]
pub async fn record_status(
    store: &Store,
    tenant: TenantId,
    upstream: UpstreamId,
    worker: WorkerId,
    state: UpstreamState,
    error: Option<&str>,
    server: Option<Value>,
    now: DateTime<Utc>,
) -> StoreResult<()> {
    let mut tx = store.tenant(tenant).await?;
    sqlx::query!(
        "INSERT INTO upstream_status (tenant_id, upstream_id, worker_id, state, error, server, checked_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT (tenant_id, upstream_id, worker_id)
         DO UPDATE SET state = $4, error = $5, server = COALESCE($6, upstream_status.server), checked_at = $7",
        tenant.uuid(),
        upstream.uuid(),
        worker.uuid(),
        state.as_str(),
        error.map(|text| text.replace('\0', "\u{fffd}")),
        server.map(without_nul),
        now,
    )
    .execute(&mut *tx)
    .await?;
    // Each worker tidies behind the dead ones; whoever comes second finds nothing, and nobody waits for a locked row.
    sqlx::query!(
        "DELETE FROM upstream_status WHERE (tenant_id, upstream_id, worker_id) IN (
           SELECT tenant_id, upstream_id, worker_id FROM upstream_status
           WHERE tenant_id = $1 AND upstream_id = $2 AND checked_at < $3 FOR UPDATE SKIP LOCKED)",
        tenant.uuid(),
        upstream.uuid(),
        now - FORGET,
    )
    .execute(&mut *tx)
    .await?;
    Ok(tx.commit().await?)
}

/// Upstreams may say anything; jsonb takes everything but NUL.
fn without_nul(value: Value) -> Value {
    let clean = |text: String| if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text };
    match value {
        Value::String(text) => Value::String(clean(text)),
        Value::Array(items) => items.into_iter().map(without_nul).collect(),
        Value::Object(fields) => fields.into_iter().map(|(name, value)| (clean(name), without_nul(value))).collect(),
        other => other,
    }
}
