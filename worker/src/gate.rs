//! What the worker's parts share, and the register of what is under way.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Semaphore;
use tollgate_boot::{Config, Shutdown};
use tollgate_domain::{Secrets, WorkerId, clock::SharedClock, ids};
use tollgate_store::{Store, audit::AuditWriter};
use uuid::Uuid;

use crate::{
    learn::Learner,
    llm::{durable::Loops, provider::Providers},
    price::Prices,
    rates::Rates,
    sandbox::SandboxPool,
    scope::Directory,
    spend::Wallets,
    upstream::Upstreams,
};

#[derive(Debug, Clone)]
pub struct Gate {
    pub store: Store,
    pub config: Arc<Config>,
    pub secrets: Secrets,
    pub clock: SharedClock,
    pub worker: WorkerId,
    pub directory: Directory,
    pub audit: AuditWriter,
    pub wallets: Wallets,
    pub rates: Rates,
    pub prices: Prices,
    pub upstreams: Upstreams,
    pub providers: Providers,
    pub sandbox: SandboxPool,
    pub learner: Learner,
    pub in_flight: InFlight,
    /// Agent loops that this worker drives.
    pub loops: Loops,
    pub pulse: Pulse,
    /// Runs that are taken up again at once.
    pub resumes: Arc<Semaphore>,
    pub shutdown: Shutdown,
}

/// While the last heartbeat is no older than this nobody can have taken this worker for dead: others wait for 10 s.
const STEADY: Duration = Duration::from_secs(5);

/// Whether others may have taken this worker for dead, and its runs with it.
#[derive(Debug, Clone)]
pub struct Pulse(Arc<Mutex<Beat>>);

#[derive(Debug, Clone, Copy)]
struct Beat {
    /// When the last heartbeat that the database took was sent.
    sent: Instant,
    /// How often this worker has been taken for dead.
    life: u64,
}

impl Pulse {
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(Beat { sent: Instant::now(), life: 0 })))
    }

    /// A heartbeat that was sent at `sent` stands; `anew` if the register did not know this worker any more.
    pub fn beat(&self, sent: Instant, anew: bool) {
        let mut beat = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *beat = Beat { sent, life: beat.life + u64::from(anew) };
    }

    #[must_use]
    pub fn life(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).life
    }

    /// Whether what was begun in this life of the worker is certainly still its own.
    #[must_use]
    pub fn is_steady(&self, life: u64) -> bool {
        let beat = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        beat.life == life && beat.sent.elapsed() < STEADY
    }
}

/// Calls and runs that have begun and whose end is not durable. The oldest bounds what a sweeper has to read after a crash.
/// A run stays in here until its last call is closed, so a call of a script need not. One that was taken up again stands here
/// under the time of that: it may be weeks old, and what it has open is not.
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
