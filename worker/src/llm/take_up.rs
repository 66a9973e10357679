//! Loops that waited for people are taken up again: by the caller that waits for the answer, or by whatever worker finds them first.

use std::sync::Arc;

use axum::http::StatusCode;
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;
use tollgate_domain::{
    CallId, Decision, LlmRequestId, Outcome,
    llm::{AgentMode, Mode},
    policy::Reason,
};
use tollgate_store::{
    StoreError,
    audit::AuditError,
    calls::{self, ToolCall},
    loops::{self, Claim, Held, Standing},
};
use uuid::Uuid;

use super::{
    agent::{Done, Next, Session},
    dialect::{Dialect, ToolResult, ToolUse},
    durable::{Driving, Mark, Settings, TOO_LITTLE},
    execute::{Executed, text_of},
    offer::Offer,
    request::Refusal,
};
use crate::{
    caller::Caller,
    gate::Gate,
    meta,
    rates::Told,
    resume,
    script::{KEY_HAS_ENDED, UNKNOWN},
};

/// Workers that may die in a row over the same place of a loop.
const STUCK: i32 = 3;

const TOO_LATE: &str = "it was approved, but could no longer be made when the loop went on: the approval had expired; ask for it again if it is still needed";
const EXPIRED: &str = "nobody decided on this call in time, so it was not made; ask for it again if it is still needed";

/// How the answer is wanted.
#[derive(Debug, Clone, Default)]
pub struct How {
    pub streaming: bool,
    /// The caller has asked for the count of tokens itself.
    pub own_usage: bool,
    pub told: Told,
    pub gone: CancellationToken,
}

/// A loop whose waiting calls are made.
pub enum TakenUp {
    /// The model has to be asked next.
    Goes(Box<Session>),
    /// It waits again, and was put down again.
    Waits,
}

/// Take up what has been decided on and has no caller who waits for it.
pub async fn round(gate: &Gate) {
    let claimed = match loops::claim_decided(&gate.store, gate.worker, gate.resumes.available_permits()).await {
        Ok(claimed) => claimed,
        Err(error) => return tracing::warn!(%error, "agent loops that wait cannot be looked through; it is tried again"),
    };
    for (claim, standing) in claimed {
        let driving = Driving::new(gate, claim, &standing);
        let (inner, permits) = (gate.clone(), gate.resumes.clone());
        gate.shutdown.spawn(async move {
            let Ok(_permit) = permits.acquire_owned().await else { return };
            drive(&inner, claim, standing, driving).await;
        });
    }
}

/// Loops that stand in the name of this worker, which has never heard that they are its own, wait again.
pub async fn release_lost(gate: &Gate) {
    match loops::release_lost(&gate.store, gate.worker, &gate.loops.all()).await {
        Ok(0) => {}
        Ok(lost) => tracing::warn!(lost, "agent loops that nobody drove wait again"),
        Err(error) => tracing::warn!(%error, "agent loops that nobody drives cannot be looked for; it is tried again"),
    }
}

async fn drive(gate: &Gate, claim: Claim, standing: Standing, mut driving: Driving) {
    if gate.shutdown.is_requested() {
        return driving.rest().await;
    }
    let done = Done::of(&standing.progress, standing.turn);
    let ended = Refusal::new(StatusCode::FORBIDDEN, "key_ended", KEY_HAS_ENDED);
    let caller = match resume::caller(gate, claim.key, None).await {
        Some((caller, true)) => caller,
        // Its tenant has gone, or its key.
        Some((_, false)) | None => return drop(driving.end(&done, Some(&ended)).await),
    };
    metrics::counter!("tollgate_agent_loops_resumed_total").increment(1);
    let outcome = match take_up(gate, caller, driving, (claim.root, standing), How::default()).await {
        Ok(TakenUp::Goes(session)) => session.answer().await.map(drop),
        Ok(TakenUp::Waits) => Ok(()),
        Err(refusal) => Err(refusal),
    };
    if let Err(Refusal { code, status, .. }) = outcome {
        tracing::warn!(root = %claim.root, code, %status, "an agent loop that was taken up has not come to its answer");
    }
}

/// Go on with a loop from where the trail has it: make what was decided on, and have all results ready for the model.
///
/// # Errors
/// [`Refusal`]: the loop has ended with it, unless it only says that the database does not answer.
pub async fn take_up(
    gate: &Gate,
    caller: Caller,
    mut driving: Driving,
    (root, standing): (LlmRequestId, Standing),
    how: How,
) -> Result<TakenUp, Refusal> {
    let mut done = Done::of(&standing.progress, standing.turn);
    let (mut session, answer) = match session(gate, caller, (root, &standing), how).await {
        Ok(found) => found,
        Err(refusal) => {
            let rests = refusal.status == StatusCode::SERVICE_UNAVAILABLE && driving.rest_a_while(&refusal).await;
            if !rests {
                driving.end(&done, Some(&refusal)).await?;
            }
            return Err(refusal);
        }
    };
    session.driving = Some(driving);
    let next = go_on(&mut session, &standing, &answer, &mut done).await;
    session.ended(&done, next.as_ref()).await?;
    Ok(match next? {
        Next::Again | Next::Last => {
            session.done = done;
            TakenUp::Goes(Box::new(session))
        }
        Next::Waits(_) => TakenUp::Waits,
    })
}

