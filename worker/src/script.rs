//! The life of one script run: step, make the calls that it needs, step again. Where people have to decide first, let go of it.

use std::{collections::HashMap, sync::Arc, time::Instant};

use chrono::SecondsFormat;
use futures::future::join_all;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tollgate_codemode::renamed;
use tollgate_codemode::wire::{self, ErrorKind, JournalEntry, Language, PendingCall, ScriptError, Step, StepReply};
use tollgate_domain::{CallId, Outcome, ScriptRunId, ToolId, tool::sha256};
use tollgate_store::{
    approvals::hold::Waiting,
    audit::{AuditError, Entry, JournalRow, NewRun, RunEnd, ScriptPlace},
    payload,
    waiting::{self, Claim},
};

use crate::{
    call::{self, Ask, Asked, Parent, Reached, Reply},
    caller::{Caller, Refused},
    gate::{Gate, InFlightGuard},
    limits::RunLimits,
};

/// What `executeToolCode` answers, as structured content.
#[derive(Debug)]
pub struct RunAnswer {
    pub value: Value,
    pub failed: bool,
    /// Whether the trail has the result, so that what an answer has no room for can be read from there.
    pub kept: bool,
}

pub struct Run<'a> {
    pub gate: &'a Gate,
    /// As of the last step: authority is asked for again before each.
    pub caller: Caller,
    pub parent: Parent,
    /// Whose it is: this worker's, in this life of it.
    pub claim: Claim,
    pub life: u64,
    pub step: Step,
    /// The tools that its text shows, as JSON text: known once the first step has been made.
    pub may_call: Option<Arc<str>>,
    pub calls: Vec<Value>,
    pub cancel: CancellationToken,
    /// The trail keeps source and journal as they are, so that another worker can go on with the run.
    pub whole: bool,
    /// Calls that an earlier driver had begun and of which the script has seen nothing.
    pub open: HashMap<u32, CallId>,
    /// Calls for which the run waits.
    pub held: Vec<(Waiting, PendingCall)>,
    /// In the register until the last row of the run is durable; its calls are younger and need not be.
    pub in_flight: Option<InFlightGuard>,
}

enum Driven {
    Ended(StepReply),
    /// People have to decide first.
    Waits(StepReply),
    /// Another worker has it: this one was taken for dead.
    Lost,
}

/// What one needed call came to.
struct Made {
    call: CallId,
    outcome: Outcome,
    line: Option<JournalEntry>,
    held: Option<Waiting>,
    whole: bool,
}

