//! Followers of the audit log: sinks are sent its rows, anchors its signed heads. The sealed log is their outbox.
//!
//! **At least once, in order per tenant.** A follower's place in a log moves after its delivery was acknowledged, and only
//! by the process that holds the lease on that log. Whatever fails is tried again, with growing pauses of its own per tenant,
//! so that one whose deliveries fail takes a few seconds of one of [`TURNS`] places, now and then, and holds up nobody.
//! What a receiver does not take is never passed over: it says so in `GET /audit/followers`, and waits.
//!
//! **Bounded:** a turn holds one batch (about [`BATCH_BYTES`], or a single row that is larger); [`TURNS`] turns a follower,
//! [`READS`] of all followers in the database at once.

mod anchor;
pub mod list;
mod row;
mod sink;
mod syslog;
pub(crate) mod webhook;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    fmt,
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, Utc};
use tokio::{
    sync::Semaphore,
    task::{Id, JoinError, JoinSet},
    time::{Instant, MissedTickBehavior},
};
use tollgate_boot::Shutdown;
use tollgate_domain::TenantId;
use tollgate_store::{
    StoreError,
    followers::{self as cursors, Behind, Holder, Start},
};
use uuid::Uuid;

pub(crate) use self::list::follows;
use self::{anchor::Anchor, sink::Sink};
use crate::ctx::App;

/// Tenants that are delivered to one follower at the same time.
const TURNS: usize = 8;
/// Turns that read from the database at the same time, of all followers together.
const READS: usize = 4;
/// Batches of one turn; then it is another tenant's.
const BATCHES: usize = 16;
/// Logs that one look finds; the next finds others, those that have waited longest first.
const LOGS: i64 = 10_000;
/// What one request or one run of messages carries, unless a single row is larger.
const BATCH_BYTES: usize = 1 << 20;

/// How fast things happen; an operator has no reason to change it, a test has.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// How often the logs' heads are compared with the followers' places.
    pub look: Duration,
    /// How long a receiver may take.
    pub patience: Duration,
    /// The pause after a first failure; it doubles with each.
    pub first_pause: Duration,
    pub longest_pause: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            look: Duration::from_millis(500),
            patience: Duration::from_secs(10),
            first_pause: Duration::from_millis(500),
            longest_pause: Duration::from_secs(60),
        }
    }
}

/// Why something was not delivered: what a tenant may read, and what the operator needs. The first names no address.
#[derive(Debug)]
pub(crate) struct Failure {
    pub shown: String,
    pub detail: String,
}

impl Failure {
    pub fn new(shown: impl Into<String>, detail: impl fmt::Display) -> Self {
        Self { shown: shown.into(), detail: detail.to_string() }
    }
}

/// What came of one step through a log.
#[derive(Debug)]
struct Step {
    /// Everything below was delivered.
    position: u64,
    /// Why what follows was not.
    failure: Option<Failure>,
}

#[derive(Debug)]
enum Target {
    Sink(Sink),
    Anchor(Anchor),
}

/// One follower at work.
struct Follower {
    name: String,
    tenants: Option<Vec<String>>,
    start: Start,
    target: Target,
    app: App,
    holder: Holder,
    pace: Pace,
    reads: Arc<Semaphore>,
    shutdown: Shutdown,
}

/// How a turn ended.
enum Turn {
    /// The log's end, or another process has the lease.
    Rest,
    More,
    Failed,
}

