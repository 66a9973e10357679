//! Prices: never changed, only superseded. The price in force when a call opens is copied into its row.

use std::collections::HashMap;

use chrono::{DateTime, Utc};

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
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    Tool(ToolId),
    /// All tools of the upstream that have no price of their own.
    Upstream(UpstreamId),
}

#[derive(Debug, Clone)]
pub struct Price {
    pub id: PriceId,
    pub target: Target,
    pub amount: Picos,
    pub unit: Unit,
    pub effective_from: DateTime<Utc>,
}

/// What a call will cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Quote {
    /// `None`: nobody has set a price, the call is free.
    pub price_id: Option<PriceId>,
    pub amount: Picos,
}

/// All prices of a tenant, past and future.
#[derive(Debug, Clone, Default)]
pub struct RateCard {
    /// Newest first.
    prices: HashMap<Target, Vec<Price>>,
}

impl RateCard {
    #[must_use]
    pub fn new(prices: impl IntoIterator<Item = Price>) -> Self {
        let mut card = Self::default();
        for price in prices {
            card.prices.entry(price.target).or_default().push(price);
        }
        for of_target in card.prices.values_mut() {
            of_target.sort_by_key(|p| std::cmp::Reverse((p.effective_from, p.id)));
        }
        card
    }

    /// The price in force at `at`; a tool's own price goes before its upstream's.
    #[must_use]
    pub fn in_force(&self, tool: ToolId, upstream: UpstreamId, at: DateTime<Utc>) -> Option<&Price> {
        [Target::Tool(tool), Target::Upstream(upstream)]
            .iter()
            .find_map(|target| self.prices.get(target)?.iter().find(|p| p.effective_from <= at))
    }

    #[must_use]
    pub fn quote(&self, tool: ToolId, upstream: UpstreamId, at: DateTime<Utc>) -> Quote {
        self.in_force(tool, upstream, at).map_or_else(Quote::default, |p| Quote { price_id: Some(p.id), amount: p.amount })
    }
}

impl Quote {
    /// What is charged once the outcome is known. A call that did not come to the upstream, or that the upstream could
    /// not take, is free; one whose outcome is unknown may have been carried out, and is charged.
    #[must_use]
    pub const fn settle(&self, outcome: Outcome) -> Picos {
        match outcome {
            Outcome::Ok | Outcome::ToolError | Outcome::Timeout | Outcome::Cancelled | Outcome::Unknown => self.amount,
            Outcome::UpstreamError | Outcome::Denied | Outcome::Held => Picos(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn the_newest_price_in_force_wins_and_a_tool_goes_before_its_upstream() {
        let at = |s| DateTime::from_timestamp(s, 0).unwrap();
        let (tool, upstream) = (ToolId::from(Uuid::from_u128(1)), UpstreamId::from(Uuid::from_u128(2)));
        let price = |n: u128, target, amount, from| Price {
            id: Uuid::from_u128(n).into(),
            target,
            amount: Picos(amount),
            unit: Unit::Call,
            effective_from: at(from),
        };
        let card = RateCard::new([
            price(1, Target::Upstream(upstream), 10, 100),
            price(2, Target::Tool(tool), 20, 200),
            price(3, Target::Tool(tool), 30, 300),
        ]);
        let amounts: Vec<_> = [99, 100, 200, 299, 300].map(|s| card.quote(tool, upstream, at(s)).amount.0).to_vec();
        assert_eq!(amounts, [0, 10, 20, 20, 30]);
        assert_eq!(card.quote(tool, upstream, at(99)).price_id, None);
        assert_eq!(card.quote(Uuid::from_u128(8).into(), upstream, at(500)).amount, Picos(10));
    }
}
