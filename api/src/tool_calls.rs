//! Tool calls: the audit trail. One row is read by compliance, by finance and by whoever debugs.

pub mod filter;
pub mod get;
pub mod list;
pub mod proof;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::value::RawValue;
use tollgate_domain::{
    ApprovalId, CallId, Decision, KeyId, LlmRequestId, Origin, Outcome, Picos, PriceId, ScriptRunId, TeamId, ToolId, UpstreamId,
    price::Unit, tool::DefinitionHash,
};
use tollgate_store::calls;
use utoipa::ToSchema;

use crate::ctx::Resource;

/// One tool call, whatever became of it.
#[derive(Debug, Serialize, ToSchema)]
pub struct ToolCall {
    #[schema(value_type = String, examples("call_01j9zc5v8mf9r8k7x3w2q1n0pa"))]
    pub id: CallId,
    /// The request of the model (or the MCP request) that led to it.
    #[schema(value_type = String)]
    pub llm_request_id: LlmRequestId,
    /// Null outside a script.
    #[schema(value_type = Option<String>)]
    pub script_run_id: Option<ScriptRunId>,
    /// Its place in the script, from 1.
    pub sequence: Option<i32>,
    /// `llm` or `minted`: where the parent request came from.
    #[schema(value_type = String)]
    pub origin: Origin,
    #[schema(value_type = String)]
    pub key_id: KeyId,
    #[schema(value_type = Option<String>)]
    pub team_id: Option<TeamId>,
    #[schema(value_type = Option<String>)]
    pub upstream_id: Option<UpstreamId>,
    pub upstream_name: Option<String>,
    /// Null where there is no such tool.
    #[schema(value_type = Option<String>)]
    pub tool_id: Option<ToolId>,
    /// As the upstream calls it, or as the caller asked for it where there is no such tool.
    pub tool_name: String,
    /// Of the definition that was in force.
    #[schema(value_type = Option<String>)]
    pub definition_sha256: Option<DefinitionHash>,
    /// `permitted`, `denied` or `held`
    #[schema(value_type = String)]
    pub decision: Decision,
    pub reason: Option<String>,
    /// The approval that it was held for, or made under; left out where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub approval_id: Option<ApprovalId>,
    /// `ok`, `tool_error`, `upstream_error`, `timeout`, `cancelled`, `denied`, `held` or `unknown`; null while it is open.
    #[schema(value_type = Option<String>)]
    pub outcome: Option<Outcome>,
    /// The exact JSON that was sent, unless the next says otherwise.
    #[schema(value_type = Option<serde_json::Value>)]
    pub arguments: Option<Box<RawValue>>,
    /// Null: as they were. `redacted`: a copy, from which the tenant's redaction rules have taken something. `omitted`: larger
    /// than the tenant keeps, or not to be redacted. `erased`: taken away later. Of what is not there, the row keeps the hash.
    #[schema(value_type = Option<String>)]
    pub arguments_form: Option<&'static str>,
    /// The exact JSON that came back, unless the next says otherwise.
    #[schema(value_type = Option<serde_json::Value>)]
    pub result: Option<Box<RawValue>>,
    /// As `arguments_form`.
    #[schema(value_type = Option<String>)]
    pub result_form: Option<&'static str>,
    pub error: Option<String>,
    pub opened_at: DateTime<Utc>,
    pub closed_at: Option<DateTime<Utc>>,
    pub latency_us: Option<i64>,
    /// The price that was in force; null where there was none.
    #[schema(value_type = Option<String>)]
    pub price_id: Option<PriceId>,
    /// What of the price applied: `call`, `successful_call`, `kb` or `second`; null where there was no price, and in rows of before it was kept.
    #[schema(value_type = Option<String>)]
    pub unit: Option<Unit>,
    /// Of one unit, as an exact decimal.
    #[schema(value_type = Option<String>)]
    pub unit_amount: Option<Picos>,
    /// Under a price by volume: the tier, from 1.
    pub tier: Option<u16>,
    /// Under a price by volume: the call's number in the month, which no other call under the same price has.
    pub call_number: Option<u64>,
    /// What was charged, as an exact decimal; null while it is open.
    #[schema(value_type = Option<String>)]
    pub amount: Option<Picos>,
    pub currency: Option<String>,
    /// What was given back of the amount later, in credits; left out where nothing was.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub credited: Option<Picos>,
    /// In lists: arguments or result are larger than 64 KiB (or the page is full of them) and left out; read the call itself.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schema(value_type = Option<bool>)]
    pub truncated: bool,
}

impl From<calls::ToolCall> for ToolCall {
    fn from(call: calls::ToolCall) -> Self {
        let volume = call.applied.and_then(|applied| applied.volume);
        Self {
            id: call.id,
            llm_request_id: call.llm_request_id,
            script_run_id: call.script_run_id,
            sequence: call.sequence,
            origin: call.origin,
            key_id: call.key_id,
            team_id: call.team_id,
            upstream_id: call.upstream_id,
            upstream_name: call.upstream_name,
            tool_id: call.tool_id,
            tool_name: call.tool_name,
            definition_sha256: call.definition_sha256,
            decision: call.decision,
            reason: call.reason,
            approval_id: call.approval_id,
            outcome: call.outcome,
            arguments: call.arguments.map(json),
            arguments_form: call.arguments_form.map(calls::Form::as_str),
            result: call.result.map(json),
            result_form: call.result_form.map(calls::Form::as_str),
            error: call.error,
            opened_at: call.opened_at,
            closed_at: call.closed_at,
            latency_us: call.latency_us,
            price_id: call.price_id,
            unit: call.applied.map(|applied| applied.unit),
            unit_amount: call.applied.map(|applied| applied.amount),
            tier: volume.map(|volume| volume.tier),
            call_number: volume.map(|volume| volume.call),
            amount: call.amount,
            currency: call.currency.map(|currency| currency.to_string()),
            credited: call.credited,
            truncated: call.truncated,
        }
    }
}

impl Resource for ToolCall {}

/// Stored JSON, verbatim. Should it not be JSON after all, it is shown as a string: evidence is never withheld for its form.
pub(crate) fn json(text: String) -> Box<RawValue> {
    serde_json::from_str::<&RawValue>(&text).map(ToOwned::to_owned).unwrap_or_else(|_| {
        let quoted = serde_json::Value::from(text).to_string();
        RawValue::from_string(quoted).unwrap_or_default()
    })
}
