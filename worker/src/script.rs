//! The life of one script run: step, make the calls that it needs, step again.

use futures::future::join_all;
use serde_json::{Value, json};
use std::{sync::Arc, time::Instant};
use tokio_util::sync::CancellationToken;
use tollgate_codemode::wire::{self, ErrorKind, JournalEntry, Limits, PendingCall, ScriptError, Step, StepReply};
use tollgate_domain::{ScriptRunId, tool::sha256};
use tollgate_store::{
    audit::{AuditError, Entry, JournalRow, NewRun, RunEnd, ScriptPlace},
    payload,
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
) -> Result<RunAnswer, AuditError> {
    let now = gate.clock.now();
    let id = ScriptRunId::mint(now);
    let in_flight = Some(gate.in_flight.enter(id.uuid()));
    let catalog = caller.visible().library.catalog().clone();
    let limits = limits(gate);
    let catalog_text = serde_json::to_vec(&catalog).map_err(|_| AuditError::Unavailable)?;
    let mut entry = parent.take_carry();
    entry.run = Some(NewRun {
        tenant: caller.tenant(),
        id,
        request: parent.request,
        key: caller.key,
        team: caller.team,
        source: caller.config().trail.text(&source).await,
        catalog: payload::pack(&catalog_text).into(),
        catalog_sha256: sha256(&catalog_text),
        engine: gate.sandbox.engine().to_owned(),
        limits: serde_json::to_string(&limits).unwrap_or_default(),
        worker: gate.worker,
        at: now,
    });
    if let Err(error) = gate.audit.before(entry).await {
        // The run may yet become durable though nobody ran it: say so behind it.
        if error == AuditError::Unavailable {
            let (audit, end) = (gate.audit.clone(), never_ran(gate, caller, id).await);
            let keep = in_flight.map(|guard| Box::new(guard) as _);
            tokio::spawn(async move { audit.after_keeping(Entry { end: Some(end), ..Entry::default() }, keep).await });
        }
        return Err(error);
    }

    let step = Step { source, catalog, journal: Vec::new(), limits };
    let mut run = Run { gate, caller: caller.clone(), parent: parent.clone(), id, step, calls: Vec::new(), cancel, in_flight };
    let reply = run.drive().await;
    run.close(reply).await
}

/// Not for secrets: a run's random numbers stand in its journal.
fn random() -> u64 {
    let (high, low) = uuid::Uuid::new_v4().as_u64_pair();
    // The version and variant bits are not random; each half covers those of the other.
    high ^ low.rotate_left(32)
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
            let (own, calls): (Vec<_>, Vec<_>) = calls.iter().cloned().partition(|pending| pending.server == wire::GATEWAY);
            for pending in own {
                let entry = self.answer(pending).await;
                self.step.journal.push(entry);
            }
            let answers = join_all(calls.iter().map(|pending| self.call(pending.clone()))).await;
            for (pending, answer) in calls.into_iter().zip(answers) {
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

    /// What a script asks of the gateway and of no tool: it comes from the journal ever after.
    async fn answer(&self, pending: PendingCall) -> JournalEntry {
        let now = self.gate.clock.now();
        let answer = match pending.tool_id.as_str() {
            wire::NOW => wire::Answer::Value(now.timestamp_micros().into()),
            wire::RANDOM => wire::Answer::Value((random() >> 1).into()),
            other => wire::Answer::Error(format!("the gateway has no answer to {other}")),
        };
        let place = ScriptPlace { run: self.id, sequence: pending.sequence };
        let entry = call::journal_entry(pending, answer);
        let text = serde_json::to_vec(&entry).unwrap_or_default();
        let kept = self.caller.config().trail.payload(text).await;
        self.parent.put_journal(JournalRow { tenant: self.caller.tenant(), place, call: None, entry: kept });
        entry
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

    /// The end of the run goes into one commit with what its last calls carry. Where the database does not take it in time the
    /// caller is refused, and it is written later: a run that has ended must not stand there as running.
    async fn close(mut self, reply: Result<StepReply, AuditError>) -> Result<RunAnswer, AuditError> {
        let (reply, broken) = match reply {
            Ok(reply) => (reply, None),
            Err(error) => (StepReply::failed(self::error(ErrorKind::Sandbox, &error.to_string())), Some(error)),
        };
        let (state, result, error) = match reply.outcome {
            wire::Outcome::Done { result } => ("done", Some(result), None),
            wire::Outcome::Failed { error } => ("failed", None, Some(error)),
            wire::Outcome::Need { .. } => ("failed", None, Some(error(ErrorKind::Nondeterminism, "the run did not end"))),
        };
        let error = error.map(|error| json!(error));
        let trail = &self.caller.config().trail;
        let json_text = async |value: &Value| trail.payload(value.to_string().into_bytes()).await;
        let maybe = async |value: Option<&Value>| match value {
            Some(value) => Some(json_text(value).await),
            None => None,
        };
        let end = RunEnd {
            tenant: self.caller.tenant(),
            id: self.id,
            state,
            ticks: reply.ticks,
            result: maybe(result.as_ref()).await,
            logs: json_text(&Value::from(reply.logs.clone())).await,
            error: maybe(error.as_ref()).await,
            at: self.gate.clock.now(),
        };
        metrics::counter!("tollgate_script_runs_total", "state" => state).increment(1);
        let entry = Entry { end: Some(end), ..self.parent.take_carry() };
        let keep = self.in_flight.take().map(|guard| Box::new(guard) as _);
        self.gate.audit.after_keeping(entry, keep).await?;
        if let Some(error) = broken {
            return Err(error);
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

async fn never_ran(gate: &Gate, caller: &Caller, id: ScriptRunId) -> RunEnd {
    let trail = &caller.config().trail;
    let error = json!(error(ErrorKind::Sandbox, "the run was not begun: its row could not be confirmed in time"));
    RunEnd {
        tenant: caller.tenant(),
        id,
        state: "failed",
        ticks: 0,
        result: None,
        logs: trail.payload(b"[]".to_vec()).await,
        error: Some(trail.payload(error.to_string().into_bytes()).await),
        at: gate.clock.now(),
    }
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
