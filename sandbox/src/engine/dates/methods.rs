//! Constructors and methods.

use chrono::{Datelike, NaiveDate, Timelike};
use starlark::environment::MethodsBuilder;
use starlark::eval::{Arguments, Evaluator};
use starlark::starlark_module;
use starlark::values::float::UnpackFloat;
use starlark::values::none::NoneOr;
use starlark::values::{Heap, UnpackValue, Value, ValueLike};

use super::super::raised::Raised;
use super::parse;
use super::values::{Class, Date, DateTime, Delta, Kind, Zone};
use super::{checked, from_micros, midnight, now, out_of_range};

starlark::methods_static!(pub CLASS = class_methods);
starlark::methods_static!(pub TIME = time_methods);
starlark::methods_static!(pub DATE = date_methods);
starlark::methods_static!(pub DELTA = delta_methods);

fn number(value: Value) -> starlark::Result<f64> {
    match UnpackFloat::unpack_value(value) {
        Ok(Some(UnpackFloat(float))) if float.is_finite() => Ok(float),
        _ => Err(Raised::type_of(format!("A number is needed here, not a value of type {}.", value.get_type()))),
    }
}

fn small(value: Value) -> starlark::Result<u32> {
    value
        .unpack_i32()
        .and_then(|n| u32::try_from(n).ok())
        .ok_or_else(|| Raised::value("The parts of a date are positive integers."))
}

fn offset(zone: Option<Value>) -> starlark::Result<Option<i32>> {
    match zone {
        None => Ok(None),
        Some(zone) if zone.is_none() => Ok(None),
        Some(zone) => match zone.downcast_ref::<Zone>() {
            Some(zone) => Ok(Some(zone.0)),
            None => Err(Raised::type_of("A zone is `timezone.utc` or `timezone(timedelta(hours=1))`.")),
        },
    }
}

/// The names of the parts, as positional arguments and as keywords.
const TIME_PARTS: &[&str] = &["year", "month", "day", "hour", "minute", "second", "microsecond", "tzinfo"];
const DELTA_PARTS: &[(&str, f64)] = &[
    ("days", 86_400e6),
    ("seconds", 1e6),
    ("microseconds", 1.0),
    ("milliseconds", 1e3),
    ("minutes", 60e6),
    ("hours", 3_600e6),
    ("weeks", 604_800e6),
];

pub fn construct<'v>(kind: Kind, args: &Arguments<'v, '_>, eval: &mut Evaluator<'v, '_, '_>) -> starlark::Result<Value<'v>> {
    let heap = eval.heap();
    let positional: Vec<Value> = args.positions(heap)?.collect();
    let named = args.names_map()?;
    let named: Vec<(&str, Value)> = named.iter().map(|(k, v)| (k.as_str(), *v)).collect();
    if kind == Kind::Zone {
        return match positional.first().and_then(|v| v.downcast_ref::<Delta>()) {
            Some(delta) => {
                let seconds = i32::try_from(delta.0 / 1_000_000).ok().filter(|s| s.abs() < 86_400);
                Ok(heap.alloc(Zone(seconds.ok_or_else(out_of_range)?)))
            }
            None => Err(Raised::type_of("Write `timezone.utc` or `timezone(timedelta(hours=1))`.")),
        };
    }
    let names: Vec<&str> = match kind {
        Kind::Delta => DELTA_PARTS.iter().map(|(n, _)| *n).collect(),
        _ => TIME_PARTS.to_vec(),
    };
    let mut parts: Vec<(&str, Value)> = names.iter().copied().zip(positional).collect();
    for (name, value) in named {
        if !names.contains(&name) {
            return Err(Raised::type_of(format!("There is no '{name}' here. It takes {}.", names.join(", "))));
        }
        parts.push((name, value));
    }
    if kind == Kind::Delta {
        let mut micros = 0.0;
        for (name, value) in parts {
            let unit = DELTA_PARTS.iter().find(|(n, _)| *n == name).map_or(0.0, |(_, u)| *u);
            micros += number(value)? * unit;
        }
        return Ok(heap.alloc(Delta::of_float(micros)?));
    }
    if ["year", "month", "day"].iter().any(|n| !parts.iter().any(|(p, _)| p == n)) {
        return Err(Raised::type_of("A date takes year, month and day: `datetime(2025, 1, 31)`."));
    }
    let time = assemble(&DateTime { naive: midnight(NaiveDate::default()), offset: None }, &parts)?;
    Ok(if kind == Kind::Date { heap.alloc(Date(time.naive.date())) } else { heap.alloc(time) })
}

