use axum::{
    http::header,
    response::{IntoResponse, Response},
};
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tollgate_domain::{KeyId, Outcome, TeamId, ToolId, UpstreamId, money::decimal};
use tollgate_store::costs::{self, CostLine, CostQuery, CostReport, Dimension, Sums};
use utoipa::{IntoParams, ToSchema};

use super::{
    focus,
    table::{Column, Values, parquet},
};
use crate::{
    audit::csv,
    check::Checks,
    ctx::{Ctx, Resource},
    page::Query,
    problem::{Answer, Kind, Problem, Stop},
};

/// What is summed up when `from` is left out.
const DEFAULT_DAYS: i64 = 30;

const FORMATS: &str = "A cost report is written as \"json\", \"csv\", \"parquet\" or \"focus\".";

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct CostsQuery {
    /// Calls opened at this time or later; 30 days before `to` (or now) when left out.
    pub from: Option<DateTime<Utc>>,
    /// Calls opened before this time; up to the last one when left out.
    pub to: Option<DateTime<Utc>>,
    /// A comma list of `tool`, `key`, `team`, `upstream`, `outcome`, `model`, `origin` and one of `hour`, `day`,
    /// `week` (from Monday), `month`, in the tenant's time zone. One line for everything when left out.
    pub group_by: Option<String>,
    /// `json` (when left out), `csv`, `parquet`, or `focus`: the columns of the FinOps Open Cost and Usage Specification as CSV, one row
    /// a day, tool, team and key, whatever `group_by` says.
    pub format: Option<String>,
    #[param(value_type = Option<String>)]
    pub key_id: Option<KeyId>,
    #[param(value_type = Option<String>)]
    pub team_id: Option<TeamId>,
    #[param(value_type = Option<String>)]
    pub tool_id: Option<ToolId>,
    #[param(value_type = Option<String>)]
    pub upstream_id: Option<UpstreamId>,
    /// `ok`, `tool_error`, `upstream_error`, `timeout`, `cancelled`, `denied`, `held` or `unknown`.
    #[param(value_type = Option<String>)]
    pub outcome: Option<Outcome>,
}

/// What calls cost.
#[derive(Debug, Serialize, ToSchema)]
pub struct Costs {
    /// By time where a unit of time was asked for, then the dearest first.
    pub items: Vec<CostItem>,
    pub total: CostTotal,
    /// ISO 4217.
    pub currency: String,
}

/// One group. It has the dimensions that were asked for and no others; null is a group of its own (calls without a team).
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct CostItem {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    tool_id: Option<Option<ToolId>>,
    /// The tool's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    tool: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    key_id: Option<Option<KeyId>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    key: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    team_id: Option<Option<TeamId>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    team: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    upstream_id: Option<Option<UpstreamId>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    upstream: Option<Option<String>>,
    /// Null: calls that are open.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    outcome: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    model: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    origin: Option<Option<String>>,
    /// The start of the hour, day, week or month of the tenant's time zone.
    #[serde(skip_serializing_if = "Option::is_none")]
    hour: Option<DateTime<Utc>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    day: Option<DateTime<Utc>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    week: Option<DateTime<Utc>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    month: Option<DateTime<Utc>>,
    #[serde(flatten)]
    sums: CostTotal,
    /// Of the calls that have a latency; null where none has.
    latency_p50_us: Option<i64>,
    latency_p99_us: Option<i64>,
}

#[derive(Debug, Default, Serialize, ToSchema)]
pub struct CostTotal {
    /// Every row of the audit trail: denied, held and open calls too.
    pub calls: i64,
    /// Those with an outcome other than `ok` and `held`.
    pub errors: i64,
    /// An exact decimal. A call that is open counts with nothing yet.
    pub amount: String,
}

impl Resource for Costs {}

