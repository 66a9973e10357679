//! Python's modules, as far as scripts use them; `time`, `random` and `asyncio` stand here.

mod items;
mod more;
mod numbers;

use starlark::environment::GlobalsBuilder;
use starlark::eval::Evaluator;
use starlark::starlark_module;
use starlark::values::float::UnpackFloat;
use starlark::values::none::NoneType;
use starlark::values::tuple::UnpackTuple;
use starlark::values::{Heap, UnpackValue, Value};
use tollgate_codemode::wire::{self, ErrorKind};

use super::raised::Raised;
use super::run::{Answered, Run};
use super::{basics, dates};

pub fn register(builder: &mut GlobalsBuilder) {
    let modules: [(&str, fn(&mut GlobalsBuilder)); 13] = [
        ("json", super::json::register),
        ("re", super::regex::register),
        ("math", numbers::math_module),
        ("time", time),
        ("random", random_module),
        ("asyncio", asyncio),
        ("collections", items::collections),
        ("itertools", items::itertools),
        ("functools", items::functools),
        ("statistics", numbers::statistics),
        ("operator", more::operator),
        ("copy", more::copy),
        ("heapq", more::heapq),
    ];
    for (name, fill) in modules {
        builder.namespace(&format!("__module_{name}"), fill);
        // `random` is a function too, and is a module only where it is imported as one.
        if name != "random" {
            builder.namespace(name, fill);
        }
    }
    clock(builder);
}

pub fn float(value: Value, who: &str) -> starlark::Result<f64> {
    match UnpackFloat::unpack_value(value) {
        Ok(Some(UnpackFloat(float))) => Ok(float),
        _ => Err(Raised::type_of(format!("{who} takes numbers, not a value of type {}.", value.get_type()))),
    }
}

fn all<'v>(heap: Heap<'v>, value: Value<'v>) -> starlark::Result<Vec<Value<'v>>> {
    Ok(basics::items(heap, value)?.iterate(heap)?.collect())
}

// --- time and chance ------------------------------------------------------------------------------------------------

/// The next of the run's random numbers: SplitMix64 from a seed that the gateway gives once.
fn next_random<'v>(eval: &Evaluator<'v, '_, '_>) -> starlark::Result<u64> {
    let run = Run::of(eval);
    let state = match run.random_state() {
        Some(state) => state,
        None => match run.ask_gateway(eval, wire::RANDOM)? {
            Answered::Value(seed) => dates::integer(eval, seed)?.unsigned_abs(),
            Answered::ToolError(text) => {
                return Err(Raised::error(ErrorKind::ToolError, format!("Random numbers are not given to scripts: {text}")));
            }
        },
    };
    let state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    run.set_random_state(state);
    let mut z = state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    Ok(z ^ (z >> 31))
}

#[allow(clippy::cast_precision_loss)] // 53 bits are what a float holds
fn unit<'v>(eval: &Evaluator<'v, '_, '_>) -> starlark::Result<f64> {
    Ok((next_random(eval)? >> 11) as f64 / (1u64 << 53) as f64)
}

/// Below `n`, which is not 0.
fn below<'v>(eval: &Evaluator<'v, '_, '_>, n: usize) -> starlark::Result<usize> {
    let drawn = u128::from(next_random(eval)?) * (n as u128);
    Ok(usize::try_from(drawn >> 64).unwrap_or(0))
}

#[allow(clippy::cast_precision_loss)] // a float in Python too
fn seconds(micros: i64) -> f64 {
    micros as f64 / 1e6
}

#[starlark_module]
fn clock(builder: &mut GlobalsBuilder) {
    /// The time of day, as a datetime in UTC.
    fn now<'v>(eval: &mut Evaluator<'v, '_, '_>) -> starlark::Result<Value<'v>> {
        let micros = dates::now(eval)?;
        Ok(eval.heap().alloc(dates::from_micros(micros, Some(0))?))
    }

    /// From 0 to 1.
    fn random<'v>(eval: &mut Evaluator<'v, '_, '_>) -> starlark::Result<f64> {
        unit(eval)
    }
}

