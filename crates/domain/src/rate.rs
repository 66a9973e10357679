//! Limits on how often calls are made, on how many tokens they use, and on how many are under way at once.
//!
//! What a limit does to those who ask is decided here, once, in integers. The stores of counters (Postgres, Redis, memory) do the same to
//! what they keep, each in its own words; a test sets them beside these.

use std::{collections::BTreeMap, time::Duration};

use uuid::Uuid;

use crate::{budget::BudgetScope, call::words, ids::RateLimitId};

words! {
    /// The stretch of time to which a maximum belongs.
    Per {
        Second = "second",
        Minute = "minute",
        Hour = "hour",
        Day = "day",
    }
}

impl Per {
    #[must_use]
    pub const fn length(self) -> Duration {
        Duration::from_secs(match self {
            Self::Second => 1,
            Self::Minute => 60,
            Self::Hour => 3_600,
            Self::Day => 86_400,
        })
    }
}

words! {
    /// What a maximum counts.
    Unit {
        Call = "call",
        /// Tokens of requests to language models.
        Token = "token",
        /// Calls that are under way at the same time.
        Concurrent = "concurrent",
    }
}

/// What a limit measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    Calls(Per),
    Tokens(Per),
    Concurrent,
}

impl Measure {
    /// `None`: a number at once has no stretch of time, and every other has one.
    #[must_use]
    pub const fn of(unit: Unit, per: Option<Per>) -> Option<Self> {
        match (unit, per) {
            (Unit::Call, Some(per)) => Some(Self::Calls(per)),
            (Unit::Token, Some(per)) => Some(Self::Tokens(per)),
            (Unit::Concurrent, None) => Some(Self::Concurrent),
            _ => None,
        }
    }

    #[must_use]
    pub const fn unit(self) -> Unit {
        match self {
            Self::Calls(_) => Unit::Call,
            Self::Tokens(_) => Unit::Token,
            Self::Concurrent => Unit::Concurrent,
        }
    }

    #[must_use]
    pub const fn per(self) -> Option<Per> {
        match self {
            Self::Calls(per) | Self::Tokens(per) => Some(per),
            Self::Concurrent => None,
        }
    }

    /// The largest maximum.
    #[must_use]
    pub const fn most(self) -> u32 {
        match self {
            Self::Calls(_) => 1_000_000,
            Self::Tokens(_) => 100_000_000,
            Self::Concurrent => 100_000,
        }
    }
}

/// A limit. Of calls and tokens: `max` at once after a rest, and one more each time that a `max`th of the stretch has gone by. So in no
/// stretch of that length are more than twice as many made, and in the long run never more than `max` a stretch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimit {
    pub id: RateLimitId,
    pub name: String,
    pub scope: BudgetScope,
    /// 1 to [`Measure::most`].
    pub max: u32,
    pub measure: Measure,
    /// Grows with every edit: an edited limit begins anew.
    pub version: i32,
}

/// How fast a limit lets things through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Nanoseconds from one to the next in the long run, rounded up.
    pub spacing: i64,
    /// How many at once.
    pub burst: i64,
    /// Nanoseconds that a limit can be in debt at most.
    pub ceiling: i64,
}

/// How many times its maximum a limit of tokens can be owed: a request may turn out to have used more than anyone had thought.
const DEBT: i64 = 10;

impl RateLimit {
    /// Of a limit that has a stretch of time.
    #[must_use]
    pub fn pace(&self) -> Option<Pace> {
        let length = i64::try_from(self.measure.per()?.length().as_nanos()).unwrap_or(i64::MAX);
        let burst = i64::from(self.max.max(1));
        let spacing = length / burst + i64::from(length % burst != 0);
        let most = if self.measure.unit() == Unit::Token { DEBT } else { 1 };
        Some(Pace { spacing, burst, ceiling: most * burst * spacing })
    }
}

impl Pace {
    /// No wish weighs more than a limit can be owed, and no more is settled at once.
    #[must_use]
    pub fn cap(&self, weight: i64) -> i64 {
        let most = self.ceiling / self.spacing;
        weight.clamp(-most, most)
    }

    /// What a wish of this weight adds to the debt.
    fn cost(&self, weight: u32) -> i64 {
        self.cap(weight.into()) * self.spacing
    }

    /// What has to be free for it: one that is heavier than the whole limit is let through by a limit that nobody has used.
    fn need(&self, weight: u32) -> i64 {
        i64::from(weight).min(self.burst) * self.spacing
    }

    #[must_use]
    pub const fn room(&self) -> i64 {
        self.burst * self.spacing
    }

    /// How the limit stands for whoever wanted `weight`, behind their wish.
    #[must_use]
    pub fn standing(&self, taken: bool, debt: i64, weight: u32) -> Taken {
        let nanos = |n: i64| Duration::from_nanos(u64::try_from(n).unwrap_or(0));
        let next = if taken { self.spacing } else { self.need(weight) };
        let remaining = u64::try_from((self.room() - debt).max(0) / self.spacing).unwrap_or(0);
        Taken { taken, remaining, wait: nanos(debt + next - self.room()), even: nanos(debt) }
    }
}

