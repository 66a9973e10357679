//! Rate limits: every call is counted, by all workers together. Those that wait for the same counter are counted in one statement.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tollgate_domain::{
    RateLimitId, TenantId, WorkerId,
    budget::Spender,
    rate::{Per, RateLimit, Taken, Unit},
};
use tollgate_store::{StoreError, StoreResult, counters::Counters};

pub use crate::slots::Slot;
use crate::{combine::Combiner, slots::Slots};

/// When a call may be tried again of which nobody can say when it will be let through.
const SOON: Duration = Duration::from_secs(1);

/// All counters of a worker. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Rates(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    counters: Counters,
    meters: Combiner<RateLimitId, u32, Result<Taken, Down>>,
    slots: Slots,
}

/// Who keeps the counters does not answer.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Down {
    Postgres,
    Redis,
}

impl From<StoreError> for Down {
    fn from(error: StoreError) -> Self {
        tracing::warn!(%error, "the counters of rate limits do not answer");
        if matches!(error, StoreError::Redis(_)) { Self::Redis } else { Self::Postgres }
    }
}

/// What a caller is told of a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    pub limit: u32,
    pub remaining: u64,
    /// Until the limit is as if nobody had called.
    pub reset: Duration,
    /// The call was refused; another may succeed after so long.
    pub retry_after: Option<Duration>,
}

/// The standing that goes out with an answer: that of the limit with the least left.
#[derive(Debug, Clone, Default)]
pub struct Told(Arc<Mutex<Option<Standing>>>);

impl Told {
    #[must_use]
    pub fn get(&self) -> Option<Standing> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn put(&self, standing: Standing) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let rank = |s: &Standing| (s.retry_after.is_none(), s.remaining);
        if told.as_ref().is_none_or(|before| rank(&standing) <= rank(before)) {
            *told = Some(standing);
        }
    }

    fn refused(&self, limit: &RateLimit, after: Duration) {
        self.put(Standing { limit: limit.max, remaining: 0, reset: after, retry_after: Some(after) });
    }
}

/// Why a call was not counted.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Slow {
    #[error("rate limit \"{name}\" ({max}{what} a {per}) is used up; try again in {} s", retry_after.as_secs_f64().ceil())]
    Limited { name: Arc<str>, max: u32, what: &'static str, per: Per, retry_after: Duration },
    #[error("limit \"{name}\" lets {max} calls be under way at once, and as many are; try again when one has ended")]
    Busy { name: Arc<str>, max: u32 },
    #[error(
        "rate limits are counted in Redis, which does not answer at present, and no call is made that is not counted; try again in a moment"
    )]
    Uncounted,
    #[error("the database does not answer")]
    Unavailable,
}

impl From<Down> for Slow {
    fn from(down: Down) -> Self {
        match down {
            Down::Redis => Self::Uncounted,
            Down::Postgres => Self::Unavailable,
        }
    }
}

impl Rates {
    #[must_use]
    pub fn new(counters: Counters, worker: WorkerId) -> Self {
        let slots = Slots::new(counters.clone(), worker);
        Self(Arc::new(Inner { counters, meters: Combiner::default(), slots }))
    }

    /// Count a call under every limit of calls that covers it, or under none. What is answered stands for its being under way, and is
    /// dropped when its end is known.
    ///
    /// # Errors
    /// [`Slow`], with the first limit that is used up.
    pub async fn enter(&self, tenant: TenantId, limits: &[RateLimit], spender: &Spender, told: &Told) -> Result<Vec<Slot>, Slow> {
        let covers = |unit| limits.iter().filter(move |limit| limit.measure.unit() == unit && limit.scope.covers(spender));
        let mut slots = Vec::new();
        // First: what is dropped is given back to the last one, what was counted may be lost on its way back.
        for limit in covers(Unit::Concurrent) {
            match self.0.slots.enter(tenant, limit).await {
                Ok(Some(slot)) => slots.push(slot),
                Ok(None) => {
                    told.refused(limit, SOON);
                    return Err(Slow::Busy { name: limit.name.as_str().into(), max: limit.max });
                }
                Err(down) => {
                    told.refused(limit, SOON);
                    return Err(down.into());
                }
            }
        }
        self.all(tenant, covers(Unit::Call), 1, told).await?;
        Ok(slots)
    }

