//! A report as one statement: whole days, quarters of an hour at the edges, rows where a quarter is cut, and what waits for its place in
//! the log.

use chrono::{DateTime, NaiveDate, Utc};
use sqlx::{Postgres, QueryBuilder};
use tollgate_domain::{KeyId, Outcome, TeamId, TenantId, ToolId, UpstreamId, ids};
use uuid::Uuid;

use super::{CostQuery, Dimension};
use crate::{error::StoreResult, tx::Tx};

/// Entries that may wait for their place in the log before a report reads the rows instead: the sealer has been away for minutes.
const MAX_WAITING: i64 = 200_000;
const QUARTER_MS: i64 = 15 * 60 * 1000;
/// Ids have 48 bits of milliseconds.
const LAST_MS: i64 = (1 << 48) - 1;

/// Which sums a report takes: the smallest that know what it asks for. See the migration of the rollups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Face {
    Everything = 0,
    Tool = 1,
    Key = 2,
    Pair = 3,
    Model = 4,
}

/// How a stretch of time is put together.
pub(super) struct Layout {
    zone: String,
    /// All of it.
    period: (DateTime<Utc>, DateTime<Utc>),
    ids: (Uuid, Uuid),
    /// Quarters whose rows retention has dropped, in front of what is counted: their sums are all that there is.
    kept: Option<(DateTime<Utc>, DateTime<Utc>)>,
    counted: Option<Counted>,
}

/// What of it is counted: whole quarters. Every statement on the rollups names the tenant, which is its first parameter.
struct Counted {
    low: DateTime<Utc>,
    high: DateTime<Utc>,
    /// The days that it has whole, and when the first begins and the last ends.
    days: Option<(NaiveDate, NaiveDate, DateTime<Utc>, DateTime<Utc>)>,
}

type Told = (
    DateTime<Utc>,
    DateTime<Utc>,
    Option<String>,
    Option<NaiveDate>,
    Option<NaiveDate>,
    Option<DateTime<Utc>>,
    Option<DateTime<Utc>>,
    Option<i64>,
    Option<DateTime<Utc>>,
);

impl Layout {
    /// In the snapshot in which the report is read.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn of(tx: &mut Tx, (from, to): (DateTime<Utc>, DateTime<Utc>), zone: &str) -> StoreResult<Self> {
        let plain = Self {
            zone: zone.to_owned(),
            period: (from, to),
            ids: (ids::floor(from), ids::floor(to)),
            kept: None,
            counted: None,
        };
        let at = |quarter: i64| DateTime::from_timestamp_millis(quarter * QUARTER_MS);
        let quarter = |at: DateTime<Utc>| at.timestamp_millis().clamp(0, LAST_MS);
        let low = at((quarter(from) + QUARTER_MS - 1).div_euclid(QUARTER_MS));
        let high = at(quarter(to).div_euclid(QUARTER_MS));
        let Some((begin, end)) = low.zip(high).filter(|(low, high)| low < high) else { return Ok(plain) };
        let told = sqlx::query_as::<_, Told>(
            "SELECT low, high, zone, first, last, first_at, last_at, waiting, pruned FROM tollgate_cost_layout($1, $2)",
        );
        let (low, high, zone, first, last, first_at, last_at, waiting, pruned) =
            told.bind(begin).bind(end).fetch_one(&mut **tx).await?;
        let kept = |until: DateTime<Utc>| Some((begin, pruned?.min(until))).filter(|(from, to)| from < to);
        let Some(zone) = zone.filter(|_| low < high && waiting.is_some_and(|n| n <= MAX_WAITING)) else {
            return Ok(Self { kept: kept(end), ..plain });
        };
        let days = first.zip(last).zip(first_at.zip(last_at)).map(|((first, last), (from, to))| (first, last, from, to));
        let days = days.filter(|(first, last, ..)| first <= last);
        Ok(Self { zone, kept: kept(low), counted: Some(Counted { low, high, days }), ..plain })
    }
}

impl Face {
    fn of(ask: &CostQuery) -> Self {
        let by = |dimensions: &[Dimension]| ask.group_by.iter().any(|dimension| dimensions.contains(dimension));
        let tool = by(&[Dimension::Tool, Dimension::Upstream]) || ask.tool_id.is_some() || ask.upstream_id.is_some();
        let key = by(&[Dimension::Key, Dimension::Team]) || ask.key_id.is_some() || ask.team_id.is_some();
        match (tool, key, by(&[Dimension::Model, Dimension::Origin])) {
            (true, _, true) => Self::Everything,
            (true, true, false) => Self::Pair,
            (true, false, false) => Self::Tool,
            (false, true, _) => Self::Key,
            (false, false, _) => Self::Model,
        }
    }

