//! A change that an admin makes: the write, its admin event, the remembered answer and the notice to the workers are one
//! transaction.

use chrono::{DateTime, Utc};
use serde_json::Value;
use tollgate_domain::{AdminEventId, Role, TenantId};

use crate::{
    error::StoreResult,
    tx::{Store, Tx},
};

/// Who makes a change, for the admin event.
#[derive(Debug, Clone)]
pub struct Actor {
    /// `platform`, `service_token`, `admin` or `system`
    pub kind: &'static str,
    /// A typed id, or the name of the part of the system.
    pub id: String,
    pub role: Option<Role>,
    /// The HTTP request, as its answer names it.
    pub request_id: Option<String>,
}

impl Actor {
    /// The gateway itself, acting on what it has seen (discovery, for one).
    #[must_use]
    pub fn system(part: &str) -> Self {
        Self { kind: "system", id: part.to_owned(), role: None, request_id: None }
    }
}

/// An open change. Dropped without [`Change::commit`], it leaves no trace.
#[derive(Debug)]
pub struct Change {
    pub tx: Tx,
    pub tenant: TenantId,
    pub now: DateTime<Utc>,
    pub actor: Actor,
}

impl Store {
    /// Open a change of `tenant`'s configuration.
    ///
    /// # Errors
    /// When no connection is to be had.
    pub async fn change(&self, tenant: TenantId, actor: Actor, now: DateTime<Utc>) -> StoreResult<Change> {
        Ok(Change { tx: self.tenant(tenant).await?, tenant, now, actor })
    }
}

impl Change {
    /// Record what was done: `action` is `<noun>.<verb>`, `detail` holds no secret.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn event(&mut self, action: &str, target: &impl std::fmt::Display, detail: Value) -> StoreResult<()> {
        sqlx::query!(
            "INSERT INTO admin_events (tenant_id, event_id, at, actor_kind, actor_id, role, action, target_id, detail, request_id)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
            self.tenant.uuid(),
            AdminEventId::mint(self.now).uuid(),
            self.now,
            self.actor.kind,
            self.actor.id,
            self.actor.role.map(Role::as_str),
            action,
            target.to_string(),
            detail,
            self.actor.request_id,
        )
        .execute(&mut *self.tx)
        .await?;
        Ok(())
    }

    /// Tell the workers and commit. The notice goes out with the commit, never before it.
    ///
    /// # Errors
    /// When the commit fails; nothing was changed then.
    pub async fn commit(mut self) -> StoreResult<()> {
        sqlx::query!("SELECT tollgate_touch($1)", self.tenant.uuid()).fetch_one(&mut *self.tx).await?;
        Ok(self.tx.commit().await?)
    }
}