/// `from` with some of its parts replaced.
fn assemble(from: &DateTime, parts: &[(&str, Value)]) -> starlark::Result<DateTime> {
    let mut zone = from.offset;
    let naive = from.naive;
    let mut values = [
        u32::try_from(naive.year()).unwrap_or(0),
        naive.month(),
        naive.day(),
        naive.hour(),
        naive.minute(),
        naive.second(),
        naive.nanosecond() / 1000,
    ];
    for (name, value) in parts {
        match TIME_PARTS.iter().position(|n| n == name) {
            Some(7) => zone = offset(Some(*value))?,
            Some(at) => values[at] = small(*value)?,
            None => return Err(Raised::type_of(format!("There is no '{name}' here. It takes {}.", TIME_PARTS.join(", ")))),
        }
    }
    let [year, month, day, hour, minute, second, micro] = values;
    let date = i32::try_from(year).ok().and_then(|year| NaiveDate::from_ymd_opt(year, month, day));
    let naive = date.and_then(|d| d.and_hms_micro_opt(hour, minute, second, micro)).ok_or_else(|| {
        Raised::value(format!("There is no such time: {year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}."))
    })?;
    checked(naive, zone)
}

fn kind(this: Value) -> Kind {
    this.downcast_ref::<Class>().map_or(Kind::DateTime, |c| c.kind)
}

#[starlark_module]
fn class_methods(builder: &mut MethodsBuilder) {
    #[starlark(attribute)]
    fn utc<'v>(this: Value<'v>, heap: Heap<'v>) -> starlark::Result<Value<'v>> {
        let _ = this;
        Ok(heap.alloc(Zone(0)))
    }

    #[starlark(attribute)]
    fn UTC<'v>(this: Value<'v>, heap: Heap<'v>) -> starlark::Result<Value<'v>> {
        let _ = this;
        Ok(heap.alloc(Zone(0)))
    }

    fn fromisoformat<'v>(this: Value<'v>, #[starlark(require = pos)] text: &str, heap: Heap<'v>) -> starlark::Result<Value<'v>> {
        match kind(this) {
            Kind::Date => Ok(heap.alloc(Date(parse::iso_date(text)?))),
            _ => Ok(heap.alloc(parse::iso(text)?)),
        }
    }

    fn strptime<'v>(
        this: Value<'v>,
        #[starlark(require = pos)] text: &str,
        #[starlark(require = pos)] format: &str,
        heap: Heap<'v>,
    ) -> starlark::Result<Value<'v>> {
        let _ = this;
        Ok(heap.alloc(parse::strptime(text, format)?))
    }

    fn now<'v>(this: Value<'v>, tz: Option<NoneOr<Value<'v>>>, eval: &mut Evaluator<'v, '_, '_>) -> starlark::Result<Value<'v>> {
        let _ = this;
        let offset = offset(tz.and_then(NoneOr::into_option))?;
        Ok(eval.heap().alloc(from_micros(now(eval)?, offset)?))
    }

    fn utcnow<'v>(this: Value<'v>, eval: &mut Evaluator<'v, '_, '_>) -> starlark::Result<Value<'v>> {
        let _ = this;
        Ok(eval.heap().alloc(from_micros(now(eval)?, None)?))
    }

    fn today<'v>(this: Value<'v>, eval: &mut Evaluator<'v, '_, '_>) -> starlark::Result<Value<'v>> {
        let time = from_micros(now(eval)?, None)?;
        Ok(if kind(this) == Kind::Date { eval.heap().alloc(Date(time.naive.date())) } else { eval.heap().alloc(time) })
    }

    fn fromtimestamp<'v>(
        this: Value<'v>,
        #[starlark(require = pos)] timestamp: Value<'v>,
        tz: Option<NoneOr<Value<'v>>>,
        heap: Heap<'v>,
    ) -> starlark::Result<Value<'v>> {
        let micros = Delta::of_float(number(timestamp)? * 1e6)?.0;
        let time = from_micros(micros, offset(tz.and_then(NoneOr::into_option))?)?;
        Ok(if kind(this) == Kind::Date { heap.alloc(Date(time.naive.date())) } else { heap.alloc(time) })
    }

    fn utcfromtimestamp<'v>(
        this: Value<'v>,
        #[starlark(require = pos)] timestamp: Value<'v>,
        heap: Heap<'v>,
    ) -> starlark::Result<Value<'v>> {
        let _ = this;
        Ok(heap.alloc(from_micros(Delta::of_float(number(timestamp)? * 1e6)?.0, None)?))
    }
}

