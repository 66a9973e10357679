//! Script runs as the worker writes them: a run is opened by the audit writer and closed here, once.

use chrono::{DateTime, Utc};
use serde_json::Value;
use tollgate_domain::{KeyId, LlmRequestId, Origin, ScriptRunId, TenantId};

use crate::{
    error::{StoreError, StoreResult},
    payload,
    tx::Store,
};

/// How a run ended.
#[derive(Debug, Clone)]
pub struct RunEnd {
    /// `done` or `failed`
    pub state: &'static str,
    pub result: Option<Value>,
    pub logs: Vec<String>,
    pub error: Option<Value>,
    pub ticks: u64,
}

/// Close a run. Durable when it returns. A run that a sweeper failed because its worker was cut off, not dead, is closed as
/// it really ended; the sweeper leaves no tick count.
///
/// # Errors
/// When the database does not answer; the answer must not be released then.
pub async fn close(store: &Store, tenant: TenantId, run: ScriptRunId, end: &RunEnd, now: DateTime<Utc>) -> StoreResult<()> {
    let pack = |value: &Value| payload::pack(value.to_string().as_bytes());
    let mut tx = store.tenant(tenant).await?;
    sqlx::query!(
        "UPDATE script_runs SET state = $3, result = $4, logs = $5, error = $6, ticks = $7, closed_at = $8
         WHERE tenant_id = $1 AND script_run_id = $2
           AND (state = 'running' OR (state = 'failed' AND ticks IS NULL))",
        tenant.uuid(),
        run.uuid(),
        end.state,
        end.result.as_ref().map(pack),
        pack(&Value::from(end.logs.clone())),
        end.error.as_ref().map(pack),
        i64::try_from(end.ticks).unwrap_or(i64::MAX),
        now,
    )
    .execute(&mut *tx)
    .await?;
    Ok(tx.commit().await?)
}

/// The origin of a request that a client names as its parent.
///
/// # Errors
/// [`StoreError::NotFound`] unless it exists and belongs to this tenant and key.
pub async fn parent(store: &Store, tenant: TenantId, key: KeyId, request: LlmRequestId) -> StoreResult<Origin> {
    let mut tx = store.tenant(tenant).await?;
    let origin = sqlx::query_scalar!(
        "SELECT origin FROM llm_requests WHERE tenant_id = $1 AND llm_request_id = $2 AND key_id = $3",
        tenant.uuid(),
        request.uuid(),
        key.uuid(),
    )
    .fetch_optional(&mut *tx)
    .await?
    .ok_or(StoreError::NotFound)?;
    tx.commit().await?;
    origin.parse().map_err(|e| StoreError::Corrupt(format!("origin: {e}")))
}