    /// Quarters have no pairs.
    const fn of_quarters(self) -> i16 {
        match self {
            Self::Pair => Self::Everything as i16,
            other => other as i16,
        }
    }
}

/// Which groups are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Only {
    All,
    /// Those that requests to models were made in.
    Requests,
}

/// What a report can tell beside calls.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tells {
    /// What requests avoided and what models cost: requests have no tool and no upstream, and are not told apart by outcome.
    pub requests: bool,
    /// What was given back: credits have no outcome, no model and no origin.
    pub credits: bool,
}

impl Tells {
    pub fn of(ask: &CostQuery) -> Self {
        let by = |dimensions: &[Dimension]| ask.group_by.iter().any(|dimension| dimensions.contains(dimension));
        let tool = ask.tool_id.is_some() || ask.upstream_id.is_some() || by(&[Dimension::Tool, Dimension::Upstream]);
        let outcome = ask.outcome.is_some() || by(&[Dimension::Outcome]);
        Self { requests: !tool && !outcome, credits: !outcome && !by(&[Dimension::Model, Dimension::Origin]) }
    }
}

impl Dimension {
    /// What the report groups by, and what it selects.
    const fn sql(self) -> (&'static str, &'static str) {
        match self {
            // A tool or an upstream keeps its name for life.
            Self::Tool => ("x.tool_id", "x.tool_id, max(x.tool_name) AS tool"),
            Self::Upstream => ("x.upstream_id", "x.upstream_id, max(x.upstream_name) AS upstream"),
            Self::Key => (
                "x.key_id",
                "x.key_id, (SELECT k.name FROM virtual_keys k WHERE k.tenant_id = $1 AND k.key_id = x.key_id) AS key",
            ),
            Self::Team => {
                ("x.team_id", "x.team_id, (SELECT m.name FROM teams m WHERE m.tenant_id = $1 AND m.team_id = x.team_id) AS team")
            }
            Self::Outcome => ("x.outcome", "x.outcome"),
            Self::Model => ("x.model", "x.model"),
            Self::Origin => ("x.origin", "x.origin"),
            // The second parameter is the tenant's time zone; the others are days of it.
            Self::Hour => ("date_trunc('hour', x.quarter, $2)", "date_trunc('hour', x.quarter, $2) AS hour"),
            Self::Day => ("x.day", "x.day AS since"),
            Self::Week => ("date_trunc('week', x.day::timestamp)::date", "date_trunc('week', x.day::timestamp)::date AS since"),
            Self::Month => {
                ("date_trunc('month', x.day::timestamp)::date", "date_trunc('month', x.day::timestamp)::date AS since")
            }
        }
    }
}

/// The statement, of at most `limit` lines.
pub(super) fn build(tenant: TenantId, layout: &Layout, (ask, only): (&CostQuery, Only), limit: i64) -> QueryBuilder<Postgres> {
    let errors: Vec<&str> = Outcome::ALL.iter().filter(|o| o.is_error()).map(|o| o.as_str()).collect();
    let mut query = QueryBuilder::new("SELECT ");
    // The fragments of Dimension::sql count on the order of these two parameters.
    query.push_bind(tenant.uuid()).push("::uuid AS tenant, ").push_bind(layout.zone.clone()).push("::text AS zone");
    for dimension in &ask.group_by {
        query.push(", ").push(dimension.sql().1);
    }
    query
        .push(", tollgate_bigint(COALESCE(sum(x.calls), 0)) AS calls, COALESCE(sum(x.calls) FILTER (WHERE x.outcome = ANY(")
        .push_bind(errors);
    query.push(
        ")), 0)::bigint AS errors, COALESCE(sum(x.amount), 0)::numeric(38,0)::text AS amount, string_agg(x.latency, ''::bytea) AS latency,
           tollgate_bigint(COALESCE(sum(x.tokens), 0)) AS tokens, tollgate_bigint(COALESCE(sum(x.requests), 0)) AS requests,
           COALESCE(sum(x.llm_amount), 0)::numeric(38,0)::text AS llm_amount, tollgate_bigint(COALESCE(sum(x.input_tokens), 0)) AS input_tokens,
           tollgate_bigint(COALESCE(sum(x.cached_tokens), 0)) AS cached_tokens, tollgate_bigint(COALESCE(sum(x.output_tokens), 0)) AS output_tokens,
           tollgate_bigint(COALESCE(sum(x.reasoning_tokens), 0)) AS reasoning_tokens,
           COALESCE(sum(x.credits), 0)::numeric(38,0)::text AS credits FROM (",
    );
    parts(&mut query, layout, ask);
    if Tells::of(ask).credits {
        credits(&mut query, layout.period);
    }
    query.push(") x WHERE true");
    filter(&mut query, ask);
    group(&mut query, &ask.group_by, Tells::of(ask), only);
    query.push(" LIMIT ").push_bind(limit);
    query
}

/// A union in the making.
struct Union<'q> {
    query: &'q mut QueryBuilder<Postgres>,
    any: bool,
}

