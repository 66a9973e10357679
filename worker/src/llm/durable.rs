//! A loop that waits for people: what has to be known to go on with it, and whose it is while somebody does.
//!
//! What was said stands in the trail. Here stands which tool call of the last turn came to which row, so that whoever takes the loop up,
//! in whatever worker, makes none of them twice.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tollgate_domain::{ApprovalId, CallId, LlmRequestId, ScriptRunId};
use tollgate_store::{
    Store, StoreResult,
    loops::{self, Claim, Ending, Standing, Suspended},
};

use super::{
    agent::{Done, Session},
    dialect::ToolUse,
    execute::Executed,
    request::Refusal,
    wire::PASSED,
};
use crate::gate::{Gate, InFlightGuard};

/// Until a loop that waits is written down.
const WITHIN: Duration = Duration::from_secs(5);
/// Looks for the end of a turn that is written behind its answer.
const LOOKS: u32 = 40;
const LOOK: Duration = Duration::from_millis(50);
/// How often a loop rests and is taken up again where something would not take it: first after a second, then twice as long each time.
const TRIES: i32 = 8;
const REST: Duration = Duration::from_secs(1);

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
    /// Tools that the caller has brought along; the gateway's stand behind them.
    pub own_tools: usize,
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
            own_tools: session.own_tools,
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
    if let Err(why) = may_wait(session, request, executed).await {
        if let Some(driving) = &mut session.driving {
            let _ = driving.end(done, Some(&Refusal::new(StatusCode::GONE, "loop_not_kept", why.0))).await;
        }
        return Err(why);
    }
    let marks = executed.iter().map(Mark::of).collect();
    let approvals = executed.iter().filter_map(|one| one.waiting.map(|waiting| waiting.approval)).collect();
    let runs = executed.iter().filter_map(|one| one.run.as_ref().filter(|run| run.waiting.is_some()).map(|run| run.id)).collect();
    let put = state(session, (request, marks), done, (approvals, runs));
    metrics::counter!("tollgate_agent_loops_suspended_total").increment(1);
    match &mut session.driving {
        Some(driving) => driving.put_down(put, None).await,
        None => {
            write(&session.gate, None, Last::Begun(put)).await;
            Ok(())
        }
    }
}

/// Whether another worker will find all that it needs to go on.
async fn may_wait(session: &Session, request: LlmRequestId, executed: &[Executed]) -> Result<(), Stays> {
    const AWAY: Stays = Stays("the database does not answer");
    let (store, tenant) = (&session.gate.store, session.caller.tenant());
    let mut looks = 0;
    let turn = loop {
        let turn = loops::turn(store, tenant, request).await.map_err(|_| AWAY)?;
        // Under relaxed durability the end of the turn is written behind its answer.
        if turn.ended || looks == LOOKS {
            break turn;
        }
        looks += 1;
        tokio::time::sleep(LOOK).await;
    };
    let made: Vec<CallId> = executed.iter().filter(|one| one.waiting.is_none()).filter_map(|one| one.call).collect();
    let whole =
        turn.prompt.is_some() && turn.answer.is_some() && loops::are_whole(store, tenant, &made).await.map_err(|_| AWAY)?;
    if !whole {
        return Err(Stays(TOO_LITTLE));
    }
    let most = i64::from(session.gate.config.approvals.waiting_per_key);
    if loops::waiting_of(store, tenant, session.caller.key).await.map_err(|_| AWAY)? >= most {
        return Err(Stays("this key has too many loops that wait"));
    }
    Ok(())
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

/// The loops that a worker drives.
#[derive(Debug, Clone, Default)]
pub struct Loops(Arc<Mutex<HashMap<LlmRequestId, usize>>>);

impl Loops {
    #[must_use]
    pub fn all(&self) -> Vec<LlmRequestId> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    fn enter(&self, root: LlmRequestId) -> InHand {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(root).or_default() += 1;
        InHand { loops: self.clone(), root }
    }
}

/// Keeps a loop among those that are driven: until its last write stands.
#[derive(Debug)]
struct InHand {
    loops: Loops,
    root: LlmRequestId,
}

impl Drop for InHand {
    fn drop(&mut self) {
        let mut all = self.loops.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = all.get_mut(&self.root) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.root);
            }
        }
    }
}

type Guard = (InFlightGuard, InHand);

/// A loop that was taken up, in the hands of this worker. Dropped without an end, it has failed.
#[derive(Debug)]
pub struct Driving {
    gate: Arc<Gate>,
    claim: Option<Claim>,
    /// The worker is not forgotten while it drives, and knows what.
    guard: Option<Guard>,
    /// Where it stands in the database.
    at: Suspended,
    /// In this life of the worker.
    life: u64,
    tries: i32,
}

impl Driving {
    #[must_use]
    pub fn new(gate: &Gate, claim: Claim, standing: &Standing) -> Self {
        let guard = (gate.in_flight.enter(tollgate_domain::ids::mint(gate.clock.now())), gate.loops.enter(claim.root));
        let (life, at) = (gate.pulse.life(), standing.put(claim));
        Self { gate: Arc::new(gate.clone()), claim: Some(claim), guard: Some(guard), at, life, tries: standing.tries }
    }

