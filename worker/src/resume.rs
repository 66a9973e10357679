//! Runs that are taken up again: where people have decided, and where the worker that drove them has died.

use std::{collections::HashMap, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tollgate_boot::Shutdown;
use tollgate_codemode::wire::{JournalEntry, Language, Step};
use tollgate_domain::{KeyId, ScriptRunId, ids};
use tollgate_store::{
    StoreError, StoreResult, approvals,
    audit::{AuditError, Entry, RunResolution},
    calls,
    waiting::{self, Claim, Kept},
};

use crate::{
    call::Parent,
    caller::{Caller, Refused},
    gate::{Gate, InFlightGuard},
    llm,
    script::{KEY_HAS_ENDED, Run, RunAnswer, given_up, may_call, waits},
};

const ROUND: Duration = Duration::from_millis(500);
/// Rounds from one look at what has expired to the next.
const EXPIRY: u32 = 10;
/// Runs that one worker takes up at once.
pub const AT_ONCE: usize = 64;
/// Turns that a run may take without getting any further.
const STUCK: usize = 3;
/// Between tries to read what the database does not give.
const PAUSE: Duration = Duration::from_secs(1);

const TOO_LITTLE: &str = "The run cannot go on: the tenant's rules for what is kept (redaction, size, erasure) have left too little of it. Run \
it again; calls that it had made are in the audit trail.";
const DEADLY: &str = "Workers that drove this run have died again and again at the same place, so it was given up. Calls that it had made are \
in the audit trail.";

/// Take up what people have decided on, and end what they have not decided on in time.
pub async fn rounds(gate: Gate, shutdown: Shutdown) {
    let mut rounds = tokio::time::interval(ROUND);
    rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for round in 0_u32.. {
        tokio::select! {
            () = shutdown.requested() => return,
            _ = rounds.tick() => {}
        }
        if round % EXPIRY == 0
            && let Err(error) = approvals::expire(&gate.store, gate.clock.now()).await
        {
            tracing::warn!(%error, "approvals that nobody decided on were not ended; it is tried again");
        }
        if round % EXPIRY == 0 {
            llm::take_up::release_lost(&gate).await;
        }
        if gate.resumes.available_permits() == 0 {
            continue;
        }
        // In the register before anything is taken: a worker that ends with nothing open is forgotten, and its turns with it.
        let _guard = gate.in_flight.enter(ids::mint(gate.clock.now()));
        match waiting::claim_decided(&gate.store, gate.worker, gate.clock.now()).await {
            Ok(claims) => take_up(&gate, claims),
            Err(error) => tracing::warn!(%error, "runs that wait cannot be looked through; it is tried again"),
        }
        llm::take_up::round(&gate).await;
    }
}

/// Drive these runs from where their journals end.
pub fn take_up(gate: &Gate, claims: Vec<Claim>) {
    // As of now: should this worker be taken for dead while they wait for their turn, they are no longer its own.
    let life = gate.pulse.life();
    for claim in claims {
        let (gate, guard) = (gate.clone(), gate.in_flight.enter(ids::mint(gate.clock.now())));
        tokio::spawn(async move {
            let Ok(_permit) = gate.resumes.clone().acquire_owned().await else { return };
            match resume(&gate, claim, life, guard).await {
                Ok(()) => metrics::counter!("tollgate_script_runs_resumed_total").increment(1),
                Err(error) => tracing::warn!(%error, run = %claim.run, "a run that was taken up again has not ended well"),
            }
        });
    }
}

async fn resume(gate: &Gate, claim: Claim, life: u64, guard: InFlightGuard) -> Result<(), AuditError> {
    let Some(kept) = load(gate, claim).await else { return Ok(()) };
    let (caller, good) = match caller(gate, kept.key, kept.route.clone()).await {
        Some(found) => found,
        None => {
            let gone = RunResolution { tenant: claim.tenant, id: claim.run, at: gate.clock.now() };
            return gate
                .audit
                .after_keeping(Entry { run_resolutions: vec![gone], ..Entry::default() }, Some(Box::new(guard)))
                .await;
        }
    };
    let (step, open) = (step(&kept), kept.open.into_iter().collect::<HashMap<_, _>>());
    let refused = match &step {
        None => Some(TOO_LITTLE),
        Some(_) if kept.stuck >= STUCK => Some(DEADLY),
        Some(_) if !good => Some(KEY_HAS_ENDED),
        Some(_) => None,
    };
    let may_call = match (&refused, &step, &kept.may_call) {
        (None, Some(step), None) => look(gate, claim, step).await,
        (_, _, known) => known.as_deref().map(Into::into),
    };
    let run = Run {
        gate,
        caller,
        parent: Parent::known(kept.request, kept.origin),
        claim,
        life,
        step: step.unwrap_or_else(|| Step {
            language: Language::default(),
            source: String::new(),
            catalog: tollgate_codemode::wire::Catalog::default(),
            journal: Vec::new(),
            limits: tollgate_codemode::wire::Limits::default(),
        }),
        may_call,
        calls: Vec::new(),
        cancel: CancellationToken::new(),
        whole: true,
        open,
        held: Vec::new(),
        in_flight: Some(guard),
    };
    match refused {
        Some(why) => run.close(Ok(given_up(why))).await,
        None => run.go().await,
    }
    .map(drop)
}

/// The run, once the database gives it; `None` when it has ended, or has gone with its month.
async fn load(gate: &Gate, claim: Claim) -> Option<Kept> {
    loop {
        match waiting::load(&gate.store, claim).await {
            Ok(kept) => return (!kept.ended).then_some(kept),
            Err(StoreError::NotFound) => return None,
            Err(error) => tracing::warn!(%error, run = %claim.run, "a run cannot be taken up; it is tried again"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// In whose name a run or loop goes on, and whether the key is good; `None` when the tenant has gone.
pub async fn caller(gate: &Gate, key: KeyId, route: Option<String>) -> Option<(Caller, bool)> {
    loop {
        match Caller::resumed(&gate.directory, key, route.clone(), gate.clock.now()).await {
            Ok(caller) => return Some((caller, true)),
            Err(Refused::Unauthorized | Refused::UnknownGroup) => match Caller::ended(&gate.directory, key).await {
                Ok(caller) => return caller.map(|caller| (caller, false)),
                Err(_) => tokio::time::sleep(PAUSE).await,
            },
            Err(Refused::Unavailable) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// What the sandbox replays; `None` where something of it was not kept as it was.
fn step(kept: &Kept) -> Option<Step> {
    let journal = kept.journal.as_ref()?;
    let journal: Option<Vec<JournalEntry>> = journal.iter().map(|line| serde_json::from_str(line).ok()).collect();
    Some(Step {
        language: Language::of_engine(&kept.engine),
        source: kept.source.clone()?,
        catalog: serde_json::from_slice(kept.catalog.as_ref()?).ok()?,
        journal: journal?,
        limits: serde_json::from_str(&kept.limits).ok()?,
    })
}

/// What its text shows, where nobody has noted it: the first step once more, which comes to the same.
async fn look(gate: &Gate, claim: Claim, step: &Step) -> Option<Arc<str>> {
    let first = Step { journal: Vec::new(), ..step.clone() };
    may_call(&gate.sandbox.step(claim.tenant, &first).await)
}

// ---------------------------------------------------------------- for whoever waits

/// How long `resume` waits for a run that is under way.
const PATIENCE: Duration = Duration::from_secs(25);
const LOOK: Duration = Duration::from_millis(250);

/// What has become of an earlier run of this key; `None` for a run that it has not made.
///
/// # Errors
/// When the database does not answer.
pub async fn answer(
    gate: &Gate,
    caller: &Caller,
    run: ScriptRunId,
    cancel: &CancellationToken,
) -> Result<Option<RunAnswer>, AuditError> {
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        let (state, undecided) = match waiting::state_of(&gate.store, caller.tenant(), caller.key, run).await {
            Ok(found) => found,
            Err(StoreError::NotFound) => return Ok(None),
            Err(_) => return Err(AuditError::Unavailable),
        };
        let moves = state == "running" || (state == "waiting_approval" && !undecided);
        if !moves || cancel.is_cancelled() || tokio::time::Instant::now() >= until {
            let standing = recorded(gate, caller, run).await.map_err(|_| AuditError::Unavailable)?;
            return Ok(Some(standing.answer));
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = cancel.cancelled() => {}
        }
    }
}

/// How a run stands at this moment.
pub struct Standing {
    pub answer: RunAnswer,
    /// None: it goes on, or waits.
    pub ended_at: Option<DateTime<Utc>>,
}

/// How a run of this key stands, without waiting; nothing for one that is not the key's.
///
/// # Errors
/// When the database does not answer.
pub async fn standing(gate: &Gate, caller: &Caller, run: ScriptRunId) -> Result<Option<Standing>, AuditError> {
    match waiting::state_of(&gate.store, caller.tenant(), caller.key, run).await {
        Ok(_) => recorded(gate, caller, run).await.map(Some).map_err(|_| AuditError::Unavailable),
        Err(StoreError::NotFound) => Ok(None),
        Err(_) => Err(AuditError::Unavailable),
    }
}

/// The run as the trail has it: of what the tenant's rules took out, there is no other copy.
async fn recorded(gate: &Gate, caller: &Caller, run: ScriptRunId) -> StoreResult<Standing> {
    let tenant = caller.tenant();
    let mut tx = gate.store.tenant_snapshot(tenant).await?;
    let detail = calls::get_run(&mut tx, tenant, run).await?;
    let made = waiting::calls_of(&mut tx, tenant, run).await?;
    let wanted = approvals::of_run(&mut tx, tenant, run).await?;
    tx.commit().await?;
    let parsed = |text: Option<String>| text.and_then(|text| serde_json::from_str::<Value>(&text).ok());
    let made: Value =
        made.into_iter().map(|call| json!({"call_id": call.id, "tool": call.tool, "outcome": call.outcome})).collect();
    let logs = parsed(detail.logs).unwrap_or_else(|| json!([]));
    let mut value = match detail.run.state.as_str() {
        "waiting_approval" => {
            let wanted = wanted.into_iter().map(|approval| {
                let tool = format!("{}.{}", approval.upstream_name, approval.tool_name);
                json!({"id": approval.id, "tool": tool, "sequence": approval.sequence, "expires_at": approval.expires_at})
            });
            let answer = RunAnswer { value: waits(run, &logs, &made, &wanted.collect()), failed: false, kept: false };
            return Ok(Standing { answer, ended_at: None });
        }
        state => json!({"script_run_id": run, "state": state, "result": parsed(detail.result), "logs": logs, "calls": made}),
    };
    if detail.run.state == "running" {
        value["message"] =
            format!("The run is still going on. Call executeToolCode with {{\"resume\": \"{run}\"}} again.").into();
    }
    let failed = detail.run.state == "failed";
    if failed {
        value["error"] = parsed(detail.error).unwrap_or(Value::Null);
    }
    Ok(Standing { answer: RunAnswer { value, failed, kept: true }, ended_at: detail.run.closed_at })
}
