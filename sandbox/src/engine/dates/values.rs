//! The values: what they are, how they compare, hash and add.

// The derives of `ProvidesStaticType` expand to an unsafe marker impl; there is no other unsafe here.
#![allow(unsafe_code)]

use std::cmp::Ordering;
use std::fmt;
use std::hash::Hash;

use allocative::Allocative;
use chrono::{Datelike, NaiveDate, NaiveDateTime, TimeDelta, Timelike};
use starlark::any::ProvidesStaticType;
use starlark::collections::StarlarkHasher;
use starlark::environment::Methods;
use starlark::eval::{Arguments, Evaluator};
use starlark::values::float::UnpackFloat;
use starlark::values::{Heap, NoSerialize, StarlarkPagablePanic, StarlarkValue, UnpackValue, Value, ValueLike, starlark_value};

use super::super::raised::Raised;
use super::methods;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Allocative)]
pub enum Kind {
    DateTime,
    Date,
    Delta,
    Zone,
}

/// `datetime`, `date`, `timedelta`, `timezone`; the first is the module of that name too.
#[derive(Debug, ProvidesStaticType, NoSerialize, Allocative, StarlarkPagablePanic)]
pub struct Class {
    pub kind: Kind,
}
starlark::starlark_simple_value!(Class);

#[derive(Debug, Clone, PartialEq, Eq, ProvidesStaticType, NoSerialize, Allocative, StarlarkPagablePanic)]
pub struct DateTime {
    #[allocative(skip)]
    pub naive: NaiveDateTime,
    /// Seconds east of UTC; None for a time without zone.
    pub offset: Option<i32>,
}
starlark::starlark_simple_value!(DateTime);

#[derive(Debug, Clone, PartialEq, Eq, ProvidesStaticType, NoSerialize, Allocative, StarlarkPagablePanic)]
pub struct Date(#[allocative(skip)] pub NaiveDate);
starlark::starlark_simple_value!(Date);

/// A span of time, in microseconds.
#[derive(Debug, Clone, PartialEq, Eq, ProvidesStaticType, NoSerialize, Allocative, StarlarkPagablePanic)]
pub struct Delta(pub i64);
starlark::starlark_simple_value!(Delta);

#[derive(Debug, Clone, PartialEq, Eq, ProvidesStaticType, NoSerialize, Allocative, StarlarkPagablePanic)]
pub struct Zone(pub i32);
starlark::starlark_simple_value!(Zone);

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            Kind::DateTime => "datetime",
            Kind::Date => "date",
            Kind::Delta => "timedelta",
            Kind::Zone => "timezone",
        })
    }
}

impl fmt::Display for DateTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.iso(' '))
    }
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.format("%Y-%m-%d"))
    }
}

impl fmt::Display for Delta {
    /// `1 day, 2:03:04.500000`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, seconds, micros) = self.parts();
        if days != 0 {
            write!(f, "{days} day{}, ", if days.abs() == 1 { "" } else { "s" })?;
        }
        write!(f, "{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)?;
        if micros != 0 { write!(f, ".{micros:06}") } else { Ok(()) }
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 { f.write_str("UTC") } else { write!(f, "UTC{}", offset_text(self.0)) }
    }
}

/// `+01:00`
pub fn offset_text(offset: i32) -> String {
    let (sign, seconds) = if offset < 0 { ('-', -offset) } else { ('+', offset) };
    format!("{sign}{:02}:{:02}", seconds / 3600, seconds / 60 % 60)
}

impl DateTime {
    #[must_use]
    pub fn iso(&self, separator: char) -> String {
        let time = self.naive.time();
        let mut out = format!("{}{separator}{}", self.naive.format("%Y-%m-%d"), time.format("%H:%M:%S"));
        if time.nanosecond() / 1000 != 0 {
            out += &format!(".{:06}", time.nanosecond() / 1000);
        }
        out + &self.offset.map(offset_text).unwrap_or_default()
    }

    /// Microseconds since 1970.
    #[must_use]
    pub fn micros(&self) -> i64 {
        self.naive.and_utc().timestamp_micros() - i64::from(self.offset.unwrap_or(0)) * 1_000_000
    }

    fn plus(&self, micros: i64) -> starlark::Result<Self> {
        let moved = self.naive.checked_add_signed(TimeDelta::microseconds(micros)).ok_or_else(super::out_of_range)?;
        super::checked(moved, self.offset)
    }
}

impl Delta {
    /// Days, seconds (0 to 86,399) and microseconds (0 to 999,999), as Python has them.
    #[must_use]
    pub fn parts(&self) -> (i64, i64, i64) {
        let seconds = self.0.div_euclid(1_000_000);
        (seconds.div_euclid(86_400), seconds.rem_euclid(86_400), self.0.rem_euclid(1_000_000))
    }

    /// # Errors
    /// When it is longer than 64 bits of microseconds.
    pub fn of_float(micros: f64) -> starlark::Result<Self> {
        let text = format!("{:.0}", micros.round_ties_even());
        text.parse().map(Self).map_err(|_| super::out_of_range())
    }
}

