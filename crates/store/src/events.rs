//! Admin events: what was done, by whom, and what was refused. Written by `Change::event` and [`note`], never changed.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{Postgres, QueryBuilder};
use tollgate_domain::{AdminEventId, Role, TenantId, ids};
use tollgate_evidence::line::{self, Line};
use uuid::Uuid;

use crate::{
    change::Actor,
    error::StoreResult,
    ledger,
    page::{Page, PageRequest},
    tx::{Store, Tx},
};

#[derive(Debug, Clone, sqlx::FromRow)]
pub struct AdminEvent {
    pub event_id: Uuid,
    pub at: DateTime<Utc>,
    pub actor_kind: String,
    pub actor_id: String,
    pub role: Option<String>,
    pub action: String,
    pub target_id: String,
    pub detail: Value,
    pub request_id: Option<String>,
}

/// What of a tenant's events is asked for. Unset is all.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub action: Option<String>,
    pub actor_id: Option<String>,
    pub target_id: Option<String>,
    /// From this time on.
    pub from: Option<DateTime<Utc>>,
    /// Before this time.
    pub to: Option<DateTime<Utc>>,
}

/// Write one event: action, target, detail. The line is for the batch that its transaction signs at its end.
pub(crate) async fn insert(
    tx: &mut Tx,
    tenant: TenantId,
    actor: &Actor,
    now: DateTime<Utc>,
    (action, target, detail): (&str, &str, &Value),
) -> StoreResult<Line<'static>> {
    let id = AdminEventId::mint(now);
    sqlx::query!(
        "INSERT INTO admin_events (tenant_id, event_id, at, actor_kind, actor_id, role, action, target_id, detail, request_id)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        tenant.uuid(),
        id.uuid(),
        now,
        actor.kind,
        actor.id,
        actor.role.map(Role::as_str),
        action,
        target,
        detail,
        actor.request_id,
    )
    .execute(&mut **tx)
    .await?;
    Ok(Line::AdminEvent(line::AdminEvent {
        tenant_id: tenant,
        id,
        at: now,
        actor_kind: Cow::Borrowed(actor.kind),
        actor_id: Cow::Owned(actor.id.clone()),
        role: actor.role.map(|role| Cow::Borrowed(role.as_str())),
        action: Cow::Owned(action.to_owned()),
        target_id: Cow::Owned(target.to_owned()),
        detail: Cow::Owned(line::canonical(detail)),
        request_id: actor.request_id.clone().map(Cow::Owned),
    }))
}

/// An event that belongs to no change: something was refused.
///
/// # Errors
/// When the database does not take it.
pub async fn note(
    store: &Store,
    tenant: TenantId,
    actor: &Actor,
    now: DateTime<Utc>,
    action: &str,
    target: &str,
    detail: &Value,
) -> StoreResult<()> {
    let mut tx = store.tenant(tenant).await?;
    let line = insert(&mut tx, tenant, actor, now, (action, target, detail)).await?;
    ledger::append(&mut tx, store.keys(), &[line], now).await?;
    Ok(tx.commit().await?)
}

/// Newest first; a page follows the one before it into the past.
///
/// # Errors
/// When the database does not answer.
pub async fn list(store: &Store, tenant: TenantId, filter: &Filter, page: PageRequest) -> StoreResult<Page<AdminEvent>> {
    let mut query = QueryBuilder::<Postgres>::new(
        "SELECT event_id, at, actor_kind, actor_id, role, action, target_id, detail, request_id FROM admin_events WHERE tenant_id = ",
    );
    query.push_bind(tenant.uuid());
    for (column, value) in [("action", &filter.action), ("actor_id", &filter.actor_id), ("target_id", &filter.target_id)] {
        if let Some(value) = value {
            query.push(" AND ").push(column).push(" = ").push_bind(value);
        }
    }
    // Ids carry the millisecond of their making: the primary key serves the range, `at` decides at its ends.
    if let Some(from) = filter.from {
        query.push(" AND event_id >= ").push_bind(ids::floor(from)).push(" AND at >= ").push_bind(from);
    }
    if let Some(to) = filter.to {
        let after = ids::floor(to + chrono::Duration::milliseconds(1));
        query.push(" AND event_id < ").push_bind(after).push(" AND at < ").push_bind(to);
    }
    if let Some(after) = page.after {
        query.push(" AND event_id < ").push_bind(after);
    }
    query.push(" ORDER BY event_id DESC LIMIT ").push_bind(page.fetch());
    let mut tx = store.tenant(tenant).await?;
    let rows = query.build_query_as::<AdminEvent>().fetch_all(&mut *tx).await?;
    tx.commit().await?;
    Ok(page.cut(rows, |event| event.event_id))
}