/// Start the configured followers; they end when the end is asked for, and `shutdown` waits for them.
///
/// # Errors
/// When one cannot work as configured.
pub fn start(app: &App, shutdown: &Shutdown, pace: Pace) -> anyhow::Result<()> {
    let audit = &app.config.audit;
    let reads = Arc::new(Semaphore::new(READS));
    let client = webhook::client(pace.patience)?;
    let follower = |name: &str, tenants: Option<Vec<String>>, start, target| Follower {
        name: name.to_owned(),
        tenants,
        start,
        target,
        app: app.clone(),
        holder: Holder(Uuid::new_v4()),
        pace,
        reads: Arc::clone(&reads),
        shutdown: shutdown.clone(),
    };
    let mut all = Vec::new();
    for config in &audit.sinks {
        let start = if config.from_start { Start::Beginning } else { Start::End };
        let target = Target::Sink(Sink::new(config, &client, pace.patience)?);
        all.push(follower(&config.name, config.tenants.clone(), start, target));
    }
    for config in &audit.anchors {
        let start = if config.from_start { Start::Beginning } else { Start::NewestSeal };
        all.push(follower(&config.name, None, start, Target::Anchor(Anchor::new(config, &client, pace.patience)?)));
    }
    for follower in all {
        shutdown.spawn(Arc::new(follower).run());
    }
    Ok(())
}

/// What a follower knows of the logs between its looks at them.
#[derive(Default)]
struct Agenda {
    /// Logs with something new, in the order of their turns.
    queue: VecDeque<TenantId>,
    turns: JoinSet<(TenantId, Turn)>,
    busy: HashMap<Id, TenantId>,
    /// Logs whose last delivery failed: how long the pause is, and until when.
    pauses: HashMap<TenantId, (Duration, Instant)>,
}

impl Agenda {
    /// The logs as they are found now. Those at work or in a pause are left alone.
    fn plan(&mut self, found: &[Behind]) {
        let behind: HashSet<TenantId> = found.iter().map(|log| log.tenant).collect();
        self.pauses.retain(|tenant, _| behind.contains(tenant));
        let busy: HashSet<TenantId> = self.busy.values().copied().collect();
        let rests = |tenant: &TenantId| self.pauses.get(tenant).is_some_and(|(_, until)| *until > Instant::now());
        self.queue = found.iter().map(|log| log.tenant).filter(|tenant| !busy.contains(tenant) && !rests(tenant)).collect();
    }

    fn settle(&mut self, ended: Result<(Id, (TenantId, Turn)), JoinError>, pace: Pace) {
        let (id, turn) = match ended {
            Ok((id, (_, turn))) => (id, turn),
            Err(error) => {
                tracing::error!(%error, "a delivery of the audit trail broke off");
                (error.id(), Turn::Failed)
            }
        };
        let Some(tenant) = self.busy.remove(&id) else { return };
        match turn {
            Turn::Rest => drop(self.pauses.remove(&tenant)),
            Turn::More => {
                self.pauses.remove(&tenant);
                self.queue.push_back(tenant);
            }
            Turn::Failed => {
                let pause = self.pauses.get(&tenant).map_or(pace.first_pause, |(last, _)| (*last * 2).min(pace.longest_pause));
                self.pauses.insert(tenant, (pause, Instant::now() + pause));
            }
        }
    }
}

