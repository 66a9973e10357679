//! Workers that run, workers that died, and what the dead left open.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use tollgate_domain::{CallId, Outcome, TenantId, WorkerId};
use uuid::Uuid;

use crate::{error::StoreResult, payload, tx::Store};

/// Heartbeats are judged by the database's clock alone: workers need not agree on the time.
pub const STALE_AFTER_SECONDS: f64 = 10.0;
/// Rows that one sweep resolves at most; the next goes on.
const SWEEP: i64 = 5_000;

/// Say that `worker` lives and has closed every call and run below `oldest_open`. Registers the worker at the first time.
///
/// # Errors
/// When the database does not answer.
pub async fn heartbeat(store: &Store, worker: WorkerId, oldest_open: Uuid) -> StoreResult<()> {
    let mut tx = store.control().await?;
    sqlx::query!(
        "INSERT INTO workers (worker_id, started_at, heartbeat_at, oldest_open_call) VALUES ($1, clock_timestamp(), clock_timestamp(), $2)
         ON CONFLICT (worker_id) DO UPDATE SET heartbeat_at = clock_timestamp(), oldest_open_call = $2",
        worker.uuid(),
        oldest_open,
    )
    .execute(&mut *tx)
    .await?;
    Ok(tx.commit().await?)
}

/// Forget a worker that has ended with nothing open.
///
/// # Errors
/// When the database does not answer; the sweeper finds the worker later, and nothing open.
pub async fn retire(store: &Store, worker: WorkerId) -> StoreResult<()> {
    let mut tx = store.control().await?;
    sqlx::query!("DELETE FROM workers WHERE worker_id = $1", worker.uuid()).execute(&mut *tx).await?;
    Ok(tx.commit().await?)
}

/// What one sweep resolved.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Swept {
    pub calls: usize,
    pub runs: usize,
}

/// Resolve as `unknown` the calls that one dead worker left open, and fail its runs. `None` when no worker is dead. Safe to
/// run anywhere, at once: the dead worker's row is locked, and a resolution is written once.
///
/// # Errors
/// When the database does not answer; the next sweep finds the same.
pub async fn sweep(store: &Store, own: WorkerId, now: DateTime<Utc>) -> StoreResult<Option<Swept>> {
    let mut tx = store.control().await?;
    let dead = sqlx::query!(
        "SELECT worker_id, oldest_open_call FROM workers
         WHERE heartbeat_at < clock_timestamp() - make_interval(secs => $1) AND worker_id <> $2
         ORDER BY heartbeat_at LIMIT 1 FOR UPDATE SKIP LOCKED",
        STALE_AFTER_SECONDS,
        own.uuid(),
    );
    let Some(dead) = dead.fetch_optional(&mut *tx).await? else { return Ok(None) };

    // By tenant, because the primary key leads with it: a range of its index per tenant instead of a scan of the month.
    let calls = sqlx::query!(
        "SELECT i.tenant_id, i.call_id, i.quoted_picos FROM tenants t
         CROSS JOIN LATERAL (
           SELECT e.tenant_id, e.call_id, e.quoted_picos FROM tool_call_events e
           WHERE e.tenant_id = t.tenant_id AND e.call_id >= $1 AND e.kind = 0 AND e.worker_id = $2 AND e.outcome IS NULL
             AND NOT EXISTS (SELECT FROM tool_call_events c
                             WHERE c.tenant_id = e.tenant_id AND c.call_id = e.call_id AND c.kind IN (1, 2))) i
         LIMIT $3",
        dead.oldest_open_call,
        dead.worker_id,
        SWEEP,
    )
    .fetch_all(&mut *tx)
    .await?;
    let runs = sqlx::query!(
        "SELECT r.tenant_id, r.script_run_id FROM tenants t
         CROSS JOIN LATERAL (SELECT s.tenant_id, s.script_run_id FROM script_runs s
           WHERE s.tenant_id = t.tenant_id AND s.script_run_id >= $1 AND s.worker_id = $2 AND s.state = 'running') r
         LIMIT $3",
        dead.oldest_open_call,
        dead.worker_id,
        SWEEP,
    )
    .fetch_all(&mut *tx)
    .await?;

    let swept = Swept { calls: calls.len(), runs: runs.len() };
    let calls: Vec<_> = calls.into_iter().map(|c| (c.tenant_id.into(), CallId::from(c.call_id), c.quoted_picos)).collect();
    resolve(store, &calls, now).await?;
    let mut by_tenant: HashMap<Uuid, Vec<Uuid>> = HashMap::new();
    for run in runs {
        by_tenant.entry(run.tenant_id).or_default().push(run.script_run_id);
    }
    for (tenant, runs) in by_tenant {
        fail_runs(store, tenant.into(), &runs, now).await?;
    }
    let all = usize::try_from(SWEEP).unwrap_or(usize::MAX);
    if swept.calls < all && swept.runs < all {
        sqlx::query!("DELETE FROM workers WHERE worker_id = $1", dead.worker_id).execute(&mut *tx).await?;
    }
    tx.commit().await?;
    Ok(Some(swept))
}

