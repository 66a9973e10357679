//! What has become of approvals, told to webhooks. A trigger writes one row with each change of an approval, in its transaction;
//! [`distribute`] makes one for each webhook of it, and runners take those, one after the other for each approval and webhook.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use sqlx::FromRow;
use tollgate_domain::{ApprovalId, KeyId, TenantId};
use uuid::Uuid;

use super::{Approval, Confirmation, get};
use crate::{
    change::Actor,
    error::StoreResult,
    tx::{Store, Tx},
};

/// How long a notice is tried, from its first try on.
pub const PATIENCE: TimeDelta = TimeDelta::days(1);
/// What nobody was told of after so long is no news any more.
const NEWS: TimeDelta = TimeDelta::days(7);
/// How long it is remembered who was told what.
const KEPT: TimeDelta = TimeDelta::days(30);
/// How long the row of a held call may take to be in the trail, where its arguments are read.
const RECORDED: TimeDelta = TimeDelta::seconds(30);
const FIRST_PAUSE: TimeDelta = TimeDelta::seconds(2);
const LONGEST_PAUSE: TimeDelta = TimeDelta::minutes(10);
/// Rows of one look.
const LOOK: i64 = 500;

/// A notice as it is shown.
#[derive(Debug, Clone, FromRow)]
pub struct Notice {
    pub version: i32,
    pub webhook: String,
    pub event: String,
    pub at: DateTime<Utc>,
    pub state: String,
    pub attempts: i32,
    pub delivered_at: Option<DateTime<Utc>>,
    pub error: Option<String>,
}

/// A notice in the hands of a runner.
#[derive(Debug, Clone)]
pub struct Taken {
    pub tenant: TenantId,
    pub approval: ApprovalId,
    /// Tells the changes of one approval apart, and their order.
    pub version: i32,
    pub webhook: String,
    pub event: String,
    pub at: DateTime<Utc>,
    pub attempts: i32,
    pub runner: Uuid,
    first_try_at: DateTime<Utc>,
}

#[derive(FromRow)]
struct TakenRow {
    tenant_id: Uuid,
    approval_id: Uuid,
    version: i32,
    webhook: String,
    event: String,
    at: DateTime<Utc>,
    attempts: i32,
    first_try_at: DateTime<Utc>,
}

/// What came of a try.
#[derive(Debug, Clone)]
pub enum Tried {
    Delivered,
    /// With a sentence for the tenant.
    Not(String),
    /// The held call is not in the trail yet: soon again.
    Early,
}

/// What a notice is about, as it stands now.
#[derive(Debug)]
pub struct News {
    pub approval: Approval,
    pub said: Vec<Confirmation>,
    /// Of the key that asked; `None` where there is none of this name any more.
    pub key_name: Option<String>,
    pub held_by: Vec<String>,
    /// Whether the held call's row is there, or will not come.
    pub recorded: bool,
}

/// Whether confirming is not for this principal, since the call is its own.
///
/// # Errors
/// `NotFound`.
pub async fn asks_itself(tx: &mut Tx, tenant: TenantId, id: ApprovalId, principal: &str) -> StoreResult<bool> {
    let asks = sqlx::query_scalar(
        "SELECT COALESCE($3 = ANY (k.held_by), false) FROM approvals a
         LEFT JOIN virtual_keys k ON k.tenant_id = a.tenant_id AND k.key_id = a.key_id WHERE a.tenant_id = $1 AND a.approval_id = $2",
    );
    Ok(asks.bind(tenant.uuid()).bind(id.uuid()).bind(principal).fetch_one(&mut **tx).await?)
}

/// Who is told what of an approval, in the order of its changes.
///
/// # Errors
/// When the database does not answer.
pub async fn of(tx: &mut Tx, tenant: TenantId, id: ApprovalId) -> StoreResult<Vec<Notice>> {
    let rows = sqlx::query_as(
        "SELECT version, webhook, event, at, state, attempts, delivered_at, error FROM approval_notices
         WHERE tenant_id = $1 AND approval_id = $2 AND webhook <> '' ORDER BY version, webhook",
    );
    Ok(rows.bind(tenant.uuid()).bind(id.uuid()).fetch_all(&mut **tx).await?)
}

// ---------------------------------------------------------------- what a runner does

