//! The rollups behind the reports: counted by the sealer, built for what was there before, checked against the rows. The rules are SQL,
//! because the sealer and the reports must share them; the head of their migration says why they cannot drift.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::Acquire;
use tollgate_domain::{TenantId, money::decimal};
use tollgate_evidence::line::{Kind, Place};
use uuid::Uuid;

use crate::{
    budgets::number,
    change::Actor,
    error::StoreResult,
    locks::CHECKER,
    tx::{Store, Tx},
};

/// Rows that one step of a build or of a check reads, about: the sealer waits for the former.
const ROWS: i32 = 100_000;
/// Sums that one step of cutting days reads.
const CELLS: i32 = 20_000;
/// A quarter of an hour may have many more.
const WITHIN: &str = "SET LOCAL statement_timeout = '5min'; SET LOCAL jit = off";

/// Rows that get their place in the log, each with the transaction that named it.
#[derive(Debug, Default)]
pub(crate) struct Entries {
    tenants: Vec<Uuid>,
    ids: Vec<Uuid>,
    kinds: Vec<i16>,
    xids: Vec<String>,
}

impl Entries {
    pub fn push(&mut self, tenant: TenantId, place: &Place, xid: &str) {
        let kind = match place.kind {
            Kind::CallIntent => 0,
            Kind::CallCompletion => 1,
            Kind::CallResolution => 2,
            Kind::LlmRequest => 3,
            Kind::LlmEnd => 4,
            Kind::LlmResolution => 5,
            _ => return,
        };
        self.tenants.push(tenant.uuid());
        self.ids.push(place.id);
        self.kinds.push(kind);
        self.xids.push(xid.to_owned());
    }