impl Union<'_> {
    fn next(&mut self) -> &mut QueryBuilder<Postgres> {
        if std::mem::replace(&mut self.any, true) {
            self.query.push(" UNION ALL ");
        }
        self.query
    }
}

/// The sums of which the report is a sum, by their time: those whose rows retention has dropped, rows, and what is counted between them.
fn parts(query: &mut QueryBuilder<Postgres>, layout: &Layout, ask: &CostQuery) {
    let face = Face::of(ask);
    let with_model = ask.group_by.contains(&Dimension::Model);
    let (mut at, end) = layout.ids;
    let mut union = Union { query, any: false };
    if let Some((from, to)) = layout.kept {
        let edge = (at, ids::floor(from));
        if edge.0 < edge.1 {
            raw(union.next(), edge, with_model);
        }
        quarters(union.next(), face, (from, to));
        at = ids::floor(to);
    }
    if let Some(counted) = &layout.counted {
        let (low, high) = (ids::floor(counted.low), ids::floor(counted.high));
        if at < low {
            raw(union.next(), (at, low), with_model);
        }
        let in_days = face != Face::Everything && !ask.group_by.contains(&Dimension::Hour);
        match counted.days.filter(|_| in_days) {
            Some((day, last, from, to)) => {
                days(union.next(), face, (day, last));
                quarters(union.next(), face, (counted.low, from));
                quarters(union.next(), face, (to, counted.high));
            }
            None => quarters(union.next(), face, (counted.low, counted.high)),
        }
        let tail = union.next().push("SELECT ").push(COLUMNS).push(" FROM tollgate_cost_tail(").push_bind(low);
        tail.push(", ").push_bind(high).push(") c");
        at = high;
    }
    if at < end || !union.any {
        raw(union.next(), (at, end), with_model);
    }
}

/// Of a `tollgate_cost`.
const COLUMNS: &str = "c.tool_id, c.tool_name, c.upstream_id, c.upstream_name, c.key_id, c.team_id, c.outcome, c.model, c.origin,
    (c.quarter AT TIME ZONE $2)::date AS day, c.quarter, c.calls, c.amount, c.latency, c.tokens,
    c.requests, c.llm_amount, c.input_tokens, c.cached_tokens, c.output_tokens, c.reasoning_tokens, 0::bigint AS credits";
const CELL: &str = "c.tool_id, c.tool_name, c.upstream_id, c.upstream_name, c.key_id, c.team_id, c.outcome, c.model, c.origin";
const SUMS: &str =
    ", s.calls, s.amount, s.latency, s.tokens, s.requests, s.llm_amount, s.input_tokens, s.cached_tokens, s.output_tokens,
    s.reasoning_tokens, 0::bigint AS credits FROM ";
const CELLS: &str =
    " JOIN cost_cells c ON c.tenant_id = s.tenant_id AND c.face = s.face AND c.cell = s.cell WHERE s.tenant_id = $1
    AND c.tenant_id = $1 AND s.face = ";

fn raw(query: &mut QueryBuilder<Postgres>, (from, to): (Uuid, Uuid), with_model: bool) {
    query.push("SELECT ").push(COLUMNS).push(" FROM tollgate_cost_raw(").push_bind(from).push(", ").push_bind(to).push(", ");
    query.push_bind(with_model).push(") c");
}