/// Make one notice for each webhook that is to be told, which `to` names for a tenant and its slug; how many changes there were. Whoever
/// comes second waits, and finds what is left: no change is distributed before one that came before it.
///
/// # Errors
/// When the database does not answer.
pub async fn distribute(store: &Store, to: impl Fn(TenantId, &str) -> Vec<String>, now: DateTime<Utc>) -> StoreResult<usize> {
    let mut tx = store.control().await?;
    let rows: Vec<(Uuid, Uuid, i32, String, DateTime<Utc>)> = sqlx::query_as(
        "SELECT tenant_id, approval_id, version, event, at FROM approval_notices WHERE webhook = '' AND at > $1
         ORDER BY at, approval_id, version LIMIT $2 FOR UPDATE",
    )
    .bind(now - NEWS)
    .bind(LOOK)
    .fetch_all(&mut *tx)
    .await?;
    let mut tenants: Vec<Uuid> = rows.iter().map(|(tenant, ..)| *tenant).collect();
    tenants.dedup();
    let slugs: BTreeMap<Uuid, String> =
        sqlx::query_as("SELECT tenant_id, slug FROM tenants WHERE tenant_id = ANY ($1) AND deleted_at IS NULL")
            .bind(&tenants)
            .fetch_all(&mut *tx)
            .await?
            .into_iter()
            .collect();
    for (tenant, approval, version, event, at) in &rows {
        let webhooks = slugs.get(tenant).map_or_else(Vec::new, |slug| to((*tenant).into(), slug));
        if !webhooks.is_empty() {
            let insert = sqlx::query(
                "INSERT INTO approval_notices (tenant_id, approval_id, version, webhook, event, at) SELECT $1, $2, $3, w, $4, $5 FROM unnest($6::text[]) w
                 ON CONFLICT DO NOTHING",
            );
            let insert = insert.bind(tenant).bind(approval).bind(version).bind(event).bind(at).bind(&webhooks);
            insert.execute(&mut *tx).await?;
        }
        let delete = sqlx::query(
            "DELETE FROM approval_notices WHERE tenant_id = $1 AND approval_id = $2 AND version = $3 AND webhook = ''",
        );
        delete.bind(tenant).bind(approval).bind(version).execute(&mut *tx).await?;
    }
    tx.commit().await?;
    Ok(rows.len())
}

/// Take the notice that has waited longest, until `until`; none of an approval whose webhook has not taken the one before.
///
/// # Errors
/// When the database does not answer.
pub async fn take(store: &Store, runner: Uuid, now: DateTime<Utc>, until: DateTime<Utc>) -> StoreResult<Option<Taken>> {
    let mut tx = store.control().await?;
    let taken = sqlx::query_as::<_, TakenRow>(
        "UPDATE approval_notices n SET runner_id = $1, attempts = n.attempts + 1, first_try_at = COALESCE(n.first_try_at, $2), next_try_at = $3
         FROM (SELECT w.tenant_id, w.approval_id, w.version, w.webhook FROM approval_notices w
               WHERE w.state = 'waiting' AND w.webhook <> '' AND w.next_try_at <= $2
                 AND NOT EXISTS (SELECT FROM approval_notices b WHERE b.tenant_id = w.tenant_id AND b.approval_id = w.approval_id AND b.version < w.version
                                   AND b.state = 'waiting' AND b.webhook IN ('', w.webhook))
               ORDER BY w.next_try_at, w.at, w.version LIMIT 1 FOR UPDATE OF w SKIP LOCKED) h
         WHERE n.tenant_id = h.tenant_id AND n.approval_id = h.approval_id AND n.version = h.version AND n.webhook = h.webhook
         RETURNING n.tenant_id, n.approval_id, n.version, n.webhook, n.event, n.at, n.attempts, n.first_try_at",
    );
    let taken = taken.bind(runner).bind(now).bind(until).fetch_optional(&mut *tx).await?;
    tx.commit().await?;
    Ok(taken.map(|row| Taken {
        tenant: row.tenant_id.into(),
        approval: row.approval_id.into(),
        version: row.version,
        webhook: row.webhook,
        event: row.event,
        at: row.at,
        attempts: row.attempts,
        runner,
        first_try_at: row.first_try_at,
    }))
}

