//! Cost reports: sums over the rows of the audit trail, which are the ledger, and over credits. They are made of rollups ([`rollup`]) and of what has no
//! place in the log yet, in one snapshot, so that they equal the trail at every moment.

mod group;
mod latency;
mod query;
pub mod rollup;

use std::time::Duration;

use chrono::{DateTime, Utc};
use tollgate_domain::{Currency, KeyId, Outcome, TeamId, TenantId, TimeZone, ToolId, UpstreamId};

use crate::{
    error::{StoreError, StoreResult, word},
    tx::{Store, Tx},
};
use group::{Amounts, Group, beside, cut};
use query::{Layout, Only, Tells};

/// Groups that one report has at most, as it is told and as a file.
pub const MAX_GROUPS: usize = 10_000;
pub const MAX_IN_FILE: usize = 100_000;
/// Groups of which those that cost most are shown: only their lines are many.
const MAX_RANKED: usize = 100_000;
/// How long one statement of a report may take.
pub const PATIENCE: Duration = Duration::from_secs(20);

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
}

impl Dimension {
    #[must_use]
    pub const fn is_time(self) -> bool {
        matches!(self, Self::Hour | Self::Day | Self::Week | Self::Month)
    }
}

/// Reports of one tenant from one snapshot.
#[derive(Debug)]
pub struct Reading {
    tx: Tx,
    tenant: TenantId,
    pub tenant_name: String,
    pub currency: Currency,
    pub zone: TimeZone,
}

/// Sum up the calls and the LLM requests of a tenant, and what it was given back.
///
/// # Errors
/// [`StoreError::Invalid`] when there are more than [`MAX_GROUPS`] groups, at `/group_by`, or when it takes too long, at `/from`.
pub async fn report(store: &Store, tenant: TenantId, ask: &CostQuery) -> StoreResult<CostReport> {
    let mut reading = Reading::begin(store, tenant, PATIENCE).await?;
    let report = reading.report(ask, MAX_GROUPS).await?;
    reading.end().await?;
    Ok(report)
}

impl Reading {
    /// `patience`: how long each of its statements may take.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn begin(store: &Store, tenant: TenantId, patience: Duration) -> StoreResult<Self> {
        let mut tx = store.tenant_snapshot(tenant).await?;
        // A compiled plan would take longer than the plan takes.
        sqlx::raw_sql("SET LOCAL jit = off; SET LOCAL work_mem = '32MB'").execute(&mut *tx).await?;
        let patience = format!("{}ms", patience.as_millis());
        sqlx::query("SELECT set_config('statement_timeout', $1, true)").bind(patience).execute(&mut *tx).await?;
        let account = sqlx::query!("SELECT name, currency, time_zone FROM tenants WHERE tenant_id = $1", tenant.uuid());
        let account = account.fetch_one(&mut *tx).await?;
        let (currency, zone) = (word(&account.currency)?, word(&account.time_zone)?);
        Ok(Self { tx, tenant, tenant_name: account.name, currency, zone })
    }

    /// # Errors
    /// When the database does not answer.
    pub async fn end(self) -> StoreResult<()> {
        Ok(self.tx.commit().await?)
    }

    /// A report of at most `most` groups.
    ///
    /// # Errors
    /// As [`report`].
    pub async fn report(&mut self, ask: &CostQuery, most: usize) -> StoreResult<CostReport> {
        let ranked = if ask.top.is_some() { MAX_RANKED } else { most };
        let all = |groups: Option<Vec<Group>>| groups.ok_or_else(|| too_many(most));
        let mut groups = all(self.sum_up((ask.from, ask.to), (ask, Only::All), ranked).await?)?;
        let mut before = None;
        if let Some(until) = ask.compare {
            let period = (self.zone.before(ask.from, until), ask.from);
            groups = beside(groups, all(self.sum_up(period, (ask, Only::All), ranked).await?)?);
            before = Some(period);
        }
        if let Some(top) = ask.top {
            groups = cut(groups, top, ask.group_by.iter().any(|dimension| dimension.is_time()));
        }
        if groups.len() > most {
            return Err(too_many(most));
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
            currency: self.currency,
        })
    }

    /// The groups of `ask`, or `None` where there are more than `most`: neither `top` nor `compare` is asked for.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] when it takes too long.
    pub async fn lines(&mut self, ask: &CostQuery, most: usize) -> StoreResult<Option<Vec<CostLine>>> {
        self.told(ask, Only::All, most).await
    }

    /// As [`Self::lines`], of groups alone in which there are requests to models.
    ///
    /// # Errors
    /// As [`Self::lines`].
    pub async fn requests(&mut self, ask: &CostQuery, most: usize) -> StoreResult<Option<Vec<CostLine>>> {
        self.told(ask, Only::Requests, most).await
    }

    async fn told(&mut self, ask: &CostQuery, only: Only, most: usize) -> StoreResult<Option<Vec<CostLine>>> {
        let groups = self.sum_up((ask.from, ask.to), (ask, only), most).await?;
        Ok(groups.map(|groups| groups.into_iter().map(|group| group.finish(Tells::of(ask))).collect()))
    }

    /// The groups of one period, in their order.
    async fn sum_up(
        &mut self,
        period: (DateTime<Utc>, DateTime<Utc>),
        (ask, only): (&CostQuery, Only),
        most: usize,
    ) -> StoreResult<Option<Vec<Group>>> {
        let layout = Layout::of(&mut self.tx, period, self.zone.name()).await?;
        let limit = i64::try_from(most).unwrap_or(i64::MAX).saturating_add(1);
        let mut query = query::build(self.tenant, &layout, (ask, only), limit);
        let rows = query.build().fetch_all(&mut *self.tx).await.map_err(too_slow)?;
        if rows.len() > most {
            return Ok(None);
        }
        rows.iter().map(|row| Group::read(row, ask, self.zone)).collect::<StoreResult<_>>().map(Some)
    }
}

/// Whether a report took too long, and may not another time.
#[must_use]
pub fn is_slow(error: &StoreError) -> bool {
    matches!(error, StoreError::Invalid { pointer, .. } if pointer == SLOW)
}

/// At which a report is refused that takes too long.
const SLOW: &str = "/from";

fn too_many(most: usize) -> StoreError {
    let sentence =
        format!("the report has more than {most} groups; ask for a shorter time, fewer dimensions or the `top` of them");
    StoreError::invalid("/group_by", sentence)
}

fn too_slow(error: sqlx::Error) -> StoreError {
    match error.as_database_error().and_then(|db| db.code()).as_deref() {
        Some("57014") => StoreError::invalid(SLOW, "the report took too long; ask for a shorter time"),
        _ => error.into(),
    }
}