/// The session as it was, and the answer of the model's that it stopped at.
async fn session(
    gate: &Gate,
    caller: Caller,
    (root, standing): (LlmRequestId, &Standing),
    how: How,
) -> Result<(Session, Value), Refusal> {
    if standing.stuck >= STUCK {
        let deadly = "workers have died again and again at the same place of this loop, so it was given up; what its calls came to is in the audit trail";
        return Err(Refusal::new(StatusCode::BAD_GATEWAY, "loop_interrupted", deadly));
    }
    let (agent, most) = caller.config().keys.get(&caller.key).map_or((AgentMode::Off, 1), |key| key.agent);
    if agent == AgentMode::Off {
        let told = "agent mode has been turned off for this key since, so its loop ends here";
        return Err(Refusal::new(StatusCode::FORBIDDEN, "agent_mode_off", told));
    }
    let too_little = || Refusal::new(StatusCode::GONE, "loop_not_kept", TOO_LITTLE);
    let turn = match loops::turn(&gate.store, caller.tenant(), standing.request).await {
        Ok(turn) => turn,
        Err(StoreError::NotFound) => return Err(too_little()),
        Err(_) => return Err(AuditError::Unavailable.into()),
    };
    let dialect = Dialect::ALL.into_iter().find(|dialect| dialect.route() == turn.method).ok_or_else(too_little)?;
    let parsed = |text: Option<String>| text.and_then(|text| serde_json::from_str::<Value>(&text).ok());
    let (Some(Value::Object(mut body)), Some(answer)) = (parsed(turn.prompt), parsed(turn.answer)) else {
        return Err(too_little());
    };
    let settings: Settings = serde_json::from_str(&standing.settings).map_err(|_| too_little())?;
    let all = dialect.own_tools(&body);
    // The gateway's stand behind the caller's.
    let offer = Offer::of(&caller, &all[..settings.own_tools.min(all.len())]);
    let Some(model) = body.get("model").and_then(Value::as_str).map(str::to_owned) else { return Err(too_little()) };
    set_streaming(dialect, &mut body, how.streaming);
    let session = Session {
        gate: Arc::new(gate.clone()),
        dialect,
        model,
        streaming: how.streaming,
        mode: Mode::Agent,
        turns: settings.turns.min(most),
        offer,
        own_tools: settings.own_tools,
        own_usage: how.own_usage,
        headers: settings.headers(),
        client: settings.client,
        told: how.told,
        root,
        body,
        gone: how.gone,
        driving: None,
        done: Done::default(),
        caller,
    };
    Ok((session, answer))
}

/// Have a body ask for a stream, or for an answer at once. Returns whether it had asked itself for the count of tokens.
pub fn set_streaming(dialect: Dialect, body: &mut Map<String, Value>, streaming: bool) -> bool {
    let options = body.remove("stream_options");
    if !streaming {
        body.remove("stream");
        return true;
    }
    body.insert("stream".to_owned(), true.into());
    if dialect != Dialect::Chat {
        body.extend(options.map(|options| ("stream_options".to_owned(), options)));
        return true;
    }
    // What it costs is counted by what the provider says at the end, which it says only when asked.
    let mut options = match options {
        Some(Value::Object(options)) => options,
        _ => Map::new(),
    };
    let own_usage = options.insert("include_usage".to_owned(), true.into()) == Some(Value::Bool(true));
    body.insert("stream_options".to_owned(), options.into());
    own_usage
}

async fn go_on(session: &mut Session, standing: &Standing, answer: &Value, done: &mut Done) -> Result<Next, Refusal> {
    let read = session.dialect.read(answer);
    let marks: Vec<Mark> = serde_json::from_str(&standing.calls).unwrap_or_default();
    if marks.len() != read.calls.len() || marks.iter().zip(&read.calls).any(|(mark, call)| mark.id != call.id) {
        return Err(Refusal::new(StatusCode::GONE, "loop_not_kept", TOO_LITTLE));
    }
    let (mut found, open) = recall(session, standing.request, &read.calls, &marks).await?;
    if !open.is_empty() {
        // Whose the loop is, is asked once more before anything is done.
        if let Some(driving) = &mut session.driving {
            let at = driving.at();
            driving.step(at, false).await?;
        }
        let wanted = open.iter().filter_map(|at| read.calls.get(*at).cloned()).collect();
        let made = session.execute(standing.request, wanted, None).await;
        for (at, made) in open.into_iter().zip(made) {
            if let Some(place) = found.get_mut(at) {
                *place = Some(made);
            }
        }
    }
    let executed = found.into_iter().map(|found| found.unwrap_or(Err(AuditError::Unavailable))).collect();
    let executed = session.all_made(standing.request, &read.calls, executed, done).await?;
    session.settle(standing.request, answer, executed, done).await
}

