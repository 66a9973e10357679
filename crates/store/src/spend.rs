//! Leases of budgets: what a worker may let calls draw from without asking again. The rules are SQL functions, because each must be one
//! statement that is its own transaction; see the head of their migration for why the sum of all that calls cost stays below a limit.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tollgate_domain::{BudgetId, Picos, TenantId, WorkerId, budget::Window};
use tollgate_evidence::line::{Kind, Place};
use uuid::Uuid;

use crate::{
    budgets::number,
    error::{StoreError, StoreResult},
    tx::{Store, Tx},
};

/// How long a lease lives that nobody renews.
pub const LEASE: Duration = Duration::from_secs(30);

/// What a worker asks for.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    pub tenant: TenantId,
    pub budget: BudgetId,
    pub window: Window,
    /// When the call is opened.
    pub at: DateTime<Utc>,
    /// Less is of no use.
    pub need: Picos,
    /// What all need who wait.
    pub waiting: Picos,
    /// What would last for a while.
    pub want: Picos,
    /// No call that will draw from the lease has a smaller id.
    pub floor: Uuid,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Granted {
    pub lease: Uuid,
    /// Nothing, where there is not what was needed.
    pub amount: Picos,
    /// What nobody holds.
    pub remaining: Picos,
    /// What other workers hold and may not need.
    pub idle: i128,
    /// The window's end: no later call draws from it.
    pub until: DateTime<Utc>,
}

/// How long a worker waits for the answer to one of these statements: a connection into nothing must not hold all who wait for it.
const PATIENCE: Duration = Duration::from_secs(8);

pub(crate) async fn in_time<T>(asked: impl Future<Output = StoreResult<T>>) -> StoreResult<T> {
    tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| Err(StoreError::Unavailable(sqlx::Error::PoolTimedOut)))
}

/// Take a lease.
///
/// # Errors
/// When the database does not answer. It may have been granted; nobody draws from it, and it is given back when it expires.
pub async fn lease(store: &Store, worker: WorkerId, wanted: &Wanted) -> StoreResult<Granted> {
    in_time(lease_now(store, worker, wanted)).await
}