#[starlark_module]
fn time(builder: &mut GlobalsBuilder) {
    fn time<'v>(eval: &mut Evaluator<'v, '_, '_>) -> starlark::Result<f64> {
        Ok(seconds(dates::now(eval)?))
    }

    fn monotonic<'v>(eval: &mut Evaluator<'v, '_, '_>) -> starlark::Result<f64> {
        Ok(seconds(dates::now(eval)?))
    }

    fn perf_counter<'v>(eval: &mut Evaluator<'v, '_, '_>) -> starlark::Result<f64> {
        Ok(seconds(dates::now(eval)?))
    }

    /// Nothing is waited for: the script's own time stands still.
    fn sleep<'v>(#[starlark(require = pos)] seconds: Value<'v>) -> starlark::Result<NoneType> {
        float(seconds, "sleep()")?;
        Ok(NoneType)
    }
}

#[starlark_module]
fn random_module(builder: &mut GlobalsBuilder) {
    fn random<'v>(eval: &mut Evaluator<'v, '_, '_>) -> starlark::Result<f64> {
        unit(eval)
    }

    fn uniform<'v>(
        #[starlark(require = pos)] low: Value<'v>,
        #[starlark(require = pos)] high: Value<'v>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<f64> {
        let (low, high) = (float(low, "uniform()")?, float(high, "uniform()")?);
        Ok(low + (high - low) * unit(eval)?)
    }

    fn randint<'v>(
        #[starlark(require = pos)] low: i32,
        #[starlark(require = pos)] high: i32,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<i32> {
        let span = usize::try_from(i64::from(high) - i64::from(low) + 1).ok().filter(|n| *n > 0);
        let span = span.ok_or_else(|| Raised::value("randint(a, b) needs a <= b."))?;
        let drawn = i64::from(low) + i64::try_from(below(eval, span)?).unwrap_or(0);
        Ok(i32::try_from(drawn).unwrap_or(low))
    }

    fn choice<'v>(#[starlark(require = pos)] items: Value<'v>, eval: &mut Evaluator<'v, '_, '_>) -> starlark::Result<Value<'v>> {
        let items = all(eval.heap(), items)?;
        if items.is_empty() {
            return Err(Raised::of_class("IndexError", "choice() of an empty list. Check it first."));
        }
        Ok(items[below(eval, items.len())?])
    }

    fn sample<'v>(
        #[starlark(require = pos)] items: Value<'v>,
        k: i32,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Value<'v>> {
        let mut items = all(eval.heap(), items)?;
        let k = usize::try_from(k).ok().filter(|k| *k <= items.len());
        let k = k.ok_or_else(|| Raised::value("sample() takes no more items than there are."))?;
        for at in 0..k {
            let other = at + below(eval, items.len() - at)?;
            items.swap(at, other);
        }
        items.truncate(k);
        Ok(eval.heap().alloc(items))
    }

    fn shuffle<'v>(#[starlark(require = pos)] _items: Value<'v>) -> starlark::Result<NoneType> {
        Err(Raised::type_of("shuffle() is not there. Write `xs = random.sample(xs, len(xs))`."))
    }

    /// The journal decides, not the script.
    fn seed<'v>(#[starlark(require = pos)] _seed: Option<Value<'v>>) -> starlark::Result<NoneType> {
        Ok(NoneType)
    }
}

#[starlark_module]
fn asyncio(builder: &mut GlobalsBuilder) {
    fn sleep<'v>(#[starlark(require = pos)] _seconds: Value<'v>) -> starlark::Result<NoneType> {
        Ok(NoneType)
    }

    fn gather<'v>(
        #[starlark(args)] values: UnpackTuple<Value<'v>>,
        return_exceptions: Option<bool>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Value<'v>> {
        super::calls::gather(eval, &values.items, return_exceptions.unwrap_or(false))
    }
}
