//! A caller comes back for the answer of a loop that had to wait for people.

use std::time::Duration;

use axum::http::StatusCode;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tollgate_domain::LlmRequestId;
use tollgate_store::{
    StoreError,
    audit::AuditError,
    loops::{self, Claim, LoopState, Standing},
};

use super::{
    agent::Done,
    dialect::Dialect,
    durable::{self, TOO_LITTLE},
    request::Refusal,
};
use crate::{caller::Caller, gate::Gate};

/// How long a caller waits before it is told that its loop still waits.
const PATIENCE: Duration = Duration::from_secs(25);
const LOOK: Duration = Duration::from_millis(250);

/// Wait for a loop of this key: it is the caller's to go on with once people have decided. Else, how it stands: at its end, or when the
/// caller has waited long enough.
///
/// # Errors
/// [`Refusal`], for one that is none of the key's, or was asked for in another dialect.
pub async fn listen(
    gate: &Gate,
    caller: &Caller,
    (root, dialect): (LlmRequestId, Dialect),
    left: &CancellationToken,
) -> Result<Result<(Claim, Standing), Standing>, Refusal> {
    let method = loops::method(&gate.store, caller.tenant(), caller.key, root).await.map_err(refused)?;
    if method != dialect.route() {
        return Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            "invalid_request",
            format!("this loop was begun at {method}: ask for it there"),
        ));
    }
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        let found = loops::listen(&gate.store, (caller.tenant(), caller.key), root, gate.worker).await.map_err(refused)?;
        let over = tokio::time::Instant::now() >= until || left.is_cancelled() || gate.shutdown.is_requested();
        match found {
            Ok(claimed) => return Ok(Ok(claimed)),
            Err(standing) if over || matches!(standing.state, LoopState::Done | LoopState::Failed) => return Ok(Err(standing)),
            Err(_) => tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = left.cancelled() => {}
            },
        }
    }
}

/// How a loop of this key stands at this moment.
///
/// # Errors
/// [`Refusal`].
pub async fn standing(gate: &Gate, caller: &Caller, root: LlmRequestId) -> Result<Standing, Refusal> {
    let read = async {
        let mut tx = gate.store.tenant(caller.tenant()).await?;
        loops::standing(&mut tx, caller.tenant(), root, Some(caller.key)).await?.ok_or(StoreError::NotFound)
    };
    read.await.map_err(refused)
}

fn refused(error: StoreError) -> Refusal {
    match error {
        StoreError::NotFound => Refusal::new(
            StatusCode::NOT_FOUND,
            "unknown_loop",
            "this key has no agent loop of this id that has waited for people",
        ),
        _ => AuditError::Unavailable.into(),
    }
}

/// What a loop that nobody here drives has come to: its last answer, with how it stands.
///
/// # Errors
/// [`Refusal`] for one that failed, goes on elsewhere, or whose answer is not kept.
pub async fn recorded(gate: &Gate, caller: &Caller, root: LlmRequestId, standing: &Standing) -> Result<Value, Refusal> {
    let mut done = Done::of(&standing.progress, standing.turn);
    let state = match standing.state {
        LoopState::Failed => {
            let error = standing.error.as_deref().and_then(|error| serde_json::from_str(error).ok()).unwrap_or_default();
            return Err(done.told(durable::refusal(&error)));
        }
        LoopState::Going => {
            let told = "the loop goes on; ask for its answer again in a moment";
            let refusal = Refusal::new(StatusCode::CONFLICT, "loop_running", told);
            return Err(Refusal { retry_after: Some(Duration::from_secs(1)), ..refusal });
        }
        state => state,
    };
    let turn = match loops::turn(&gate.store, caller.tenant(), standing.request).await {
        Ok(turn) => turn,
        Err(StoreError::NotFound) => loops::Turn::default(),
        Err(_) => return Err(AuditError::Unavailable.into()),
    };
    let answer = turn.answer.and_then(|answer| serde_json::from_str::<Value>(&answer).ok()).filter(Value::is_object);
    let mut answer = answer.ok_or_else(|| done.told(Refusal::new(StatusCode::GONE, "loop_not_kept", TOO_LITTLE)))?;
    answer["tollgate"] = done.shown(root, state.as_str());
    if state == LoopState::Waiting {
        durable::tell_how_to_resume(&mut answer["tollgate"], root);
    }
    Ok(answer)
}