    /// A turn has ended, and its calls stand as `at` says; `further` where they are made.
    ///
    /// # Errors
    /// [`Refusal`] where another worker has the loop, or the database does not answer: nothing more is done then.
    pub async fn step(&mut self, at: Suspended, further: bool) -> Result<(), Refusal> {
        let Some(claim) = self.claim else { return Err(lost()) };
        match loops::step(&self.gate.store, claim, &at, further).await {
            // Taken for dead in between, its calls might be made by another one as well.
            Ok(true) if self.gate.pulse.is_steady(self.life) => {
                self.at = at;
                if further {
                    self.tries = 0;
                }
                Ok(())
            }
            Ok(true) => Err(tollgate_store::audit::AuditError::Unavailable.into()),
            Ok(false) => {
                self.claim = None;
                Err(lost())
            }
            Err(error) if error.is_transient() => Err(tollgate_store::audit::AuditError::Unavailable.into()),
            Err(error) => {
                tracing::error!(%error, root = %claim.root, "where an agent loop stands cannot be written");
                Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the gateway failed on this loop"))
            }
        }
    }

    /// Where it stands, as it was written last.
    #[must_use]
    pub fn at(&self) -> Suspended {
        self.at.clone()
    }

    /// Let go of it where it waits, until `rest` at the earliest.
    ///
    /// # Errors
    /// [`Stays`], where it is no longer this worker's.
    pub async fn put_down(&mut self, put: Suspended, rest: Option<Duration>) -> Result<(), Stays> {
        let Some(claim) = self.claim.take() else { return Err(Stays("another worker goes on with it")) };
        let rest = rest.and_then(|rest| Some(self.gate.clock.now() + chrono::TimeDelta::from_std(rest).ok()?));
        write(&self.gate, self.guard.take(), Last::Put(put, claim, rest)).await;
        Ok(())
    }

    /// Whoever waited for it has gone, or this worker is about to: another one goes on from where it stands.
    pub async fn rest(&mut self) {
        let _ = self.put_down(self.at.clone(), None).await;
    }

    /// Something would not take it that may do so later. False: it has rested often enough.
    pub async fn rest_a_while(&mut self, refusal: &Refusal) -> bool {
        if self.tries >= TRIES {
            return false;
        }
        let pause = REST * 2_u32.pow(self.tries.unsigned_abs().min(16));
        let pause = refusal.retry_after.map_or(pause, |after| after.max(pause)).min(Duration::from_secs(600));
        let _ = self.put_down(self.at.clone(), Some(pause)).await;
        true
    }

    /// It has come to its end.
    ///
    /// # Errors
    /// [`Refusal`] where another worker has it.
    pub async fn end(&mut self, done: &Done, failed: Option<&Refusal>) -> Result<(), Refusal> {
        let Some(claim) = self.claim.take() else { return Err(lost()) };
        let progress = done.progress();
        let last = match failed {
            Some(refusal) => Last::Failed { claim, error: error(refusal), progress },
            None => Last::Done { claim, request: done.request.unwrap_or(self.at.request), turn: done.turn, progress },
        };
        write(&self.gate, self.guard.take(), last).await;
        Ok(())
    }
}

/// The last thing that a claim writes, or that is written before there is one.
enum Last {
    Begun(Suspended),
    Put(Suspended, Claim, Option<DateTime<Utc>>),
    Done { claim: Claim, request: LlmRequestId, turn: u32, progress: String },
    Failed { claim: Claim, error: String, progress: String },
}

impl Last {
    /// Whose the loop is by now does not matter here: another one's claim is not touched.
    async fn write(&self, store: &Store, now: DateTime<Utc>) -> StoreResult<()> {
        match self {
            Self::Begun(put) => return loops::put_down(store, put, now).await,
            Self::Put(put, claim, rest) => loops::suspend(store, put, *claim, (now, *rest)).await,
            Self::Done { claim, request, turn, progress } => {
                loops::end(store, *claim, (&Ending::Done { request: *request, turn: *turn }, progress), now).await
            }
            Self::Failed { claim, error, progress } => loops::end(store, *claim, (&Ending::Failed(error), progress), now).await,
        }
        .map(drop)
    }

    /// A loop that nobody drives and nobody can take would stand there for ever: it is tried until it stands.
    async fn stands(self, store: Store, now: DateTime<Utc>, guard: Option<Guard>) {
        let mut pause = Duration::from_millis(50);
        while let Err(error) = self.write(&store, now).await {
            tracing::warn!(%error, "where an agent loop stands cannot be written");
            if !error.is_transient() {
                break;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
        drop(guard);
    }
}

/// Written while the caller waits for it, but not for ever; it goes on by itself.
async fn write(gate: &Gate, guard: Option<Guard>, last: Last) {
    let written = tokio::spawn(last.stands(gate.store.clone(), gate.clock.now(), guard));
    let _ = tokio::time::timeout(WITHIN, written).await;
}

impl Drop for Driving {
    fn drop(&mut self) {
        let Some(claim) = self.claim.take() else { return };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let broken = Refusal::new(StatusCode::BAD_GATEWAY, "loop_interrupted", "the gateway failed in the middle of this loop");
        let last = Last::Failed { claim, error: error(&broken), progress: std::mem::take(&mut self.at.progress) };
        runtime.spawn(last.stands(self.gate.store.clone(), self.gate.clock.now(), self.guard.take()));
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
