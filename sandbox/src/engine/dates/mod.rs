//! `datetime`, `date`, `timedelta` and `timezone`. All of it is computed; what time it is, the gateway answers, and the
//! journal keeps. Times without a zone mean what the script takes them for; where one is needed they are UTC.

mod methods;
mod parse;
mod values;

use chrono::{DateTime as Chrono, Datelike, NaiveDate, NaiveDateTime, NaiveTime};
use serde_json::Value as Json;
use starlark::environment::GlobalsBuilder;
use starlark::eval::Evaluator;
use starlark::values::{Value, ValueLike};
use tollgate_codemode::wire::{self, ErrorKind};

pub use self::values::{Class, Date, DateTime, Delta, Kind, Zone};
use super::convert;
use super::raised::Raised;
use super::run::{Answered, Run};

pub fn register(builder: &mut GlobalsBuilder) {
    for (name, kind) in [
        ("datetime", Kind::DateTime),
        ("__module_datetime", Kind::DateTime),
        ("date", Kind::Date),
        ("timedelta", Kind::Delta),
        ("timezone", Kind::Zone),
    ] {
        builder.set(name, Class { kind });
    }
}

/// Microseconds since 1970, from the journal.
///
/// # Errors
/// While the gateway has not answered, or where it refuses.
pub fn now<'v>(eval: &Evaluator<'v, '_, '_>) -> starlark::Result<i64> {
    match Run::of(eval).ask_gateway(eval, wire::NOW)? {
        Answered::Value(value) => integer(eval, value),
        Answered::ToolError(text) => {
            Err(Raised::error(ErrorKind::ToolError, format!("The time is not given to scripts: {text}")))
        }
    }
}

pub fn integer<'v>(eval: &Evaluator<'v, '_, '_>, value: Value<'v>) -> starlark::Result<i64> {
    let json = convert::to_json(eval.heap(), value, 100).unwrap_or(Json::Null);
    json.as_i64().ok_or_else(|| Raised::runtime("The gateway's answer is no integer."))
}

/// # Errors
/// When the time is beyond what a date can be.
pub fn from_micros(micros: i64, offset: Option<i32>) -> starlark::Result<DateTime> {
    let shifted = micros.checked_add(i64::from(offset.unwrap_or(0)) * 1_000_000);
    let naive = shifted.and_then(Chrono::from_timestamp_micros).ok_or_else(out_of_range)?.naive_utc();
    checked(naive, offset)
}

/// Python's years are 1 to 9999.
///
/// # Errors
/// When the time is beyond them.
pub fn checked(naive: NaiveDateTime, offset: Option<i32>) -> starlark::Result<DateTime> {
    if !(1..=9999).contains(&naive.year()) {
        return Err(out_of_range());
    }
    Ok(DateTime { naive, offset })
}

pub fn out_of_range() -> starlark::Error {
    Raised::of_class("OverflowError", "The date is out of range: years are 1 to 9999.")
}

pub fn midnight(date: NaiveDate) -> NaiveDateTime {
    date.and_time(NaiveTime::MIN)
}

/// As `str` or `repr` shows it, if it is one of these.
pub fn shown(value: Value, repr: bool) -> Option<String> {
    if let Some(time) = value.downcast_ref::<DateTime>() {
        return Some(if repr { format!("datetime({})", time.iso('T')) } else { time.iso(' ') });
    }
    if let Some(date) = value.downcast_ref::<Date>() {
        let text = date.0.format("%Y-%m-%d").to_string();
        return Some(if repr { format!("date({text})") } else { text });
    }
    if let Some(delta) = value.downcast_ref::<Delta>() {
        return Some(if repr { format!("timedelta({delta})") } else { delta.to_string() });
    }
    value.downcast_ref::<Zone>().map(ToString::to_string)
}

/// As it stands in JSON, if it is one of these.
pub fn json(value: Value) -> Option<String> {
    if let Some(time) = value.downcast_ref::<DateTime>() {
        return Some(time.iso('T'));
    }
    value.downcast_ref::<Date>().map(|date| date.0.format("%Y-%m-%d").to_string())
}

/// `f"{when:%Y-%m-%d}"`
///
/// # Errors
/// When the format is none.
pub fn formatted(value: Value, spec: &str) -> starlark::Result<Option<String>> {
    if !spec.contains('%') {
        return Ok(None);
    }
    if let Some(time) = value.downcast_ref::<DateTime>() {
        return parse::strftime(time, spec).map(Some);
    }
    match value.downcast_ref::<Date>() {
        Some(date) => parse::strftime(&DateTime { naive: midnight(date.0), offset: None }, spec).map(Some),
        None => Ok(None),
    }
}
