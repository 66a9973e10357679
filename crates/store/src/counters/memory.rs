//! Counters in the memory of the one process that counts.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tollgate_domain::{
    RateLimitId,
    rate::{Claim, Granted, Meter, Pace, Slots},
};

use super::Counted;

/// Counters that are kept without looking whether they still say anything.
const METERS: usize = 10_000;

#[derive(Debug, Default)]
pub struct Memory(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    meters: HashMap<(RateLimitId, i32), Meter>,
    slots: HashMap<RateLimitId, Slots>,
    /// When both are next looked through.
    full_at: usize,
}

impl Memory {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn count(&self, what: Counted<'_>, pace: &Pace, difference: i64, weights: &[u32]) -> Vec<(bool, i64)> {
        let now_us = what.now_us.unwrap_or(0);
        let mut state = self.state();
        state.forget(now_us);
        state.meters.entry((what.limit.id, what.limit.version)).or_default().count(pace, now_us, difference, weights)
    }

    pub(super) fn debt(&self, what: Counted<'_>, pace: &Pace) -> i64 {
        let meter = self.state().meters.get(&(what.limit.id, what.limit.version)).copied().unwrap_or_default();
        meter.look(pace, what.now_us.unwrap_or(0))
    }

    pub(super) fn claim(&self, what: Counted<'_>, claim: &Claim) -> Granted {
        let now_us = what.now_us.unwrap_or(0);
        let mut state = self.state();
        state.forget(now_us);
        state.slots.entry(what.limit.id).or_default().claim(what.limit.max, now_us, claim)
    }

    pub(super) fn under_way(&self, what: Counted<'_>) -> u32 {
        self.state().slots.get(&what.limit.id).map_or(0, |slots| slots.look(what.now_us.unwrap_or(0)))
    }
}

impl State {
    /// Those of limits that are gone go as well.
    fn forget(&mut self, now_us: i64) {
        if self.meters.len() + self.slots.len() < self.full_at.max(METERS) {
            return;
        }
        self.meters.retain(|_, meter| !meter.is_even(now_us));
        self.slots.retain(|_, slots| slots.look(now_us) > 0);
        self.full_at = (self.meters.len() + self.slots.len()) * 2;
    }
}
