//! A change that an admin makes: the write, its admin event, the remembered answer and the notice to the workers are one
//! transaction.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::Value;
use tollgate_domain::{Role, TenantId};
use tollgate_evidence::{line::Line, sign::KeyRing};

use crate::{
    error::StoreResult,
    events, ledger,
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
    /// The events so far, which the commit signs.
    lines: Vec<Line<'static>>,
    keys: Arc<KeyRing>,
}

impl Store {
    /// Open a change of `tenant`'s configuration.
    ///
    /// # Errors
    /// When no connection is to be had.
    pub async fn change(&self, tenant: TenantId, actor: Actor, now: DateTime<Utc>) -> StoreResult<Change> {
        Ok(Change { tx: self.tenant(tenant).await?, tenant, now, actor, lines: Vec::new(), keys: Arc::clone(self.keys()) })
    }
}

impl Change {
    /// Record what was done: `action` is `<noun>.<verb>`, `detail` holds no secret.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn event(&mut self, action: &str, target: &impl std::fmt::Display, detail: Value) -> StoreResult<()> {
        let target = target.to_string();
        let line = events::insert(&mut self.tx, self.tenant, &self.actor, self.now, (action, &target, &detail)).await?;
        self.lines.push(line);
        Ok(())
    }

    /// What the events are signed with.
    pub(crate) fn keys(&self) -> &KeyRing {
        &self.keys
    }

    /// Tell the workers and commit. The notice goes out with the commit, never before it.
    ///
    /// # Errors
    /// When the commit fails; nothing was changed then.
    pub async fn commit(mut self) -> StoreResult<()> {
        sqlx::query!("SELECT tollgate_touch($1)", self.tenant.uuid()).fetch_one(&mut *self.tx).await?;
        self.commit_quietly().await
    }

    /// Commit what is no change of configuration: the workers are not told.
    ///
    /// # Errors
    /// When the commit fails; nothing was changed then.
    pub async fn commit_quietly(mut self) -> StoreResult<()> {
        ledger::append(&mut self.tx, &self.keys, &self.lines, self.now).await?;
        Ok(self.tx.commit().await?)
    }
}
