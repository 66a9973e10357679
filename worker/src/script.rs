//! The life of one script run: step, make the calls that it needs, step again.

use futures::future::join_all;
use serde_json::{Value, json};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;
use tollgate_codemode::wire::{self, ErrorKind, JournalEntry, Limits, PendingCall, ScriptError, Step, StepReply};
use tollgate_domain::{ScriptRunId, TenantId, tool::sha256};
use tollgate_store::{
    StoreError,
    audit::{AuditError, NewRun, ScriptPlace},
    payload,
    runs::{self, RunEnd},
};

use crate::{
    call::{self, Ask, Asked, Parent, Reply},
    caller::{Caller, Refused},
    gate::{Gate, InFlightGuard},
};

/// What `executeToolCode` answers, as structured content.
#[derive(Debug)]
pub struct RunAnswer {
    pub value: Value,
    pub failed: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Audit(#[from] AuditError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

struct Run<'a> {
    gate: &'a Gate,
    /// As of the last step: authority is asked for again before each.
    caller: Caller,
    parent: Parent,
    id: ScriptRunId,
    step: Step,
    calls: Vec<Value>,
    cancel: CancellationToken,
    /// In the register until the last row of the run is durable; its calls are younger and need not be.
    in_flight: Option<InFlightGuard>,
}

/// Run a script to its end. Its row, its calls and its result are durable when this returns.
///
/// # Errors
/// When a row cannot be written; the run's answer is withheld then.
pub async fn run(
    gate: &Gate,
    caller: &Caller,
    parent: &Parent,
    source: String,
    cancel: CancellationToken,
) -> Result<RunAnswer, RunError> {
    let now = gate.clock.now();
    let id = ScriptRunId::mint(now);
    let in_flight = Some(gate.in_flight.enter(id.uuid()));
    let catalog = caller.visible().library.catalog().clone();
    let catalog_text = serde_json::to_vec(&catalog).map_err(|_| AuditError::Unavailable)?;
    let mut entry = parent.take_carry();
    entry.run = Some(NewRun {
        tenant: caller.tenant(),
        id,
        request: parent.request,
        key: caller.key,
        team: caller.team,
        source: source.clone(),
        catalog: payload::pack(&catalog_text),
        catalog_sha256: sha256(&catalog_text),
        engine: gate.sandbox.engine().to_owned(),
        worker: gate.worker,
        at: now,
    });
    if let Err(error) = gate.audit.before(entry).await {
        // The run may yet become durable though nobody ran it: say so behind it.
        if error == AuditError::Unavailable {
            end_later(gate, caller.tenant(), id, never_ran(), in_flight);
        }
        return Err(error.into());
    }

    let limits = limits(gate);
    let step = Step { source, catalog, journal: Vec::new(), limits };
    let mut run = Run { gate, caller: caller.clone(), parent: parent.clone(), id, step, calls: Vec::new(), cancel, in_flight };
    let reply = run.drive().await;
    run.close(reply).await
}

fn limits(gate: &Gate) -> Limits {
    let l = &gate.config.limits.script;
    Limits {
        ticks: l.ticks,
        heap_bytes: l.heap_bytes,
        log_bytes: l.log_bytes,
        result_bytes: l.result_bytes,
        source_bytes: l.source_bytes,
        calls: l.calls,
        ..Limits::default()
    }
}

impl Run<'_> {
    async fn drive(&mut self) -> Result<StepReply, AuditError> {
        let until = Instant::now() + self.gate.config.limits.script.wall();
        loop {
            let reply = self.gate.sandbox.step(self.caller.tenant(), &self.step).await;
            let wire::Outcome::Need { calls } = &reply.outcome else { return Ok(reply) };
            if self.cancel.is_cancelled() {
                return Ok(stopped(reply, "The run was cancelled."));
            }
            if Instant::now() >= until {
                let wall = self.gate.config.limits.script.wall_seconds;
                return Ok(stopped(reply, &format!("The run took longer than {wall} s in all. Split it into several runs.")));
            }
            self.caller = match self.caller.renewed(&self.gate.directory, self.gate.clock.now()).await {
                Ok(caller) => caller,
                Err(Refused::Unavailable) => return Err(AuditError::Unavailable),
                Err(Refused::Unauthorized | Refused::UnknownGroup) => {
                    return Ok(StepReply { outcome: failed(ErrorKind::ToolError, KEY_HAS_ENDED), ..reply });
                }
            };
            let answers = join_all(calls.iter().map(|pending| self.call(pending.clone()))).await;
            for (pending, answer) in calls.clone().into_iter().zip(answers) {
                let (reply, entry) = answer?;
                self.calls.push(json!({
                    "call_id": reply.id,
                    "tool": format!("{}.{}", pending.server, pending.tool),
                    "outcome": reply.outcome,
                }));
                self.step.journal.push(entry);
            }
            self.step.journal.sort_by_key(|entry| entry.sequence);
        }
    }

