//! Limits on how often calls are made.

use std::time::Duration;

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

/// A limit: `max` calls at once after a rest, and one more each time that a `max`th of the stretch has gone by. So in no stretch of
/// that length are more than twice as many made, and in the long run never more than `max` a stretch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimit {
    pub id: RateLimitId,
    pub name: String,
    pub scope: BudgetScope,
    /// 1 to [`MAX`].
    pub max: u32,
    pub per: Per,
}

/// The largest maximum.
pub const MAX: u32 = 1_000_000;

impl RateLimit {
    /// Nanoseconds from one call to the next in the long run, rounded up.
    #[must_use]
    pub fn spacing(&self) -> i64 {
        let length = i64::try_from(self.per.length().as_nanos()).unwrap_or(i64::MAX);
        let max = i64::from(self.max.max(1));
        length / max + i64::from(length % max != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn spacing_is_never_more_generous_than_the_limit() {
        for per in Per::ALL {
            for max in [1, 2, 3, 7, 60, 100, 999, MAX] {
                let limit =
                    RateLimit { id: Uuid::nil().into(), name: String::new(), scope: BudgetScope::default(), max, per: *per };
                let length = i128::try_from(per.length().as_nanos()).unwrap();
                let (spacing, max) = (i128::from(limit.spacing()), i128::from(max));
                assert!(spacing * max >= length && (spacing - 1) * max < length, "{per} {max}");
            }
        }
    }
}
