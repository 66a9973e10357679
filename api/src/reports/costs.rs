use axum::{
    http::header,
    response::{IntoResponse, Response},
};
use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;
use tollgate_domain::{KeyId, Outcome, TeamId, TenantId, ToolId, UpstreamId};
use tollgate_store::{
    Store, StoreError, StoreResult,
    costs::{self, CostQuery, CostReport, Dimension, MAX_GROUPS, MAX_IN_FILE, Reading},
};
use utoipa::IntoParams;

use super::{
    files, focus,
    lines::{Costs, DIMENSIONS, show},
    table::parquet,
};
use crate::{
    audit::Unwritable,
    check::Checks,
    ctx::{Ctx, Resource},
    page::Query,
    problem::{Answer, Kind, Problem, Stop},
};

/// What is summed up when `from` is left out.
const DEFAULT_DAYS: i64 = 30;

/// The most groups that `top` shows.
pub const MAX_TOP: usize = 1000;

pub const FORMATS: &str = "A cost report is written as \"json\", \"csv\", \"parquet\" or \"focus\".";

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct CostsQuery {
    /// Calls and requests opened, and credits given, at this time or later; 30 days before `to` (or now) when left out.
    pub from: Option<DateTime<Utc>>,
    /// Calls and requests opened, and credits given, before this time; up to the last one when left out.
    pub to: Option<DateTime<Utc>>,
    /// A comma list of `tool`, `key`, `team`, `upstream`, `outcome`, `model`, `origin` and one of `hour`, `day`,
    /// `week` (from Monday), `month`, in the tenant's time zone. One line for everything when left out.
    pub group_by: Option<String>,
    /// `json` (when left out), `csv`, `parquet`, or `focus`: the columns of the FinOps Open Cost and Usage Specification as CSV, one row
    /// a day, tool, team and key, and one a day, model, team and key, whatever `group_by` says; what was given back is rows of its own.
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
    /// Show the groups that cost most, this many (1 to 1,000), and all others together as one line with `rest_groups`: the total stays.
    /// With a unit of time, groups are told apart by the other dimensions, and there is such a line for each hour, day, week or month.
    pub top: Option<usize>,
    /// `previous`: every line and the total with the same of the period before, which has as many months where `from` and `to` are starts
    /// of months in the tenant's time zone, as many days where they are starts of days, and as much time else. Not together with
    /// a unit of time.
    pub compare: Option<String>,
}

impl Resource for Costs {}

/// Sum up what calls and LLM requests cost, and what was given back.
///
/// The range is compared with the time in the calls' ids, to the millisecond; what retention has dropped keeps its sums, to the quarter
/// of an hour. LLM requests stand in the lines of their key, team, model, origin and time, and credits in those of what they name, at the
/// time at which they are made. The sums equal the audit trail at the moment of the answer. Latencies are read from histograms and are at most
/// 3.2 % off. At most 10,000 lines; as CSV or Parquet 100,000, as FOCUS 200,000.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant_id}/reports/costs", params(CostsQuery),
    responses((status = 200, description = "The report; in the other formats, its items.", content((Costs = "application/json"), (String = "text/csv"), (Vec<u8> = "application/vnd.apache.parquet"))))
)]
pub async fn handle(ctx: Ctx, Query(asked): Query<CostsQuery>) -> Answer {
    let format = Format::parse(asked.format.as_deref().unwrap_or("json"));
    let format = format.ok_or_else(|| Problem::because(Kind::UnsupportedFormat, FORMATS))?;
    let mut checks = Checks::default();
    let group_by = dimensions(&mut checks, asked.group_by.as_deref().unwrap_or_default());
    // The clock of a worker may be ahead of ours: "up to now" includes what it has just recorded.
    let to = asked.to.unwrap_or(ctx.now + TimeDelta::days(1));
    let last = asked.to.unwrap_or(ctx.now);
    let from = asked.from.or_else(|| last.checked_sub_signed(TimeDelta::days(DEFAULT_DAYS))).unwrap_or(last);
    checks.require(from <= to, "?from", "use a time before `to`");
    let compare = compared(&mut checks, &asked, format, &group_by).then_some(last.max(from));
    checks.done()?;
    let group_by = format.groups(group_by);
    let CostsQuery { key_id, team_id, tool_id, upstream_id, outcome, top, .. } = asked;
    let query = CostQuery { from, to, group_by, key_id, team_id, tool_id, upstream_id, outcome, top, compare };
    let name = match format {
        Format::Json => {
            let report = read(&ctx.app.store, ctx.tenant, &query, MAX_GROUPS).await.map_err(as_parameter)?;
            return Ok(ctx.ok(&show(report, &query.group_by)));
        }
        Format::Csv => "costs.csv",
        Format::Focus => "costs-focus.csv",
        Format::Parquet => "costs.parquet",
    };
    let bytes = write(&ctx.app.store, ctx.tenant, &query, format).await.map_err(|unmade| match unmade {
        Unmade::Unread(error) => as_parameter(error).into(),
        Unmade::Unwritten(stop) => stop,
    })?;
    Ok(file(format.content_type(), name, bytes))
}