#[starlark_value(type = "time_class")]
impl<'v> StarlarkValue<'v> for Class {
    fn get_methods() -> Option<&'static Methods> {
        Some(methods::CLASS.methods())
    }

    /// The classes of the module, `datetime.date`. (Not as attributes among the methods: Starlark forgets the call of
    /// `datetime.date(2025, 1, 31)` there and answers with the attribute.)
    fn get_attr(&self, name: &str, heap: Heap<'v>) -> Option<Value<'v>> {
        let kind = match name {
            "datetime" => Kind::DateTime,
            "date" => Kind::Date,
            "timedelta" => Kind::Delta,
            "timezone" => Kind::Zone,
            _ => return None,
        };
        Some(heap.alloc(Self { kind }))
    }

    fn invoke(&self, _me: Value<'v>, args: &Arguments<'v, '_>, eval: &mut Evaluator<'v, '_, '_>) -> starlark::Result<Value<'v>> {
        methods::construct(self.kind, args, eval)
    }

    fn equals(&self, other: Value<'v>) -> starlark::Result<bool> {
        Ok(other.downcast_ref::<Self>().is_some_and(|o| o.kind == self.kind))
    }
}

fn mixed() -> starlark::Error {
    Raised::type_of("One of the two times has a zone, the other has none. Give it one: `t.replace(tzinfo=timezone.utc)`.")
}

#[starlark_value(type = "datetime")]
impl<'v> StarlarkValue<'v> for DateTime {
    fn get_methods() -> Option<&'static Methods> {
        Some(methods::TIME.methods())
    }

    fn equals(&self, other: Value<'v>) -> starlark::Result<bool> {
        let Some(other) = other.downcast_ref::<Self>() else { return Ok(false) };
        Ok(self.offset.is_some() == other.offset.is_some() && self.micros() == other.micros())
    }

    fn compare(&self, other: Value<'v>) -> starlark::Result<Ordering> {
        let Some(other) = other.downcast_ref::<Self>() else {
            return Err(Raised::type_of(format!(
                "A datetime cannot be compared with a value of type {}. Parse both: `datetime.fromisoformat(text)`.",
                other.get_type()
            )));
        };
        if self.offset.is_some() != other.offset.is_some() {
            return Err(mixed());
        }
        Ok(self.micros().cmp(&other.micros()))
    }

    fn write_hash(&self, hasher: &mut StarlarkHasher) -> starlark::Result<()> {
        self.micros().hash(hasher);
        Ok(())
    }

    fn add(&self, rhs: Value<'v>, heap: Heap<'v>) -> Option<starlark::Result<Value<'v>>> {
        let delta = rhs.downcast_ref::<Delta>()?;
        Some(self.plus(delta.0).map(|t| heap.alloc(t)))
    }

    fn sub(&self, other: Value<'v>, heap: Heap<'v>) -> starlark::Result<Value<'v>> {
        if let Some(delta) = other.downcast_ref::<Delta>() {
            return Ok(heap.alloc(self.plus(delta.0.saturating_neg())?));
        }
        let Some(other) = other.downcast_ref::<Self>() else {
            return Err(Raised::type_of(format!(
                "A value of type {} cannot be taken from a datetime. Use timedelta(days=1).",
                other.get_type()
            )));
        };
        if self.offset.is_some() != other.offset.is_some() {
            return Err(mixed());
        }
        Ok(heap.alloc(Delta(self.micros() - other.micros())))
    }
}

#[starlark_value(type = "date")]
impl<'v> StarlarkValue<'v> for Date {
    fn get_methods() -> Option<&'static Methods> {
        Some(methods::DATE.methods())
    }

    fn equals(&self, other: Value<'v>) -> starlark::Result<bool> {
        Ok(other.downcast_ref::<Self>().is_some_and(|o| o == self))
    }

    fn compare(&self, other: Value<'v>) -> starlark::Result<Ordering> {
        match other.downcast_ref::<Self>() {
            Some(other) => Ok(self.0.cmp(&other.0)),
            None => Err(Raised::type_of(format!(
                "A date cannot be compared with a value of type {}. Use `t.date()`.",
                other.get_type()
            ))),
        }
    }

    fn write_hash(&self, hasher: &mut StarlarkHasher) -> starlark::Result<()> {
        self.0.num_days_from_ce().hash(hasher);
        Ok(())
    }

    fn add(&self, rhs: Value<'v>, heap: Heap<'v>) -> Option<starlark::Result<Value<'v>>> {
        let delta = rhs.downcast_ref::<Delta>()?;
        Some(self.plus(delta.parts().0).map(|d| heap.alloc(d)))
    }

    fn sub(&self, other: Value<'v>, heap: Heap<'v>) -> starlark::Result<Value<'v>> {
        if let Some(delta) = other.downcast_ref::<Delta>() {
            return Ok(heap.alloc(self.plus(Delta(delta.0.saturating_neg()).parts().0)?));
        }
        match other.downcast_ref::<Self>() {
            Some(other) => Ok(heap.alloc(Delta((self.0 - other.0).num_days() * 86_400_000_000))),
            None => Err(Raised::type_of(format!(
                "A value of type {} cannot be taken from a date. Use timedelta(days=1).",
                other.get_type()
            ))),
        }
    }
}

