//! Cost reports: sums over the rows of the audit trail, which are the ledger, and over credits. They are made of rollups ([`rollup`]) and of what has no
//! place in the log yet, in one snapshot, so that they equal the trail at every moment.

mod group;
mod latency;
mod query;
pub mod rollup;

use chrono::{DateTime, Utc};
use tollgate_domain::{Currency, KeyId, Outcome, TeamId, TenantId, TimeZone, ToolId, UpstreamId};

use crate::{
    error::{StoreError, StoreResult, word},
    tx::{Store, Tx},
};
use group::{Amounts, Group, beside, cut};
use query::{Layout, Tells};

/// Groups that one report has at most.
pub const MAX_GROUPS: usize = 10_000;
/// Groups of which those that cost most are shown: only their lines are many.
const MAX_RANKED: usize = 100_000;

/// What a report is grouped by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dimension {
    Tool,
    Key,
    Team,
    Upstream,
    Outcome,
    Model,
    Origin,
    Hour,
    Day,
    Week,
    Month,
}

/// The calls and LLM requests that were opened, and the credits that were given, between `from` and `to`, which is exclusive.
#[derive(Debug, Clone)]
pub struct CostQuery {
    pub from: DateTime<Utc>,
    pub to: DateTime<Utc>,
    /// Each dimension once; at most one unit of time.
    pub group_by: Vec<Dimension>,
    pub key_id: Option<KeyId>,
    pub team_id: Option<TeamId>,
    pub tool_id: Option<ToolId>,
    pub upstream_id: Option<UpstreamId>,
    pub outcome: Option<Outcome>,
    /// The groups that cost most, whatever their time, and one line for the others (of each time).
    pub top: Option<usize>,
    /// Compare with the period before, as long as the one from `from` to this moment. Not together with a unit of time.
    pub compare: Option<DateTime<Utc>>,
}

/// One group. A dimension that was not asked for is `None`, as is one that the group's calls do not have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CostLine {
    pub tool: Option<(ToolId, Option<String>)>,
    pub key: Option<(KeyId, Option<String>)>,
    pub team: Option<(TeamId, Option<String>)>,
    pub upstream: Option<(UpstreamId, Option<String>)>,
    pub outcome: Option<String>,
    pub model: Option<String>,
    /// Who named the request: `minted` by the gateway, or the client.
    pub origin: Option<String>,
    /// The start of the hour, day, week or month of the tenant's time zone.
    pub time: Option<DateTime<Utc>>,
    /// Of the line of the others: how many groups they are.
    pub rest: Option<usize>,
    pub sums: Sums,
    /// Of the calls whose latency is known, and at most 3.2 % off: see [`latency`].
    pub latency_p50_us: Option<i64>,
    pub latency_p99_us: Option<i64>,
    /// By requests of Code Mode; `None` where tools, upstreams or outcomes are told apart, which requests do not have.
    pub prompt_tokens_avoided: Option<i64>,
    /// Of requests to models; `None` as before.
    pub llm: Option<LlmSums>,
    /// Picos, not negative: what was given back in this time. `None` where outcomes, models or origins are told apart, which credits do not
    /// have.
    pub credits: Option<i128>,
    /// The same of the period before, where that was asked for.
    pub previous: Option<Measures>,
}

/// What is said of a group in the period before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Measures {
    pub sums: Sums,
    pub latency_p50_us: Option<i64>,
    pub latency_p99_us: Option<i64>,
    pub prompt_tokens_avoided: Option<i64>,
    pub llm: Option<LlmSums>,
    pub credits: Option<i128>,
}

/// The period before, as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Previous {
    pub from: DateTime<Utc>,
    pub to: DateTime<Utc>,
    pub total: Sums,
    pub prompt_tokens_avoided: Option<i64>,
    pub llm: Option<LlmSums>,
    pub credits: Option<i128>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sums {
    /// Every row of the trail: denied, held and open calls too.
    pub calls: i64,
    pub errors: i64,
    /// Picos; an open call counts with 0 until it is closed.
    pub amount: i128,
}

/// What requests to models came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LlmSums {
    /// Denied and open ones too.
    pub requests: i64,
    /// Picos; an open request counts with 0 until it ends, as it does with its tokens.
    pub amount: i128,
    /// All of the input, the cached included.
    pub input_tokens: i64,
    pub cached_tokens: i64,
    /// All of the output, the reasoning included.
    pub output_tokens: i64,
    pub reasoning_tokens: i64,
}