/// Sum up what calls cost.
///
/// The range is compared with the time in the calls' ids, to the millisecond. At most 10,000 groups.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant_id}/reports/costs", params(CostsQuery),
    responses((status = 200, description = "The report; in the other formats, its items.", content((Costs = "application/json"), (String = "text/csv"), (Vec<u8> = "application/vnd.apache.parquet"))))
)]
pub async fn handle(ctx: Ctx, Query(asked): Query<CostsQuery>) -> Answer {
    let format = match asked.format.as_deref() {
        None | Some("json") => Format::Json,
        Some("csv") => Format::Csv,
        Some("parquet") => Format::Parquet,
        Some("focus") => Format::Focus,
        Some(_) => return Err(Problem::because(Kind::UnsupportedFormat, FORMATS).into()),
    };
    let mut checks = Checks::default();
    let group_by = dimensions(&mut checks, asked.group_by.as_deref().unwrap_or_default());
    // The clock of a worker may be ahead of ours: "up to now" includes what it has just recorded.
    let to = asked.to.unwrap_or(ctx.now + TimeDelta::days(1));
    let last = asked.to.unwrap_or(ctx.now);
    let from = asked.from.or_else(|| last.checked_sub_signed(TimeDelta::days(DEFAULT_DAYS))).unwrap_or(last);
    checks.require(from <= to, "?from", "use a time before `to`");
    checks.done()?;
    let group_by = if format == Format::Focus { focus::GROUPS.to_vec() } else { group_by };
    let CostsQuery { key_id, team_id, tool_id, upstream_id, outcome, .. } = asked;
    let query = CostQuery { from, to, group_by, key_id, team_id, tool_id, upstream_id, outcome };
    let report = costs::report(&ctx.app.store, ctx.tenant, &query).await.map_err(as_parameter)?;
    match format {
        Format::Json => Ok(ctx.ok(&show(report, &query.group_by))),
        Format::Csv => Ok(file(CSV, "costs.csv", table(&show(report, &query.group_by), &query.group_by)?)),
        Format::Focus => {
            let account = focus::Account { tenant: ctx.tenant, name: report.tenant_name.clone(), zone: report.zone };
            Ok(file(CSV, "costs-focus.csv", focus::table(&account, &report)?))
        }
        Format::Parquet => {
            let bytes = parquet(&columns(&report, &query.group_by)).map_err(|e| Problem::internal(&e))?;
            Ok(file("application/vnd.apache.parquet", "costs.parquet", bytes))
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Json,
    Csv,
    Parquet,
    Focus,
}

const CSV: &str = "text/csv; charset=utf-8; header=present";

fn file(kind: &'static str, name: &str, bytes: Vec<u8>) -> Response {
    let headers =
        [(header::CONTENT_TYPE, kind.to_owned()), (header::CONTENT_DISPOSITION, format!("attachment; filename=\"{name}\""))];
    (headers, bytes).into_response()
}

/// The items as typed columns, in the order in which the dimensions were asked for.
fn columns(report: &CostReport, group_by: &[Dimension]) -> Vec<Column> {
    let lines = &report.lines;
    let mut columns = Vec::new();
    let mut text = |name, get: &dyn Fn(&CostLine) -> Option<String>| {
        columns.push(Column { name, values: Values::Text(lines.iter().map(get).collect()) });
    };
    fn id<T: ToString>(pair: Option<&(T, Option<String>)>) -> Option<String> {
        pair.map(|(id, _)| id.to_string())
    }
    fn name<T>(pair: Option<&(T, Option<String>)>) -> Option<String> {
        pair.and_then(|(_, name)| name.clone())
    }
    for dimension in group_by {
        match dimension {
            Dimension::Tool => {
                text("tool_id", &|line| id(line.tool.as_ref()));
                text("tool", &|line| name(line.tool.as_ref()));
            }
            Dimension::Key => {
                text("key_id", &|line| id(line.key.as_ref()));
                text("key", &|line| name(line.key.as_ref()));
            }
            Dimension::Team => {
                text("team_id", &|line| id(line.team.as_ref()));
                text("team", &|line| name(line.team.as_ref()));
            }
            Dimension::Upstream => {
                text("upstream_id", &|line| id(line.upstream.as_ref()));
                text("upstream", &|line| name(line.upstream.as_ref()));
            }
            Dimension::Outcome => text("outcome", &|line| line.outcome.clone()),
            Dimension::Model => text("model", &|line| line.model.clone()),
            Dimension::Origin => text("origin", &|line| line.origin.clone()),
            Dimension::Hour | Dimension::Day | Dimension::Week | Dimension::Month => {}
        }
    }
    text("currency", &|_| Some(report.currency.to_string()));
    let times = DIMENSIONS.iter().filter(|(_, dimension)| dimension.is_time() && group_by.contains(dimension));
    let times = times.map(|(name, _)| {
        let at = |line: &CostLine| line.time.map(|at| at.timestamp_micros());
        Column { name, values: Values::Time(lines.iter().map(at).collect()) }
    });
    columns.extend(times);
    let count = |name, get: fn(&CostLine) -> Option<i64>| Column { name, values: Values::Count(lines.iter().map(get).collect()) };
    columns.push(count("calls", |line| Some(line.sums.calls)));
    columns.push(count("errors", |line| Some(line.sums.errors)));
    columns.push(Column { name: "amount", values: Values::Amount(lines.iter().map(|line| line.sums.amount).collect()) });
    columns.push(count("latency_p50_us", |line| line.latency_p50_us));
    columns.push(count("latency_p99_us", |line| line.latency_p99_us));
    columns
}

/// The store points into a body; here the field is a query parameter.
fn as_parameter(error: tollgate_store::StoreError) -> Problem {
    match error {
        tollgate_store::StoreError::Invalid { pointer, message } => Problem::field(pointer.replacen('/', "?", 1), message),
        other => other.into(),
    }
}

const DIMENSIONS: [(&str, Dimension); 11] = [
    ("tool", Dimension::Tool),
    ("key", Dimension::Key),
    ("team", Dimension::Team),
    ("upstream", Dimension::Upstream),
    ("outcome", Dimension::Outcome),
    ("model", Dimension::Model),
    ("origin", Dimension::Origin),
    ("hour", Dimension::Hour),
    ("day", Dimension::Day),
    ("week", Dimension::Week),
    ("month", Dimension::Month),
];

fn dimensions(checks: &mut Checks, list: &str) -> Vec<Dimension> {
    let mut found: Vec<Dimension> = Vec::new();
    for word in list.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        match DIMENSIONS.iter().find(|(name, _)| *name == word) {
            None => checks.refuse(
                "?group_by",
                "use a comma list of tool, key, team, upstream, outcome, model, origin, and one of hour, day, week, month",
            ),
            Some((_, dimension)) if found.contains(dimension) => checks.refuse("?group_by", format!("{word} comes twice")),
            Some((_, dimension)) => found.push(*dimension),
        }
    }
    checks.require(found.iter().filter(|d| d.is_time()).count() <= 1, "?group_by", "use only one of hour, day, week and month");
    found
}

fn show(report: CostReport, group_by: &[Dimension]) -> Costs {
    Costs {
        items: report.lines.into_iter().map(|line| item(line, group_by)).collect(),
        total: sums(report.total),
        currency: report.currency.to_string(),
    }
}

fn sums(sums: Sums) -> CostTotal {
    CostTotal { calls: sums.calls, errors: sums.errors, amount: decimal(sums.amount) }
}

fn item(line: CostLine, group_by: &[Dimension]) -> CostItem {
    let mut item = CostItem {
        sums: sums(line.sums),
        latency_p50_us: line.latency_p50_us,
        latency_p99_us: line.latency_p99_us,
        ..CostItem::default()
    };
    let CostLine { tool, key, team, upstream, outcome, model, origin, time, .. } = line;
    for dimension in group_by {
        match dimension {
            Dimension::Tool => (item.tool_id, item.tool) = named(&tool),
            Dimension::Key => (item.key_id, item.key) = named(&key),
            Dimension::Team => (item.team_id, item.team) = named(&team),
            Dimension::Upstream => (item.upstream_id, item.upstream) = named(&upstream),
            Dimension::Outcome => item.outcome = Some(outcome.clone()),
            Dimension::Model => item.model = Some(model.clone()),
            Dimension::Origin => item.origin = Some(origin.clone()),
            Dimension::Hour => item.hour = time,
            Dimension::Day => item.day = time,
            Dimension::Week => item.week = time,
            Dimension::Month => item.month = time,
        }
    }
    item
}

/// An id and its name, both present in the answer even where they are null.
fn named<T: Copy>(pair: &Option<(T, Option<String>)>) -> (Option<Option<T>>, Option<Option<String>>) {
    (Some(pair.as_ref().map(|p| p.0)), Some(pair.as_ref().and_then(|p| p.1.clone())))
}

/// The items as CSV, the columns in the order in which the dimensions were asked for.
fn table(costs: &Costs, group_by: &[Dimension]) -> Result<Vec<u8>, Stop> {
    let mut columns = Vec::new();
    for (name, dimension) in group_by.iter().filter_map(|d| DIMENSIONS.iter().find(|(_, other)| other == d)) {
        match dimension {
            Dimension::Tool => columns.extend(["tool_id", "tool"]),
            Dimension::Key => columns.extend(["key_id", "key"]),
            Dimension::Team => columns.extend(["team_id", "team"]),
            Dimension::Upstream => columns.extend(["upstream_id", "upstream"]),
            _ => columns.push(name),
        }
    }
    columns.extend(["calls", "errors", "amount", "latency_p50_us", "latency_p99_us"]);
    let header: Vec<&str> = columns.iter().copied().chain(["currency"]).collect();
    let mut rows = csv::Rows::new(&header)?;
    for item in &costs.items {
        let item = serde_json::to_value(item).map_err(|e| Problem::internal(&e))?;
        let cell = |column: &&str| match item.get(*column) {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        };
        rows.push(columns.iter().map(cell).chain([costs.currency.clone()]))?;
    }
    Ok(rows.finish()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(list: &str) -> Result<Vec<Dimension>, String> {
        let mut checks = Checks::default();
        let found = dimensions(&mut checks, list);
        checks.done().map(|()| found).map_err(|p| p.errors()[0].message.clone())
    }

    #[test]
    fn dimensions_come_once_and_time_in_one_unit() {
        assert_eq!(read("tool, key,day"), Ok(vec![Dimension::Tool, Dimension::Key, Dimension::Day]));
        assert_eq!(read(""), Ok(vec![]));
        assert!(read("tool,tool").unwrap_err().contains("twice"));
        assert!(read("hour,day").unwrap_err().contains("only one"));
        for bad in ["tools", "Tool", "tool;key", "1", "key_id", "tool)--"] {
            assert!(read(bad).unwrap_err().contains("comma list"), "{bad}");
        }
    }

    #[test]
    fn what_was_asked_for_is_there_even_where_it_is_null_and_nothing_else_is() {
        let line = CostLine { sums: Sums { calls: 2, errors: 1, amount: 2_000_000_000 }, ..CostLine::default() };
        let shown = serde_json::to_string(&item(line, &[Dimension::Team, Dimension::Outcome])).unwrap();
        assert_eq!(
            shown,
            r#"{"team_id":null,"team":null,"outcome":null,"calls":2,"errors":1,"amount":"0.002","latency_p50_us":null,"latency_p99_us":null}"#
        );
    }
}
