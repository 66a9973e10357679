//! Rate limits: every call is counted, by all workers together. Those that wait for the same counter are counted in one statement.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tollgate_domain::{RateLimitId, TenantId, budget::Spender, rate::RateLimit};
use tollgate_store::{Store, rates};

use crate::combine::Combiner;

/// All counters of a worker. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Rates(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    meters: Combiner<RateLimitId, (), Result<Standing, Slow>>,
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
}

/// Why a call was not counted.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Slow {
    #[error("rate limit \"{name}\" ({max} a {per}) is used up; try again in {} s", retry_after.as_secs_f64().ceil())]
    Limited { name: Arc<str>, max: u32, per: &'static str, retry_after: Duration },
    #[error("the database does not answer")]
    Unavailable,
}

impl Rates {
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self(Arc::new(Inner { store, meters: Combiner::default() }))
    }

    /// Count a call under every limit that covers it, or under none.
    ///
    /// # Errors
    /// [`Slow`], with the first limit that is used up.
    pub async fn count(&self, tenant: TenantId, limits: &[RateLimit], spender: &Spender, told: &Told) -> Result<(), Slow> {
        let mut counted = Vec::new();
        for limit in limits.iter().filter(|limit| limit.scope.covers(spender)) {
            match self.one(tenant, limit).await {
                Ok(standing) => {
                    told.put(standing);
                    counted.push(limit);
                }
                Err(slow) => {
                    if let Slow::Limited { max, retry_after, .. } = slow {
                        told.put(Standing { limit: max, remaining: 0, reset: retry_after, retry_after: Some(retry_after) });
                    }
                    for limit in counted {
                        // Lost, it is one call too few in this stretch.
                        let _ = rates::take(&self.0.store, tenant, limit, -1).await;
                    }
                    return Err(slow);
                }
            }
        }
        Ok(())
    }

    async fn one(&self, tenant: TenantId, limit: &RateLimit) -> Result<Standing, Slow> {
        let together = |waiting: Vec<()>| async move {
            let wanted = i32::try_from(waiting.len()).unwrap_or(i32::MAX);
            let taken = rates::take(&self.0.store, tenant, limit, wanted).await;
            if let Err(error) = &taken {
                tracing::warn!(%error, "calls were not counted: the database does not answer");
            }
            let told = |place| taken.as_ref().map_err(|_| Slow::Unavailable).and_then(|taken| answer_of(limit, taken, place));
            (0..waiting.len()).map(told).collect()
        };
        self.0.meters.ask(limit.id, (), together).await.unwrap_or(Err(Slow::Unavailable))
    }
}

/// What is told the one at `place` of those who were counted together: who came first is served first.
fn answer_of(limit: &RateLimit, taken: &rates::Taken, place: usize) -> Result<Standing, Slow> {
    let place = u32::try_from(place).unwrap_or(u32::MAX);
    if place < taken.taken {
        let behind = u64::from(taken.taken - place - 1);
        return Ok(Standing { limit: limit.max, remaining: taken.remaining + behind, reset: taken.even, retry_after: None });
    }
    let spacing = Duration::from_nanos(u64::try_from(limit.spacing()).unwrap_or(0));
    let retry_after = taken.wait + spacing * (place - taken.taken);
    Err(Slow::Limited { name: limit.name.as_str().into(), max: limit.max, per: limit.per.as_str(), retry_after })
}