type Found = Vec<Option<Result<Executed, AuditError>>>;

/// What each call came to, from the trail; and the places of those that have to be made.
async fn recall(
    session: &Session,
    request: LlmRequestId,
    calls: &[ToolUse],
    marks: &[Mark],
) -> Result<(Found, Vec<usize>), Refusal> {
    let unavailable = |error: StoreError| {
        tracing::warn!(%error, "what the calls of an agent loop came to cannot be read");
        Refusal::from(AuditError::Unavailable)
    };
    let (gate, tenant, now) = (&session.gate, session.caller.tenant(), session.gate.clock.now());
    let mut tx = gate.store.tenant_snapshot(tenant).await.map_err(unavailable)?;
    let mut found = Vec::new();
    // A call stands for one of the turn alone, also where two ask for the same.
    let mut others: Vec<CallId> = marks.iter().filter_map(|mark| mark.call.filter(|_| mark.approval.is_none())).collect();
    for (call, mark) in calls.iter().zip(marks) {
        found.push(match mark {
            Mark { approval: Some(approval), .. } => {
                match loops::held(&mut tx, tenant, (request, *approval), &others, now).await.map_err(unavailable)? {
                    Held::Free => None,
                    Held::Made(row) => {
                        others.push(row.id);
                        Some(recorded(call, &row)?)
                    }
                    Held::Denied(reason) => {
                        let reason = reason.map_or_else(String::new, |reason| format!(": {reason}"));
                        Some(said(call, mark, &format!("{}{reason}", Reason::ApprovalDenied.told())))
                    }
                    Held::Late { approved } => Some(said(call, mark, if approved { TOO_LATE } else { EXPIRED })),
                }
            }
            Mark { call: Some(id), .. } => {
                let row = calls::get(&mut tx, tenant, *id).await.map_err(unavailable)?;
                Some(recorded(call, &row)?)
            }
            _ => None,
        });
    }
    let ids = |mark: &Mark| [mark.call.map(|id| id.uuid()), mark.approval.map(|id| id.uuid()), mark.run.map(|id| id.uuid())];
    let known: Vec<Uuid> = marks.iter().flat_map(ids).flatten().chain(others.iter().map(|id| id.uuid())).collect();
    let opens = marks.iter().zip(&found).any(|(mark, found)| found.is_none() && !mark.reads && mark.run.is_none());
    if opens && loops::has_strays(&mut tx, tenant, request, &known).await.map_err(unavailable)? {
        let told = "the gateway's worker ended while it made the calls of a turn, and nobody knows which of them took effect; they are in the audit trail";
        return Err(Refusal::new(StatusCode::BAD_GATEWAY, "loop_interrupted", told));
    }
    tx.commit().await.map_err(|error| unavailable(error.into()))?;
    for ((call, mark), found) in calls.iter().zip(marks).zip(&mut found) {
        if let Some(run) = mark.run
            && let Some(standing) = resume::standing(gate, &session.caller, run).await?
        {
            let answer = meta::result(gate, &session.caller, standing.answer);
            *found = Some(Executed::meta((call.id.clone(), call.name.clone()), &answer));
        }
    }
    let open = found.iter().enumerate().filter(|(_, found)| found.is_none()).map(|(at, _)| at).collect();
    Ok((found.into_iter().map(|found| found.map(Ok)).collect(), open))
}

/// A call as the trail has it.
fn recorded(call: &ToolUse, row: &ToolCall) -> Result<Executed, Refusal> {
    let reason = row.reason.as_deref().and_then(|reason| reason.parse::<Reason>().ok());
    let text = match (row.outcome, &row.result, row.result_form) {
        (_, _, Some(_)) => return Err(Refusal::new(StatusCode::GONE, "loop_not_kept", TOO_LITTLE)),
        (None, _, None) | (Some(Outcome::Unknown), None, None) => UNKNOWN.to_owned(),
        (Some(_), Some(result), None) => text_of(&serde_json::from_str(result).unwrap_or_default()),
        (Some(_), None, None) if row.decision != Decision::Permitted => {
            reason.map_or_else(String::new, |reason| reason.told().to_owned())
        }
        (Some(_), None, None) => row.error.clone().unwrap_or_else(|| UNKNOWN.to_owned()),
    };
    let failed = row.outcome != Some(Outcome::Ok);
    let result = ToolResult { id: call.id.clone(), name: call.name.clone(), text, failed };
    Ok(Executed { result, call: Some(row.id), outcome: row.outcome, waiting: None, run: None })
}

/// A call that is not made: its held row is what the trail has of it.
fn said(call: &ToolUse, mark: &Mark, text: &str) -> Executed {
    let result = ToolResult { id: call.id.clone(), name: call.name.clone(), text: text.to_owned(), failed: true };
    Executed { result, call: mark.call, outcome: Some(Outcome::Held), waiting: None, run: None }
}
