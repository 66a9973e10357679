//! Time zones by their IANA names: when a tenant's days, weeks and months begin.

use std::{fmt, str::FromStr};

use chrono::{DateTime, Datelike, Days, Months, NaiveDate, NaiveTime, TimeDelta, TimeZone as _, Utc};
use serde::{Serialize, Serializer};

use crate::call::words;

/// `Europe/Berlin`, `Asia/Kolkata`, `UTC`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TimeZone(chrono_tz::Tz);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a time zone is an IANA name such as \"Europe/Berlin\" or \"UTC\"")]
pub struct BadTimeZone;

impl TimeZone {
    pub const UTC: Self = Self(chrono_tz::Tz::UTC);

    #[must_use]
    pub fn name(self) -> &'static str {
        self.0.name()
    }

    /// The local day of a moment.
    #[must_use]
    pub fn day(self, at: DateTime<Utc>) -> NaiveDate {
        at.with_timezone(&self.0).date_naive()
    }

    /// The first moment of a local day. Where clocks are put forward at midnight it is the moment after that.
    #[must_use]
    pub fn midnight(self, day: NaiveDate) -> DateTime<Utc> {
        let midnight = day.and_time(NaiveTime::MIN);
        // No zone has ever skipped more than a day.
        let quarters = (0..=96).map(|n| midnight + TimeDelta::minutes(15 * n));
        let first = quarters.filter_map(|local| self.0.from_local_datetime(&local).earliest()).next();
        first.map_or_else(|| midnight.and_utc(), |at| at.to_utc())
    }

    /// The day, week (from Monday) or month of a local day, as its first day and the first day behind it.
    #[must_use]
    pub fn days_of(unit: Calendar, day: NaiveDate) -> (NaiveDate, NaiveDate) {
        let first = match unit {
            Calendar::Day => day,
            Calendar::Week => day - Days::new(u64::from(day.weekday().num_days_from_monday())),
            Calendar::Month => day.with_day(1).unwrap_or(day),
        };
        let next = match unit {
            Calendar::Day => first.checked_add_days(Days::new(1)),
            Calendar::Week => first.checked_add_days(Days::new(7)),
            Calendar::Month => first.checked_add_months(Months::new(1)),
        };
        (first, next.unwrap_or(NaiveDate::MAX))
    }

    /// The local day, week or month around a moment.
    #[must_use]
    pub fn around(self, unit: Calendar, at: DateTime<Utc>) -> (DateTime<Utc>, DateTime<Utc>) {
        let (first, next) = Self::days_of(unit, self.day(at));
        (self.midnight(first), self.midnight(next))
    }

    /// When the period begins that ends at `from` and is as long as the one from there to `to`: as many months where both are starts of
    /// months, as many days where both are starts of days, as much time else.
    #[must_use]
    pub fn before(self, from: DateTime<Utc>, to: DateTime<Utc>) -> DateTime<Utc> {
        let is_start = |unit| from < to && self.around(unit, from).0 == from && self.around(unit, to).0 == to;
        let (first, end) = (self.day(from), self.day(to));
        let months = |day: NaiveDate| i64::from(day.year()) * 12 + i64::from(day.month0());
        let earlier = if is_start(Calendar::Month) {
            u32::try_from(months(end) - months(first)).ok().and_then(|n| first.checked_sub_months(Months::new(n)))
        } else if is_start(Calendar::Day) {
            u64::try_from((end - first).num_days()).ok().and_then(|n| first.checked_sub_days(Days::new(n)))
        } else {
            None
        };
        earlier.map_or_else(|| from.checked_sub_signed(to - from).unwrap_or(from), |day| self.midnight(day))
    }
}

words! {
    /// What people divide time by.
    Calendar { Day = "day", Week = "week", Month = "month", }
}

impl Default for TimeZone {
    fn default() -> Self {
        Self::UTC
    }
}

impl FromStr for TimeZone {
    type Err = BadTimeZone;
    fn from_str(name: &str) -> Result<Self, BadTimeZone> {
        name.parse().map(Self).map_err(|_| BadTimeZone)
    }
}

