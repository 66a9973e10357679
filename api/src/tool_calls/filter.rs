//! The filter of the three lists of what has happened: LLM requests, script runs, tool calls.

use chrono::{DateTime, Utc};
use serde::Deserialize;
use tollgate_domain::{Decision, KeyId, LlmRequestId, Outcome, ScriptRunId, TeamId, ToolId, UpstreamId};
use tollgate_store::{
    PageRequest,
    calls::{CallFilter, Slice},
};
use utoipa::IntoParams;

/// In lists of requests and runs, the parameters that speak of a call find those that have such a call.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct TrailQuery {
    #[param(value_type = Option<String>)]
    pub key_id: Option<KeyId>,
    #[param(value_type = Option<String>)]
    pub team_id: Option<TeamId>,
    #[param(value_type = Option<String>)]
    pub tool_id: Option<ToolId>,
    #[param(value_type = Option<String>)]
    pub upstream_id: Option<UpstreamId>,
    #[param(value_type = Option<String>)]
    pub llm_request_id: Option<LlmRequestId>,
    #[param(value_type = Option<String>)]
    pub script_run_id: Option<ScriptRunId>,
    /// `ok`, `tool_error`, `upstream_error`, `timeout`, `cancelled`, `denied`, `held` or `unknown`.
    #[param(value_type = Option<String>)]
    pub outcome: Option<Outcome>,
    /// `permitted`, `denied` or `held`.
    #[param(value_type = Option<String>)]
    pub decision: Option<Decision>,
    /// Opened at this time or later, RFC 3339, to the millisecond.
    pub from: Option<DateTime<Utc>>,
    /// Opened before this time.
    pub to: Option<DateTime<Utc>>,
    /// `desc`, newest first (when left out), or `asc`.
    #[param(value_type = Option<String>)]
    pub order: Option<Order>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    Asc,
    Desc,
}

impl TrailQuery {
    #[must_use]
    pub fn filter(&self) -> CallFilter {
        CallFilter {
            key_id: self.key_id,
            team_id: self.team_id,
            tool_id: self.tool_id,
            upstream_id: self.upstream_id,
            llm_request_id: self.llm_request_id,
            script_run_id: self.script_run_id,
            outcome: self.outcome,
            decision: self.decision,
            from: self.from,
            to: self.to,
        }
    }

    #[must_use]
    pub fn slice(&self, page: PageRequest) -> Slice {
        Slice { page, ascending: self.order == Some(Order::Asc) }
    }
}
