use serde::Serialize;
use tollgate_domain::LlmRequestId;
use tollgate_store::{
    PageRequest,
    calls::{self, CallFilter, Slice},
    page::MAX_PAGE,
};
use utoipa::ToSchema;

use super::LlmRequest;
use crate::{
    ctx::{Ctx, Id, Resource},
    problem::Answer,
    script_runs::ScriptRun,
    tool_calls::ToolCall,
};

/// An LLM request and everything that it led to.
#[derive(Debug, Serialize, ToSchema)]
pub struct LlmRequestTree {
    #[serde(flatten)]
    pub request: LlmRequest,
    /// Oldest first, each with its calls.
    pub script_runs: Vec<RunBranch>,
    /// The calls outside scripts, oldest first.
    pub tool_calls: Vec<ToolCall>,
    /// False when there are more than 1000 runs or calls: the lists, filtered by `llm_request_id`, have them all.
    pub complete: bool,
}

/// A script run and the calls that it made.
#[derive(Debug, Serialize, ToSchema)]
pub struct RunBranch {
    #[serde(flatten)]
    pub run: ScriptRun,
    /// In the order of their sequence.
    pub tool_calls: Vec<ToolCall>,
}

impl Resource for LlmRequestTree {}

/// Read an LLM request with its script runs and tool calls.
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}/llm-requests/{llm_request_id}", responses((status = 200, description = "The request.", body = LlmRequestTree)))]
pub async fn handle(ctx: Ctx, Id(id): Id<LlmRequestId>) -> Answer {
    let of_request = CallFilter { llm_request_id: Some(id), ..CallFilter::default() };
    let all = Slice { page: PageRequest { limit: MAX_PAGE, after: None }, ascending: true };
    let mut tx = ctx.app.store.tenant_snapshot(ctx.tenant).await?;
    let request = LlmRequest::from(calls::get_request(&mut tx, ctx.tenant, id).await?);
    let runs = calls::list_runs(&mut tx, ctx.tenant, &of_request, all).await?;
    let found = calls::list(&mut tx, ctx.tenant, &of_request, all).await?;

    let complete = runs.next.is_none() && found.next.is_none();
    let mut script_runs: Vec<RunBranch> =
        runs.items.into_iter().map(|run| RunBranch { run: ScriptRun::from(run), tool_calls: Vec::new() }).collect();
    let mut tool_calls = Vec::new();
    for call in found.items {
        match script_runs.iter_mut().find(|branch| Some(branch.run.id) == call.script_run_id) {
            Some(branch) => branch.tool_calls.push(ToolCall::from(call)),
            None => tool_calls.push(ToolCall::from(call)),
        }
    }
    for branch in &mut script_runs {
        branch.tool_calls.sort_by_key(|call| (call.sequence, call.id));
    }
    Ok(ctx.ok(&LlmRequestTree { request, script_runs, tool_calls, complete }))
}