    /// Count them all, or none where one of them does not let itself be counted.
    async fn roll(&self, tx: &mut Tx) -> StoreResult<Result<(), sqlx::Error>> {
        let mut point = tx.begin().await?;
        let roll = sqlx::query("SELECT tollgate_roll($1, $2, $3, $4)");
        let roll = roll.bind(&self.tenants).bind(&self.ids).bind(&self.kinds).bind(&self.xids);
        match roll.execute(&mut *point).await {
            Ok(_) => Ok(Ok(point.commit().await?)),
            Err(error) if is_of_the_data(&error) => {
                point.rollback().await?;
                Ok(Err(error))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn by_tenant(self) -> BTreeMap<TenantId, Self> {
        let mut parts: BTreeMap<TenantId, Self> = BTreeMap::new();
        let rows = self.tenants.into_iter().zip(self.ids).zip(self.kinds).zip(self.xids);
        for (((tenant, id), kind), xid) in rows {
            let part = parts.entry(tenant.into()).or_default();
            part.tenants.push(tenant);
            part.ids.push(id);
            part.kinds.push(kind);
            part.xids.push(xid);
        }
        parts
    }
}

/// Count what is sealed, while its batches are still there. The log does not wait for its sums: what cannot be counted (a time zone that
/// the database does not know any more, for one) is sealed all the same, and its tenant's sums are given up; no other's.
pub(crate) async fn count(tx: &mut Tx, entries: Entries) -> StoreResult<()> {
    if entries.ids.is_empty() || entries.roll(tx).await?.is_ok() {
        return Ok(());
    }
    for (tenant, entries) in entries.by_tenant() {
        let Err(error) = entries.roll(tx).await? else { continue };
        tracing::error!(%tenant, %error, "sums of costs cannot be kept; reports read the rows until they are counted anew");
        sqlx::query("SELECT tollgate_cost_give_up($1)").bind(&entries.tenants).execute(&mut **tx).await?;
    }
    Ok(())
}

/// Whether the statement would fail as well another time: not for a lock, a limit or the machine.
fn is_of_the_data(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| ["21", "22", "23", "42", "P0"].iter().any(|class| code.starts_with(class)))
}

/// Tenants with rows that are not counted yet, or that nobody has looked at, or whose days are cut in a zone of before.
///
/// # Errors
/// When the database does not answer.
pub async fn uncounted(store: &Store) -> StoreResult<Vec<TenantId>> {
    let mut tx = store.control().await?;
    let ids: Vec<Uuid> = sqlx::query_scalar(
        "SELECT t.tenant_id FROM tenants t LEFT JOIN cost_states s ON s.tenant_id = t.tenant_id
         WHERE s.counted_from IS DISTINCT FROM '00000000-0000-0000-0000-000000000000' OR s.cut_from IS NOT NULL ORDER BY t.tenant_id",
    )
    .fetch_all(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(ids.into_iter().map(TenantId::from).collect())
}

/// Tenants that anything is counted of.
///
/// # Errors
/// When the database does not answer.
pub async fn tenants(store: &Store) -> StoreResult<Vec<TenantId>> {
    let mut tx = store.control().await?;
    let ids: Vec<Uuid> = sqlx::query_scalar("SELECT tenant_id FROM cost_states ORDER BY tenant_id").fetch_all(&mut *tx).await?;
    tx.commit().await?;
    Ok(ids.into_iter().map(TenantId::from).collect())
}

/// Count the newest rows of a tenant that are not counted; true where there are more. Reports are right all the while.
///
/// # Errors
/// When the database does not answer; nothing is counted then.
pub async fn build_some(store: &Store, tenant: TenantId) -> StoreResult<bool> {
    let mut tx = store.sealer().await?;
    patient(&mut tx).await?;
    let build = sqlx::query_scalar("SELECT tollgate_cost_build($1, $2)").bind(tenant.uuid()).bind(ROWS);
    let more = build.fetch_one(&mut *tx).await?;
    tx.commit().await?;
    Ok(more)
}

/// Cut some of a tenant's days in its zone where they are not; true where there are more. Reports are right all the while.
///
/// # Errors
/// When the database does not answer; nothing is cut then.
pub async fn recut_some(store: &Store, tenant: TenantId) -> StoreResult<bool> {
    let mut tx = store.control().await?;
    patient(&mut tx).await?;
    let more =
        sqlx::query_scalar("SELECT tollgate_cost_recut_some($1, $2)").bind(tenant.uuid()).bind(CELLS).fetch_one(&mut *tx).await?;
    tx.commit().await?;
    Ok(more)
}

/// Count all rows of a tenant and cut all its days, and leave the sealer as much time as it takes.
///
/// # Errors
/// As [`build_some`]; what was counted stays counted.
pub async fn build(store: &Store, tenant: TenantId) -> StoreResult<()> {
    loop {
        let begun = tokio::time::Instant::now();
        if !build_some(store, tenant).await? && !recut_some(store, tenant).await? {
            return Ok(());
        }
        tokio::time::sleep(begun.elapsed().max(Duration::from_millis(50))).await;
    }
}

/// What was compared, and by how much the sums exceed the rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    pub tenant: TenantId,
    pub from: DateTime<Utc>,
    pub to: DateTime<Utc>,
    pub drift: Option<Drift>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drift {
    /// Sums that are not what the rows say.
    pub sums: i64,
    pub calls: i64,
    pub amount: i128,
    pub prompt_tokens_avoided: i64,
    pub llm_requests: i64,
    pub llm_amount: i128,
}

/// Compare the first stretch of a tenant's time from `since` on, a day at most, with its rows; `None` where nothing comes any more.
/// What retention has dropped and what is not counted yet is passed over.
///
/// # Errors
/// When the database does not answer.
pub async fn check(store: &Store, tenant: TenantId, since: DateTime<Utc>) -> StoreResult<Option<Checked>> {
    let mut tx = store.control().await?;
    patient(&mut tx).await?;
    let checked = check_in(&mut tx, tenant, since).await?;
    tx.commit().await?;
    Ok(checked)
}

async fn check_in(tx: &mut Tx, tenant: TenantId, since: DateTime<Utc>) -> StoreResult<Option<Checked>> {
    let stretch = sqlx::query_as::<_, (Option<DateTime<Utc>>, Option<DateTime<Utc>>)>(
        "SELECT since, until FROM tollgate_cost_stretch($1, $2, $3)",
    );
    let (from, to) = stretch.bind(tenant.uuid()).bind(ROWS).bind(since.max(DateTime::UNIX_EPOCH)).fetch_one(&mut **tx).await?;
    let (Some(from), Some(to)) = (from, to) else { return Ok(None) };
    let drift = sqlx::query_as::<_, (i64, i64, String, i64, i64, String)>(
        "SELECT cells, calls, amount::text, tokens, requests, llm_amount::text FROM tollgate_cost_drift($1, $2, $3)",
    );
    let (sums, calls, amount, prompt_tokens_avoided, llm_requests, llm_amount) =
        drift.bind(tenant.uuid()).bind(from).bind(to).fetch_one(&mut **tx).await?;
    let (amount, llm_amount) = (number(&amount)?, number(&llm_amount)?);
    let drift = Drift { sums, calls, amount, prompt_tokens_avoided, llm_requests, llm_amount };
    let drift = (sums != 0).then_some(drift);
    Ok(Some(Checked { tenant, from, to, drift }))
}

/// Say in the tenant's trail that its sums were wrong, and make them anew from the rows.
///
/// # Errors
/// When the database does not answer: the event may stand, and the next check finds what is left.
pub async fn repair(store: &Store, checked: &Checked, now: DateTime<Utc>) -> StoreResult<()> {
    let Checked { tenant, from, to, drift } = checked;
    let Some(drift) = drift else { return Ok(()) };
    let detail = json!({
        "from": from, "to": to, "sums": drift.sums, "calls": drift.calls, "amount": decimal(drift.amount),
        "prompt_tokens_avoided": drift.prompt_tokens_avoided, "llm_requests": drift.llm_requests,
        "llm_amount": decimal(drift.llm_amount),
    });
    let mut change = store.change(*tenant, Actor::system("costs"), now).await?;
    change.event("costs.drift", tenant, detail).await?;
    change.commit_quietly().await?;
    let mut tx = store.sealer().await?;
    patient(&mut tx).await?;
    let repair = sqlx::query("SELECT tollgate_cost_repair($1, $2, $3)");
    repair.bind(tenant.uuid()).bind(from).bind(to).execute(&mut *tx).await?;
    Ok(tx.commit().await?)
}

/// Of each tenant: check the newest day, and the day at which the last round stopped; repair what differs. Where another does the same at
/// the moment, nothing is done.
///
/// # Errors
/// When the database does not answer.
pub async fn check_round(store: &Store, now: DateTime<Utc>) -> StoreResult<Vec<Checked>> {
    let mut done = Vec::new();
    let mut control = store.control().await?;
    let states = sqlx::query_as::<_, (Uuid, DateTime<Utc>)>("SELECT tenant_id, checked_to FROM cost_states ORDER BY tenant_id");
    let states = states.fetch_all(&mut *control).await?;
    control.commit().await?;
    for (tenant, checked_to) in states {
        let tenant = TenantId::from(tenant);
        let mut tx = store.control().await?;
        patient(&mut tx).await?;
        let alone: bool = sqlx::query_scalar("SELECT pg_try_advisory_xact_lock($1)").bind(CHECKER).fetch_one(&mut *tx).await?;
        if !alone {
            return Ok(done);
        }
        let newest = check_in(&mut tx, tenant, now - chrono::TimeDelta::days(1)).await?;
        let next = match check_in(&mut tx, tenant, checked_to).await? {
            Some(checked) => Some(checked),
            // At the end it begins anew.
            None => check_in(&mut tx, tenant, DateTime::UNIX_EPOCH).await?,
        };
        let upto = next.as_ref().map_or(DateTime::UNIX_EPOCH, |checked| checked.to);
        sqlx::query("SELECT tollgate_cost_checked($1, $2)").bind(tenant.uuid()).bind(upto).execute(&mut *tx).await?;
        tx.commit().await?;
        let mut seen = BTreeSet::new();
        for checked in newest.into_iter().chain(next).filter(|checked| seen.insert((checked.from, checked.to))) {
            repair(store, &checked, now).await?;
            done.push(checked);
        }
    }
    Ok(done)
}

async fn patient(tx: &mut Tx) -> StoreResult<()> {
    sqlx::raw_sql(WITHIN).execute(&mut **tx).await?;
    Ok(())
}
