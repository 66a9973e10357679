//! What is used of rate limits: in Postgres, in Redis, or in memory where one process is all there is. All three give the same answers,
//! those of `domain::rate`.
//!
//! A counter is no ledger: what it knows may be lost with the machine that keeps it, and it begins anew. Budgets are never kept here.

mod memory;
mod postgres;
mod redis;

use std::sync::Arc;

use tollgate_domain::{
    TenantId,
    clock::SharedClock,
    rate::{Claim, Granted, Pace, RateLimit, Taken},
};

use crate::{error::StoreResult, tx::Store};

/// Where counters are kept. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Counters {
    kept: Kept,
    /// For tests: the time, instead of what the one who keeps them says it is.
    clock: Option<SharedClock>,
}

#[derive(Debug, Clone)]
enum Kept {
    Postgres(Store),
    Redis(redis::Redis),
    Memory(Arc<memory::Memory>),
}

/// What is counted, and where.
#[derive(Debug, Clone, Copy)]
struct Counted<'a> {
    tenant: TenantId,
    limit: &'a RateLimit,
    /// Microseconds; `None`: by the clock of whoever keeps it, the only one that all workers share.
    now_us: Option<i64>,
}

impl Counters {
    #[must_use]
    pub const fn postgres(store: Store) -> Self {
        Self { kept: Kept::Postgres(store), clock: None }
    }

    /// Connects when it is first needed, and again whenever the connection is lost.
    ///
    /// # Errors
    /// When the URL cannot be one of a Redis.
    pub fn redis(url: &str) -> StoreResult<Self> {
        Ok(Self { kept: Kept::Redis(redis::Redis::open(url)?), clock: None })
    }

    /// For one process that is all there is.
    #[must_use]
    pub fn memory(clock: SharedClock) -> Self {
        Self { kept: Kept::Memory(Arc::default()), clock: Some(clock) }
    }

    /// The same, at the times that the clock says.
    #[must_use]
    pub fn with_clock(self, clock: SharedClock) -> Self {
        Self { clock: Some(clock), ..self }
    }

    /// What they are called in logs.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self.kept {
            Kept::Postgres(_) => "Postgres",
            Kept::Redis(_) => "Redis",
            Kept::Memory(_) => "memory",
        }
    }

    /// Take as much as each of these wishes weighs, one by one: what does not fit takes nothing.
    ///
    /// # Errors
    /// When who keeps the counters does not answer; it may have counted all the same.
    pub async fn take(&self, tenant: TenantId, limit: &RateLimit, weights: &[u32]) -> StoreResult<Vec<Taken>> {
        let Some(pace) = limit.pace() else { return Ok(Vec::new()) };
        let served = self.count(tenant, limit, &pace, 0, weights).await?;
        Ok(served.into_iter().zip(weights).map(|((taken, debt), weight)| pace.standing(taken, debt, *weight)).collect())
    }

    /// Settle what was used beyond what was taken, or, with a negative number, what was taken and not used.
    ///
    /// # Errors
    /// As [`Self::take`].
    pub async fn settle(&self, tenant: TenantId, limit: &RateLimit, difference: i64) -> StoreResult<()> {
        let Some(pace) = limit.pace() else { return Ok(()) };
        self.count(tenant, limit, &pace, difference, &[]).await.map(drop)
    }

    async fn count(
        &self,
        tenant: TenantId,
        limit: &RateLimit,
        pace: &Pace,
        difference: i64,
        weights: &[u32],
    ) -> StoreResult<Vec<(bool, i64)>> {
        let what = self.counted(tenant, limit);
        match &self.kept {
            Kept::Postgres(store) => postgres::count(store, what, pace, difference, weights).await,
            Kept::Redis(redis) => redis.count(what, pace, difference, weights).await,
            Kept::Memory(memory) => Ok(memory.count(what, pace, difference, weights)),
        }
    }

    /// Hear what a worker has under way, and how many calls more it would begin.
    ///
    /// # Errors
    /// As [`Self::take`].
    pub async fn claim(&self, tenant: TenantId, limit: &RateLimit, claim: &Claim) -> StoreResult<Granted> {
        let what = self.counted(tenant, limit);
        match &self.kept {
            Kept::Postgres(store) => postgres::claim(store, what, claim).await,
            Kept::Redis(redis) => redis.claim(what, claim).await,
            Kept::Memory(memory) => Ok(memory.claim(what, claim)),
        }
    }

    /// How a limit stands, without counting anything. Of a limit of calls under way: what is left of it.
    ///
    /// # Errors
    /// As [`Self::take`].
    pub async fn standing(&self, tenant: TenantId, limit: &RateLimit) -> StoreResult<Taken> {
        let what = self.counted(tenant, limit);
        let Some(pace) = limit.pace() else {
            let used = match &self.kept {
                Kept::Postgres(store) => postgres::under_way(store, what).await?,
                Kept::Redis(redis) => redis.under_way(what).await?,
                Kept::Memory(memory) => memory.under_way(what),
            };
            let zero = std::time::Duration::ZERO;
            let remaining = u64::from(limit.max.saturating_sub(used));
            return Ok(Taken { taken: false, remaining, wait: zero, even: zero });
        };
        let debt = match &self.kept {
            Kept::Postgres(store) => postgres::debt(store, what, &pace).await?,
            Kept::Redis(redis) => redis.count(what, &pace, 0, &[]).await.map(|debt| debt.first().map_or(0, |(_, debt)| *debt))?,
            Kept::Memory(memory) => memory.debt(what, &pace),
        };
        Ok(pace.standing(true, debt, 1))
    }

    fn counted<'a>(&self, tenant: TenantId, limit: &'a RateLimit) -> Counted<'a> {
        Counted { tenant, limit, now_us: self.clock.as_ref().map(|clock| clock.now().timestamp_micros()) }
    }
}
