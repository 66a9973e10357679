//! All prices of a tenant, and which of them is in force.

use std::collections::HashMap;

use chrono::{DateTime, Utc};

use super::{Price, Target};
use crate::ids::{ToolId, UpstreamId};

/// Prices by what they are for, past and future ones.
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

    /// Take note of one more price.
    pub fn add(&mut self, price: Price) {
        let of_target = self.prices.entry(price.target).or_default();
        let later = |p: &Price| (p.effective_from, p.id) > (price.effective_from, price.id);
        of_target.insert(of_target.partition_point(later), price);
    }

    /// The price in force at `at`: the tool's own, else its upstream's, else the tenant's.
    #[must_use]
    pub fn in_force(&self, tool: ToolId, upstream: UpstreamId, at: DateTime<Utc>) -> Option<&Price> {
        [Target::Tool(tool), Target::Upstream(upstream), Target::Tenant].iter().find_map(|target| self.own(*target, at))
    }

    /// The price that the target itself has at `at`.
    #[must_use]
    pub fn own(&self, target: Target, at: DateTime<Utc>) -> Option<&Price> {
        // One that says "none of its own" ends those before it.
        self.prices.get(&target)?.iter().find(|p| p.effective_from <= at).filter(|price| price.rate.is_some())
    }

    /// Whether the target has a price, or the end of one, from exactly this moment on.
    #[must_use]
    pub fn begins(&self, target: Target, at: DateTime<Utc>) -> bool {
        self.prices.get(&target).is_some_and(|prices| prices.iter().any(|price| price.effective_from == at))
    }
}