    /// Take so many tokens from every limit of tokens that covers the request, or from none. More than a limit has at all is let through
    /// by one that nobody has used, and is owed.
    ///
    /// # Errors
    /// [`Slow`], with the first limit that has not as many left.
    pub async fn take(
        &self,
        tenant: TenantId,
        limits: &[RateLimit],
        spender: &Spender,
        tokens: u32,
        told: &Told,
    ) -> Result<(), Slow> {
        let covers = |limit: &&RateLimit| limit.measure.unit() == Unit::Token && limit.scope.covers(spender);
        self.all(tenant, limits.iter().filter(covers), tokens.max(1), told).await
    }

    /// Tokens that a request used beyond what was taken for it, or, with a negative number, did not use. What is used is owed; what is given
    /// back makes no limit better than one that nobody has used. Lost, where the counters are away: it is no reason to withhold an answer.
    pub async fn correct(&self, tenant: TenantId, limits: &[RateLimit], spender: &Spender, difference: i64) {
        if difference == 0 {
            return;
        }
        for limit in limits.iter().filter(|limit| limit.measure.unit() == Unit::Token && limit.scope.covers(spender)) {
            if let Err(error) = self.0.counters.settle(tenant, limit, difference).await {
                tracing::warn!(%error, "tokens were not settled");
            }
        }
    }

    /// How a limit stands, without counting anything.
    ///
    /// # Errors
    /// When who keeps the counters does not answer.
    pub async fn standing(&self, tenant: TenantId, limit: &RateLimit) -> StoreResult<Taken> {
        self.0.counters.standing(tenant, limit).await
    }

    async fn all<'a>(
        &self,
        tenant: TenantId,
        limits: impl Iterator<Item = &'a RateLimit>,
        weight: u32,
        told: &Told,
    ) -> Result<(), Slow> {
        let mut counted = Vec::new();
        for limit in limits {
            let slow = match self.one(tenant, limit, weight).await {
                Ok(Taken { taken: true, remaining, even, .. }) => {
                    told.put(Standing { limit: limit.max, remaining, reset: even, retry_after: None });
                    counted.push(limit);
                    continue;
                }
                Ok(Taken { wait, .. }) => {
                    told.refused(limit, wait);
                    used_up(limit, wait)
                }
                Err(down) => {
                    told.refused(limit, SOON);
                    down.into()
                }
            };
            for limit in counted {
                // Lost, it is one call too few in this stretch.
                let _ = self.0.counters.settle(tenant, limit, -i64::from(weight)).await;
            }
            return Err(slow);
        }
        Ok(())
    }

    async fn one(&self, tenant: TenantId, limit: &RateLimit, weight: u32) -> Result<Taken, Down> {
        let together = |weights: Vec<u32>| async move {
            match self.0.counters.take(tenant, limit, &weights).await {
                Ok(taken) => stagger(limit, &weights, taken).into_iter().map(Ok).collect(),
                Err(error) => {
                    let down = Down::from(error);
                    vec![Err(down); weights.len()]
                }
            }
        };
        self.0.meters.ask(limit.id, weight, together).await.unwrap_or(Err(Down::Postgres))
    }

    /// Say what is under way, again and again. Does not end.
    pub async fn keep(self) {
        self.0.slots.keep().await;
    }

    /// Nothing is under way any more: the process ends.
    pub async fn close(&self) {
        self.0.slots.close().await;
    }
}

/// Those who are refused together are not told to come back together: each is told when those before it could have had theirs.
fn stagger(limit: &RateLimit, weights: &[u32], mut taken: Vec<Taken>) -> Vec<Taken> {
    let spacing = Duration::from_nanos(limit.pace().and_then(|pace| u64::try_from(pace.spacing).ok()).unwrap_or(0));
    let mut before = Duration::ZERO;
    for (taken, weight) in taken.iter_mut().zip(weights).filter(|(taken, _)| !taken.taken) {
        taken.wait += before;
        before += spacing.saturating_mul((*weight).min(limit.max));
    }
    taken
}

fn used_up(limit: &RateLimit, retry_after: Duration) -> Slow {
    let what = if limit.measure.unit() == Unit::Token { " tokens" } else { "" };
    let per = limit.measure.per().unwrap_or(Per::Second);
    Slow::Limited { name: limit.name.as_str().into(), max: limit.max, what, per, retry_after }
}

#[cfg(test)]
mod tests;
