use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use tollgate_domain::{ApprovalId, LlmRequestId, TenantId};
use tollgate_store::{
    PageRequest, Tx,
    calls::{self, CallFilter, Slice},
    loops,
    page::MAX_PAGE,
    requests,
};
use utoipa::ToSchema;

use super::LlmRequest;
use crate::{
    ctx::{Ctx, Id, Resource},
    problem::{Answer, Stop},
    script_runs::ScriptRun,
    tool_calls::ToolCall,
};

/// An LLM request and everything that it led to.
#[derive(Debug, Serialize, ToSchema)]
pub struct LlmRequestTree {
    #[serde(flatten)]
    pub request: LlmRequest,
    /// What was asked, as the tenant keeps it: the body with the tools that the gateway offered. Null where nothing of it is kept.
    pub prompt: Option<Value>,
    /// The model's answer, put together where it was streamed.
    pub answer: Option<Value>,
    /// Of the first request of an agent loop: all turns of the model, itself among them, each with what it led to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub turns: Vec<Turn>,
    /// Of an agent loop that had to wait for people: how it stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent_loop: Option<AgentLoop>,
    /// Oldest first, each with its calls.
    pub script_runs: Vec<RunBranch>,
    /// The calls outside scripts, oldest first.
    pub tool_calls: Vec<ToolCall>,
    /// False when there are more than 1000 runs or calls: the lists, filtered by `llm_request_id`, have them all.
    pub complete: bool,
}

/// An agent loop that had to wait for people.
#[derive(Debug, Serialize, ToSchema)]
pub struct AgentLoop {
    /// `waiting_approval`, `running`, `done` or `failed`.
    pub state: &'static str,
    /// What people have been asked for last.
    #[schema(value_type = Vec<String>)]
    pub approval_ids: Vec<ApprovalId>,
    /// Since when it stands where it stood last.
    pub since: DateTime<Utc>,
    pub ended_at: Option<DateTime<Utc>>,
    /// Of one that has failed: `{"status", "code", "message"}`.
    pub error: Option<Value>,
}

/// One turn of an agent loop, and what it led to.
#[derive(Debug, Serialize, ToSchema)]
pub struct Turn {
    #[serde(flatten)]
    pub request: LlmRequest,
    pub script_runs: Vec<RunBranch>,
    pub tool_calls: Vec<ToolCall>,
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
    let mut tx = ctx.app.store.tenant_snapshot(ctx.tenant).await?;
    let request = requests::get(&mut tx, ctx.tenant, id).await?;
    let mut turns = Vec::new();
    let is_root = request.forward.as_ref().is_some_and(|forward| forward.root_id == id);
    let rows = if is_root { requests::turns(&mut tx, ctx.tenant, id, MAX_TURNS).await? } else { Vec::new() };
    if rows.len() > 1 {
        for row in rows {
            let Led { script_runs, tool_calls, .. } = led(&mut tx, ctx.tenant, row.id).await?;
            turns.push(Turn { request: row.into(), script_runs, tool_calls });
        }
    }
    let standing = if is_root { loops::standing(&mut tx, ctx.tenant, id, None).await? } else { None };
    let agent_loop = standing.map(|standing| AgentLoop {
        state: standing.state.as_str(),
        approval_ids: standing.approvals,
        since: standing.since,
        ended_at: standing.ended_at,
        error: standing.error.and_then(|error| serde_json::from_str(&error).ok()),
    });
    let requests::Texts { prompt, answer } = requests::texts(&mut tx, ctx.tenant, id).await?;
    let json = |text: Option<String>| text.map(|text| serde_json::from_str(&text).unwrap_or(Value::String(text)));
    let Led { script_runs, tool_calls, complete } = led(&mut tx, ctx.tenant, id).await?;
    let (prompt, answer, request) = (json(prompt), json(answer), request.into());
    Ok(ctx.ok(&LlmRequestTree { request, prompt, answer, turns, agent_loop, script_runs, tool_calls, complete }))
}

/// More than an agent loop may have.
const MAX_TURNS: i64 = 200;

/// What one request led to.
struct Led {
    script_runs: Vec<RunBranch>,
    tool_calls: Vec<ToolCall>,
    complete: bool,
}

async fn led(tx: &mut Tx, tenant: TenantId, request: LlmRequestId) -> Result<Led, Stop> {
    let of_request = CallFilter { llm_request_id: Some(request), ..CallFilter::default() };
    let all = Slice { page: PageRequest { limit: MAX_PAGE, after: None }, ascending: true };
    let runs = calls::list_runs(tx, tenant, &of_request, all).await?;
    let found = calls::list(tx, tenant, &of_request, all).await?;
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
    Ok(Led { script_runs, tool_calls, complete })
}
