//! LLM requests: the parents of tool calls.

pub mod get;
pub mod list;

use chrono::{DateTime, Utc};
use serde::Serialize;
use tollgate_domain::{KeyId, LlmRequestId, Origin, TeamId};
use tollgate_store::calls;
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
}

impl From<calls::LlmRequest> for LlmRequest {
    fn from(row: calls::LlmRequest) -> Self {
        let calls::LlmRequest { id, key_id, team_id, origin, method, model, client, at, prompt_tokens_avoided } = row;
        Self { id, key_id, team_id, origin, method, model, client, at, prompt_tokens_avoided }
    }
}
