//! Cost reports: sums over the rows of the audit trail, which are the ledger.

use chrono::{DateTime, Utc};
use sqlx::{Postgres, QueryBuilder, Row, postgres::PgRow};
use tollgate_domain::{Currency, KeyId, Outcome, TeamId, TenantId, TimeZone, ToolId, UpstreamId, ids};
use uuid::Uuid;

use crate::{
    error::{StoreError, StoreResult, word},
    tx::Store,
};

/// Groups that one report has at most.
pub const MAX_GROUPS: usize = 10_000;

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
    pub sums: Sums,
    /// Of the calls whose latency is known.
    pub latency_p50_us: Option<i64>,
    pub latency_p99_us: Option<i64>,
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
    /// A tenant has one, for life.
    pub currency: Currency,
    /// In which its days begin.
    pub zone: TimeZone,
    pub tenant_name: String,
}

impl Dimension {
    /// The column that the report groups by, and what it selects.
    const fn sql(self) -> (&'static str, &'static str) {
        match self {
            // A tool or an upstream keeps its name for life, and a call of an unknown tool has no id.
            Self::Tool => ("i.tool_id", "i.tool_id, CASE WHEN i.tool_id IS NOT NULL THEN max(i.tool_name) END AS tool"),
            Self::Upstream => ("i.upstream_id", "i.upstream_id, max(i.upstream_name) AS upstream"),
            Self::Key => (
                "i.key_id",
                "i.key_id, (SELECT k.name FROM virtual_keys k WHERE k.tenant_id = $1 AND k.key_id = i.key_id) AS key",
            ),
            Self::Team => {
                ("i.team_id", "i.team_id, (SELECT m.name FROM teams m WHERE m.tenant_id = $1 AND m.team_id = i.team_id) AS team")
            }
            Self::Outcome => ("i.outcome", "i.outcome"),
            Self::Model => ("l.model", "l.model"),
            Self::Origin => ("i.origin", "i.origin"),
            // The second parameter is the tenant's time zone.
            Self::Hour => ("date_trunc('hour', i.opened_at, $2)", "date_trunc('hour', i.opened_at, $2) AS time"),
            Self::Day => ("date_trunc('day', i.opened_at, $2)", "date_trunc('day', i.opened_at, $2) AS time"),
            Self::Week => ("date_trunc('week', i.opened_at, $2)", "date_trunc('week', i.opened_at, $2) AS time"),
            Self::Month => ("date_trunc('month', i.opened_at, $2)", "date_trunc('month', i.opened_at, $2) AS time"),
        }
    }

    #[must_use]
    pub const fn is_time(self) -> bool {
        matches!(self, Self::Hour | Self::Day | Self::Week | Self::Month)
    }
}

/// Sum up the calls of a tenant.
///
/// # Errors
/// [`StoreError::Invalid`] when there are more than [`MAX_GROUPS`] groups, or when it takes too long.
pub async fn report(store: &Store, tenant: TenantId, ask: &CostQuery) -> StoreResult<CostReport> {
    let mut tx = store.tenant_snapshot(tenant).await?;
    sqlx::query("SET LOCAL statement_timeout = '20s'").execute(&mut *tx).await?;
    let account = sqlx::query!("SELECT name, currency, time_zone FROM tenants WHERE tenant_id = $1", tenant.uuid());
    let account = account.fetch_one(&mut *tx).await?;
    let rows = build(tenant, &account.time_zone, ask).build().fetch_all(&mut *tx).await.map_err(too_slow)?;
    tx.commit().await?;
    if rows.len() > MAX_GROUPS {
        let sentence = format!("the report has more than {MAX_GROUPS} groups; ask for a shorter time or fewer dimensions");
        return Err(StoreError::invalid("/group_by", sentence));
    }
    let mut report = CostReport {
        lines: Vec::with_capacity(rows.len()),
        total: Sums::default(),
        currency: word(&account.currency)?,
        zone: word(&account.time_zone)?,
        tenant_name: account.name,
    };
    for row in &rows {
        let line = cost_line(row, &ask.group_by)?;
        report.total.calls += line.sums.calls;
        report.total.errors += line.sums.errors;
        report.total.amount += line.sums.amount;
        report.lines.push(line);
    }
    Ok(report)
}

fn too_slow(error: sqlx::Error) -> StoreError {
    match error.as_database_error().and_then(|db| db.code()).as_deref() {
        Some("57014") => StoreError::invalid("/from", "the report took longer than 20 s; ask for a shorter time"),
        _ => error.into(),
    }
}

