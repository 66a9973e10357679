//! The lines of a cost report as columns: of Parquet and of CSV.

use serde_json::Value;
use tollgate_store::costs::{CostLine, CostQuery, CostReport, Dimension};

use super::{
    lines::{Costs, DIMENSIONS, net},
    table::{Column, Values},
};
use crate::{
    audit::csv,
    problem::{Problem, Stop},
};

/// Columns of what is told of the period before, and their names there.
const PREVIOUS: [(&str, &str); 9] = [
    ("previous_calls", "calls"),
    ("previous_errors", "errors"),
    ("previous_amount", "amount"),
    ("previous_latency_p50_us", "latency_p50_us"),
    ("previous_latency_p99_us", "latency_p99_us"),
    ("previous_llm_requests", "llm_requests"),
    ("previous_llm_amount", "llm_amount"),
    ("previous_credits", "credits"),
    ("previous_net", "net"),
];

const LLM: [&str; 6] = ["llm_requests", "llm_amount", "input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens"];
/// What is left to pay, where both are told.
const NET: &str = "net";

/// The items as typed columns, in the order in which the dimensions were asked for.
pub fn columns(report: &CostReport, asked: &CostQuery) -> Vec<Column> {
    let (lines, group_by) = (&report.lines, &asked.group_by);
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
    if report.prompt_tokens_avoided.is_some() {
        columns.push(count("prompt_tokens_avoided", |line| line.prompt_tokens_avoided));
    }
    let amount = |name, get: fn(&CostLine) -> Option<i128>| Column {
        name,
        values: Values::Amount(lines.iter().map(|line| get(line).unwrap_or_default()).collect()),
    };
    if report.llm.is_some() {
        columns.extend([
            count("llm_requests", |line| line.llm.map(|llm| llm.requests)),
            amount("llm_amount", |line| line.llm.map(|llm| llm.amount)),
            count("input_tokens", |line| line.llm.map(|llm| llm.input_tokens)),
            count("cached_tokens", |line| line.llm.map(|llm| llm.cached_tokens)),
            count("output_tokens", |line| line.llm.map(|llm| llm.output_tokens)),
            count("reasoning_tokens", |line| line.llm.map(|llm| llm.reasoning_tokens)),
        ]);
    }
    if report.credits.is_some() {
        columns.push(amount("credits", |line| line.credits));
    }
    if report.credits.is_some() && report.llm.is_some() {
        columns.push(amount(NET, |line| net(line.sums, line.llm, line.credits)));
    }
    if asked.top.is_some() {
        columns.push(count("rest_groups", |line| line.rest.and_then(|groups| i64::try_from(groups).ok())));
    }
    if report.previous.is_some() {
        columns.push(count("previous_calls", |line| line.previous.map(|previous| previous.sums.calls)));
        columns.push(count("previous_errors", |line| line.previous.map(|previous| previous.sums.errors)));
        let amounts = lines.iter().map(|line| line.previous.map_or(0, |previous| previous.sums.amount));
        columns.push(Column { name: "previous_amount", values: Values::Amount(amounts.collect()) });
        columns.push(count("previous_latency_p50_us", |line| line.previous?.latency_p50_us));
        columns.push(count("previous_latency_p99_us", |line| line.previous?.latency_p99_us));
        if report.llm.is_some() {
            columns.push(count("previous_llm_requests", |line| Some(line.previous?.llm?.requests)));
            columns.push(amount("previous_llm_amount", |line| Some(line.previous?.llm?.amount)));
        }
        if report.credits.is_some() {
            columns.push(amount("previous_credits", |line| line.previous?.credits));
        }
        if report.credits.is_some() && report.llm.is_some() {
            columns.push(amount("previous_net", |line| line.previous.and_then(|then| net(then.sums, then.llm, then.credits))));
        }
    }
    columns
}

/// The items as CSV, the columns in the order in which the dimensions were asked for.
pub fn csv(costs: &Costs, asked: &CostQuery) -> Result<Vec<u8>, Stop> {
    let mut columns = Vec::new();
    for (name, dimension) in asked.group_by.iter().filter_map(|d| DIMENSIONS.iter().find(|(_, other)| other == d)) {
        match dimension {
            Dimension::Tool => columns.extend(["tool_id", "tool"]),
            Dimension::Key => columns.extend(["key_id", "key"]),
            Dimension::Team => columns.extend(["team_id", "team"]),
            Dimension::Upstream => columns.extend(["upstream_id", "upstream"]),
            _ => columns.push(name),
        }
    }
    columns.extend(["calls", "errors", "amount", "latency_p50_us", "latency_p99_us"]);
    if costs.total.prompt_tokens_avoided.is_some() {
        columns.push("prompt_tokens_avoided");
    }
    let (llm, credits) = (costs.total.llm_requests.is_some(), costs.total.credits.is_some());
    let told = |name: &str| (llm || !LLM.contains(&name) && name != NET) && (credits || name != "credits" && name != NET);
    columns.extend(LLM.into_iter().chain(["credits", NET]).filter(|name| told(name)));
    if asked.top.is_some() {
        columns.push("rest_groups");
    }
    if costs.previous.is_some() {
        columns.extend(PREVIOUS.into_iter().filter(|(_, of)| told(of)).map(|(name, _)| name));
    }
    let header: Vec<&str> = columns.iter().copied().chain(["currency"]).collect();
    let mut rows = csv::Rows::new(&header)?;
    for item in &costs.items {
        let item = serde_json::to_value(item).map_err(|e| Problem::internal(&e))?;
        let field = |column: &str| match PREVIOUS.iter().find(|(name, _)| *name == column) {
            Some((_, of)) => item.get("previous").and_then(|previous| previous.get(*of)),
            None => item.get(column),
        };
        let cell = |column: &&str| match field(column) {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        };
        rows.push_figures(columns.iter().map(cell).chain([costs.currency.clone()]))?;
    }
    Ok(rows.finish()?)
}