    async fn call(&self, pending: PendingCall) -> Result<(Reply, JournalEntry), AuditError> {
        let parent = Parent { place: Some(ScriptPlace { run: self.id, sequence: pending.sequence }), ..self.parent.clone() };
        // The identity comes with the value that the script holds; a text that is no id names no tool.
        let tool = pending.tool_id.parse().map_or_else(|_| Asked::ByName(pending.tool_id.clone()), Asked::ById);
        let arguments = serde_json::to_vec(&pending.arguments).unwrap_or_default();
        let ask = Ask {
            tool,
            arguments: Arc::from(arguments),
            meta: serde_json::Map::new(),
            progress: None,
            cancel: self.cancel.child_token(),
            pending: Some(pending.clone()),
        };
        let mut reply = call::call(self.gate, &self.caller, &parent, ask).await?;
        let entry = reply.journal.take().ok_or(AuditError::Unavailable)?;
        Ok((reply, entry))
    }

    /// Write how the run ended. Where the database does not take it now, the caller is refused and the end is written later:
    /// a run that has ended must not stand there as running.
    async fn write_end(&mut self, end: RunEnd) -> Result<(), StoreError> {
        let (store, tenant, id, now) = (self.gate.store.clone(), self.caller.tenant(), self.id, self.gate.clock.now());
        let Err(error) = runs::close(&store, tenant, id, &end, now).await else { return Ok(()) };
        end_later(self.gate, tenant, id, end, self.in_flight.take());
        Err(error)
    }

    async fn close(mut self, reply: Result<StepReply, AuditError>) -> Result<RunAnswer, RunError> {
        let carried = self.parent.take_carry();
        let carried = if carried.is_empty() { Ok(()) } else { self.gate.audit.after(carried).await };
        let reply = reply.and_then(|reply| carried.map(|()| reply));
        let (reply, broken) = match reply {
            Ok(reply) => (reply, None),
            Err(error) => {
                (StepReply { outcome: failed(ErrorKind::Sandbox, &error.to_string()), logs: Vec::new(), ticks: 0 }, Some(error))
            }
        };
        let (state, result, error) = match reply.outcome {
            wire::Outcome::Done { result } => ("done", Some(result), None),
            wire::Outcome::Failed { error } => ("failed", None, Some(error)),
            wire::Outcome::Need { .. } => ("failed", None, Some(error(ErrorKind::Nondeterminism, "the run did not end"))),
        };
        let error = error.map(|error| json!(error));
        let end = RunEnd { state, result: result.clone(), logs: reply.logs.clone(), error: error.clone(), ticks: reply.ticks };
        metrics::counter!("tollgate_script_runs_total", "state" => state).increment(1);
        self.write_end(end).await?;
        if let Some(error) = broken {
            return Err(error.into());
        }
        let mut value = json!({
            "script_run_id": self.id,
            "state": state,
            "result": result,
            "logs": reply.logs,
            "calls": self.calls,
        });
        if let Some(error) = error {
            value["error"] = error;
        }
        Ok(RunAnswer { value, failed: state == "failed" })
    }
}

/// How often, and how far apart, a run's end is tried to be written once its caller has been refused.
const RETRIES: u32 = 600;
const RETRY_PAUSE: Duration = Duration::from_secs(1);

fn end_later(gate: &Gate, tenant: TenantId, id: ScriptRunId, end: RunEnd, in_flight: Option<InFlightGuard>) {
    let (store, clock) = (gate.store.clone(), gate.clock.clone());
    tokio::spawn(async move {
        for _ in 0..RETRIES {
            tokio::time::sleep(RETRY_PAUSE).await;
            if runs::close(&store, tenant, id, &end, clock.now()).await.is_ok() {
                break;
            }
        }
        drop(in_flight);
    });
}

fn never_ran() -> RunEnd {
    let error = error(ErrorKind::Sandbox, "the run was not begun: its row could not be confirmed in time");
    RunEnd { state: "failed", result: None, logs: Vec::new(), error: Some(json!(error)), ticks: 0 }
}

const KEY_HAS_ENDED: &str = "The key of this run has ended or lost its tool group, so the run makes no more calls.";

fn error(kind: ErrorKind, message: &str) -> ScriptError {
    ScriptError { kind, message: message.to_owned(), line: None, column: None }
}

fn failed(kind: ErrorKind, message: &str) -> wire::Outcome {
    wire::Outcome::Failed { error: error(kind, message) }
}

fn stopped(reply: StepReply, message: &str) -> StepReply {
    StepReply { outcome: failed(ErrorKind::Limit, message), ..reply }
}
