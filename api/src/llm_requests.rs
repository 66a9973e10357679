//! LLM requests: the parents of tool calls.

pub mod get;
pub mod list;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use tollgate_domain::{
    Currency, KeyId, LlmRequestId, Origin, Picos, ProviderId, TeamId,
    llm::{Counted, Mode},
};
use tollgate_store::requests::{self, Forwarded};
use utoipa::ToSchema;

/// What a model (or an MCP client) asked for.
#[derive(Debug, Serialize, ToSchema)]
pub struct LlmRequest {
    /// The same as `x-tollgate-request-id` in the gateway's answer.
    #[schema(value_type = String, examples("req_01j9zc5v8mf9r8k7x3w2q1n0pa"))]
    pub id: LlmRequestId,
    #[schema(value_type = String)]
    pub key_id: KeyId,
    #[schema(value_type = Option<String>)]
    pub team_id: Option<TeamId>,
    /// `llm`: forwarded by the LLM endpoint; `minted`: made for an MCP request that named no parent.
    #[schema(value_type = String)]
    pub origin: Origin,
    /// The MCP method or the LLM route.
    pub method: String,
    pub model: Option<String>,
    /// Name and version of the client, as it says.
    pub client: Option<String>,
    pub at: DateTime<Utc>,
    /// Where it used a tool of Code Mode: about how many tokens the definitions of the tools behind it would have added to one prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_tokens_avoided: Option<i64>,
    /// Of a request of origin `llm`; left out of any other.
    #[serde(flatten)]
    pub forward: Option<Forward>,
}

/// What was forwarded to a provider, and how that ended.
#[derive(Debug, Serialize, ToSchema)]
pub struct Forward {
    /// The first request of its agent loop; its own id where it is that, or alone.
    #[schema(value_type = String)]
    pub root_id: LlmRequestId,
    /// Its place in the loop, from 1.
    pub turn: i32,
    /// `manual`: tool calls went back to the caller; `agent`: the gateway made them.
    #[schema(value_type = String)]
    pub mode: Mode,
    pub streaming: bool,
    /// Why it was refused; null where it was not.
    pub reason: Option<String>,
    /// Tools that the gateway offered with it, beside the caller's own.
    pub tools_offered: i32,
    /// About how many tokens of the prompt their definitions are: a fourth of their bytes.
    pub tools_tokens: i64,
    /// In the words of a tool call's outcome; null while it is open.
    pub outcome: Option<String>,
    pub error: Option<String>,
    pub closed_at: Option<DateTime<Utc>>,
    #[schema(value_type = Option<String>)]
    pub provider_id: Option<ProviderId>,
    pub provider: Option<String>,
    /// As the provider names it.
    pub model_served: Option<String>,
    /// Every try in its order: the provider, its key's name, the model, and how it ended.
    #[schema(value_type = Vec<Object>)]
    pub attempts: Value,
    /// `reported` by the provider, `estimated` where it did not come to say, or `none`; null while it is open.
    #[schema(value_type = Option<String>)]
    pub usage: Option<Counted>,
    pub input_tokens: u64,
    /// Among the input.
    pub cached_tokens: u64,
    /// Among the input.
    pub cache_write_tokens: u64,
    pub output_tokens: u64,
    /// Among the output.
    pub reasoning_tokens: u64,
    /// The price that applied: its id, or the default table and its date; null for a model without a price.
    pub price: Option<String>,
    /// An exact decimal.
    #[schema(value_type = Option<String>)]
    pub amount: Option<Picos>,
    #[schema(value_type = String)]
    pub currency: Currency,
    pub latency_us: Option<i64>,
    /// Until the first piece of the answer came.
    pub first_token_us: Option<i64>,
    pub finish_reason: Option<String>,
}

impl From<requests::LlmRequest> for LlmRequest {
    fn from(row: requests::LlmRequest) -> Self {
        let requests::LlmRequest { id, key_id, team_id, origin, method, model, client, at, prompt_tokens_avoided, forward } = row;
        Self {
            id,
            key_id,
            team_id,
            origin,
            method,
            model,
            client,
            at,
            prompt_tokens_avoided,
            forward: forward.map(Forward::from),
        }
    }
}

impl From<Forwarded> for Forward {
    fn from(row: Forwarded) -> Self {
        let attempts = row.attempts.and_then(|text| serde_json::from_str(&text).ok());
        Self {
            root_id: row.root_id,
            turn: row.turn,
            mode: row.mode,
            streaming: row.streaming,
            reason: row.reason,
            tools_offered: row.tools_offered,
            tools_tokens: row.tools_tokens,
            outcome: row.outcome,
            error: row.error,
            closed_at: row.closed_at,
            provider_id: row.provider_id,
            provider: row.provider,
            model_served: row.model_served,
            attempts: attempts.unwrap_or_else(|| Value::Array(Vec::new())),
            usage: row.counted,
            input_tokens: row.usage.input,
            cached_tokens: row.usage.cached_input,
            cache_write_tokens: row.usage.cache_write,
            output_tokens: row.usage.output,
            reasoning_tokens: row.usage.reasoning,
            price: row.price,
            amount: row.amount,
            currency: row.currency,
            latency_us: row.latency_us,
            first_token_us: row.first_token_us,
            finish_reason: row.finish_reason,
        }
    }
}
