//! Budgets: what calls may cost together, in which period, and who is told.

use chrono::{DateTime, DurationRound, TimeDelta, Utc};

use crate::{
    call::words,
    ids::{BudgetId, KeyId, TeamId, ToolId, UpstreamId},
    money::Picos,
    zone::{Calendar, TimeZone},
};

words! {
    /// For how long a limit holds, before it begins anew.
    Period {
        Day = "day",
        /// From Monday.
        Week = "week",
        Month = "month",
        /// For good.
        Total = "total",
        /// The last so many days, at any moment.
        Rolling = "rolling",
    }
}

words! {
    /// What becomes of a call that does not fit.
    Enforcement {
        /// It is refused.
        Hard = "hard",
        /// It is made; thresholds are reported.
        Alert = "alert",
    }
}

/// The calls that a budget counts: those that match every id that is set. None set: all of the tenant's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct BudgetScope {
    pub team: Option<TeamId>,
    pub key: Option<KeyId>,
    pub upstream: Option<UpstreamId>,
    pub tool: Option<ToolId>,
}

/// What of a call decides which budgets and limits it counts under.
#[derive(Debug, Clone, Copy)]
pub struct Spender {
    pub team: Option<TeamId>,
    pub key: KeyId,
    /// A request to a language model has neither upstream nor tool: nothing that names one covers it.
    pub upstream: Option<UpstreamId>,
    pub tool: Option<ToolId>,
}

impl BudgetScope {
    #[must_use]
    pub fn covers(&self, call: &Spender) -> bool {
        self.team.is_none_or(|team| call.team == Some(team))
            && self.key.is_none_or(|key| call.key == key)
            && self.upstream.is_none_or(|upstream| call.upstream == Some(upstream))
            && self.tool.is_none_or(|tool| call.tool == Some(tool))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    pub id: BudgetId,
    pub name: String,
    pub scope: BudgetScope,
    pub limit: Picos,
    pub period: Period,
    /// Of a rolling budget.
    pub rolling_days: Option<u16>,
    pub enforcement: Enforcement,
    /// Percent of the limit, each reported once a window.
    pub thresholds: Vec<u8>,
}

/// The stretch of time in which a call is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Window {
    pub starts_at: DateTime<Utc>,
    pub ends_at: DateTime<Utc>,
    /// All windows from this start on count together.
    pub counts_from: DateTime<Utc>,
}

/// A rolling budget is counted in so many parts.
const PARTS: i32 = 48;

impl Budget {
    /// The window of a call that is opened `at`. A rolling budget counts the part of its oldest 48th that is over as well: it is
    /// never more generous than its days.
    #[must_use]
    pub fn window(&self, zone: TimeZone, at: DateTime<Utc>) -> Window {
        let calendar = |unit| {
            let (starts_at, ends_at) = zone.around(unit, at);
            Window { starts_at, ends_at, counts_from: starts_at }
        };
        match self.period {
            Period::Day => calendar(Calendar::Day),
            Period::Week => calendar(Calendar::Week),
            Period::Month => calendar(Calendar::Month),
            Period::Total => Window { starts_at: DateTime::UNIX_EPOCH, ends_at: END_OF_TIME, counts_from: DateTime::UNIX_EPOCH },
            Period::Rolling => {
                let length = TimeDelta::days(i64::from(self.rolling_days.unwrap_or(1)));
                let part = length / PARTS;
                let floor = |at: DateTime<Utc>| at.duration_trunc(part).unwrap_or(at);
                let starts_at = floor(at);
                Window { starts_at, ends_at: starts_at + part, counts_from: floor(at - length) }
            }
        }
    }

    /// When room for more comes: at the window's end, but for a rolling budget bit by bit, from the end of the part in which the
    /// oldest cost that counts may lie.
    #[must_use]
    pub fn resets_at(&self, window: &Window) -> Option<DateTime<Utc>> {
        match self.period {
            Period::Day | Period::Week | Period::Month | Period::Rolling => Some(window.ends_at),
            Period::Total => None,
        }
    }
}

/// 9999-12-31, which Postgres and RFC 3339 can both write.
const END_OF_TIME: DateTime<Utc> = match DateTime::from_timestamp(253_402_214_400, 0) {
    Some(at) => at,
    None => DateTime::<Utc>::MAX_UTC,
};

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn budget(period: Period, rolling_days: Option<u16>) -> Budget {
        Budget {
            id: Uuid::from_u128(1).into(),
            name: "b".to_owned(),
            scope: BudgetScope::default(),
            limit: Picos(1),
            period,
            rolling_days,
            enforcement: Enforcement::Hard,
            thresholds: Vec::new(),
        }
    }

    #[test]
    fn a_rolling_window_never_forgets_what_is_younger_than_its_days() {
        let budget = budget(Period::Rolling, Some(7));
        let mut now: DateTime<Utc> = "2026-11-28T00:00:01Z".parse().unwrap();
        for _ in 0..2000 {
            let window = budget.window(TimeZone::UTC, now);
            assert!(window.starts_at <= now && now < window.ends_at);
            let forgotten = window.counts_from;
            // Whatever lies in a part that does not count any more is older than seven days.
            assert!(forgotten <= now - TimeDelta::days(7), "{now}");
            assert!(forgotten > now - TimeDelta::days(7) - (window.ends_at - window.starts_at), "{now}");
            now += TimeDelta::minutes(37);
        }
    }

    #[test]
    fn periods_begin_in_the_tenants_zone_and_a_total_never_ends() {
        let at: DateTime<Utc> = "2026-11-30T23:30:00Z".parse().unwrap();
        let berlin = "Europe/Berlin".parse().unwrap();
        let month = budget(Period::Month, None).window(berlin, at);
        assert_eq!(month.starts_at.to_rfc3339(), "2026-11-30T23:00:00+00:00");
        let total = budget(Period::Total, None);
        let window = total.window(berlin, at);
        assert!(window.starts_at < at && at < window.ends_at);
        assert_eq!(total.resets_at(&window), None);
    }

    #[test]
    fn a_scope_covers_what_matches_all_of_it() {
        let id = Uuid::from_u128;
        let call =
            Spender { team: Some(id(1).into()), key: id(2).into(), upstream: Some(id(3).into()), tool: Some(id(4).into()) };
        let none = BudgetScope::default();
        assert!(none.covers(&call));
        assert!(BudgetScope { team: Some(id(1).into()), tool: Some(id(4).into()), ..none }.covers(&call));
        assert!(!BudgetScope { team: Some(id(1).into()), tool: Some(id(5).into()), ..none }.covers(&call));
        assert!(!BudgetScope { team: Some(id(1).into()), ..none }.covers(&Spender { team: None, ..call }));
        assert!(!BudgetScope { key: Some(id(9).into()), ..none }.covers(&call));
        assert!(!BudgetScope { upstream: Some(id(9).into()), ..none }.covers(&call));
        let request = Spender { upstream: None, tool: None, ..call };
        assert!(none.covers(&request) && BudgetScope { key: Some(id(2).into()), ..none }.covers(&request));
        assert!(!BudgetScope { upstream: Some(id(3).into()), ..none }.covers(&request));
        assert!(!BudgetScope { tool: Some(id(4).into()), ..none }.covers(&request));
    }
}