impl Follower {
    async fn run(self: Arc<Self>) {
        let mut look = tokio::time::interval(self.pace.look);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut agenda, mut known) = (Agenda::default(), false);
        loop {
            tokio::select! {
                () = self.shutdown.requested() => break,
                _ = look.tick() => match self.look(&mut known).await {
                    Ok(found) => agenda.plan(&found),
                    Err(error) => tracing::warn!(follower = self.name, %error, "the logs were not looked at; it is tried again"),
                },
                Some(ended) = agenda.turns.join_next_with_id() => agenda.settle(ended, self.pace),
            }
            while agenda.turns.len() < TURNS
                && let Some(tenant) = agenda.queue.pop_front()
            {
                let follower = Arc::clone(&self);
                let turn = agenda.turns.spawn(async move { (tenant, follower.turn(tenant).await) });
                agenda.busy.insert(turn.id(), tenant);
            }
        }
        // What is under way was perhaps received already: it gets the time to say so.
        while agenda.turns.join_next().await.is_some() {}
        if let Err(error) = cursors::release(&self.app.store, self.holder).await {
            tracing::debug!(%error, "leases were not given back; they run out");
        }
    }

    /// The logs in which there is something to deliver.
    async fn look(&self, known: &mut bool) -> Result<Vec<Behind>, StoreError> {
        if !*known {
            cursors::register(&self.app.store, &self.name, self.start, self.now()).await?;
            for name in cursors::strangers(&self.app.store, self.tenants.as_deref().unwrap_or_default()).await? {
                tracing::warn!(follower = self.name, tenant = name, "there is no such tenant (yet); nothing is sent for it");
            }
            *known = true;
        }
        let (store, tenants) = (&self.app.store, self.tenants.as_deref());
        let found = cursors::behind(store, &self.name, tenants, self.holder, LOGS).await?;
        let lag: u64 = found.iter().map(|log| log.lag).sum();
        #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
        metrics::gauge!("tollgate_audit_follower_lag_entries", "follower" => self.name.clone()).set(lag as f64);
        Ok(found)
    }

    /// Deliver some of one tenant's log.
    async fn turn(&self, tenant: TenantId) -> Turn {
        match self.steps(tenant).await {
            Ok(turn) => turn,
            Err(error) => {
                tracing::warn!(follower = self.name, %tenant, %error, "a delivery of the audit trail was broken off");
                Turn::Failed
            }
        }
    }

    async fn steps(&self, tenant: TenantId) -> Result<Turn, StoreError> {
        let store = &self.app.store;
        let Some(mut position) = cursors::claim(store, tenant, &self.name, self.holder, self.now()).await? else {
            return Ok(Turn::Rest);
        };
        for _ in 0..BATCHES {
            if self.shutdown.is_requested() {
                return Ok(Turn::Rest);
            }
            let step = match &self.target {
                Target::Sink(sink) => sink.step(self, tenant, position).await?,
                Target::Anchor(anchor) => anchor.step(self, tenant, position).await?,
            };
            let Some(step) = step else { return Ok(Turn::Rest) };
            position = step.position;
            let error = step.failure.as_ref().map(|failure| failure.shown.as_str());
            if !cursors::advance(store, tenant, &self.name, self.holder, (position, error), self.now()).await? {
                return Ok(Turn::Rest);
            }
            if let Some(failure) = step.failure {
                metrics::counter!("tollgate_audit_follower_failures_total", "follower" => self.name.clone()).increment(1);
                let Failure { shown, detail } = failure;
                tracing::warn!(follower = self.name, %tenant, position, detail, "the audit trail was not delivered: {shown}");
                return Ok(Turn::Failed);
            }
        }
        Ok(Turn::More)
    }

    fn now(&self) -> DateTime<Utc> {
        self.app.clock.now()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn pauses_grow_to_their_bound_and_end_with_success() {
        let pace = Pace { first_pause: Duration::from_secs(1), longest_pause: Duration::from_secs(3), ..Pace::default() };
        let tenant = TenantId::from_uuid(Uuid::from_u128(1));
        let found = [Behind { tenant, lag: 1 }];
        let mut agenda = Agenda::default();
        let end = async |agenda: &mut Agenda, turn: Turn| {
            let task = agenda.turns.spawn(async move { (tenant, turn) });
            agenda.busy.insert(task.id(), tenant);
            let ended = agenda.turns.join_next_with_id().await.unwrap();
            agenda.settle(ended, pace);
        };
        for seconds in [1, 2, 3, 3] {
            end(&mut agenda, Turn::Failed).await;
            assert_eq!(agenda.pauses[&tenant].0, Duration::from_secs(seconds));
            agenda.plan(&found);
            assert!(agenda.queue.is_empty(), "it rests");
        }
        end(&mut agenda, Turn::Rest).await;
        agenda.plan(&found);
        assert_eq!(agenda.queue, [tenant]);
    }
}