/// What there is to tell.
///
/// # Errors
/// `NotFound` when the approval is gone.
pub async fn news(store: &Store, taken: &Taken, now: DateTime<Utc>) -> StoreResult<News> {
    let mut tx = store.tenant_snapshot(taken.tenant).await?;
    let (approval, said) = get(&mut tx, taken.tenant, taken.approval).await?;
    let (key_name, held_by) = key(&mut tx, taken.tenant, approval.key_id).await?;
    let recorded =
        sqlx::query_scalar("SELECT EXISTS (SELECT FROM tool_call_events WHERE tenant_id = $1 AND call_id = $2 AND kind = 0)");
    let recorded: bool = recorded.bind(taken.tenant.uuid()).bind(approval.call_id.uuid()).fetch_one(&mut *tx).await?;
    tx.commit().await?;
    let recorded = recorded || taken.event != "requested" || now - taken.first_try_at > RECORDED;
    Ok(News { approval, said, key_name, held_by, recorded })
}

async fn key(tx: &mut Tx, tenant: TenantId, id: KeyId) -> StoreResult<(Option<String>, Vec<String>)> {
    let row =
        sqlx::query_as::<_, (String, Vec<String>)>("SELECT name, held_by FROM virtual_keys WHERE tenant_id = $1 AND key_id = $2");
    let row = row.bind(tenant.uuid()).bind(id.uuid()).fetch_optional(&mut **tx).await?;
    Ok(row.map_or((None, Vec::new()), |(name, held_by)| (Some(name), held_by)))
}

/// Write down what came of a try, with an admin event where it was given up. `false`: another runner has it.
///
/// # Errors
/// When the database does not answer.
pub async fn leave(store: &Store, taken: &Taken, tried: &Tried, now: DateTime<Utc>) -> StoreResult<bool> {
    let mut change = store.change(taken.tenant, Actor::system("approvals"), now).await?;
    let deadline = taken.first_try_at + PATIENCE;
    let (state, next, attempts) = match tried {
        Tried::Delivered => ("delivered", now, taken.attempts),
        Tried::Not(_) if now >= deadline => ("failed", now, taken.attempts),
        Tried::Not(_) => ("waiting", (now + pause(taken.attempts)).min(deadline), taken.attempts),
        Tried::Early => ("waiting", now + TimeDelta::milliseconds(500), taken.attempts - 1),
    };
    let error = match tried {
        Tried::Not(error) => Some(error),
        Tried::Delivered | Tried::Early => None,
    };
    let update = sqlx::query(
        "UPDATE approval_notices SET state = $6, next_try_at = $7, attempts = $8, error = $9, runner_id = NULL,
                delivered_at = CASE WHEN $6 = 'delivered' THEN $10::timestamptz END
         WHERE tenant_id = $1 AND approval_id = $2 AND version = $3 AND webhook = $4 AND runner_id = $5 AND state = 'waiting'",
    );
    let update = update.bind(taken.tenant.uuid()).bind(taken.approval.uuid()).bind(taken.version).bind(&taken.webhook);
    let update = update.bind(taken.runner).bind(state).bind(next).bind(attempts).bind(error).bind(now);
    if update.execute(&mut *change.tx).await?.rows_affected() != 1 {
        return Ok(false);
    }
    if state == "failed" {
        let detail = json!({"event": taken.event, "webhook": taken.webhook, "attempts": taken.attempts, "error": error});
        change.event("approval.notice_failed", &taken.approval, detail).await?;
    }
    change.commit_quietly().await?;
    Ok(true)
}

/// Forget who was told what, a good while after.
///
/// # Errors
/// When the database does not answer.
pub async fn forget(store: &Store, now: DateTime<Utc>) -> StoreResult<u64> {
    let mut tx = store.control().await?;
    let forget = sqlx::query("DELETE FROM approval_notices WHERE at < $1 OR webhook = '' AND at < $2");
    let gone = forget.bind(now - KEPT).bind(now - NEWS).execute(&mut *tx).await?.rows_affected();
    tx.commit().await?;
    Ok(gone)
}

/// After so many tries: it doubles with each.
fn pause(attempts: i32) -> TimeDelta {
    let doublings = u32::try_from(attempts.saturating_sub(1)).unwrap_or(0).min(16);
    FIRST_PAUSE.checked_mul(1 << doublings).unwrap_or(LONGEST_PAUSE).min(LONGEST_PAUSE)
}
