//! Prices: never changed, only superseded. The price in force when a call opens is copied into its row.
//!
//! What a call costs may be known only when it has ended: by its outcome, the size of its answer, the time it took. So a quote is
//! a bound, which is what budgets hold for the call, and [`Quote::settle`] charges the truth, which never exceeds it.

mod card;

use std::time::Duration;

use chrono::{DateTime, Utc};

pub use self::card::RateCard;
use crate::{
    call::{Outcome, words},
    ids::{PriceId, ToolId, UpstreamId},
    money::Picos,
};

words! {
    /// What an amount is charged for.
    Unit {
        /// Each call that the upstream was asked to make, whatever came of it.
        Call = "call",
        /// Each call with the outcome `ok`, or of which nobody knows how it ended.
        SuccessfulCall = "successful_call",
        /// Each 1,000 bytes that were begun of the result as the upstream wrote it, before anything was taken out of it.
        Kb = "kb",
        /// Each second that the call took, to the microsecond; what is less than a pico counts as one.
        Second = "second",
    }
}

/// Bytes of a [`Unit::Kb`].
const KB: u64 = 1_000;
const MICROS: i128 = 1_000_000;
/// Of one price. More would be a table, and nobody could read it.
pub const MAX_TIERS: usize = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    Tool(ToolId),
    /// All tools of the upstream that have no price of their own.
    Upstream(UpstreamId),
    /// All tools that have no price of their own, and whose upstream has none.
    Tenant,
}

impl Target {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tool(_) => "tool",
            Self::Upstream(_) => "upstream",
            Self::Tenant => "tenant",
        }
    }
}

/// An amount for the calls from one number on, counted over a month of the tenant's time zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tier {
    pub from_call: u64,
    pub amount: Picos,
}

/// What is charged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rate {
    pub unit: Unit,
    /// Of one unit; with tiers, that of the first.
    pub amount: Picos,
    /// By volume; empty where the amount is the same for every call.
    tiers: Vec<Tier>,
    /// No call is charged more than this.
    pub max: Option<Picos>,
}

/// Why tiers are none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadTiers {
    #[error("use 1 to {MAX_TIERS} tiers")]
    Count,
    #[error("the first tier begins with call 1")]
    First,
    #[error("each tier begins with a later call than the one before")]
    Order,
    #[error("the number of a call is at most 1000000000000")]
    TooLarge,
}

/// Calls that a month may have, so that every number of one fits everywhere.
const MOST_CALLS: u64 = 1_000_000_000_000;

impl Rate {
    /// The same amount for every call.
    #[must_use]
    pub const fn flat(unit: Unit, amount: Picos, max: Option<Picos>) -> Self {
        Self { unit, amount, tiers: Vec::new(), max }
    }

    /// # Errors
    /// [`BadTiers`].
    pub fn tiered(unit: Unit, tiers: Vec<Tier>, max: Option<Picos>) -> Result<Self, BadTiers> {
        let Some(first) = tiers.first() else { return Err(BadTiers::Count) };
        if tiers.len() > MAX_TIERS {
            return Err(BadTiers::Count);
        }
        if first.from_call != 1 {
            return Err(BadTiers::First);
        }
        if tiers.windows(2).any(|pair| pair[0].from_call >= pair[1].from_call) {
            return Err(BadTiers::Order);
        }
        if tiers.iter().any(|tier| tier.from_call > MOST_CALLS) {
            return Err(BadTiers::TooLarge);
        }
        Ok(Self { unit, amount: first.amount, tiers, max })
    }

    #[must_use]
    pub fn tiers(&self) -> &[Tier] {
        &self.tiers
    }

    /// Whether what a call costs depends on its number in the month.
    #[must_use]
    pub fn counts_calls(&self) -> bool {
        !self.tiers.is_empty()
    }

    /// The tier of the call with this number, from 1, and its amount.
    fn of_call(&self, number: u64) -> (u16, Picos) {
        let place = self.tiers.iter().rposition(|tier| tier.from_call <= number).unwrap_or(0);
        let amount = self.tiers.get(place).map_or(self.amount, |tier| tier.amount);
        (u16::try_from(place + 1).unwrap_or(u16::MAX), amount)
    }
}

