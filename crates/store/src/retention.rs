//! Retention: whole months of the trail are dropped, once every tenant that has rows in them and a retention lets them go.
//!
//! A month is let go by a tenant when its last instant is older than the tenant's retention, and when all that its rows have cost is
//! counted; a legal hold, and a tenant without a retention, let nothing go. The rows of the others are copied over (see `tollgate_retire`). The events that say what was
//! dropped and the drop are one transaction: there is neither without the other. What a wrong clock has put into the default
//! partitions stays there, and so do admin events, seals and erasures.

use chrono::{DateTime, Days, Months, NaiveDate, Utc};
use serde_json::json;
use sqlx::Row;
use tollgate_domain::{TenantId, ids};
use uuid::Uuid;

use crate::{
    change::{Actor, Change},
    error::{StoreError, StoreResult},
    locks::PARTITIONS,
    tenants,
    tx::Store,
};

/// Copying a month for those who keep it takes its time, and holds up nobody but writers to that month.
const DROP_WITHIN: &str = "SET LOCAL statement_timeout = '30min'";

/// One month of one tenant that was dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retired {
    pub tenant: TenantId,
    /// Its first day.
    pub month: NaiveDate,
}

/// Drop what no retention covers any more, oldest month first. Where another does the same at the moment, nothing is done.
///
/// # Errors
/// When the database does not answer or is too busy; what was dropped before that stays dropped, the rest is for the next time.
pub async fn run(store: &Store, now: DateTime<Utc>) -> StoreResult<Vec<Retired>> {
    let mut retired = Vec::new();
    for month in months(store).await? {
        // The months after it are younger still.
        let Some(dropped) = drop_month(store, month, now).await? else { break };
        retired.extend(dropped.into_iter().map(|tenant| Retired { tenant, month }));
    }
    Ok(retired)
}

/// The months that have partitions.
async fn months(store: &Store) -> StoreResult<Vec<NaiveDate>> {
    let mut tx = store.control().await?;
    let rows = sqlx::query(
        "SELECT DISTINCT to_date(substring(c.relname FROM '_p([0-9]{6})$'), 'YYYYMM') AS month
         FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
         WHERE i.inhparent IN ('llm_requests'::regclass, 'script_run_starts'::regclass, 'tool_call_events'::regclass)
           AND c.relname ~ '_p[0-9]{6}$' ORDER BY month",
    );
    let rows = rows.fetch_all(&mut *tx).await?;
    tx.commit().await?;
    rows.iter().map(|row| Ok(row.try_get("month")?)).collect()
}

/// The tenants whose rows of this month are gone now; `None` when nobody's retention has come to it, or another is at work.
async fn drop_month(store: &Store, month: NaiveDate, now: DateTime<Utc>) -> StoreResult<Option<Vec<TenantId>>> {
    let (first, end) = bounds(month)?;
    // The change enters one tenant after the other.
    let mut change = store.change(TenantId::from_uuid(Uuid::nil()), Actor::system("retention"), now).await?;
    sqlx::query(DROP_WITHIN).execute(&mut *change.tx).await?;
    let alone: bool =
        sqlx::query_scalar("SELECT pg_try_advisory_xact_lock($1)").bind(PARTITIONS).fetch_one(&mut *change.tx).await?;
    if !alone {
        return Ok(None);
    }
    // Behind the lock: nobody changes what is read here until the month has gone.
    role(&mut change, "SET LOCAL ROLE tollgate_control").await?;
    let (going, keep) = decide(&mut change, (first, end), now).await?;
    if going.is_empty() {
        return Ok(None);
    }
    let with_rows: Vec<Uuid> =
        sqlx::query_scalar("SELECT tollgate_retirable($1, $2)").bind(first).bind(&going).fetch_all(&mut *change.tx).await?;
    if with_rows.is_empty() {
        return Ok(Some(Vec::new()));
    }
    role(&mut change, "SET LOCAL ROLE tollgate_app").await?;
    for tenant in &with_rows {
        tenants::enter(&mut change, (*tenant).into()).await?;
        let name = month.format("%Y-%m").to_string();
        change.event("audit.retire", &TenantId::from(*tenant), json!({"month": name})).await?;
        // What the index of searches knows of the rows goes with them.
        let last = ids::floor(end);
        for sql in [
            "DELETE FROM call_blocks WHERE tenant_id = $1 AND last_call_id < $2",
            "DELETE FROM late_calls WHERE tenant_id = $1 AND call_id < $2",
        ] {
            sqlx::query(sql).bind(tenant).bind(last).execute(&mut *change.tx).await?;
        }
    }
    // Whoever lets the month go and has nothing in it loses nothing, and is told nothing.
    let keep: Vec<Uuid> = keep.into_iter().chain(going.into_iter().filter(|tenant| !with_rows.contains(tenant))).collect();
    role(&mut change, "SET LOCAL ROLE tollgate_control").await?;
    forget_runs(&mut change, &with_rows, ids::floor(end)).await?;
    // What the rows cost stays in the rollups, and nobody misses the rows there.
    sqlx::query("SELECT tollgate_cost_pruned($1, $2)").bind(&with_rows).bind(end).execute(&mut *change.tx).await?;
    sqlx::query("SELECT tollgate_retire($1, $2)").bind(first).bind(&keep).execute(&mut *change.tx).await?;
    role(&mut change, "SET LOCAL ROLE tollgate_app").await?;
    change.commit_quietly().await?;
    Ok(Some(with_rows.into_iter().map(TenantId::from).collect()))
}