#[derive(Debug, Clone)]
pub struct CostReport {
    pub lines: Vec<CostLine>,
    /// Every call is in exactly one line, so this is their sum.
    pub total: Sums,
    pub prompt_tokens_avoided: Option<i64>,
    pub llm: Option<LlmSums>,
    pub credits: Option<i128>,
    pub previous: Option<Previous>,
    /// A tenant has one, for life.
    pub currency: Currency,
    /// In which its days begin.
    pub zone: TimeZone,
    pub tenant_name: String,
}

impl Dimension {
    #[must_use]
    pub const fn is_time(self) -> bool {
        matches!(self, Self::Hour | Self::Day | Self::Week | Self::Month)
    }
}

/// Sum up the calls and the LLM requests of a tenant, and what it was given back.
///
/// # Errors
/// [`StoreError::Invalid`] when there are more than [`MAX_GROUPS`] groups, or when it takes too long.
pub async fn report(store: &Store, tenant: TenantId, ask: &CostQuery) -> StoreResult<CostReport> {
    let mut tx = store.tenant_snapshot(tenant).await?;
    // A compiled plan would take longer than the plan takes.
    sqlx::raw_sql("SET LOCAL statement_timeout = '20s'; SET LOCAL jit = off; SET LOCAL work_mem = '32MB'")
        .execute(&mut *tx)
        .await?;
    let account = sqlx::query!("SELECT name, currency, time_zone FROM tenants WHERE tenant_id = $1", tenant.uuid());
    let account = account.fetch_one(&mut *tx).await?;
    let zone: TimeZone = word(&account.time_zone)?;
    let mut groups = sum_up(&mut tx, tenant, (ask.from, ask.to), zone, ask).await?;
    let mut before = None;
    if let Some(until) = ask.compare {
        let period = (zone.before(ask.from, until), ask.from);
        groups = beside(groups, sum_up(&mut tx, tenant, period, zone, ask).await?);
        before = Some(period);
    }
    tx.commit().await?;
    if let Some(top) = ask.top {
        groups = cut(groups, top, ask.group_by.iter().any(|dimension| dimension.is_time()));
    }
    if groups.len() > MAX_GROUPS {
        return Err(too_many());
    }
    let tells = Tells::of(ask);
    let now = group::total(groups.iter().map(|group| group.now.amounts));
    let then = group::total(groups.iter().filter_map(|group| Some(group.previous.as_ref()?.amounts)));
    let previous = |(from, to)| {
        let Amounts { sums, .. } = then;
        let (prompt_tokens_avoided, llm, credits) = then.told(tells);
        Previous { from, to, total: sums, prompt_tokens_avoided, llm, credits }
    };
    let (prompt_tokens_avoided, llm, credits) = now.told(tells);
    Ok(CostReport {
        total: now.sums,
        prompt_tokens_avoided,
        llm,
        credits,
        previous: before.map(previous),
        lines: groups.into_iter().map(|group| group.finish(tells)).collect(),
        currency: word(&account.currency)?,
        zone,
        tenant_name: account.name,
    })
}

/// The groups of one period, in their order.
async fn sum_up(
    tx: &mut Tx,
    tenant: TenantId,
    period: (DateTime<Utc>, DateTime<Utc>),
    zone: TimeZone,
    ask: &CostQuery,
) -> StoreResult<Vec<Group>> {
    let most = if ask.top.is_some() { MAX_RANKED } else { MAX_GROUPS };
    let layout = Layout::of(tx, period, zone.name()).await?;
    let mut query = query::build(tenant, &layout, ask, i64::try_from(most + 1).unwrap_or(i64::MAX));
    let rows = query.build().fetch_all(&mut **tx).await.map_err(too_slow)?;
    if rows.len() > most {
        return Err(too_many());
    }
    rows.iter().map(|row| Group::read(row, ask, zone)).collect()
}

fn too_many() -> StoreError {
    let sentence =
        format!("the report has more than {MAX_GROUPS} groups; ask for a shorter time, fewer dimensions or the `top` of them");
    StoreError::invalid("/group_by", sentence)
}

fn too_slow(error: sqlx::Error) -> StoreError {
    match error.as_database_error().and_then(|db| db.code()).as_deref() {
        Some("57014") => StoreError::invalid("/from", "the report took longer than 20 s; ask for a shorter time"),
        _ => error.into(),
    }
}
