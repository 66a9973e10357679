//! Workers that run, workers that died, and what the dead left open.

use chrono::{DateTime, Utc};
use tollgate_domain::{
    Picos, WorkerId,
    price::{Applied, Quote},
};
use uuid::Uuid;

use crate::{
    audit::{AuditWriter, Entry, LlmResolution, Resolution},
    error::{StoreError, StoreResult, word},
    loops,
    tx::{Store, Tx},
    waiting::{self, Claim},
};

/// Heartbeats are judged by the database's clock alone: workers need not agree on the time.
pub const STALE_AFTER_SECONDS: f64 = 10.0;
/// Calls that one sweep resolves at most, and runs that it takes over; the next goes on.
const SWEEP: i64 = 5_000;
const RUNS: i64 = 200;

/// Say that `worker` lives and has closed every call and run below `oldest_open`. Registers the worker at the first time, and
/// says whether it did: a worker that was registered before has been taken for dead, and others have its runs.
///
/// # Errors
/// When the database does not answer.
pub async fn heartbeat(store: &Store, worker: WorkerId, oldest_open: Uuid) -> StoreResult<bool> {
    let mut tx = store.control().await?;
    let registered = sqlx::query_scalar(
        "INSERT INTO workers (worker_id, started_at, heartbeat_at, oldest_open_call) VALUES ($1, clock_timestamp(), clock_timestamp(), $2)
         ON CONFLICT (worker_id) DO UPDATE SET heartbeat_at = clock_timestamp(), oldest_open_call = $2 RETURNING xmax = 0",
    );
    let registered = registered.bind(worker.uuid()).bind(oldest_open).fetch_one(&mut *tx).await?;
    tx.commit().await?;
    Ok(registered)
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
    pub requests: usize,
    /// Runs of the dead worker, whose next turn is whose sweep this was.
    pub runs: Vec<Claim>,
}

#[derive(sqlx::FromRow)]
struct Dead {
    worker_id: Uuid,
    oldest_open_call: Uuid,
    /// The same for every sweep that finds it: where the database goes away under one sweep and another takes its place, both
    /// write the same lines.
    dead_at: DateTime<Utc>,
}

/// Resolve as `unknown` the calls that one dead worker left open, and take over its runs: whoever calls this drives them. `None`
/// when no worker is dead. Safe to run anywhere, at once: the dead worker's row is locked until its resolutions are durable.
///
/// # Errors
/// When the database does not answer; the next sweep finds the same.
pub async fn sweep(store: &Store, audit: &AuditWriter, own: WorkerId) -> StoreResult<Option<Swept>> {
    let mut tx = store.control().await?;
    let dead: Option<Dead> = sqlx::query_as(
        "SELECT worker_id, oldest_open_call, heartbeat_at + make_interval(secs => $1) AS dead_at FROM workers
         WHERE heartbeat_at < clock_timestamp() - make_interval(secs => $1) AND worker_id <> $2
         ORDER BY heartbeat_at LIMIT 1 FOR UPDATE SKIP LOCKED",
    )
    .bind(STALE_AFTER_SECONDS)
    .bind(own.uuid())
    .fetch_optional(&mut *tx)
    .await?;
    let Some(dead) = dead else { return Ok(None) };

    // By tenant, because the primary key leads with it: a range of its index per tenant instead of a scan of the month.
    let calls = sqlx::query!(
        "SELECT i.tenant_id, i.call_id, i.quoted_picos, i.unit, i.unit_picos FROM tenants t
         CROSS JOIN LATERAL (
           SELECT e.tenant_id, e.call_id, e.quoted_picos, e.unit, e.unit_picos FROM tool_call_events e
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
    let resolved = calls.len();
    let resolutions = calls.into_iter().map(|call| {
        let (tenant, id) = (call.tenant_id.into(), call.call_id.into());
        let amount = unknown(call.quoted_picos, call.unit.as_deref(), call.unit_picos)?;
        Ok(Resolution { tenant, id, amount, at: dead.dead_at })
    });
    let requests = open_requests(&mut tx, &dead).await?;
    let (calls, forwarded) = (resolved, requests.len());
    let resolutions = resolutions.collect::<StoreResult<_>>()?;
    let entry = Entry { resolutions, llm_resolutions: requests, ..Entry::default() };
    if !entry.is_empty() {
        // Dropped when it takes too long: the next sweep finds the same, and must not find it in the queue as well.
        audit.before(entry).await.map_err(|_| StoreError::Unavailable(sqlx::Error::PoolTimedOut))?;
    }
    loops::release(&mut tx, dead.worker_id).await?;
    let runs = waiting::claim_crashed(&mut tx, (dead.worker_id, dead.oldest_open_call), own, RUNS, dead.dead_at).await?;
    let most = |limit: i64| usize::try_from(limit).unwrap_or(usize::MAX);
    if calls < most(SWEEP) && forwarded < most(SWEEP) && runs.len() < most(RUNS) {
        sqlx::query!("DELETE FROM workers WHERE worker_id = $1", dead.worker_id).execute(&mut *tx).await?;
    }
    tx.commit().await?;
    Ok(Some(Swept { calls, requests: forwarded, runs }))
}

/// Requests that the dead worker had forwarded and of which nobody knows how they ended.
async fn open_requests(tx: &mut Tx, dead: &Dead) -> StoreResult<Vec<LlmResolution>> {
    let rows = sqlx::query_as::<_, (Uuid, Uuid, i64)>(
        "SELECT i.tenant_id, i.llm_request_id, i.quoted_picos FROM tenants t
         CROSS JOIN LATERAL (
           SELECT f.tenant_id, f.llm_request_id, f.quoted_picos FROM llm_forwards f
           WHERE f.tenant_id = t.tenant_id AND f.llm_request_id >= $1 AND f.worker_id = $2 AND f.decision = 'permitted'
             AND NOT EXISTS (SELECT FROM llm_request_ends e WHERE e.tenant_id = f.tenant_id AND e.llm_request_id = f.llm_request_id)) i
         LIMIT $3",
    );
    let rows = rows.bind(dead.oldest_open_call).bind(dead.worker_id).bind(SWEEP).fetch_all(&mut **tx).await?;
    let resolve = |(tenant, id, quoted): (Uuid, Uuid, i64)| LlmResolution {
        tenant: tenant.into(),
        id: id.into(),
        amount: Picos(quoted),
        at: dead.dead_at,
    };
    Ok(rows.into_iter().map(resolve).collect())
}

/// What a call is charged of which its row says how it began, and nobody how it ended.
fn unknown(quoted: Option<i64>, unit: Option<&str>, amount: Option<i64>) -> StoreResult<Picos> {
    let applied = match (unit, amount.map(Picos)) {
        (Some(unit), Some(amount)) => Some(Applied { unit: word(unit)?, amount, volume: None }),
        _ => None,
    };
    Ok(Quote { price_id: None, amount: Picos(quoted.unwrap_or(0)), applied }.unknown())
}

/// For how many days what was drawn from a budget can be traced to its lease, and a dead worker's call be corrected by its worker.
const FORGET_LEASES: i32 = 7;

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
    sqlx::query("SELECT tollgate_forget_leases($1)").bind(FORGET_LEASES).execute(&mut *tx).await?;
    sqlx::query("SELECT tollgate_forget_slots()").execute(&mut *tx).await?;
    loops::forget(&mut tx, now).await?;
    sqlx::query!("DELETE FROM sync_requests WHERE requested_at < $1::timestamptz - interval '1 day'", now)
        .execute(&mut *tx)
        .await?;
    Ok(tx.commit().await?)
}