/// How a limit stands behind a wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    pub taken: bool,
    /// What could be taken at once.
    pub remaining: u64,
    /// Until one more could be taken; of a wish that was refused, until the same could.
    pub wait: Duration,
    /// Until the limit is as if nobody had called.
    pub even: Duration,
}

/// All that has to be known of a limit's past: when it will be as if nobody had called, in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Meter {
    even_at: i64,
}

impl Meter {
    /// Nanoseconds until it is even. A clock that was set back keeps nobody waiting for longer than the limit can be owed.
    fn debt(self, pace: &Pace, now_us: i64) -> i64 {
        (self.even_at - now_us * 1000).clamp(0, pace.ceiling)
    }

    /// Settle `difference` (what was used beyond what was taken, or what was taken and not used), then serve these wishes one by one.
    /// Nothing is kept of wishes that were refused.
    pub fn count(&mut self, pace: &Pace, now_us: i64, difference: i64, weights: &[u32]) -> Vec<(bool, i64)> {
        let mut debt = self.debt(pace, now_us);
        let mut moved = difference != 0;
        debt = (debt + pace.cap(difference) * pace.spacing).clamp(0, pace.ceiling);
        let mut served = Vec::with_capacity(weights.len());
        for weight in weights {
            let taken = debt + pace.need(*weight) <= pace.room();
            if taken {
                debt = (debt + pace.cost(*weight)).min(pace.ceiling);
                moved = true;
            }
            served.push((taken, debt));
        }
        if moved {
            self.even_at = now_us * 1000 + debt;
        }
        served
    }

    /// Nanoseconds until it is even, counting nothing.
    #[must_use]
    pub fn look(self, pace: &Pace, now_us: i64) -> i64 {
        self.debt(pace, now_us)
    }

    #[must_use]
    pub const fn is_even(self, now_us: i64) -> bool {
        self.even_at <= now_us.saturating_mul(1000)
    }
}

/// What a worker says of the calls that it has under way: the truth, not a change, so that saying it twice does no harm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    pub worker: Uuid,
    /// Grows with everything that the worker says. What arrives behind something later is not heard.
    pub sequence: i64,
    pub held: u32,
    /// How many more it would begin.
    pub wanted: u32,
}

/// What is known of one worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held {
    sequence: i64,
    count: u32,
    until_us: i64,
}

/// Calls that are under way, by worker.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Slots(BTreeMap<Uuid, Held>);

/// For how long a worker's calls count that says nothing of them, in microseconds.
pub const SLOT_LIFE_US: i64 = 15_000_000;

/// How many calls a worker may have under way, and how many all others have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Granted {
    pub own: u32,
    pub others: u32,
}

impl Granted {
    /// What a worker has that says this while others have so many: all that is under way, and as many more as there is room for.
    #[must_use]
    pub fn of(max: u32, claim: &Claim, others: u32) -> Self {
        let free = max.saturating_sub(others).saturating_sub(claim.held);
        Self { own: claim.held + claim.wanted.min(free), others }
    }
}

impl Slots {
    /// Hear a worker. Those who have said nothing for [`SLOT_LIFE_US`] have nothing under way any more.
    pub fn claim(&mut self, max: u32, now_us: i64, claim: &Claim) -> Granted {
        let latest = now_us + SLOT_LIFE_US;
        self.0.retain(|_, held| held.until_us > now_us);
        // A clock that was set back lets nobody live for longer.
        self.0.values_mut().for_each(|held| held.until_us = held.until_us.min(latest));
        let others = self
            .0
            .iter()
            .filter(|(worker, _)| **worker != claim.worker)
            .fold(0_u32, |sum, (_, held)| sum.saturating_add(held.count));
        let granted = Granted::of(max, claim, others);
        let known = self.0.entry(claim.worker).or_insert(Held { sequence: i64::MIN, count: 0, until_us: latest });
        if claim.sequence > known.sequence {
            *known = Held { sequence: claim.sequence, count: granted.own, until_us: latest };
        }
        granted
    }