/// What people were asked about calls before `end`, and who drove runs before it. What still waits stays until it does not.
async fn forget_runs(change: &mut Change, tenants: &[Uuid], end: Uuid) -> StoreResult<()> {
    for sql in [
        "DELETE FROM approval_confirmations c USING approvals a
         WHERE c.tenant_id = ANY($1) AND a.tenant_id = c.tenant_id AND a.approval_id = c.approval_id AND a.approval_id < $2
           AND a.state IN ('denied', 'expired', 'used')",
        "DELETE FROM approvals WHERE tenant_id = ANY($1) AND approval_id < $2 AND state IN ('denied', 'expired', 'used')",
        "DELETE FROM script_run_turns WHERE tenant_id = ANY($1) AND script_run_id < $2",
    ] {
        sqlx::query(sql).bind(tenants).bind(end).execute(&mut *change.tx).await?;
    }
    Ok(())
}

async fn role(change: &mut Change, sql: &'static str) -> StoreResult<()> {
    sqlx::query(sql).execute(&mut *change.tx).await?;
    Ok(())
}

/// The tenants that let a month go which begins at `first` and ends at `end`, and all others. A deleted tenant's settings stand.
async fn decide(
    change: &mut Change,
    (first, end): (DateTime<Utc>, DateTime<Utc>),
    now: DateTime<Utc>,
) -> StoreResult<(Vec<Uuid>, Vec<Uuid>)> {
    let rows = sqlx::query(
        "SELECT t.tenant_id, s.retention_days,
                COALESCE(s.legal_hold, false) OR c.counted_from IS NULL OR c.counted_from > $1 AS held
         FROM tenants t LEFT JOIN audit_settings s ON s.tenant_id = t.tenant_id
         LEFT JOIN cost_states c ON c.tenant_id = t.tenant_id",
    );
    let rows = rows.bind(ids::floor(first));
    let (mut going, mut keep) = (Vec::new(), Vec::new());
    for row in rows.fetch_all(&mut *change.tx).await? {
        let (tenant, held): (Uuid, bool) = (row.try_get("tenant_id")?, row.try_get("held")?);
        let days: Option<i32> = row.try_get("retention_days")?;
        let until = days.and_then(|days| end.checked_add_days(Days::new(u64::try_from(days).ok()?)));
        if !held && until.is_some_and(|until| until <= now) { going.push(tenant) } else { keep.push(tenant) }
    }
    Ok((going, keep))
}

/// When a month begins and when the next one does.
fn bounds(month: NaiveDate) -> StoreResult<(DateTime<Utc>, DateTime<Utc>)> {
    let midnight = |day: NaiveDate| Some(day.and_hms_opt(0, 0, 0)?.and_utc());
    let next = month.checked_add_months(Months::new(1));
    midnight(month).zip(next.and_then(midnight)).ok_or_else(|| StoreError::Corrupt(format!("a partition of the month {month}")))
}