async fn lease_now(store: &Store, worker: WorkerId, wanted: &Wanted) -> StoreResult<Granted> {
    let lease = Uuid::new_v4();
    let Wanted { tenant, budget, window, at, need, waiting, want, floor } = wanted;
    let mut tx = store.control().await?;
    let (amount, remaining, idle, until) = sqlx::query_as::<_, (i64, i64, String, DateTime<Utc>)>(
        "SELECT amount, remaining, idle::text, until FROM tollgate_lease($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
    )
    .bind(tenant.uuid())
    .bind(budget.uuid())
    .bind(at)
    .bind(window.starts_at)
    .bind(window.ends_at)
    .bind(window.counts_from)
    .bind(worker.uuid())
    .bind(lease)
    .bind(floor)
    .bind(need.0)
    .bind(waiting.0)
    .bind(want.0)
    .bind(LEASE.as_secs_f64())
    .fetch_one(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(Granted { lease, amount: Picos(amount), remaining: Picos(remaining), idle: number(&idle)?, until })
}

/// Those of these leases that are still the worker's, now for [`LEASE`] from now.
///
/// # Errors
/// When the database does not answer.
pub async fn renew(store: &Store, worker: WorkerId, leases: &[Uuid]) -> StoreResult<Vec<Uuid>> {
    in_time(async {
        let mut tx = store.control().await?;
        let kept = sqlx::query_scalar("SELECT tollgate_renew_leases($1, $2, $3)");
        let kept = kept.bind(worker.uuid()).bind(leases).bind(LEASE.as_secs_f64()).fetch_all(&mut *tx).await?;
        tx.commit().await?;
        Ok(kept)
    })
    .await
}

/// Close a lease. `drawn`: what calls drew from it; `None` where that is to be read from their rows.
///
/// # Errors
/// When the database does not answer; asking again is harmless.
pub async fn close(store: &Store, lease: Uuid, drawn: Option<Picos>) -> StoreResult<()> {
    in_time(async {
        let mut tx = store.control().await?;
        // Who was cut off in the middle of a batch may hold it for a minute: the others are not kept waiting.
        sqlx::query("SET LOCAL lock_timeout = '500ms'").execute(&mut *tx).await?;
        let close = sqlx::query("SELECT tollgate_close_lease($1, $2)").bind(lease).bind(drawn.map(|picos| picos.0));
        close.execute(&mut *tx).await?;
        Ok(tx.commit().await?)
    })
    .await
}

/// Close leases of which nobody waits for a row, with what calls drew from each.
///
/// # Errors
/// When the database does not answer; none is closed then, and asking again is harmless.
pub async fn close_all(store: &Store, leases: &[(Uuid, Picos)]) -> StoreResult<()> {
    in_time(async {
        let mut tx = store.control().await?;
        sqlx::query("SET LOCAL lock_timeout = '500ms'").execute(&mut *tx).await?;
        let (leases, drawn): (Vec<Uuid>, Vec<i64>) = leases.iter().map(|(lease, drawn)| (*lease, drawn.0)).unzip();
        let close = "SELECT tollgate_close_lease(l.lease, l.drawn) FROM UNNEST($1::uuid[], $2::bigint[]) AS l(lease, drawn) ORDER BY l.lease";
        sqlx::query(close).bind(leases).bind(drawn).execute(&mut *tx).await?;
        Ok(tx.commit().await?)
    })
    .await
}

/// Leases that one round of [`reap`] closes.
const REAPED: i32 = 100;

/// Close the leases of workers that have not renewed them. Any worker may, at any time.
///
/// # Errors
/// When the database does not answer.
pub async fn reap(store: &Store) -> StoreResult<usize> {
    let mut tx = store.control().await?;
    let expired = sqlx::query_scalar::<_, Uuid>("SELECT tollgate_expired_leases($1)").bind(REAPED).fetch_all(&mut *tx).await?;
    tx.commit().await?;
    let mut closed = 0;
    for lease in expired {
        match close(store, lease, None).await {
            Ok(()) => closed += 1,
            Err(error) => tracing::debug!(%lease, %error, "an expired lease is held; it is closed later"),
        }
    }
    Ok(closed)
}

/// Ask the other workers for what they hold of a budget and do not need at once.
///
/// # Errors
/// When the database does not answer.
pub async fn recall(store: &Store, budget: BudgetId) -> StoreResult<()> {
    in_time(async {
        let mut tx = store.control().await?;
        sqlx::query("SELECT tollgate_recall($1)").bind(budget.uuid()).execute(&mut *tx).await?;
        Ok(tx.commit().await?)
    })
    .await
}

/// A threshold that a window has passed.
#[derive(Debug, Clone)]
pub(crate) struct Passed {
    pub tenant: TenantId,
    pub detail: serde_json::Value,
    pub budget: BudgetId,
}

#[derive(sqlx::FromRow)]
struct Threshold {
    tenant_id: Uuid,
    budget_id: Uuid,
    starts_at: DateTime<Utc>,
    ends_at: DateTime<Utc>,
    threshold: i16,
    spent: String,
    limit_picos: i64,
}

/// The ends of calls and of LLM requests that one round of the sealer meets, each with the transaction that named it.
#[derive(Default)]
pub(crate) struct Ends {
    tenants: Vec<Uuid>,
    calls: Vec<Uuid>,
    kinds: Vec<i16>,
    xids: Vec<String>,
}

impl Ends {
    pub fn push(&mut self, tenant: TenantId, place: &Place, xid: &str) {
        let kind = match place.kind {
            Kind::CallCompletion => 1,
            Kind::CallResolution => 2,
            Kind::LlmEnd => 3,
            Kind::LlmResolution => 4,
            _ => return,
        };
        self.tenants.push(tenant.uuid());
        self.calls.push(place.id);
        self.kinds.push(kind);
        self.xids.push(xid.to_owned());
    }
}

/// Charge the budgets of the calls whose ends are sealed, and give back what they did not cost.
pub(crate) async fn settle(tx: &mut Tx, ends: Ends) -> StoreResult<Vec<Passed>> {
    let Ends { tenants, calls, kinds, xids } = ends;
    if calls.is_empty() {
        return Ok(Vec::new());
    }
    let moved = sqlx::query_as::<_, (Uuid, Uuid, DateTime<Utc>)>(
        "SELECT tenant_id, budget_id, starts_at FROM tollgate_settle($1, $2, $3, $4)",
    );
    let moved = moved.bind(tenants).bind(calls).bind(kinds).bind(xids).fetch_all(&mut **tx).await?;
    if moved.is_empty() {
        return Ok(Vec::new());
    }
    let (mut tenants, mut budgets, mut starts) = (Vec::new(), Vec::new(), Vec::new());
    for (tenant, budget, start) in moved {
        tenants.push(tenant);
        budgets.push(budget);
        starts.push(start);
    }
    // A statement of its own: it sees what the one before has moved.
    let passed = sqlx::query_as::<_, Threshold>(
        "SELECT tenant_id, budget_id, starts_at, ends_at, threshold, spent::text AS spent, limit_picos FROM tollgate_passed($1, $2, $3)",
    );
    let passed = passed.bind(tenants).bind(budgets).bind(starts).fetch_all(&mut **tx).await?;
    let mut told = Vec::new();
    for row in passed {
        let alerted = sqlx::query("SELECT tollgate_alerted($1, $2, $3, $4)");
        alerted.bind(row.tenant_id).bind(row.budget_id).bind(row.starts_at).bind(row.threshold).execute(&mut **tx).await?;
        let detail = serde_json::json!({
            "threshold_percent": row.threshold, "spent": tollgate_domain::money::decimal(number(&row.spent)?),
            "limit": Picos(row.limit_picos), "window_starts_at": row.starts_at, "window_ends_at": row.ends_at,
        });
        told.push(Passed { tenant: row.tenant_id.into(), detail, budget: row.budget_id.into() });
    }
    Ok(told)
}

/// A connection of its own that hears of [`recall`].
///
/// # Errors
/// When no connection is to be had.
pub async fn listen(store: &Store) -> StoreResult<crate::snapshot::PgListener> {
    let mut listener = crate::snapshot::PgListener::connect_with(store.pool()).await?;
    listener.listen("tollgate_recall").await?;
    Ok(listener)
}
