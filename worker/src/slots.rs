//! Calls under way at once. A worker says how many it has under way, not what has changed: so nothing is counted twice, whatever is lost on
//! its way, and what a dead worker had ends when it has said nothing for a while.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use futures::StreamExt;
use tollgate_domain::{
    RateLimitId, TenantId, WorkerId,
    rate::{Claim, RateLimit},
};
use tollgate_store::counters::Counters;

use crate::{combine::Combiner, rates::Down};

/// How often it is said again: some times within the life of what was said.
const AGAIN: Duration = Duration::from_secs(3);
/// Limits of which it is said at once.
const ABREAST: usize = 8;

#[derive(Debug, Clone)]
pub(crate) struct Slots(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    counters: Counters,
    worker: WorkerId,
    /// Grows with everything that is said.
    said: AtomicI64,
    gauges: Mutex<HashMap<RateLimitId, Arc<Gauge>>>,
    asking: Combiner<RateLimitId, Wish, Result<Option<Slot>, Down>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    /// Begin a call.
    Enter,
    /// Say it, if it is not said.
    Leave,
    /// Say it in any case.
    Again,
}

#[derive(Debug)]
struct Gauge {
    tenant: TenantId,
    limit: RateLimitId,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    held: u32,
    /// What is known to have been heard; `None` after an answer that did not come.
    heard: Option<u32>,
    /// Somebody is about to say what has changed.
    leaving: bool,
    /// As it was last known.
    rule: Option<RateLimit>,
}

/// One call under way. It ends when this is dropped.
#[derive(Debug)]
pub struct Slot {
    gauge: Arc<Gauge>,
    slots: Slots,
}

impl Gauge {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_said(&self) -> bool {
        self.heard == Some(self.held)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        {
            let mut state = self.gauge.state();
            state.held = state.held.saturating_sub(1);
            if state.leaving {
                return;
            }
            state.leaving = true;
        }
        let (gauge, slots) = (Arc::clone(&self.gauge), self.slots.clone());
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(async move { slots.say(&gauge, Wish::Leave).await.map(drop) })),
            // The next round says it.
            Err(_) => self.gauge.state().leaving = false,
        }
    }
}

impl Slots {
    pub fn new(counters: Counters, worker: WorkerId) -> Self {
        Self(Arc::new(Inner { counters, worker, said: AtomicI64::new(0), gauges: Mutex::default(), asking: Combiner::default() }))
    }

    fn gauges(&self) -> MutexGuard<'_, HashMap<RateLimitId, Arc<Gauge>>> {
        self.0.gauges.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begin a call, or hear that as many are under way as may be.
    pub async fn enter(&self, tenant: TenantId, limit: &RateLimit) -> Result<Option<Slot>, Down> {
        let gauge = {
            let mut gauges = self.gauges();
            let made = || Arc::new(Gauge { tenant, limit: limit.id, state: Mutex::default() });
            Arc::clone(gauges.entry(limit.id).or_insert_with(made))
        };
        gauge.state().rule = Some(limit.clone());
        self.say(&gauge, Wish::Enter).await
    }

    async fn say(&self, gauge: &Arc<Gauge>, wish: Wish) -> Result<Option<Slot>, Down> {
        let together = |wishes| self.together(gauge, wishes);
        // Who asked was stopped in the middle: this one begins nothing.
        self.0.asking.ask(gauge.limit, wish, together).await.unwrap_or(Err(Down::Postgres))
    }

    /// One turn of one limit. What is begun is begun by the value that says so: whoever has gone away meanwhile drops it.
    async fn together(&self, gauge: &Arc<Gauge>, wishes: Vec<Wish>) -> Vec<Result<Option<Slot>, Down>> {
        let wanted = u32::try_from(wishes.iter().filter(|wish| **wish == Wish::Enter).count()).unwrap_or(u32::MAX);
        let (held, rule) = {
            let mut state = gauge.state();
            state.leaving = false;
            if wanted == 0 && state.is_said() && !wishes.contains(&Wish::Again) {
                return wishes.iter().map(|_| Ok(None)).collect();
            }
            // Until it is answered nobody knows what was heard.
            state.heard = None;
            (state.held, state.rule.clone())
        };
        let Some(rule) = rule else { return wishes.iter().map(|_| Ok(None)).collect() };
        let sequence = self.0.said.fetch_add(1, Ordering::Relaxed) + 1;
        let claim = Claim { worker: self.0.worker.uuid(), sequence, held, wanted };
        let granted = match self.0.counters.claim(gauge.tenant, &rule, &claim).await {
            Ok(granted) => granted,
            Err(error) => {
                let down = Down::from(error);
                return wishes.iter().map(|_| Err(down)).collect();
            }
        };
        let mut free = granted.own.saturating_sub(held);
        {
            let mut state = gauge.state();
            state.held += free;
            state.heard = Some(granted.own);
        }
        let mut begin = |wish: &Wish| {
            (*wish == Wish::Enter && free > 0).then(|| {
                free -= 1;
                Slot { gauge: Arc::clone(gauge), slots: self.clone() }
            })
        };
        wishes.iter().map(|wish| Ok(begin(wish))).collect()
    }

    pub async fn keep(&self) {
        let mut rounds = tokio::time::interval(AGAIN);
        rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            rounds.tick().await;
            self.say_all().await;
        }
    }

    pub async fn close(&self) {
        self.say_all().await;
    }

    async fn say_all(&self) {
        let gauges: Vec<Arc<Gauge>> = {
            let mut gauges = self.gauges();
            gauges.retain(|_, gauge| Arc::strong_count(gauge) > 1 || !(gauge.state().is_said() && gauge.state().held == 0));
            gauges.values().cloned().collect()
        };
        let said = gauges.iter().filter(|gauge| gauge.state().held > 0 || !gauge.state().is_said());
        futures::stream::iter(said)
            .for_each_concurrent(ABREAST, |gauge| async move { drop(self.say(gauge, Wish::Again).await) })
            .await;
    }
}