    /// Calls under way.
    #[must_use]
    pub fn look(&self, now_us: i64) -> u32 {
        self.0.values().filter(|held| held.until_us > now_us).fold(0, |sum, held| sum.saturating_add(held.count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(max: u32, measure: Measure) -> RateLimit {
        RateLimit { id: Uuid::nil().into(), name: String::new(), scope: BudgetScope::default(), max, measure, version: 1 }
    }

    #[test]
    fn spacing_is_never_more_generous_than_the_limit() {
        for per in Per::ALL {
            for max in [1, 2, 3, 7, 60, 100, 999, 1_000_000] {
                let length = i128::try_from(per.length().as_nanos()).unwrap();
                let pace = limit(max, Measure::Calls(*per)).pace().unwrap();
                let (spacing, max) = (i128::from(pace.spacing), i128::from(max));
                assert!(spacing * max >= length && (spacing - 1) * max < length, "{per} {max}");
            }
        }
    }

    #[test]
    fn every_number_fits_a_double_also_where_a_limit_is_owed_most() {
        for measure in [Measure::Calls(Per::Day), Measure::Tokens(Per::Day), Measure::Tokens(Per::Second)] {
            for max in [1, 3, 7_777_777, measure.most()] {
                let pace = limit(max.min(measure.most()), measure).pace().unwrap();
                assert!(pace.ceiling + pace.cost(u32::MAX) + pace.room() < 1 << 53, "{measure:?} {max}");
            }
        }
    }

    /// A second of the test's time.
    const SECOND: i64 = 1_000_000;

    #[test]
    fn a_burst_goes_through_and_then_one_at_a_time() {
        let pace = limit(4, Measure::Calls(Per::Second)).pace().unwrap();
        let (mut meter, now) = (Meter::default(), 1_000 * SECOND);
        let served = meter.count(&pace, now, 0, &[1; 6]);
        assert_eq!(served.iter().map(|(taken, _)| *taken).collect::<Vec<_>>(), [true, true, true, true, false, false]);
        let refused = pace.standing(false, served[4].1, 1);
        assert_eq!((refused.remaining, refused.wait, refused.even), (0, Duration::from_millis(250), Duration::from_secs(1)));
        assert!(!meter.count(&pace, now + 249_999, 0, &[1])[0].0);
        assert!(meter.count(&pace, now + 250_000, 0, &[1])[0].0);
        // What is given back can be taken again, and a limit that nobody has used gets no better by it.
        meter.count(&pace, now + 250_000, -1, &[]);
        assert!(meter.count(&pace, now + 250_000, 0, &[1])[0].0);
        meter.count(&pace, now + 250_000, -100, &[]);
        assert_eq!(meter.count(&pace, now + 250_000, 0, &[1; 5]).iter().filter(|(taken, _)| *taken).count(), 4);
    }

    #[test]
    fn a_limit_of_tokens_can_be_owed_and_lets_what_is_too_large_through_after_a_rest() {
        let pace = limit(100, Measure::Tokens(Per::Minute)).pace().unwrap();
        let (mut meter, now) = (Meter::default(), 1_000 * SECOND);
        assert!(meter.count(&pace, now, 0, &[60])[0].0);
        assert!(!meter.count(&pace, now, 0, &[60])[0].0, "60 of 100 are taken");
        // It used 150.
        meter.count(&pace, now, 90, &[]);
        let owed = pace.standing(false, meter.look(&pace, now), 1);
        assert_eq!((owed.remaining, owed.even), (0, Duration::from_secs(90)));
        assert!(!meter.count(&pace, now + 30 * SECOND, 0, &[1])[0].0);
        assert!(meter.count(&pace, now + 31 * SECOND, 0, &[1])[0].0);
        // More than the whole limit: only by a limit that is even, and then it waits for all of that.
        assert!(!meter.count(&pace, now + 60 * SECOND, 0, &[250])[0].0);
        let later = now + 200 * SECOND;
        assert!(meter.count(&pace, later, 0, &[250])[0].0);
        assert_eq!(pace.standing(false, meter.look(&pace, later), 1).even, Duration::from_secs(150));
        // Nothing can be owed without end.
        meter.count(&pace, later, i64::MAX, &[]);
        assert_eq!(pace.standing(false, meter.look(&pace, later), 1).even, Duration::from_secs(600));
    }

    #[test]
    fn a_clock_that_is_set_back_keeps_nobody_waiting_for_longer_than_the_limit() {
        let pace = limit(4, Measure::Calls(Per::Second)).pace().unwrap();
        let mut meter = Meter::default();
        meter.count(&pace, 1_000 * SECOND, 0, &[1]);
        assert_eq!(meter.look(&pace, 500 * SECOND), 1_000_000_000);
    }

    #[test]
    fn no_more_are_under_way_than_may_be_and_the_dead_hold_nothing() {
        let (mut slots, now) = (Slots::default(), 1_000 * SECOND);
        let (a, b) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let says = |worker, sequence, held, wanted| Claim { worker, sequence, held, wanted };
        assert_eq!(slots.claim(5, now, &says(a, 1, 0, 3)), Granted { own: 3, others: 0 });
        assert_eq!(slots.claim(5, now, &says(b, 1, 0, 4)), Granted { own: 2, others: 3 });
        assert_eq!(slots.claim(5, now, &says(a, 2, 3, 1)), Granted { own: 3, others: 2 });
        // It has ended two; what it said before, and what was late, changes nothing.
        assert_eq!(slots.claim(5, now, &says(a, 4, 1, 0)).own, 1);
        slots.claim(5, now, &says(a, 3, 3, 2));
        assert_eq!(slots.look(now), 3);
        // B falls silent. Who lives still has what it has.
        let later = now + SLOT_LIFE_US;
        assert_eq!(slots.claim(5, later - 1, &says(a, 5, 1, 9)), Granted { own: 3, others: 2 });
        assert_eq!(slots.claim(5, later, &says(a, 6, 3, 9)), Granted { own: 5, others: 0 });
        // B was taken for dead and lives: what it has under way is under way, and nothing more is begun.
        assert_eq!(slots.claim(5, later, &says(b, 2, 2, 1)), Granted { own: 2, others: 5 });
        assert_eq!(slots.look(later), 7);
    }
}
