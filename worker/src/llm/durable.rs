//! A loop that waits for people: what has to be known to go on with it, and whose it is while somebody does.
//!
//! What was said stands in the trail. Here stands which tool call of the last turn came to which row, so that whoever takes the loop up,
//! in whatever worker, makes none of them twice.

use std::{collections::BTreeMap, time::Duration};

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tollgate_domain::{ApprovalId, CallId, LlmRequestId, ScriptRunId};
use tollgate_store::{
    Store, StoreResult,
    loops::{self, Claim, Ending, Suspended},
};

use super::{
    agent::{Done, Session},
    dialect::ToolUse,
    execute::Executed,
    provider::PASSED,
    request::Refusal,
};
use crate::gate::{Gate, InFlightGuard};

/// Until a loop that waits is written down.
const WITHIN: Duration = Duration::from_secs(5);

/// The loop whose answer a request is for.
pub const RESUME: HeaderName = HeaderName::from_static("x-tollgate-resume");

pub const TOO_LITTLE: &str =
    "the tenant's rules for what is kept (redaction, size, erasure) leave too little of this loop to go on with it";

/// What a tool call of a turn has come to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Mark {
    pub id: String,
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<CallId>,
    /// The approval for which it is held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<ApprovalId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<ScriptRunId>,
    /// It only reads what the key may see: made again, it does the same.
    #[serde(default)]
    pub reads: bool,
}

impl Mark {
    /// Nobody has made it yet.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.call.is_none() && self.run.is_none() && !self.reads
    }

    /// A call that nobody has made yet.
    #[must_use]
    pub fn open(call: &ToolUse) -> Self {
        Self { id: call.id.clone(), name: call.name.clone(), call: None, approval: None, run: None, reads: false }
    }

    #[must_use]
    pub fn of(executed: &Executed) -> Self {
        let (call, run) = (executed.call, executed.run.as_ref().map(|run| run.id));
        Self {
            id: executed.result.id.clone(),
            name: executed.result.name.clone(),
            call,
            approval: executed.waiting.map(|waiting| waiting.approval),
            run,
            reads: call.is_none() && run.is_none(),
        }
    }
}

/// How a loop was asked for, beyond what its requests say.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Settings {
    pub turns: u32,
    pub model: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// Those that go on to the provider.
    pub headers: BTreeMap<String, String>,
}

impl Settings {
    fn of(session: &Session) -> Self {
        let header = |name: &HeaderName| {
            let value = session.headers.get(name)?.to_str().ok()?;
            Some((name.to_string(), value.to_owned()))
        };
        Self {
            turns: session.turns,
            model: session.model.clone(),
            client: session.client.clone(),
            headers: PASSED.iter().filter_map(header).collect(),
        }
    }

    #[must_use]
    pub fn headers(&self) -> HeaderMap {
        let header = |(name, value): (&String, &String)| {
            Some((HeaderName::try_from(name.as_str()).ok()?, HeaderValue::try_from(value.as_str()).ok()?))
        };
        self.headers.iter().filter_map(header).collect()
    }
}

