//! The groups of a report in the making: their measures can still be added to.

use std::collections::{HashMap, HashSet};

use chrono::NaiveDate;
use sqlx::{Row, postgres::PgRow};
use tollgate_domain::TimeZone;
use uuid::Uuid;

use super::{CostLine, CostQuery, Dimension, LlmSums, Measures, Sums, latency::Histogram, query::Tells};
use crate::{budgets::number, error::StoreResult};

#[derive(Default)]
pub(super) struct Group {
    /// What it is; its measures come when it is finished.
    pub line: CostLine,
    pub now: Tally,
    pub previous: Option<Tally>,
}

#[derive(Default)]
pub(super) struct Tally {
    pub amounts: Amounts,
    latency: Histogram,
}

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Amounts {
    pub sums: Sums,
    avoided: i64,
    llm: LlmSums,
    credits: i128,
}

/// What tells one group from another, but for the time.
#[derive(PartialEq, Eq, Hash)]
struct Key([Option<Uuid>; 4], [Option<String>; 3]);

pub(super) fn total(amounts: impl Iterator<Item = Amounts>) -> Amounts {
    amounts.fold(Amounts::default(), Amounts::plus)
}

/// Each group with what it was in the period before; those that were only then come behind, as nothing.
pub(super) fn beside(now: Vec<Group>, then: Vec<Group>) -> Vec<Group> {
    let mut before: HashMap<Key, Group> = HashMap::with_capacity(then.len());
    let mut order = Vec::with_capacity(then.len());
    for group in then {
        order.push(group.line.key());
        before.insert(group.line.key(), group);
    }
    let mut groups = now;
    for group in &mut groups {
        group.previous = Some(before.remove(&group.line.key()).map(|then| then.now).unwrap_or_default());
    }
    for gone in order.into_iter().filter_map(|key| before.remove(&key)) {
        groups.push(Group { line: gone.line, now: Tally::default(), previous: Some(gone.now) });
    }
    groups
}

/// The groups that cost most, and the others as one line (of each time).
pub(super) fn cut(groups: Vec<Group>, top: usize, by_time: bool) -> Vec<Group> {
    let mut order: Vec<(Key, Amounts)> = Vec::new();
    let mut places: HashMap<Key, usize> = HashMap::new();
    for group in &groups {
        let place = *places.entry(group.line.key()).or_insert_with(|| {
            order.push((group.line.key(), Amounts::default()));
            order.len() - 1
        });
        order[place].1 = order[place].1.plus(group.now.amounts);
    }
    // Stable: of equals, the first comes first.
    order.sort_by_key(|(_, amounts)| std::cmp::Reverse((amounts.cost(), amounts.sums.calls)));
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

/// Sums stop where numbers end: of counts that are absurd, no report breaks.
impl Sums {
    const fn plus(self, other: Self) -> Self {
        Self {
            calls: self.calls.saturating_add(other.calls),
            errors: self.errors.saturating_add(other.errors),
            amount: self.amount.saturating_add(other.amount),
        }
    }
}

impl LlmSums {
    const fn plus(self, other: Self) -> Self {
        Self {
            requests: self.requests.saturating_add(other.requests),
            amount: self.amount.saturating_add(other.amount),
            input_tokens: self.input_tokens.saturating_add(other.input_tokens),
            cached_tokens: self.cached_tokens.saturating_add(other.cached_tokens),
            output_tokens: self.output_tokens.saturating_add(other.output_tokens),
            reasoning_tokens: self.reasoning_tokens.saturating_add(other.reasoning_tokens),
        }
    }
}

impl Amounts {
    const fn plus(self, other: Self) -> Self {
        Self {
            sums: self.sums.plus(other.sums),
            avoided: self.avoided.saturating_add(other.avoided),
            llm: self.llm.plus(other.llm),
            credits: self.credits.saturating_add(other.credits),
        }
    }

    const fn cost(self) -> i128 {
        self.sums.amount.saturating_add(self.llm.amount)
    }

    /// What the report tells of what belongs to requests, and of credits.
    pub fn told(self, tells: Tells) -> (Option<i64>, Option<LlmSums>, Option<i128>) {
        let Self { avoided, llm, credits, .. } = self;
        (tells.requests.then_some(avoided), tells.requests.then_some(llm), tells.credits.then_some(credits))
    }

    fn read(row: &PgRow, tells: Tells) -> StoreResult<Self> {
        let mut amounts = Self {
            sums: Sums { calls: row.try_get("calls")?, errors: row.try_get("errors")?, amount: number(row.try_get("amount")?)? },
            credits: number(row.try_get("credits")?)?,
            ..Self::default()
        };
        if tells.requests {
            amounts.avoided = row.try_get("tokens")?;
            amounts.llm = LlmSums {
                requests: row.try_get("requests")?,
                amount: number(row.try_get("llm_amount")?)?,
                input_tokens: row.try_get("input_tokens")?,
                cached_tokens: row.try_get("cached_tokens")?,
                output_tokens: row.try_get("output_tokens")?,
                reasoning_tokens: row.try_get("reasoning_tokens")?,
            };
        }
        Ok(amounts)
    }
}

impl Tally {
    fn add(&mut self, other: &Self) {
        self.amounts = self.amounts.plus(other.amounts);
        self.latency.add(&other.latency);
    }

    fn measures(&self, tells: Tells) -> Measures {
        let (prompt_tokens_avoided, llm, credits) = self.amounts.told(tells);
        Measures {
            sums: self.amounts.sums,
            latency_p50_us: self.latency.percentile(50),
            latency_p99_us: self.latency.percentile(99),
            prompt_tokens_avoided,
            llm,
            credits,
        }
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
    pub fn read(row: &PgRow, ask: &CostQuery, zone: TimeZone) -> StoreResult<Self> {
        let mut line = CostLine::default();
        for dimension in &ask.group_by {
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
        Ok(Self { line, now: Tally { amounts: Amounts::read(row, Tells::of(ask))?, latency }, previous: None })
    }

    /// Into the line of the others.
    fn add(&mut self, other: &Self) {
        self.line.rest = self.line.rest.map(|groups| groups + 1);
        self.now.add(&other.now);
        if let Some(previous) = &other.previous {
            self.previous.get_or_insert_default().add(previous);
        }
    }

    pub fn finish(self, tells: Tells) -> CostLine {
        let Measures { sums, latency_p50_us, latency_p99_us, prompt_tokens_avoided, llm, credits } = self.now.measures(tells);
        CostLine {
            sums,
            latency_p50_us,
            latency_p99_us,
            prompt_tokens_avoided,
            llm,
            credits,
            previous: self.previous.map(|previous| previous.measures(tells)),
            ..self.line
        }
    }
}

fn named<T: From<Uuid>>(row: &PgRow, id: &str, name: &str) -> StoreResult<Option<(T, Option<String>)>> {
    let name = row.try_get(name)?;
    Ok(row.try_get::<Option<Uuid>, _>(id)?.map(|id| (T::from(id), name)))
}
