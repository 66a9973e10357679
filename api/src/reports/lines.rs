//! The lines of a cost report as the API tells them.

use chrono::{DateTime, Utc};
use serde::Serialize;
use tollgate_domain::{KeyId, TeamId, ToolId, UpstreamId, money::decimal};
use tollgate_store::costs::{CostLine, CostReport, Dimension, LlmSums, Sums};
use utoipa::ToSchema;

/// As `group_by` spells them.
pub const DIMENSIONS: [(&str, Dimension); 11] = [
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

/// What calls and LLM requests cost.
#[derive(Debug, Serialize, ToSchema)]
pub struct Costs {
    /// By time where a unit of time was asked for, then the dearest first.
    pub items: Vec<CostItem>,
    pub total: CostTotal,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous: Option<CostPrevious>,
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
    /// Null: requests without one, and those that were refused.
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
    /// Of the line of the others, those that are not among the `top`: how many groups they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rest_groups: Option<usize>,
    #[serde(flatten)]
    measures: CostMeasures,
    /// The same of the period before.
    #[serde(skip_serializing_if = "Option::is_none")]
    previous: Option<CostMeasures>,
}

#[derive(Debug, Default, Serialize, ToSchema)]
pub struct CostMeasures {
    #[serde(flatten)]
    sums: CostTotal,
    /// Of the calls that have a latency, at most 3.2 % off; null where none has.
    latency_p50_us: Option<i64>,
    latency_p99_us: Option<i64>,
}

#[derive(Debug, Default, Serialize, ToSchema)]
pub struct CostTotal {
    /// Every row of the audit trail: denied, held and open calls too.
    pub calls: i64,
    /// Those with an outcome other than `ok` and `held`.
    pub errors: i64,
    /// What calls of tools cost, an exact decimal. A call that is open counts with nothing yet.
    pub amount: String,
    /// What Code Mode saved, an estimate: for each request that used listToolFiles, readToolFile, getToolDocs or another of its tools, what
    /// the definitions of all tools behind them would have added to one prompt, less what their own take; four bytes count as a
    /// token. Left out where tools, upstreams or outcomes are told apart or filtered by: requests have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_tokens_avoided: Option<i64>,
    /// Requests to models, denied and open ones too. Null, as are the next five, where tools, upstreams or outcomes are told apart or
    /// filtered by: requests have no tool and no upstream, and outcomes are those of calls.
    pub llm_requests: Option<i64>,
    /// What they cost, an exact decimal, beside `amount`. A request that is open counts with nothing yet, and with no tokens.
    pub llm_amount: Option<String>,
    /// As the provider counts them, or by estimate where it did not come to say; the cached ones included.
    pub input_tokens: Option<i64>,
    pub cached_tokens: Option<i64>,
    /// The reasoning included.
    pub output_tokens: Option<i64>,
    pub reasoning_tokens: Option<i64>,
    /// What was given back in this time, an exact decimal: credits count at the time at which they are made. Where nothing was called in
    /// their group, they have a line of their own. Null where outcomes, models or origins are told apart, or outcomes are filtered by: credits have none.
    pub credits: Option<String>,
    /// `amount` and `llm_amount`, less `credits`; less than nothing where more was given back than spent. Null where one of
    /// them is.
    pub net: Option<String>,
}

/// The period before, as a whole.
#[derive(Debug, Serialize, ToSchema)]
pub struct CostPrevious {
    pub from: DateTime<Utc>,
    /// Exclusive.
    pub to: DateTime<Utc>,
    #[serde(flatten)]
    pub total: CostTotal,
}

/// The report as the API tells it.
pub fn show(report: CostReport, group_by: &[Dimension]) -> Costs {
    Costs {
        items: report.lines.into_iter().map(|line| item(line, group_by)).collect(),
        total: sums(report.total, report.prompt_tokens_avoided, report.llm, report.credits),
        previous: report.previous.map(|previous| CostPrevious {
            from: previous.from,
            to: previous.to,
            total: sums(previous.total, previous.prompt_tokens_avoided, previous.llm, previous.credits),
        }),
        currency: report.currency.to_string(),
    }
}

/// What is left to pay, where all that makes it up is told.
pub fn net(sums: Sums, llm: Option<LlmSums>, credits: Option<i128>) -> Option<i128> {
    Some(sums.amount + llm?.amount - credits?)
}

fn sums(sums: Sums, prompt_tokens_avoided: Option<i64>, llm: Option<LlmSums>, credits: Option<i128>) -> CostTotal {
    CostTotal {
        calls: sums.calls,
        errors: sums.errors,
        amount: decimal(sums.amount),
        prompt_tokens_avoided,
        llm_requests: llm.map(|llm| llm.requests),
        llm_amount: llm.map(|llm| decimal(llm.amount)),
        input_tokens: llm.map(|llm| llm.input_tokens),
        cached_tokens: llm.map(|llm| llm.cached_tokens),
        output_tokens: llm.map(|llm| llm.output_tokens),
        reasoning_tokens: llm.map(|llm| llm.reasoning_tokens),
        credits: credits.map(decimal),
        net: net(sums, llm, credits).map(decimal),
    }
}

fn item(line: CostLine, group_by: &[Dimension]) -> CostItem {
    let mut item = CostItem {
        rest_groups: line.rest,
        measures: CostMeasures {
            sums: sums(line.sums, line.prompt_tokens_avoided, line.llm, line.credits),
            latency_p50_us: line.latency_p50_us,
            latency_p99_us: line.latency_p99_us,
        },
        previous: line.previous.map(|previous| CostMeasures {
            sums: sums(previous.sums, previous.prompt_tokens_avoided, previous.llm, previous.credits),
            latency_p50_us: previous.latency_p50_us,
            latency_p99_us: previous.latency_p99_us,
        }),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_is_there_even_where_it_is_null_and_nothing_else_is() {
        let line = CostLine { sums: Sums { calls: 2, errors: 1, amount: 2_000_000_000 }, ..CostLine::default() };
        let shown = serde_json::to_string(&item(line.clone(), &[Dimension::Team, Dimension::Outcome])).unwrap();
        let untold = r#""llm_requests":null,"llm_amount":null,"input_tokens":null,"cached_tokens":null,"output_tokens":null,"reasoning_tokens":null"#;
        let expected = format!(
            r#"{{"team_id":null,"team":null,"outcome":null,"calls":2,"errors":1,"amount":"0.002",{untold},"credits":null,"net":null,"latency_p50_us":null,"latency_p99_us":null}}"#
        );
        assert_eq!(shown, expected);
        let llm = LlmSums {
            requests: 3,
            amount: 1_000_000_000,
            input_tokens: 9,
            cached_tokens: 4,
            output_tokens: 5,
            reasoning_tokens: 2,
        };
        let shown = serde_json::to_value(item(CostLine { llm: Some(llm), credits: Some(3_500_000_000), ..line }, &[])).unwrap();
        let told = ["llm_requests", "llm_amount", "cached_tokens", "credits", "net"].map(|name| shown[name].to_string());
        assert_eq!(told, ["3", "\"0.001\"", "4", "\"0.0035\"", "\"-0.0005\""]);
    }
}