fn time(this: Value) -> starlark::Result<DateTime> {
    if let Some(date) = this.downcast_ref::<Date>() {
        return Ok(DateTime { naive: midnight(date.0), offset: None });
    }
    this.downcast_ref::<DateTime>().cloned().ok_or_else(|| Raised::type_of("This is no time."))
}

fn int(n: u32) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

/// What dates and times have in common.
#[starlark_module]
fn common(builder: &mut MethodsBuilder) {
    #[starlark(attribute)]
    fn year<'v>(this: Value<'v>) -> starlark::Result<i32> {
        Ok(time(this)?.naive.year())
    }

    #[starlark(attribute)]
    fn month<'v>(this: Value<'v>) -> starlark::Result<i32> {
        Ok(int(time(this)?.naive.month()))
    }

    #[starlark(attribute)]
    fn day<'v>(this: Value<'v>) -> starlark::Result<i32> {
        Ok(int(time(this)?.naive.day()))
    }

    fn weekday<'v>(this: Value<'v>) -> starlark::Result<i32> {
        Ok(int(time(this)?.naive.weekday().num_days_from_monday()))
    }

    fn isoweekday<'v>(this: Value<'v>) -> starlark::Result<i32> {
        Ok(int(time(this)?.naive.weekday().number_from_monday()))
    }

    fn isocalendar<'v>(this: Value<'v>, heap: Heap<'v>) -> starlark::Result<Value<'v>> {
        let naive = time(this)?.naive;
        let week = naive.iso_week();
        Ok(heap.alloc((week.year(), int(week.week()), int(naive.weekday().number_from_monday()))))
    }

    fn toordinal<'v>(this: Value<'v>) -> starlark::Result<i32> {
        Ok(time(this)?.naive.num_days_from_ce())
    }

    fn strftime<'v>(this: Value<'v>, #[starlark(require = pos)] format: &str) -> starlark::Result<String> {
        parse::strftime(&time(this)?, format)
    }

    fn replace<'v>(
        this: Value<'v>,
        #[starlark(kwargs)] parts: starlark::values::dict::DictRef<'v>,
        heap: Heap<'v>,
    ) -> starlark::Result<Value<'v>> {
        let parts: Vec<(&str, Value)> = parts.iter().filter_map(|(k, v)| Some((k.unpack_str()?, v))).collect();
        let replaced = assemble(&time(this)?, &parts)?;
        Ok(if this.get_type() == "date" { heap.alloc(Date(replaced.naive.date())) } else { heap.alloc(replaced) })
    }
}