async fn resolve(store: &Store, calls: &[(TenantId, CallId, Option<i64>)], now: DateTime<Utc>) -> StoreResult<()> {
    let tenants: Vec<Uuid> = calls.iter().map(|c| c.0.uuid()).collect();
    let ids: Vec<Uuid> = calls.iter().map(|c| c.1.uuid()).collect();
    // The upstream may have acted, so the call is charged as quoted.
    let amounts: Vec<i64> = calls.iter().map(|c| c.2.unwrap_or(0)).collect();
    let mut tx = store.writer().await?;
    sqlx::query!(
        "INSERT INTO tool_call_events (tenant_id, call_id, kind, at, outcome, error, amount_picos)
         SELECT t, c, 2, $4, $5, 'the worker ended before it could say how the call did', a
         FROM UNNEST($1::uuid[], $2::uuid[], $3::bigint[]) AS n(t, c, a)
         ON CONFLICT DO NOTHING",
        &tenants,
        &ids,
        &amounts,
        now,
        Outcome::Unknown.as_str(),
    )
    .execute(&mut *tx)
    .await?;
    Ok(tx.commit().await?)
}

async fn fail_runs(store: &Store, tenant: TenantId, runs: &[Uuid], now: DateTime<Utc>) -> StoreResult<()> {
    let error = serde_json::json!({"kind": "sandbox", "message": "The worker ended while the script ran. Run it again; calls that it had made are in the audit trail.", "line": null, "column": null});
    let mut tx = store.tenant(tenant).await?;
    sqlx::query!(
        "UPDATE script_runs SET state = 'failed', error = $3, closed_at = $4
         WHERE tenant_id = $1 AND script_run_id = ANY($2) AND state = 'running'",
        tenant.uuid(),
        runs,
        payload::pack(error.to_string().as_bytes()),
        now,
    )
    .execute(&mut *tx)
    .await?;
    Ok(tx.commit().await?)
}

/// Housekeeping that any worker may do at any time: partitions ahead of time, idempotency keys and answered sync requests
/// older than a day.
///
/// # Errors
/// When the database does not answer.
pub async fn housekeeping(store: &Store, now: DateTime<Utc>) -> StoreResult<()> {
    let mut tx = store.control().await?;
    sqlx::query!("SELECT tollgate_ensure_partitions($1)", now).fetch_one(&mut *tx).await?;
    sqlx::query!("DELETE FROM idempotency_keys WHERE created_at < $1::timestamptz - interval '1 day'", now)
        .execute(&mut *tx)
        .await?;
    sqlx::query!("DELETE FROM sync_requests WHERE requested_at < $1::timestamptz - interval '1 day'", now)
        .execute(&mut *tx)
        .await?;
    Ok(tx.commit().await?)
}