/// Why a report is no file.
#[derive(Debug)]
pub enum Unmade {
    Unread(StoreError),
    /// A defect of ours.
    Unwritten(Stop),
}

impl From<StoreError> for Unmade {
    fn from(error: StoreError) -> Self {
        Self::Unread(error)
    }
}

impl From<Stop> for Unmade {
    fn from(stop: Stop) -> Self {
        Self::Unwritten(stop)
    }
}

impl From<Unwritable> for Unmade {
    fn from(error: Unwritable) -> Self {
        Self::Unwritten(error.into())
    }
}

/// The report as a file.
///
/// # Errors
/// [`Unmade`], as [`costs::report`] has it for instance.
pub async fn write(store: &Store, tenant: TenantId, query: &CostQuery, format: Format) -> Result<Vec<u8>, Unmade> {
    let broken = |error: &dyn std::fmt::Display| Stop::from(Problem::internal(&error.to_string()));
    match format {
        Format::Focus => focus::write(store, tenant, query).await,
        Format::Json => {
            let report = read(store, tenant, query, MAX_GROUPS).await?;
            Ok(serde_json::to_vec(&show(report, &query.group_by)).map_err(|e| broken(&e))?)
        }
        Format::Csv => Ok(files::csv(&show(read(store, tenant, query, MAX_IN_FILE).await?, &query.group_by), query)?),
        Format::Parquet => {
            let report = read(store, tenant, query, MAX_IN_FILE).await?;
            Ok(parquet(&files::columns(&report, query)).map_err(|e| broken(&e))?)
        }
    }
}

async fn read(store: &Store, tenant: TenantId, query: &CostQuery, most: usize) -> StoreResult<CostReport> {
    let mut reading = Reading::begin(store, tenant, costs::PATIENCE).await?;
    let report = reading.report(query, most).await?;
    reading.end().await?;
    Ok(report)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Json,
    Csv,
    Parquet,
    Focus,
}

impl Format {
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "json" => Some(Self::Json),
            "csv" => Some(Self::Csv),
            "parquet" => Some(Self::Parquet),
            "focus" => Some(Self::Focus),
            _ => None,
        }
    }

    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Csv | Self::Focus => CSV,
            Self::Parquet => "application/vnd.apache.parquet",
        }
    }

    /// Of a file's name.
    #[must_use]
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Csv | Self::Focus => "csv",
            Self::Parquet => "parquet",
        }
    }

    /// What the report is grouped by, where `asked` was asked for.
    #[must_use]
    pub fn groups(self, asked: Vec<Dimension>) -> Vec<Dimension> {
        if self == Self::Focus { focus::GROUPS.to_vec() } else { asked }
    }
}

const CSV: &str = "text/csv; charset=utf-8; header=present";

fn file(kind: &'static str, name: &str, bytes: Vec<u8>) -> Response {
    let headers =
        [(header::CONTENT_TYPE, kind.to_owned()), (header::CONTENT_DISPOSITION, format!("attachment; filename=\"{name}\""))];
    (headers, bytes).into_response()
}

/// The store points into a body; here the field is a query parameter.
fn as_parameter(error: StoreError) -> Problem {
    match error {
        StoreError::Invalid { pointer, message } => Problem::field(pointer.replacen('/', "?", 1), message),
        other => other.into(),
    }
}

/// A comma list as dimensions; what is refused points at the query parameter.
pub fn dimensions(checks: &mut Checks, list: &str) -> Vec<Dimension> {
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

/// Whether the report is compared; and what `top` and `compare` do not go with.
fn compared(checks: &mut Checks, asked: &CostsQuery, format: Format, group_by: &[Dimension]) -> bool {
    let compare = asked.compare.as_deref();
    checks.require(matches!(compare, None | Some("previous")), "?compare", "use `previous`");
    checks.require(asked.top.is_none_or(|top| (1..=MAX_TOP).contains(&top)), "?top", "use a number from 1 to 1000");
    let in_time = group_by.iter().any(|dimension| dimension.is_time());
    let whole = "periods are compared as a whole: leave the unit of time out of `group_by`";
    checks.require(compare.is_none() || !in_time, "?compare", whole);
    if format == Format::Focus {
        let all = "a FOCUS data set has every row and no other column: use another format";
        checks.require(asked.top.is_none(), "?top", all);
        checks.require(compare.is_none(), "?compare", all);
    }
    compare.is_some()
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
}