#[starlark_module]
fn clock(builder: &mut MethodsBuilder) {
    #[starlark(attribute)]
    fn hour<'v>(this: Value<'v>) -> starlark::Result<i32> {
        Ok(int(time(this)?.naive.hour()))
    }

    #[starlark(attribute)]
    fn minute<'v>(this: Value<'v>) -> starlark::Result<i32> {
        Ok(int(time(this)?.naive.minute()))
    }

    #[starlark(attribute)]
    fn second<'v>(this: Value<'v>) -> starlark::Result<i32> {
        Ok(int(time(this)?.naive.second()))
    }

    #[starlark(attribute)]
    fn microsecond<'v>(this: Value<'v>) -> starlark::Result<i32> {
        Ok(int(time(this)?.naive.nanosecond() / 1000))
    }

    #[starlark(attribute)]
    fn tzinfo<'v>(this: Value<'v>, heap: Heap<'v>) -> starlark::Result<Value<'v>> {
        Ok(time(this)?.offset.map_or_else(Value::new_none, |o| heap.alloc(Zone(o))))
    }

    fn utcoffset<'v>(this: Value<'v>, heap: Heap<'v>) -> starlark::Result<Value<'v>> {
        Ok(time(this)?.offset.map_or_else(Value::new_none, |o| heap.alloc(Delta(i64::from(o) * 1_000_000))))
    }

    fn isoformat<'v>(
        this: Value<'v>,
        sep: Option<&str>,
        #[starlark(require = named)] timespec: Option<&str>,
    ) -> starlark::Result<String> {
        let mut time = time(this)?;
        let separator = sep.and_then(|s| s.chars().next()).unwrap_or('T');
        match timespec {
            Some("seconds") => time.naive = time.naive.with_nanosecond(0).unwrap_or(time.naive),
            Some("minutes") => {
                let zone = time.offset.map(super::values::offset_text).unwrap_or_default();
                return Ok(format!("{}{separator}{}{zone}", time.naive.format("%Y-%m-%d"), time.naive.format("%H:%M")));
            }
            Some("milliseconds") => {
                let zone = time.offset.map(super::values::offset_text).unwrap_or_default();
                return Ok(format!("{}{separator}{}{zone}", time.naive.format("%Y-%m-%d"), time.naive.format("%H:%M:%S%.3f")));
            }
            _ => {}
        }
        Ok(time.iso(separator))
    }

    fn date<'v>(this: Value<'v>, heap: Heap<'v>) -> starlark::Result<Value<'v>> {
        Ok(heap.alloc(Date(time(this)?.naive.date())))
    }

    #[allow(clippy::cast_precision_loss)] // a float in Python too
    fn timestamp<'v>(this: Value<'v>) -> starlark::Result<f64> {
        Ok(time(this)?.micros() as f64 / 1e6)
    }

    fn astimezone<'v>(
        this: Value<'v>,
        #[starlark(require = pos)] tz: Option<Value<'v>>,
        heap: Heap<'v>,
    ) -> starlark::Result<Value<'v>> {
        let zone = offset(tz)?.unwrap_or(0);
        Ok(heap.alloc(from_micros(time(this)?.micros(), Some(zone))?))
    }
}

fn time_methods(builder: &mut MethodsBuilder) {
    common(builder);
    clock(builder);
}

#[starlark_module]
fn only_dates(builder: &mut MethodsBuilder) {
    fn isoformat<'v>(this: Value<'v>) -> starlark::Result<String> {
        Ok(time(this)?.naive.format("%Y-%m-%d").to_string())
    }
}

fn date_methods(builder: &mut MethodsBuilder) {
    common(builder);
    only_dates(builder);
}

fn delta(this: Value) -> starlark::Result<Delta> {
    this.downcast_ref::<Delta>().cloned().ok_or_else(|| Raised::type_of("This is no timedelta."))
}

#[starlark_module]
fn delta_methods(builder: &mut MethodsBuilder) {
    #[starlark(attribute)]
    fn days<'v>(this: Value<'v>, heap: Heap<'v>) -> starlark::Result<Value<'v>> {
        Ok(heap.alloc(delta(this)?.parts().0))
    }

    #[starlark(attribute)]
    fn seconds<'v>(this: Value<'v>, heap: Heap<'v>) -> starlark::Result<Value<'v>> {
        Ok(heap.alloc(delta(this)?.parts().1))
    }

    #[starlark(attribute)]
    fn microseconds<'v>(this: Value<'v>, heap: Heap<'v>) -> starlark::Result<Value<'v>> {
        Ok(heap.alloc(delta(this)?.parts().2))
    }

    #[allow(clippy::cast_precision_loss)] // a float in Python too
    fn total_seconds<'v>(this: Value<'v>) -> starlark::Result<f64> {
        Ok(delta(this)?.0 as f64 / 1e6)
    }
}