fn build(tenant: TenantId, zone: &str, ask: &CostQuery) -> QueryBuilder<Postgres> {
    let (from, to) = (ids::floor(ask.from), ids::floor(ask.to));
    let errors: Vec<&str> = Outcome::ALL.iter().filter(|o| o.is_error()).map(|o| o.as_str()).collect();
    let mut query = QueryBuilder::new("SELECT ");
    // The fragments of Dimension::sql count on the order of these two parameters.
    query.push_bind(tenant.uuid()).push("::uuid AS tenant, ").push_bind(zone.to_owned()).push("::text AS zone");
    for dimension in &ask.group_by {
        query.push(", ").push(dimension.sql().1);
    }
    query.push(", count(*) AS calls, count(*) FILTER (WHERE i.outcome = ANY(").push_bind(errors);
    query.push(
        ")) AS errors, COALESCE(sum(i.amount_picos), 0)::numeric(38,0)::text AS amount,
           percentile_disc(0.5) WITHIN GROUP (ORDER BY i.latency_us) AS p50,
           percentile_disc(0.99) WITHIN GROUP (ORDER BY i.latency_us) AS p99 FROM (",
    );
    calls(&mut query, tenant, from, to);
    query.push(") i");
    if ask.group_by.contains(&Dimension::Model) {
        query.push(" LEFT JOIN llm_requests l ON l.tenant_id = ").push_bind(tenant.uuid());
        query.push(" AND l.llm_request_id = i.llm_request_id");
    }
    query.push(" WHERE true");
    let filters = [
        (" AND i.key_id = ", ask.key_id.map(KeyId::uuid)),
        (" AND i.team_id = ", ask.team_id.map(TeamId::uuid)),
        (" AND i.tool_id = ", ask.tool_id.map(ToolId::uuid)),
        (" AND i.upstream_id = ", ask.upstream_id.map(UpstreamId::uuid)),
    ];
    for (sql, id) in filters.into_iter().filter_map(|(sql, id)| Some((sql, id?))) {
        query.push(sql).push_bind(id);
    }
    if let Some(outcome) = ask.outcome {
        query.push(" AND i.outcome = ").push_bind(outcome.as_str());
    }
    group(&mut query, &ask.group_by);
    query
}

/// The view `tool_calls`, with the range of ids on each of its three parts: Postgres would not carry it over from the
/// first to the others, and read all their partitions. Sums read so much that joining is cheaper than looking up. A test
/// holds the two against each other.
fn calls(query: &mut QueryBuilder<Postgres>, tenant: TenantId, from: Uuid, to: Uuid) {
    let part = |query: &mut QueryBuilder<Postgres>, kind: &'static str| {
        query.push("(SELECT * FROM tool_call_events WHERE tenant_id = ").push_bind(tenant.uuid());
        query.push(" AND call_id >= ").push_bind(from).push(" AND call_id < ").push_bind(to).push(kind);
    };
    query.push(
        "SELECT e.call_id, e.llm_request_id, e.origin, e.key_id, e.team_id, e.upstream_id, e.upstream_name, e.tool_id, e.tool_name,
                e.at AS opened_at, COALESCE(c.outcome, r.outcome, e.outcome) AS outcome,
                COALESCE(c.latency_us, r.latency_us, e.latency_us) AS latency_us,
                COALESCE(c.amount_picos, r.amount_picos, e.amount_picos) AS amount_picos FROM ",
    );
    part(query, " AND kind = 0) e LEFT JOIN ");
    part(query, " AND kind = 1) c ON c.call_id = e.call_id LEFT JOIN ");
    part(query, " AND kind = 2) r ON r.call_id = e.call_id");
}

fn group(query: &mut QueryBuilder<Postgres>, group_by: &[Dimension]) {
    for (position, dimension) in group_by.iter().enumerate() {
        query.push(if position == 0 { " GROUP BY " } else { ", " }).push(dimension.sql().0);
    }
    query.push(" ORDER BY ");
    if group_by.iter().any(|dimension| dimension.is_time()) {
        query.push("time, ");
    }
    query.push("sum(i.amount_picos) DESC NULLS LAST, calls DESC");
    for dimension in group_by.iter().filter(|dimension| !dimension.is_time()) {
        query.push(", ").push(dimension.sql().0);
    }
    query.push(" LIMIT ").push_bind(i64::try_from(MAX_GROUPS + 1).unwrap_or(i64::MAX));
}

fn cost_line(row: &PgRow, group_by: &[Dimension]) -> StoreResult<CostLine> {
    let amount: &str = row.try_get("amount")?;
    let mut line = CostLine {
        sums: Sums {
            calls: row.try_get("calls")?,
            errors: row.try_get("errors")?,
            amount: amount.parse().map_err(|e| StoreError::Corrupt(format!("amount {amount:?}: {e}")))?,
        },
        latency_p50_us: row.try_get("p50")?,
        latency_p99_us: row.try_get("p99")?,
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
            Dimension::Hour | Dimension::Day | Dimension::Week | Dimension::Month => line.time = row.try_get("time")?,
        }
    }
    Ok(line)
}

fn named<T: From<Uuid>>(row: &PgRow, id: &str, name: &str) -> StoreResult<Option<(T, Option<String>)>> {
    let name = row.try_get(name)?;
    Ok(row.try_get::<Option<Uuid>, _>(id)?.map(|id| (T::from(id), name)))
}
