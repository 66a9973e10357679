//! A call that people have to confirm: what they have said so far, and what the caller reads of it.

use chrono::{SecondsFormat, TimeDelta};
use tollgate_domain::{
    ApprovalId, UpstreamId,
    approval::arguments_hash,
    policy::{Held, Permit, Reason},
};
use tollgate_store::{
    approvals::hold::{self, Standing, Waiting},
    audit::{AuditError, Intent},
};

use crate::{
    call::{Ask, Refusal},
    gate::Gate,
};

/// Use up the approval that was given for this call, or say why there is none to use.
///
/// # Errors
/// When the database does not answer: the call is not made.
pub async fn stand(
    gate: &Gate,
    intent: &Intent,
    held: Held,
    ask: &Ask,
) -> Result<Result<(Permit, ApprovalId), Refusal>, AuditError> {
    let asking = asking(gate, intent, &held, ask);
    let standing = hold::stand(&gate.store, &asking).await.map_err(|error| {
        tracing::warn!(%error, "an approval cannot be looked up; its call is refused");
        AuditError::Unavailable
    })?;
    Ok(match standing {
        Standing::Spent(spent) => match held.release(&spent, &asking.arguments) {
            Ok(permit) => Ok((permit, spent.approval)),
            Err(reason) => Err(reason.into()),
        },
        Standing::Waiting(waiting) => {
            let note = note(waiting, ask);
            Err(Refusal { waiting: Some(waiting), note: Some(note), ..Reason::ApprovalRequired.into() })
        }
        Standing::Denied(approval, note) => Err(Refusal { decided: Some(approval), note, ..Reason::ApprovalDenied.into() }),
        Standing::Expired(approval) => Err(Refusal { decided: Some(approval), ..Reason::ApprovalExpired.into() }),
        Standing::TooMany => Err(Reason::TooManyApprovals.into()),
    })
}

fn asking(gate: &Gate, intent: &Intent, held: &Held, ask: &Ask) -> hold::Ask {
    let tool = held.tool();
    let upstream: (UpstreamId, String) = (tool.upstream.id, tool.upstream.name.clone());
    let config = &gate.config.approvals;
    hold::Ask {
        tenant: intent.tenant,
        key: intent.key,
        team: intent.team,
        tool: tool.id,
        upstream,
        tool_name: tool.name.clone(),
        call: intent.id,
        request: intent.request,
        place: intent.place.filter(|_| ask.can_wait),
        may_call: ask.may_call.as_deref().map(str::to_owned),
        arguments: arguments_hash(&gate.secrets.pepper, intent.tenant, &ask.arguments),
        policy: held.policy(),
        confirmations: held.confirmations(),
        now: intent.at,
        expires_at: intent.at + TimeDelta::hours(i64::from(config.expire_hours)),
        at_most: i64::from(config.waiting_per_key),
    }
}

fn note(waiting: Waiting, ask: &Ask) -> String {
    let Waiting { approval, expires_at } = waiting;
    let until = expires_at.to_rfc3339_opts(SecondsFormat::Secs, true);
    let then = if ask.pending.is_some() { "send the script again" } else { "make exactly the same call again" };
    format!("{approval} waits for a decision until {until}. Once it is approved, {then}")
}
