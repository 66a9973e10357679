//! What the worker's parts share, and the register of what is under way.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tollgate_boot::{Config, Shutdown};
use tollgate_domain::{Secrets, WorkerId, clock::SharedClock, ids};
use tollgate_store::{Store, audit::AuditWriter};
use uuid::Uuid;

use crate::{sandbox::SandboxPool, scope::Directory, upstream::Upstreams};

#[derive(Debug, Clone)]
pub struct Gate {
    pub store: Store,
    pub config: Arc<Config>,
    pub secrets: Secrets,
    pub clock: SharedClock,
    pub worker: WorkerId,
    pub directory: Directory,
    pub audit: AuditWriter,
    pub upstreams: Upstreams,
    pub sandbox: SandboxPool,
    pub in_flight: InFlight,
    pub shutdown: Shutdown,
}

/// Calls and runs that have begun and whose end is not durable. The oldest bounds what a sweeper has to read after a crash.
/// A run stays in here until its last call is closed, so a call of a script need not.
#[derive(Debug, Clone, Default)]
pub struct InFlight(Arc<Mutex<BTreeSet<Uuid>>>);

/// Keeps a call or run in the register.
#[derive(Debug)]
pub struct InFlightGuard {
    id: Uuid,
    register: InFlight,
}

impl InFlight {
    #[must_use]
    pub fn enter(&self, id: Uuid) -> InFlightGuard {
        self.set().insert(id);
        InFlightGuard { id, register: self.clone() }
    }

    fn set(&self) -> MutexGuard<'_, BTreeSet<Uuid>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything below this id is closed and durable.
    #[must_use]
    pub fn oldest(&self, now: chrono::DateTime<chrono::Utc>) -> Uuid {
        // An id made a moment ago may be on its way here.
        let floor = ids::floor(now - chrono::TimeDelta::seconds(1));
        self.set().first().copied().map_or(floor, |first| first.min(floor))
    }

    #[must_use]
    pub fn count(&self) -> usize {
        self.set().len()
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.register.set().remove(&self.id);
    }
}