/// Run a script to its end, or to where it waits for people. Its row, its calls and its result are durable when this returns.
///
/// # Errors
/// When a row cannot be written; the run's answer is withheld then.
pub async fn run(
    gate: &Gate,
    caller: &Caller,
    parent: &Parent,
    (language, source): (Language, String),
    cancel: CancellationToken,
) -> Result<RunAnswer, AuditError> {
    let now = gate.clock.now();
    let id = ScriptRunId::mint(now);
    let in_flight = Some(gate.in_flight.enter(id.uuid()));
    let catalog = caller.visible().library.catalog().clone();
    let limits = limits(gate, caller).step;
    let catalog_text = serde_json::to_vec(&catalog).map_err(|_| AuditError::Unavailable)?;
    let kept = caller.config().trail.text(&source).await;
    let whole = kept.is_whole();
    let mut entry = parent.take_carry();
    entry.run = Some(NewRun {
        tenant: caller.tenant(),
        id,
        request: parent.request,
        key: caller.key,
        team: caller.team,
        source: kept,
        catalog: payload::pack(&catalog_text).into(),
        catalog_sha256: sha256(&catalog_text),
        engine: gate.sandbox.engine(language).to_owned(),
        limits: serde_json::to_string(&limits).unwrap_or_default(),
        route: caller.route().map(str::to_owned),
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

    let run = Run {
        gate,
        caller: caller.clone(),
        parent: parent.clone(),
        claim: Claim { tenant: caller.tenant(), run: id, turn: 0 },
        life: gate.pulse.life(),
        step: Step { language, source, catalog, journal: Vec::new(), limits },
        may_call: None,
        calls: Vec::new(),
        cancel,
        whole,
        open: HashMap::new(),
        held: Vec::new(),
        in_flight,
    };
    run.go().await
}

/// Not for secrets: a run's random numbers stand in its journal.
/// From the system's randomness.
pub fn random() -> u64 {
    let (high, low) = uuid::Uuid::new_v4().as_u64_pair();
    // The version and variant bits are not random; each half covers those of the other.
    high ^ low.rotate_left(32)
}

/// What runs of this caller may take.
#[must_use]
pub fn limits(gate: &Gate, caller: &Caller) -> RunLimits {
    RunLimits::of(&gate.config.limits.script, &caller.config().scripts)
}

impl Run<'_> {
    /// Drive it as far as it comes.
    ///
    /// # Errors
    /// When a row cannot be written, or another worker has the run.
    pub async fn go(mut self) -> Result<RunAnswer, AuditError> {
        match self.drive().await {
            Ok(Driven::Ended(reply)) => self.close(Ok(reply)).await,
            Ok(Driven::Waits(reply)) => self.suspend(reply).await,
            Ok(Driven::Lost) => self.let_go().await,
            Err(error) => self.close(Err(error)).await,
        }
    }

    async fn drive(&mut self) -> Result<Driven, AuditError> {
        let wall = limits(self.gate, &self.caller).wall;
        let until = Instant::now() + wall;
        loop {
            let reply = self.step().await;
            if !self.is_ours().await? {
                return Ok(Driven::Lost);
            }
            let wire::Outcome::Need { calls } = &reply.outcome else { return Ok(Driven::Ended(reply)) };
            if self.cancel.is_cancelled() {
                return Ok(Driven::Ended(stopped(reply, "The run was cancelled.")));
            }
            if Instant::now() >= until {
                let wall = wall.as_secs();
                let message = format!("The run took longer than {wall} s in all. Split it into several runs.");
                return Ok(Driven::Ended(stopped(reply, &message)));
            }
            self.caller = match self.caller.renewed(&self.gate.directory, self.gate.clock.now()).await {
                Ok(caller) => caller,
                Err(Refused::Unavailable) => return Err(AuditError::Unavailable),
                Err(Refused::Unauthorized | Refused::UnknownGroup) => {
                    return Ok(Driven::Ended(StepReply { outcome: failed(ErrorKind::ToolError, KEY_HAS_ENDED), ..reply }));
                }
            };
            let (own, calls): (Vec<_>, Vec<_>) = calls.iter().cloned().partition(|pending| pending.server == wire::GATEWAY);
            for pending in own {
                self.answer(pending).await;
            }
            // Those that people decide on come last: by then it is known whether the run can wait for them.
            let (held, free): (Vec<_>, Vec<_>) = calls.into_iter().partition(|pending| self.needs_people(pending));
            self.make(free).await?;
            self.make(held).await?;
            self.step.journal.sort_by_key(|entry| entry.sequence);
            if !self.held.is_empty() {
                return Ok(Driven::Waits(reply));
            }
        }
    }

    /// The first step of a run, and no later one, tells what its text shows.
    async fn step(&mut self) -> StepReply {
        let first = self.step.journal.is_empty();
        let reply = self.gate.sandbox.step(self.caller.tenant(), &self.step).await;
        if first {
            self.may_call = may_call(&reply);
        }
        reply
    }

    /// No question for the database as long as nobody can have taken this worker for dead.
    async fn is_ours(&self) -> Result<bool, AuditError> {
        if self.gate.pulse.is_steady(self.life) {
            return Ok(true);
        }
        waiting::is_ours(&self.gate.store, self.claim).await.map_err(|_| AuditError::Unavailable)
    }

    fn needs_people(&self, pending: &PendingCall) -> bool {
        let id: Option<ToolId> = pending.tool_id.parse().ok();
        id.and_then(|id| self.caller.scope().by_id(id)).is_some_and(|scoped| scoped.confirmations > 0)
    }

    async fn make(&mut self, calls: Vec<PendingCall>) -> Result<(), AuditError> {
        let made = join_all(calls.iter().map(|pending| self.call(pending.clone()))).await;
        for (pending, made) in calls.into_iter().zip(made) {
            let made = made?;
            self.calls.push(json!({
                "call_id": made.call,
                "tool": format!("{}.{}", pending.server, pending.tool),
                "outcome": made.outcome,
            }));
            self.whole &= made.whole;
            self.step.journal.extend(made.line);
            self.held.extend(made.held.map(|waiting| (waiting, pending)));
        }
        Ok(())
    }

    /// What a script asks of the gateway and of no tool: it comes from the journal ever after.
    async fn answer(&mut self, pending: PendingCall) {
        let now = self.gate.clock.now();
        let answer = match pending.tool_id.as_str() {
            wire::NOW => wire::Answer::Value(now.timestamp_micros().into()),
            wire::RANDOM => wire::Answer::Value((random() >> 1).into()),
            other => wire::Answer::Error(format!("the gateway has no answer to {other}")),
        };
        let place = ScriptPlace { run: self.claim.run, sequence: pending.sequence };
        let line = call::journal_entry(pending, answer);
        let text = serde_json::to_vec(&line).unwrap_or_default();
        let kept = self.caller.config().trail.payload(text).await;
        self.whole &= kept.is_whole();
        self.parent.put(None, Some(JournalRow { tenant: self.caller.tenant(), place, call: None, entry: kept }));
        self.step.journal.push(line);
    }

    async fn call(&self, pending: PendingCall) -> Result<Made, AuditError> {
        let place = ScriptPlace { run: self.claim.run, sequence: pending.sequence };
        if let Some(open) = self.open.get(&pending.sequence).copied().filter(|_| !self.may_repeat(&pending)) {
            return Ok(self.unknown(open, place, pending).await);
        }
        let parent = Parent { place: Some(place), ..self.parent.clone() };
        // The identity comes with the value that the script holds; a text that is no id names no tool.
        let tool = pending.tool_id.parse().map_or_else(|_| Asked::ByName(pending.tool_id.clone()), Asked::ById);
        let arguments = serde_json::to_vec(&pending.arguments).unwrap_or_default();
        let ask = Ask {
            tool,
            arguments: Arc::from(arguments),
            meta: serde_json::Map::new(),
            progress: None,
            cancel: self.cancel.child_token(),
            pending: Some(pending),
            can_wait: self.whole,
            may_call: self.may_call.clone(),
        };
        let Reply { id, outcome, answer, journal, whole } = call::call(self.gate, &self.caller, &parent, ask).await?;
        let held = match answer {
            Reached::Refused(refusal) if journal.is_none() => refusal.waiting,
            _ => None,
        };
        if journal.is_none() && held.is_none() {
            return Err(AuditError::Unavailable);
        }
        Ok(Made { call: id, outcome, line: journal, held, whole })
    }

    /// Whether a call of which nobody knows what became of it can be made once more: its tool says that this does no harm.
    fn may_repeat(&self, pending: &PendingCall) -> bool {
        let id: Option<ToolId> = pending.tool_id.parse().ok();
        let Some(scoped) = id.and_then(|id| self.caller.scope().by_id(id)) else { return false };
        let hint = |name| scoped.tool.definition.get("annotations").and_then(|a| a.get(name)) == Some(&Value::Bool(true));
        hint("readOnlyHint") || hint("idempotentHint")
    }

    /// The script reads that nobody knows. The call's own row says the same.
    async fn unknown(&self, open: CallId, place: ScriptPlace, pending: PendingCall) -> Made {
        let trail = &self.caller.config().trail;
        let arguments = trail.payload(serde_json::to_vec(&pending.arguments).unwrap_or_default()).await;
        let line = call::journal_entry(pending, wire::Answer::Error(UNKNOWN.to_owned()));
        let kept = call::journal_line(self.caller.tenant(), (place, open), arguments.is_whole(), &line, trail).await;
        let whole = kept.entry.is_whole();
        self.parent.put(None, Some(kept));
        Made { call: open, outcome: Outcome::Unknown, line: Some(line), held: None, whole }
    }

    /// Write what has happened, and let go: no thread and no memory waits with a run. Whoever finds its approvals decided, takes
    /// it up again.
    async fn suspend(mut self, reply: StepReply) -> Result<RunAnswer, AuditError> {
        let carry = self.parent.take_carry();
        if !carry.is_empty()
            && let Err(error) = self.gate.audit.after(carry).await
        {
            return self.close(Err(error)).await;
        }
        let (store, claim, key, now) = (self.gate.store.clone(), self.claim, self.caller.key, self.gate.clock.now());
        let guard = self.in_flight.take();
        // A run that nobody drives and nobody can take up would stand there for ever.
        let suspended = tokio::spawn(async move {
            let mut pause = std::time::Duration::from_millis(50);
            while let Err(error) = waiting::suspend(&store, claim.tenant, claim.run, key, now).await {
                tracing::warn!(%error, run = %claim.run, "a run that waits cannot be put down; it is tried again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(std::time::Duration::from_secs(1));
            }
            drop(guard);
        });
        let in_time = tokio::time::timeout(std::time::Duration::from_secs(10), suspended).await;
        in_time.map_err(|_| AuditError::Unavailable)?.map_err(|_| AuditError::Unavailable)?;
        metrics::counter!("tollgate_script_runs_suspended_total").increment(1);
        let approvals = self.held.iter().map(|(waiting, pending)| {
            json!({
                "id": waiting.approval,
                "tool": format!("{}.{}", pending.server, pending.tool),
                "sequence": pending.sequence,
                "expires_at": waiting.expires_at.to_rfc3339_opts(SecondsFormat::Secs, true),
            })
        });
        let approvals: Vec<_> = approvals.collect();
        Ok(RunAnswer {
            value: waits(self.claim.run, &reply.logs.into(), &self.calls.into(), &approvals.into()),
            failed: false,
            kept: false,
        })
    }

    /// What this driver's calls came to is the truth; the rest of the story is told by the one that has the run.
    async fn let_go(self) -> Result<RunAnswer, AuditError> {
        tracing::warn!(run = %self.claim.run, "another worker has taken over a run of this one, which was taken for dead");
        let Entry { request, completions, .. } = self.parent.take_carry();
        self.gate.audit.after(Entry { request, completions, ..Entry::default() }).await?;
        Err(AuditError::Unavailable)
    }

    /// The end of the run goes into one commit with what its last calls carry. Where the database does not take it in time the
    /// caller is refused, and it is written later: a run that has ended must not stand there as running.
    ///
    /// # Errors
    /// When the row cannot be written in time, and the error that was handed in.
    pub async fn close(mut self, reply: Result<StepReply, AuditError>) -> Result<RunAnswer, AuditError> {
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
        let kept_result = maybe(result.as_ref()).await;
        let kept = kept_result.as_ref().is_some_and(|result| result.stored().is_some());
        let end = RunEnd {
            tenant: self.caller.tenant(),
            id: self.claim.run,
            state,
            ticks: reply.ticks,
            result: kept_result,
            logs: json_text(&Value::from(reply.logs.clone())).await,
            error: maybe(error.as_ref()).await,
            may_call: self.may_call.as_deref().map(str::to_owned),
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
            "script_run_id": self.claim.run,
            "state": state,
            "result": result,
            "logs": reply.logs,
            "calls": self.calls,
        });
        if let Some(error) = error {
            value["error"] = error;
            // Beside the error: that one is evidence, and a replay must come to the same.
            if let Some(hint) = renamed::hint(&self.step.catalog, &self.step.source) {
                value["message"] = hint.into();
            }
        }
        Ok(RunAnswer { value, failed: state == "failed", kept })
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
        may_call: None,
        at: gate.clock.now(),
    }
}

/// What `executeToolCode` answers of a run that waits for people.
#[must_use]
pub fn waits(run: ScriptRunId, logs: &Value, calls: &Value, approvals: &Value) -> Value {
    json!({
        "script_run_id": run,
        "state": "waiting_approval",
        "result": null,
        "logs": logs,
        "calls": calls,
        "approvals": approvals,
        "message": format!("The run has paused until people decide, and then goes on by itself. Do not send the script again: call \
    executeToolCode with {{\"resume\": \"{run}\"}} for its result."),
    })
}

/// What the reply to a first step says of the script's text: nothing where the sandbox did not come to read it.
#[must_use]
pub fn may_call(reply: &StepReply) -> Option<Arc<str>> {
    let read = !reply.may_call.is_empty() || !matches!(reply.outcome, wire::Outcome::Failed { .. });
    read.then(|| json!(reply.may_call).to_string().into())
}

/// A step of a run that ends here, whatever it would have done.
#[must_use]
pub fn given_up(message: &str) -> StepReply {
    StepReply::failed(error(ErrorKind::Sandbox, message))
}

pub const UNKNOWN: &str = "unknown whether this call took effect: the gateway's worker ended while it ran, and the tool does not say that \
it may be called twice";
pub const KEY_HAS_ENDED: &str = "The key of this run has ended or lost its tool group, so the run makes no more calls.";

fn error(kind: ErrorKind, message: &str) -> ScriptError {
    ScriptError { kind, message: message.to_owned(), line: None, column: None }
}

fn failed(kind: ErrorKind, message: &str) -> wire::Outcome {
    wire::Outcome::Failed { error: error(kind, message) }
}

fn stopped(reply: StepReply, message: &str) -> StepReply {
    StepReply { outcome: failed(ErrorKind::Limit, message), ..reply }
}
