//! Cost reports: sums over the rows of the audit trail, which are the ledger. They are made of rollups ([`rollup`]) and of what has no
//! place in the log yet, in one snapshot, so that they equal the trail at every moment.

mod latency;
mod query;
pub mod rollup;

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, NaiveDate, Utc};
use sqlx::{Row, postgres::PgRow};
use tollgate_domain::{Currency, KeyId, Outcome, TeamId, TenantId, TimeZone, ToolId, UpstreamId};
use uuid::Uuid;

use crate::{
    error::{StoreError, StoreResult, word},
    tx::{Store, Tx},
};
use latency::Histogram;
use query::Layout;

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

/// The calls that were opened between `from` and `to`, which is exclusive.
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
}

/// The period before, as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Previous {
    pub from: DateTime<Utc>,
    pub to: DateTime<Utc>,
    pub total: Sums,
    pub prompt_tokens_avoided: Option<i64>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sums {
    /// Every row of the trail: denied, held and open calls too.
    pub calls: i64,
    pub errors: i64,
    /// Picos; an open call counts with 0 until it is closed.
    pub amount: i128,
}

#[derive(Debug, Clone)]
pub struct CostReport {
    pub lines: Vec<CostLine>,
    /// Every call is in exactly one line, so this is their sum.
    pub total: Sums,
    pub prompt_tokens_avoided: Option<i64>,
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

/// A line in the making: its measures can still be added to.
#[derive(Default)]
struct Group {
    line: CostLine,
    latency: Histogram,
    tokens: i64,
    previous: Option<(Sums, Histogram, i64)>,
}

/// What tells one group from another, but for the time.
#[derive(PartialEq, Eq, Hash)]
struct Key([Option<Uuid>; 4], [Option<String>; 3]);

/// Sum up the calls of a tenant.
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
    let tokens = query::counts_tokens(ask);
    let avoided = |groups: &[Group], of: fn(&Group) -> i64| tokens.then(|| groups.iter().map(of).sum());
    Ok(CostReport {
        total: total(groups.iter().map(|group| group.line.sums)),
        prompt_tokens_avoided: avoided(&groups, |group| group.tokens),
        previous: before.map(|(from, to)| Previous {
            from,
            to,
            total: total(groups.iter().filter_map(|group| Some(group.previous.as_ref()?.0))),
            prompt_tokens_avoided: avoided(&groups, |group| group.previous.as_ref().map_or(0, |previous| previous.2)),
        }),
        lines: groups.into_iter().map(|group| group.finish(tokens)).collect(),
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
    rows.iter().map(|row| Group::read(row, &ask.group_by, zone)).collect()
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

fn total(sums: impl Iterator<Item = Sums>) -> Sums {
    sums.fold(Sums::default(), Sums::plus)
}

/// Each group with what it was in the period before; those that were only then come behind, as nothing.
fn beside(now: Vec<Group>, then: Vec<Group>) -> Vec<Group> {
    let mut before: HashMap<Key, Group> = HashMap::with_capacity(then.len());
    let mut order = Vec::with_capacity(then.len());
    for group in then {
        order.push(group.line.key());
        before.insert(group.line.key(), group);
    }
    let measured = |group: Group| (group.line.sums, group.latency, group.tokens);
    let mut groups = now;
    for group in &mut groups {
        group.previous = Some(before.remove(&group.line.key()).map(measured).unwrap_or_default());
    }
    for gone in order.into_iter().filter_map(|key| before.remove(&key)) {
        let line = CostLine { sums: Sums::default(), ..gone.line.clone() };
        groups.push(Group { line, previous: Some(measured(gone)), ..Group::default() });
    }
    groups
}

/// The groups that cost most, and the others as one line (of each time).
fn cut(groups: Vec<Group>, top: usize, by_time: bool) -> Vec<Group> {
    let mut order: Vec<(Key, Sums)> = Vec::new();
    let mut places: HashMap<Key, usize> = HashMap::new();
    for group in &groups {
        let place = *places.entry(group.line.key()).or_insert_with(|| {
            order.push((group.line.key(), Sums::default()));
            order.len() - 1
        });
        order[place].1 = order[place].1.plus(group.line.sums);
    }
    // Stable: of equals, the first comes first.
    order.sort_by_key(|(_, sums)| std::cmp::Reverse((sums.amount, sums.calls)));
    let kept: HashSet<Key> = order.into_iter().take(top).map(|(key, _)| key).collect();
    let (mut shown, others): (Vec<_>, Vec<_>) = groups.into_iter().partition(|group| kept.contains(&group.line.key()));
    let mut rest: Vec<Group> = Vec::new();
    for group in others {
        // Where there is time, groups come in its order.
        if rest.last().is_none_or(|last| last.line.time != group.line.time) {
            rest.push(Group {
                line: CostLine { time: group.line.time, rest: Some(0), ..CostLine::default() },
                ..Group::default()
            });
        }
        if let Some(last) = rest.last_mut() {
            last.add(&group);
        }
    }
    shown.append(&mut rest);
    if by_time {
        shown.sort_by_key(|group| group.line.time);
    }
    shown
}

impl Sums {
    #[must_use]
    const fn plus(self, other: Self) -> Self {
        Self { calls: self.calls + other.calls, errors: self.errors + other.errors, amount: self.amount + other.amount }
    }
}

impl CostLine {
    fn key(&self) -> Key {
        fn id<T: Copy + Into<Uuid>>(pair: Option<&(T, Option<String>)>) -> Option<Uuid> {
            pair.map(|(id, _)| (*id).into())
        }
        let ids = [id(self.tool.as_ref()), id(self.key.as_ref()), id(self.team.as_ref()), id(self.upstream.as_ref())];
        Key(ids, [self.outcome.clone(), self.model.clone(), self.origin.clone()])
    }
}

impl Group {
    fn read(row: &PgRow, group_by: &[Dimension], zone: TimeZone) -> StoreResult<Self> {
        let amount: &str = row.try_get("amount")?;
        let mut line = CostLine {
            sums: Sums {
                calls: row.try_get("calls")?,
                errors: row.try_get("errors")?,
                amount: amount.parse().map_err(|e| StoreError::Corrupt(format!("amount {amount:?}: {e}")))?,
            },
            ..CostLine::default()
        };
        for dimension in group_by {
            match dimension {
                Dimension::Tool => line.tool = named(row, "tool_id", "tool")?,
                Dimension::Key => line.key = named(row, "key_id", "key")?,
                Dimension::Team => line.team = named(row, "team_id", "team")?,
                Dimension::Upstream => line.upstream = named(row, "upstream_id", "upstream")?,
                Dimension::Outcome => line.outcome = row.try_get("outcome")?,
                Dimension::Model => line.model = row.try_get("model")?,
                Dimension::Origin => line.origin = row.try_get("origin")?,
                Dimension::Hour => line.time = row.try_get("hour")?,
                Dimension::Day | Dimension::Week | Dimension::Month => {
                    line.time = row.try_get::<Option<NaiveDate>, _>("since")?.map(|day| zone.midnight(day));
                }
            }
        }
        let latency = Histogram::read(row.try_get::<Option<&[u8]>, _>("latency")?.unwrap_or_default())?;
        Ok(Self { line, latency, tokens: row.try_get("tokens")?, previous: None })
    }

    /// Into the line of the others.
    fn add(&mut self, other: &Self) {
        self.line.rest = self.line.rest.map(|groups| groups + 1);
        self.line.sums = self.line.sums.plus(other.line.sums);
        self.latency.add(&other.latency);
        self.tokens += other.tokens;
        if let Some((sums, latency, tokens)) = &other.previous {
            let mine = self.previous.get_or_insert_default();
            mine.0 = mine.0.plus(*sums);
            mine.1.add(latency);
            mine.2 += tokens;
        }
    }

    fn finish(self, counts_tokens: bool) -> CostLine {
        let measures = |sums: Sums, latency: &Histogram, tokens: i64| Measures {
            sums,
            latency_p50_us: latency.percentile(50),
            latency_p99_us: latency.percentile(99),
            prompt_tokens_avoided: counts_tokens.then_some(tokens),
        };
        let now = measures(self.line.sums, &self.latency, self.tokens);
        CostLine {
            latency_p50_us: now.latency_p50_us,
            latency_p99_us: now.latency_p99_us,
            prompt_tokens_avoided: now.prompt_tokens_avoided,
            previous: self.previous.map(|(sums, latency, tokens)| measures(sums, &latency, tokens)),
            ..self.line
        }
    }
}

fn named<T: From<Uuid>>(row: &PgRow, id: &str, name: &str) -> StoreResult<Option<(T, Option<String>)>> {
    let name = row.try_get(name)?;
    Ok(row.try_get::<Option<Uuid>, _>(id)?.map(|id| (T::from(id), name)))
}