/// Why a loop stays with its caller: nobody else could go on with it.
#[derive(Debug, Clone, Copy)]
pub struct Stays(pub &'static str);

/// Put a loop down whose turn `request` waits for people.
///
/// # Errors
/// [`Stays`].
pub async fn put_down(session: &mut Session, request: LlmRequestId, done: &Done, executed: &[Executed]) -> Result<(), Stays> {
    let marks = executed.iter().map(Mark::of).collect();
    let approvals = executed.iter().filter_map(|one| one.waiting.map(|waiting| waiting.approval)).collect();
    let runs = executed.iter().filter_map(|one| one.run.as_ref().filter(|run| run.waiting.is_some()).map(|run| run.id)).collect();
    let put = state(session, (request, marks), done, (approvals, runs));
    if let Some(driving) = &mut session.driving {
        return driving.put_down(put).await;
    }
    let store = session.gate.store.clone();
    let turn = loops::turn(&store, put.tenant, request).await;
    if !turn.is_ok_and(|turn| turn.prompt.is_some() && turn.answer.is_some()) {
        return Err(Stays(TOO_LITTLE));
    }
    let written = tokio::time::timeout(WITHIN, loops::suspend(&store, &put, None, session.gate.clock.now())).await;
    match written {
        Ok(Ok(true)) => {
            metrics::counter!("tollgate_agent_loops_suspended_total").increment(1);
            Ok(())
        }
        other => {
            tracing::warn!(?other, root = %put.root, "an agent loop that waits for people cannot be put down; it goes back to its caller");
            Err(Stays("the database did not take it in time"))
        }
    }
}

/// What stands in the database of a loop.
pub fn state(
    session: &Session,
    (request, marks): (LlmRequestId, Vec<Mark>),
    done: &Done,
    (approvals, runs): (Vec<ApprovalId>, Vec<ScriptRunId>),
) -> Suspended {
    Suspended {
        tenant: session.caller.tenant(),
        root: session.root,
        key: session.caller.key,
        request,
        turn: done.turn,
        settings: serde_json::to_string(&Settings::of(session)).unwrap_or_default(),
        calls: serde_json::to_string(&marks).unwrap_or_default(),
        progress: done.progress(),
        approvals,
        runs,
    }
}

/// A loop that was taken up, in the hands of this worker. Dropped without an end, it has failed.
#[derive(Debug)]
pub struct Driving {
    gate: Gate,
    claim: Option<Claim>,
    /// The worker is not forgotten while it drives.
    guard: Option<InFlightGuard>,
    /// Where it stands in the database.
    at: Suspended,
}

impl Driving {
    #[must_use]
    pub fn new(gate: &Gate, claim: Claim, at: Suspended) -> Self {
        let guard = gate.in_flight.enter(tollgate_domain::ids::mint(gate.clock.now()));
        Self { gate: gate.clone(), claim: Some(claim), guard: Some(guard), at }
    }

    /// A turn has ended, and its calls stand as `at` says.
    ///
    /// # Errors
    /// [`Refusal`] where another worker has the loop, or the database does not answer: nothing more is done then.
    pub async fn step(&mut self, at: Suspended) -> Result<(), Refusal> {
        let Some(claim) = self.claim else { return Err(lost()) };
        match loops::step(&self.gate.store, claim, &at).await {
            Ok(true) => {
                self.at = at;
                Ok(())
            }
            Ok(false) => {
                self.claim = None;
                Err(lost())
            }
            Err(_) => Err(tollgate_store::audit::AuditError::Unavailable.into()),
        }
    }

    /// Let go of it where it waits.
    ///
    /// # Errors
    /// [`Stays`], where it is no longer this worker's.
    pub async fn put_down(&mut self, put: Suspended) -> Result<(), Stays> {
        let Some(claim) = self.claim.take() else { return Err(Stays("another worker goes on with it")) };
        self.write(claim, Last::Put(put)).await;
        Ok(())
    }

    /// Whoever waited for it has gone, or this worker is about to: another one goes on from where it stands.
    pub async fn rest(&mut self) {
        let _ = self.put_down(self.at.clone()).await;
    }

    /// It has come to its end.
    ///
    /// # Errors
    /// [`Refusal`] where another worker has it.
    pub async fn end(&mut self, done: &Done, failed: Option<&Refusal>) -> Result<(), Refusal> {
        let Some(claim) = self.claim.take() else { return Err(lost()) };
        let progress = done.progress();
        let last = match failed {
            Some(refusal) => Last::Failed { error: error(refusal), progress },
            None => Last::Done { request: done.request.unwrap_or(self.at.request), turn: done.turn, progress },
        };
        self.write(claim, last).await;
        Ok(())
    }

    /// A loop that nobody drives and nobody can take would stand there for ever: what is written here is tried until it stands.
    async fn write(&mut self, claim: Claim, last: Last) {
        let (store, now, guard) = (self.gate.store.clone(), self.gate.clock.now(), self.guard.take());
        let written = tokio::spawn(async move {
            let mut pause = Duration::from_millis(50);
            while let Err(error) = last.write(&store, claim, now).await {
                tracing::warn!(%error, root = %claim.root, "where an agent loop stands cannot be written; it is tried again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(1));
            }
            drop(guard);
        });
        let _ = tokio::time::timeout(WITHIN, written).await;
    }
}

/// The last thing that a claim writes.
enum Last {
    Put(Suspended),
    Done { request: LlmRequestId, turn: u32, progress: String },
    Failed { error: String, progress: String },
}

impl Last {
    /// Whose the loop is by now does not matter here: another one's claim is not touched.
    async fn write(&self, store: &Store, claim: Claim, now: DateTime<Utc>) -> StoreResult<()> {
        match self {
            Self::Put(put) => loops::suspend(store, put, Some(claim), now).await,
            Self::Done { request, turn, progress } => {
                loops::end(store, claim, (&Ending::Done { request: *request, turn: *turn }, progress), now).await
            }
            Self::Failed { error, progress } => loops::end(store, claim, (&Ending::Failed(error), progress), now).await,
        }
        .map(drop)
    }
}

impl Drop for Driving {
    fn drop(&mut self) {
        let Some(claim) = self.claim.take() else { return };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (store, now, guard) = (self.gate.store.clone(), self.gate.clock.now(), self.guard.take());
        let broken = Refusal::new(StatusCode::BAD_GATEWAY, "loop_interrupted", "the gateway failed in the middle of this loop");
        let last = Last::Failed { error: error(&broken), progress: std::mem::take(&mut self.at.progress) };
        runtime.spawn(async move {
            if let Err(error) = last.write(&store, claim, now).await {
                tracing::warn!(%error, root = %claim.root, "the end of an agent loop cannot be written");
            }
            drop(guard);
        });
    }
}

fn lost() -> Refusal {
    Refusal::new(StatusCode::CONFLICT, "loop_taken", "another worker goes on with this loop; ask for its answer again")
}

fn error(refusal: &Refusal) -> String {
    json!({"status": refusal.status.as_u16(), "code": refusal.code, "message": refusal.message}).to_string()
}

/// How a caller comes to the answer of a loop that goes on without it.
pub fn tell_how_to_resume(told: &mut Value, root: LlmRequestId) {
    told["resumable"] = true.into();
    told["message"] = format!(
        "The loop has paused until people decide, and then goes on by itself. Send the request again with the header {RESUME}: {root} for its \
         answer"
    )
    .into();
}

/// What the error of a failed loop says.
#[must_use]
pub fn refusal(error: &Value) -> Refusal {
    let status = error["status"].as_u64().and_then(|status| u16::try_from(status).ok());
    let status = status.and_then(|status| StatusCode::from_u16(status).ok()).unwrap_or(StatusCode::BAD_GATEWAY);
    Refusal::new(
        status,
        "loop_failed",
        format!("the loop has failed: {}", error["message"].as_str().unwrap_or("nobody knows why")),
    )
}