fn days(query: &mut QueryBuilder<Postgres>, face: Face, (first, last): (NaiveDate, NaiveDate)) {
    query.push("SELECT ").push(CELL).push(", s.day, NULL::timestamptz AS quarter").push(SUMS).push("cost_days s");
    on_cells(query, face as i16);
    query.push(" AND s.day >= ").push_bind(first).push(" AND s.day <= ").push_bind(last);
}

fn quarters(query: &mut QueryBuilder<Postgres>, face: Face, (from, to): (DateTime<Utc>, DateTime<Utc>)) {
    query.push("SELECT ").push(CELL);
    query.push(", (s.quarter AT TIME ZONE $2)::date AS day, s.quarter").push(SUMS).push("cost_quarters s");
    on_cells(query, face.of_quarters());
    query.push(" AND s.quarter >= ").push_bind(from).push(" AND s.quarter < ").push_bind(to);
}

/// What was given back, as lines like the others.
fn credits(query: &mut QueryBuilder<Postgres>, (from, to): (DateTime<Utc>, DateTime<Utc>)) {
    query.push(
        " UNION ALL SELECT c.tool_id, t.name, c.upstream_id, u.name, c.key_id, c.team_id, NULL::text, NULL::text, NULL::text,
           (c.created_at AT TIME ZONE $2)::date, c.created_at, 0::bigint, 0::numeric, ''::bytea, 0::bigint,
           NULL::bigint, NULL::numeric, NULL::bigint, NULL::bigint, NULL::bigint, NULL::bigint, c.amount_picos
         FROM credits c LEFT JOIN tools t ON t.tenant_id = c.tenant_id AND t.tool_id = c.tool_id
         LEFT JOIN upstreams u ON u.tenant_id = c.tenant_id AND u.upstream_id = c.upstream_id
         WHERE c.tenant_id = $1 AND c.created_at >= ",
    );
    // A year may be asked for that the database does not know.
    let (from, to) = (from.max(DateTime::UNIX_EPOCH), to.max(DateTime::UNIX_EPOCH));
    query.push_bind(from).push(" AND c.created_at < ").push_bind(to);
}

fn on_cells(query: &mut QueryBuilder<Postgres>, face: i16) {
    query.push(CELLS).push_bind(face).push(" AND c.face = ").push_bind(face);
}

fn filter(query: &mut QueryBuilder<Postgres>, ask: &CostQuery) {
    let filters = [
        (" AND x.key_id = ", ask.key_id.map(KeyId::uuid)),
        (" AND x.team_id = ", ask.team_id.map(TeamId::uuid)),
        (" AND x.tool_id = ", ask.tool_id.map(ToolId::uuid)),
        (" AND x.upstream_id = ", ask.upstream_id.map(UpstreamId::uuid)),
    ];
    for (sql, id) in filters.into_iter().filter_map(|(sql, id)| Some((sql, id?))) {
        query.push(sql).push_bind(id);
    }
    if let Some(outcome) = ask.outcome {
        query.push(" AND x.outcome = ").push_bind(outcome.as_str());
    }
}

fn group(query: &mut QueryBuilder<Postgres>, group_by: &[Dimension], tells: Tells, only: Only) {
    for (position, dimension) in group_by.iter().enumerate() {
        query.push(if position == 0 { " GROUP BY " } else { ", " }).push(dimension.sql().0);
    }
    if !group_by.is_empty() {
        // The calls of a sum may all have moved to another: from those that are open, for one.
        query.push(if only == Only::Requests { " HAVING sum(x.requests) <> 0" } else { " HAVING sum(x.calls) <> 0" });
        if tells.requests && only == Only::All {
            query.push(" OR sum(x.tokens) <> 0 OR sum(x.requests) <> 0");
        }
        if tells.credits && only == Only::All {
            query.push(" OR sum(x.credits) <> 0");
        }
    }
    query.push(" ORDER BY ");
    for time in group_by.iter().filter(|dimension| dimension.is_time()) {
        query.push(time.sql().0).push(", ");
    }
    // Where requests are not told, those of a group are not meant.
    query.push(if tells.requests { "sum(x.amount) + COALESCE(sum(x.llm_amount), 0)" } else { "sum(x.amount)" });
    query.push(" DESC NULLS LAST, sum(x.calls) DESC");
    for dimension in group_by.iter().filter(|dimension| !dimension.is_time()) {
        query.push(", ").push(dimension.sql().0);
    }
}