impl fmt::Display for TimeZone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for TimeZone {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn days_weeks_and_months_are_those_of_the_zone() {
        let berlin: TimeZone = "Europe/Berlin".parse().unwrap();
        // The night in which clocks go forward: a day of 23 hours.
        let (from, to) = berlin.around(Calendar::Day, at("2026-03-29T12:00:00Z"));
        assert_eq!((from, to), (at("2026-03-28T23:00:00Z"), at("2026-03-29T22:00:00Z")));
        let (from, to) = berlin.around(Calendar::Month, at("2026-10-31T23:30:00Z"));
        assert_eq!((from, to), (at("2026-10-31T23:00:00Z"), at("2026-11-30T23:00:00Z")));
        let (from, to) = berlin.around(Calendar::Week, at("2026-11-29T22:59:59Z"));
        assert_eq!((from, to), (at("2026-11-22T23:00:00Z"), at("2026-11-29T23:00:00Z")));
        let kolkata: TimeZone = "Asia/Kolkata".parse().unwrap();
        assert_eq!(kolkata.around(Calendar::Day, at("2026-11-28T18:30:00Z")).0, at("2026-11-28T18:30:00Z"));
        // Clocks go forward at midnight: the day begins at one o'clock.
        let beirut: TimeZone = "Asia/Beirut".parse().unwrap();
        assert_eq!(beirut.around(Calendar::Day, at("2026-03-29T10:00:00Z")).0, at("2026-03-28T22:00:00Z"));
    }

    #[test]
    fn periods_follow_one_another_without_a_gap() {
        for name in ["UTC", "Europe/Berlin", "Asia/Beirut", "America/Sao_Paulo", "Pacific/Apia", "Australia/Lord_Howe"] {
            let zone: TimeZone = name.parse().unwrap();
            for unit in [Calendar::Day, Calendar::Week, Calendar::Month] {
                let mut now = at("2011-12-01T00:00:00Z");
                for _ in 0..1200 {
                    let (from, to) = zone.around(unit, now);
                    assert!(from <= now && now < to, "{name} {unit:?} {now}: {from} to {to}");
                    assert_eq!(zone.around(unit, to).0, to, "{name} {unit:?}");
                    now += TimeDelta::hours(19);
                }
            }
        }
    }

    #[test]
    fn the_period_before_is_of_as_many_months_days_or_hours() {
        let berlin: TimeZone = "Europe/Berlin".parse().unwrap();
        for (from, to, before) in [
            // March, 31 days less an hour; February before it has 28.
            ("2026-02-28T23:00:00Z", "2026-03-31T22:00:00Z", "2026-01-31T23:00:00Z"),
            // A quarter of a year.
            ("2026-03-31T22:00:00Z", "2026-06-30T22:00:00Z", "2025-12-31T23:00:00Z"),
            // The day of 23 hours, and the day after it.
            ("2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z", "2026-03-27T23:00:00Z"),
            ("2026-03-29T22:00:00Z", "2026-03-30T22:00:00Z", "2026-03-28T23:00:00Z"),
            // Begins with a month and ends in the middle of it.
            ("2026-02-28T23:00:00Z", "2026-03-01T11:00:00Z", "2026-02-28T11:00:00Z"),
            ("2026-02-28T23:00:00Z", "2026-02-28T23:00:00Z", "2026-02-28T23:00:00Z"),
        ] {
            assert_eq!(berlin.before(at(from), at(to)), at(before), "{from} to {to}");
        }
        assert_eq!(TimeZone::UTC.before(at("2026-03-01T00:00:00Z"), at("2026-04-01T00:00:00Z")), at("2026-02-01T00:00:00Z"));
    }

    #[test]
    fn other_names_are_refused() {
        for bad in ["", "Berlin", "europe", "+01:00", "UTC+1"] {
            assert_eq!(bad.parse::<TimeZone>(), Err(BadTimeZone), "{bad}");
        }
    }
}