#[derive(Debug, Clone)]
pub struct Price {
    pub id: PriceId,
    pub target: Target,
    /// `None`: from here on the target has no price of its own; that of the next wider one applies.
    pub rate: Option<Rate>,
    pub effective_from: DateTime<Utc>,
}

/// What a call can come to at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// The longest answer that the gateway takes.
    pub result_bytes: u64,
    /// The upstream's timeout.
    pub time: Duration,
}

/// What a call came to. `None`: nobody knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Measured {
    pub result_bytes: Option<u64>,
    pub time: Option<Duration>,
}

/// The part of a price that applied to a call, as its row keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applied {
    pub unit: Unit,
    /// Of one unit.
    pub amount: Picos,
    pub volume: Option<Volume>,
}

/// Where a call stands under a price with tiers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Volume {
    /// Its number in the month, from 1.
    pub call: u64,
    /// From 1.
    pub tier: u16,
}

/// What a call will cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Quote {
    /// `None`: nobody has set a price, the call is free.
    pub price_id: Option<PriceId>,
    /// At most.
    pub amount: Picos,
    /// `None` where there is no price, and in rows of before it was kept.
    pub applied: Option<Applied>,
}

impl Price {
    /// What the call with this number in the month will cost at most; the number matters where the rate counts calls.
    #[must_use]
    pub fn quote(&self, number: u64, bounds: Bounds) -> Quote {
        let Some(rate) = &self.rate else { return Quote::default() };
        let (tier, amount) = rate.of_call(number);
        let volume = rate.counts_calls().then_some(Volume { call: number, tier });
        let applied = Applied { unit: rate.unit, amount, volume };
        let most = match rate.unit {
            Unit::Call | Unit::SuccessfulCall => amount,
            Unit::Kb => kilobytes(amount, bounds.result_bytes),
            Unit::Second => seconds(amount, bounds.time),
        };
        Quote { price_id: Some(self.id), amount: rate.max.map_or(most, |max| most.min(max)), applied: Some(applied) }
    }
}

impl Quote {
    /// What is charged once the outcome is known, never more than was quoted. A call that did not come to the upstream, or that
    /// the upstream could not take, is free; one whose outcome is unknown may have been carried out, and is charged. Where nobody
    /// knows how much of a unit it used, that is one.
    #[must_use]
    pub fn settle(&self, outcome: Outcome, measured: Measured) -> Picos {
        match outcome {
            Outcome::Ok | Outcome::ToolError | Outcome::Timeout | Outcome::Cancelled | Outcome::Unknown => {}
            Outcome::UpstreamError | Outcome::Denied | Outcome::Held => return Picos(0),
        }
        let Some(Applied { unit, amount, .. }) = self.applied else { return self.amount };
        let cost = match unit {
            Unit::Call => amount,
            Unit::SuccessfulCall if matches!(outcome, Outcome::Ok | Outcome::Unknown) => amount,
            Unit::SuccessfulCall => Picos(0),
            Unit::Kb => measured.result_bytes.map_or(amount, |bytes| kilobytes(amount, bytes)),
            Unit::Second => measured.time.map_or(amount, |time| seconds(amount, time)),
        };
        cost.min(self.amount)
    }

    /// What is charged for a call of which nothing is known but that it was begun.
    #[must_use]
    pub fn unknown(&self) -> Picos {
        self.settle(Outcome::Unknown, Measured::default())
    }
}

fn kilobytes(amount: Picos, bytes: u64) -> Picos {
    saturated(i128::from(amount.0) * i128::from(bytes.div_ceil(KB)))
}

/// To the microsecond, as the row has it.
fn seconds(amount: Picos, time: Duration) -> Picos {
    let micros = i128::try_from(time.as_micros()).unwrap_or(i128::MAX >> 64);
    let product = i128::from(amount.0).saturating_mul(micros);
    saturated(product / MICROS + i128::from(product % MICROS > 0))
}

fn saturated(picos: i128) -> Picos {
    Picos(i64::try_from(picos).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests;