impl Date {
    fn plus(&self, days: i64) -> starlark::Result<Self> {
        let moved = TimeDelta::try_days(days).and_then(|d| self.0.checked_add_signed(d)).ok_or_else(super::out_of_range)?;
        super::checked(super::midnight(moved), None)?;
        Ok(Self(moved))
    }
}

fn number(value: Value) -> Option<f64> {
    UnpackFloat::unpack_value(value).ok().flatten().map(|f| f.0)
}

#[allow(clippy::cast_precision_loss)] // a span times or over a number is a float in Python too
fn float(micros: i64) -> f64 {
    micros as f64
}

#[starlark_value(type = "timedelta")]
impl<'v> StarlarkValue<'v> for Delta {
    fn get_methods() -> Option<&'static Methods> {
        Some(methods::DELTA.methods())
    }

    fn to_bool(&self) -> bool {
        self.0 != 0
    }

    fn equals(&self, other: Value<'v>) -> starlark::Result<bool> {
        Ok(other.downcast_ref::<Self>().is_some_and(|o| o == self))
    }

    fn compare(&self, other: Value<'v>) -> starlark::Result<Ordering> {
        match other.downcast_ref::<Self>() {
            Some(other) => Ok(self.0.cmp(&other.0)),
            None => Err(Raised::type_of(format!(
                "A timedelta cannot be compared with a value of type {}. Use `d.days` or `timedelta(days=1)`.",
                other.get_type()
            ))),
        }
    }

    fn write_hash(&self, hasher: &mut StarlarkHasher) -> starlark::Result<()> {
        self.0.hash(hasher);
        Ok(())
    }

    fn minus(&self, heap: Heap<'v>) -> starlark::Result<Value<'v>> {
        Ok(heap.alloc(Self(self.0.saturating_neg())))
    }

    fn add(&self, rhs: Value<'v>, heap: Heap<'v>) -> Option<starlark::Result<Value<'v>>> {
        if let Some(other) = rhs.downcast_ref::<Self>() {
            return Some(self.0.checked_add(other.0).map(|n| heap.alloc(Self(n))).ok_or_else(super::out_of_range));
        }
        (rhs.get_type() == "datetime" || rhs.get_type() == "date").then(|| rhs.add(heap.alloc(self.clone()), heap))
    }

    /// `sum` begins with 0.
    fn radd(&self, lhs: Value<'v>, heap: Heap<'v>) -> Option<starlark::Result<Value<'v>>> {
        (lhs.unpack_i32() == Some(0)).then(|| Ok(heap.alloc(self.clone())))
    }

    fn sub(&self, other: Value<'v>, heap: Heap<'v>) -> starlark::Result<Value<'v>> {
        match other.downcast_ref::<Self>() {
            Some(other) => self.0.checked_sub(other.0).map(|n| heap.alloc(Self(n))).ok_or_else(super::out_of_range),
            None => Err(Raised::type_of("Only a timedelta can be taken from a timedelta.")),
        }
    }

    fn mul(&self, rhs: Value<'v>, heap: Heap<'v>) -> Option<starlark::Result<Value<'v>>> {
        Some(Self::of_float(float(self.0) * number(rhs)?).map(|d| heap.alloc(d)))
    }

    fn rmul(&self, lhs: Value<'v>, heap: Heap<'v>) -> Option<starlark::Result<Value<'v>>> {
        self.mul(lhs, heap)
    }

    fn div(&self, other: Value<'v>, heap: Heap<'v>) -> starlark::Result<Value<'v>> {
        let zero = || Raised::of_class("ZeroDivisionError", "division by zero");
        if let Some(other) = other.downcast_ref::<Self>() {
            return if other.0 == 0 { Err(zero()) } else { Ok(heap.alloc(float(self.0) / float(other.0))) };
        }
        match number(other) {
            Some(by) if by.abs() > 0.0 => Ok(heap.alloc(Self::of_float(float(self.0) / by)?)),
            Some(_) => Err(zero()),
            None => Err(Raised::type_of("A timedelta is divided by a number or a timedelta.")),
        }
    }

    fn floor_div(&self, other: Value<'v>, heap: Heap<'v>) -> starlark::Result<Value<'v>> {
        match other.downcast_ref::<Self>().map(|o| o.0).or_else(|| other.unpack_i32().map(i64::from)) {
            None | Some(0) => {
                Err(Raised::of_class("ZeroDivisionError", "A timedelta is divided by a number or a timedelta, not by 0."))
            }
            Some(by) => {
                let floor = self.0.div_euclid(by) - i64::from(by < 0 && self.0.rem_euclid(by) != 0);
                Ok(if other.downcast_ref::<Self>().is_some() { heap.alloc(floor) } else { heap.alloc(Self(floor)) })
            }
        }
    }
}

#[starlark_value(type = "timezone")]
impl<'v> StarlarkValue<'v> for Zone {
    fn equals(&self, other: Value<'v>) -> starlark::Result<bool> {
        Ok(other.downcast_ref::<Self>().is_some_and(|o| o == self))
    }
}
