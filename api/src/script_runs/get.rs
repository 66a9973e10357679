use serde::Serialize;
use serde_json::value::RawValue;
use tollgate_domain::{CallId, ScriptRunId};
use tollgate_store::{approvals, calls};
use utoipa::ToSchema;

use super::ScriptRun;
use crate::{
    approvals::Approval,
    ctx::{Ctx, Id, Resource},
    problem::Answer,
    tool_calls::json,
};

/// All there is of a script run.
#[derive(Debug, Serialize, ToSchema)]
pub struct ScriptRunDetail {
    #[serde(flatten)]
    pub run: ScriptRun,
    /// As the model sent it; null where it was erased or was not stored, as for the texts below.
    pub source: Option<String>,
    /// What the script left in `result`.
    #[schema(value_type = Option<serde_json::Value>)]
    pub result: Option<Box<RawValue>>,
    /// What it printed: an array of lines.
    #[schema(value_type = Option<serde_json::Value>)]
    pub logs: Option<Box<RawValue>>,
    /// Why it failed.
    #[schema(value_type = Option<serde_json::Value>)]
    pub error: Option<Box<RawValue>>,
    /// What the script saw of its calls, in order: with source, catalogue and engine this replays the run.
    pub journal: Vec<JournalEntry>,
    /// What it waits for, without arguments.
    pub approvals: Vec<Approval>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct JournalEntry {
    pub sequence: i32,
    /// Null where the gateway answered by itself: the time, or a random number.
    #[schema(value_type = Option<String>)]
    pub call_id: Option<CallId>,
    #[schema(value_type = Option<serde_json::Value>)]
    pub entry: Option<Box<RawValue>>,
}

impl Resource for ScriptRunDetail {}

/// Read a script run: source, result, logs, error and journal.
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}/script-runs/{script_run_id}", responses((status = 200, description = "The run.", body = ScriptRunDetail)))]
pub async fn handle(ctx: Ctx, Id(id): Id<ScriptRunId>) -> Answer {
    let mut tx = ctx.app.store.tenant_snapshot(ctx.tenant).await?;
    let calls::ScriptRunDetail { run, source, result, logs, error, journal } = calls::get_run(&mut tx, ctx.tenant, id).await?;
    let waits_for = approvals::of_run(&mut tx, ctx.tenant, id).await?;
    let entry = |e: calls::JournalEntry| JournalEntry { sequence: e.sequence, call_id: e.call_id, entry: e.entry.map(json) };
    Ok(ctx.ok(&ScriptRunDetail {
        run: ScriptRun::from(run),
        source,
        result: result.map(json),
        logs: logs.map(json),
        error: error.map(json),
        journal: journal.into_iter().map(entry).collect(),
        approvals: waits_for.into_iter().map(Approval::from).collect(),
    }))
}
