//! Script runs: what scripts did, and what it takes to replay them.

pub mod get;
pub mod list;

use chrono::{DateTime, Utc};
use serde::Serialize;
use tollgate_domain::{KeyId, LlmRequestId, ScriptRunId, TeamId};
use tollgate_store::calls;
use utoipa::ToSchema;

/// One run of one script.
#[derive(Debug, Serialize, ToSchema)]
pub struct ScriptRun {
    #[schema(value_type = String, examples("run_01j9zc5v8mf9r8k7x3w2q1n0pa"))]
    pub id: ScriptRunId,
    #[schema(value_type = String)]
    pub llm_request_id: LlmRequestId,
    #[schema(value_type = String)]
    pub key_id: KeyId,
    #[schema(value_type = Option<String>)]
    pub team_id: Option<TeamId>,
    /// `running`, `waiting_approval`, `done` or `failed`
    pub state: String,
    /// The engine and its version: a replay needs the same.
    pub engine: String,
    /// Of the catalogue of tools that the script ran against.
    pub catalog_sha256: String,
    /// The tools that its text shows it may call, as `server.tool`; `server.?` where it chooses one as it runs, `?` where there are too many
    /// to list. Null until it waits or has ended.
    pub may_call: Option<Vec<String>>,
    /// Calls and loop rounds; null while it runs.
    pub ticks: Option<i64>,
    pub opened_at: DateTime<Utc>,
    pub closed_at: Option<DateTime<Utc>>,
}

impl From<calls::ScriptRun> for ScriptRun {
    fn from(row: calls::ScriptRun) -> Self {
        let calls::ScriptRun {
            id,
            llm_request_id,
            key_id,
            team_id,
            state,
            engine,
            catalog_sha256,
            may_call,
            ticks,
            opened_at,
            closed_at,
        } = row;
        let catalog_sha256 = catalog_sha256.iter().map(|byte| format!("{byte:02x}")).collect();
        Self { id, llm_request_id, key_id, team_id, state, engine, catalog_sha256, may_call, ticks, opened_at, closed_at }
    }
}
