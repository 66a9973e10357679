//! What a tenant's scripts may take, below the installation's ceilings.

pub mod get;
pub mod update;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Map, Value};
use tollgate_boot::config::ScriptLimits as Config;
use tollgate_domain::TenantId;
use tollgate_store::script_limits;
use utoipa::ToSchema;

use crate::ctx::Resource;

/// Limits of the tenant's scripts. Null: the ceiling holds (of `answer_chars`: the installation's own number).
#[derive(Debug, Serialize, ToSchema)]
pub struct ScriptLimits {
    /// Of a whole run, the time that its tools take included.
    pub wall_seconds: Option<i64>,
    /// Processor time from one tool call to the next.
    pub step_milliseconds: Option<i64>,
    /// Memory of a script's values; its process may hold three times as much.
    pub heap_bytes: Option<i64>,
    /// Calls and loop rounds.
    pub ticks: Option<i64>,
    /// Tool calls in one run.
    pub calls: Option<i64>,
    /// Of all that a run prints.
    pub log_bytes: Option<i64>,
    /// Of the JSON text of `result`.
    pub result_bytes: Option<i64>,
    /// Of the result that one answer to a model holds; the rest is read with `readResult`.
    pub answer_chars: Option<i64>,
    /// What none of them may be above.
    pub ceilings: Ceilings,
    /// Null before the first change.
    pub updated_at: Option<DateTime<Utc>>,
    /// For the ETag.
    #[serde(skip)]
    tag: (TenantId, i32),
}

/// The installation's, from `[limits.script]`.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub struct Ceilings {
    pub wall_seconds: i64,
    pub step_milliseconds: i64,
    pub heap_bytes: i64,
    pub ticks: i64,
    pub calls: i64,
    pub log_bytes: i64,
    pub result_bytes: i64,
    pub answer_chars: i64,
}

impl From<&Config> for Ceilings {
    fn from(config: &Config) -> Self {
        let size = |bytes: usize| i64::try_from(bytes).unwrap_or(i64::MAX);
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        Self {
            wall_seconds: number(config.wall_seconds),
            step_milliseconds: config.step_milliseconds.into(),
            heap_bytes: number(config.heap_bytes),
            ticks: number(config.ticks),
            calls: config.calls.into(),
            log_bytes: size(config.log_bytes),
            result_bytes: size(config.result_bytes),
            // No answer is longer than its result.
            answer_chars: size(config.result_bytes),
        }
    }
}

impl ScriptLimits {
    fn of(tenant: TenantId, row: &script_limits::ScriptLimits, ceilings: Ceilings) -> Self {
        Self {
            wall_seconds: row.wall_seconds,
            step_milliseconds: row.step_milliseconds,
            heap_bytes: row.heap_bytes,
            ticks: row.ticks,
            calls: row.calls,
            log_bytes: row.log_bytes,
            result_bytes: row.result_bytes,
            answer_chars: row.answer_chars,
            ceilings,
            updated_at: row.updated_at,
            tag: (tenant, row.version),
        }
    }
}

impl Resource for ScriptLimits {
    fn tag(&self) -> Option<(String, i32)> {
        // Not the tenant's own tag, which has the same id.
        Some((format!("scripts_{}", self.tag.0), self.tag.1))
    }
}

/// By name, for checks and for the event.
fn named(row: &script_limits::ScriptLimits) -> [(&'static str, Option<i64>); 8] {
    [
        ("wall_seconds", row.wall_seconds),
        ("step_milliseconds", row.step_milliseconds),
        ("heap_bytes", row.heap_bytes),
        ("ticks", row.ticks),
        ("calls", row.calls),
        ("log_bytes", row.log_bytes),
        ("result_bytes", row.result_bytes),
        ("answer_chars", row.answer_chars),
    ]
}

fn changed(before: &script_limits::ScriptLimits, after: &script_limits::ScriptLimits) -> Map<String, Value> {
    let pairs = named(before).into_iter().zip(named(after)).filter(|(was, is)| was != is);
    pairs.map(|((name, was), (_, is))| (name.to_owned(), serde_json::json!({"from": was, "to": is}))).collect()
}
