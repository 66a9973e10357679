//! What a call will cost at most: the price in force, and the call's number where the price depends on the volume of the month.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, NaiveDate, Utc};
use tollgate_domain::{
    Outcome, TenantId,
    price::{Bounds, Measured, Quote, Target},
    tool::Tool,
};
use tollgate_store::{Store, prices::volumes, snapshot::TenantConfig};

use crate::{
    combine::Combiner,
    upstream::{Answer, Ended},
};

/// Whose calls are counted together.
type Counter = (TenantId, Target, NaiveDate);

/// The counters of volume. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Prices {
    store: Store,
    numbers: Arc<Combiner<Counter, (), Option<u64>>>,
    /// The longest answer that is taken from an upstream.
    result_bytes: u64,
}

/// The call's number is not known: the database does not answer.
#[derive(Debug, Clone, Copy)]
pub struct NoNumber;

impl Prices {
    #[must_use]
    pub fn new(store: Store, result_bytes: usize) -> Self {
        Self { store, numbers: Arc::default(), result_bytes: u64::try_from(result_bytes).unwrap_or(u64::MAX) }
    }

    /// Quote a call that is opened `at`. Under a price by volume it has its number from here on, whether it is made or not.
    ///
    /// # Errors
    /// [`NoNumber`].
    pub async fn quote(&self, config: &TenantConfig, tool: &Tool, at: DateTime<Utc>) -> Result<Quote, NoNumber> {
        let Some(price) = config.rates.in_force(tool.id, tool.upstream.id, at) else { return Ok(Quote::default()) };
        let number = match price.rate.as_ref().is_some_and(|rate| rate.counts_calls()) {
            true => self.number((config.tenant, price.target, volumes::month(config.zone, at))).await?,
            false => 1,
        };
        Ok(price.quote(number, self.bounds(tool.upstream.timeout)))
    }

    const fn bounds(&self, time: Duration) -> Bounds {
        Bounds { result_bytes: self.result_bytes, time }
    }

    /// A number that no other call has. Those who wait for one of the same counter are given theirs by one statement.
    async fn number(&self, counter: Counter) -> Result<u64, NoNumber> {
        let (tenant, target, month) = counter;
        let draw = |waiting: Vec<()>| {
            let store = &self.store;
            async move {
                let wanted = i32::try_from(waiting.len()).unwrap_or(i32::MAX);
                match volumes::draw(store, tenant, target, month, wanted).await {
                    Ok(first) => (first..).take(waiting.len()).map(Some).collect(),
                    Err(error) => {
                        tracing::warn!(%error, "a call was not numbered: the database does not answer");
                        vec![None; waiting.len()]
                    }
                }
            }
        };
        self.numbers.ask(counter, (), draw).await.flatten().ok_or(NoNumber)
    }
}

/// What the call came to, as far as anyone knows.
#[must_use]
pub fn measured(ended: &Ended, time: Duration) -> Measured {
    let result_bytes = match &ended.answer {
        Answer::Result(result) => Some(u64::try_from(result.get().len()).unwrap_or(u64::MAX)),
        // It may have been answered, and the answer lost.
        Answer::Error(_) | Answer::None(_) if ended.outcome == Outcome::Unknown => None,
        Answer::Error(_) | Answer::None(_) => Some(0),
    };
    Measured { result_bytes, time: Some(time) }
}
