//! The tasks extension of the newer era (`io.modelcontextprotocol/tasks`, 2026-07-28): a script that waits for people is a task, under
//! the id of its run. There is nothing to keep for it: a run is durable by itself, and any worker answers for it. A task of ours asks
//! its client for nothing, and is stopped by whoever denies its approval, not by its client.

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};
use tollgate_domain::ScriptRunId;

use super::{
    message::{Request, RpcError},
    methods::Failure,
};
use crate::{
    caller::Caller,
    gate::Gate,
    meta,
    resume::{self, Standing},
};

pub const EXTENSION: &str = "io.modelcontextprotocol/tasks";
pub const METHODS: [&str; 3] = ["tasks/get", "tasks/update", "tasks/cancel"];
const CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
const POLL_MILLISECONDS: u32 = 2_000;

/// Whether the client knows what a task is.
pub fn declared(request: &Request) -> bool {
    let extensions = request.params.meta.get(CAPABILITIES).and_then(|capabilities| capabilities.get("extensions"));
    extensions.is_some_and(|extensions| extensions.get(EXTENSION).is_some_and(Value::is_object))
}

/// Which task a request is about.
pub fn named(request: &Request) -> Option<&str> {
    let id = request.params.all.get("taskId").and_then(Value::as_str);
    id.filter(|_| METHODS.contains(&request.method.as_str()))
}

/// What is answered instead of `result`, where its script waits for people.
pub fn created(result: &Value) -> Option<Value> {
    let answer = &result["structuredContent"];
    if answer["state"] != "waiting_approval" {
        return None;
    }
    let run: ScriptRunId = answer["script_run_id"].as_str()?.parse().ok()?;
    let mut task = task(run, "working", None);
    task["resultType"] = "task".into();
    task["statusMessage"] = waits_for(answer).into();
    Some(task)
}

/// Answer one of [`METHODS`].
///
/// # Errors
/// A client that has not declared the extension, a task that is not one of this key's, or no database.
pub async fn answer(gate: &Gate, caller: &Caller, request: &Request) -> Result<Value, Failure> {
    if !declared(request) {
        let mut error = RpcError::new(MISSING_CAPABILITY, "Missing required client capability");
        error.data = Some(json!({"requiredCapabilities": {"extensions": {EXTENSION: {}}}}));
        return Err(error.into());
    }
    let unknown = || RpcError::new(RpcError::INVALID_PARAMS, "Unknown task: taskId names no run that this key has made");
    let run: ScriptRunId = named(request).and_then(|id| id.parse().ok()).ok_or_else(unknown)?;
    let standing = resume::standing(gate, caller, run).await?.ok_or_else(unknown)?;
    if request.method != "tasks/get" {
        return Ok(json!({"resultType": "complete"}));
    }
    let Standing { answer, ended_at } = standing;
    let mut shown = match ended_at {
        Some(at) => {
            let mut task = task(run, "completed", Some(at));
            task["result"] = meta::result(gate, caller, answer);
            task
        }
        None => {
            let mut task = task(run, "working", None);
            task["statusMessage"] = match answer.value["state"].as_str() {
                Some("waiting_approval") => waits_for(&answer.value),
                _ => "The run goes on.".to_owned(),
            }
            .into();
            task
        }
    };
    shown["resultType"] = "complete".into();
    Ok(shown)
}

/// A client that polls needs no word of how to ask again.
fn waits_for(answer: &Value) -> String {
    let approvals = answer["approvals"].as_array().into_iter().flatten().filter_map(|approval| approval["id"].as_str());
    let approvals: Vec<&str> = approvals.collect();
    format!("Waits until people have decided on approval {}, and then goes on by itself.", approvals.join(", "))
}

const MISSING_CAPABILITY: i32 = -32021;

fn task(run: ScriptRunId, status: &str, updated: Option<DateTime<Utc>>) -> Value {
    let made = run.uuid().get_timestamp().and_then(|time| {
        let (seconds, nanos) = time.to_unix();
        DateTime::from_timestamp(i64::try_from(seconds).ok()?, nanos)
    });
    let text = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::Millis, true);
    let made = made.unwrap_or_default();
    json!({
        "taskId": run, "status": status, "createdAt": text(made), "lastUpdatedAt": text(updated.unwrap_or(made)),
        // As long as the trail keeps it.
        "ttlMs": null, "pollIntervalMs": POLL_MILLISECONDS,
    })
}
