//! The names every script has: Starlark's own, the few of Python that models expect, and `try_call` and `parallel`.

use std::cmp::Ordering;

use serde_json::Value as Json;
use starlark::environment::{Globals, GlobalsBuilder, LibraryExtension};
use starlark::eval::Evaluator;
use starlark::starlark_module;
use starlark::values::dict::{AllocDict, DictRef};
use starlark::values::float::UnpackFloat;
use starlark::values::list::{AllocList, ListRef};
use starlark::values::none::{NoneOr, NoneType};
use starlark::values::tuple::UnpackTuple;
use starlark::values::{Heap, UnpackValue, Value};

use super::convert::{self, ConvertError};
use super::limits::{ENCODE_BYTES, Limit};
use super::raised::Raised;
use super::run::{Answered, Run};
use super::tools::Tool;
use super::{attr, format};

pub fn globals() -> Globals {
    use LibraryExtension as E;
    GlobalsBuilder::extended_by(&[E::Map, E::Filter, E::Partial, E::SetType, E::Typing, E::StructType])
        .with(python)
        .with(calls)
        .with_namespace("json", json)
        .build()
}

#[starlark_module]
fn calls(builder: &mut GlobalsBuilder) {
    /// A call whose failure the script wants to handle: `{"ok": bool, "value": .., "error": ..}`.
    fn try_call<'v>(
        #[starlark(require = pos)] tool: Value<'v>,
        #[starlark(args)] args: UnpackTuple<Value<'v>>,
        #[starlark(kwargs)] kwargs: DictRef<'v>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Value<'v>> {
        let Some(tool) = Tool::from_value(tool) else {
            return Err(Raised::runtime(
                "try_call() takes the tool itself, uncalled, then its arguments: `try_call(server.tool, key=value)`.",
            ));
        };
        let named = kwargs.iter().filter_map(|(k, v)| Some((k.unpack_str()?, v)));
        let (ok, value, error) = match tool.call(eval, &args.items, named)? {
            Answered::Value(value) => (true, value, Value::new_none()),
            Answered::ToolError(text) => (false, Value::new_none(), eval.heap().alloc(text)),
        };
        Ok(eval.heap().alloc(AllocDict([("ok", Value::new_bool(ok)), ("value", value), ("error", error)])))
    }

    /// `parallel([lambda: a.b(x=1), lambda: c.d()])` or `parallel(lambda id: a.b(id=id), ids)`: calls that run at the same
    /// time, their results in order.
    fn parallel<'v>(
        #[starlark(require = pos)] functions: Value<'v>,
        #[starlark(require = pos)] items: Option<Value<'v>>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Value<'v>> {
        let heap = eval.heap();
        let jobs: Vec<(Value, Option<Value>)> = match (items, ListRef::from_value(functions)) {
            (Some(items), _) => items.iterate(heap)?.map(|item| (functions, Some(item))).collect(),
            (None, Some(list)) => list.iter().map(|function| (function, None)).collect(),
            (None, None) => {
                return Err(Raised::runtime(
                    "parallel() takes a list of functions, `parallel([lambda: a.b(), lambda: c.d()])`, or a function and a list, \
                     `parallel(lambda id: a.b(id=id), ids)`.",
                ));
            }
        };
        run_all(eval, &jobs)
    }
}

fn run_all<'v>(eval: &mut Evaluator<'v, '_, '_>, jobs: &[(Value<'v>, Option<Value<'v>>)]) -> starlark::Result<Value<'v>> {
    let run = Run::of(eval);
    let first = run.reserve(u32::try_from(jobs.len()).unwrap_or(u32::MAX))?;
    let mut values = Vec::with_capacity(jobs.len());
    for (sequence, (function, item)) in (first..).zip(jobs) {
        if !matches!(function.get_type(), "function" | "tool") {
            return Err(Raised::runtime(
                "parallel() takes functions, not results. Write `lambda: server.tool(..)` for each call.",
            ));
        }
        match run.in_slot(sequence, || eval.eval_function(*function, item.as_slice(), &[])) {
            Ok(value) => values.push(value),
            // The other calls are worth asking for as well. An error behind a call that waits is met again on the replay
            // that has its answer.
            Err(_) if run.is_waiting() => {}
            Err(e) => return Err(e),
        }
    }
    if run.is_waiting() { Err(Raised::Suspend.into()) } else { Ok(eval.heap().alloc(values)) }
}

#[starlark_module]
fn python(builder: &mut GlobalsBuilder) {
    fn __attr<'v>(
        #[starlark(require = pos)] value: Value<'v>,
        #[starlark(require = pos)] name: &str,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Value<'v>> {
        attr::read(Run::of(eval), eval.heap(), value, name)
    }

    fn __format<'v>(
        #[starlark(require = pos)] value: Value<'v>,
        #[starlark(require = pos)] spec: &str,
    ) -> starlark::Result<String> {
        format::format(value, spec).map_err(Raised::runtime)
    }

    /// One entry of the log. `end` and the like are accepted and have no effect.
    fn print<'v>(
        #[starlark(args)] values: UnpackTuple<Value<'v>>,
        #[starlark(kwargs)] options: DictRef<'v>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<NoneType> {
        let texts: Vec<String> = values.items.iter().map(|v| v.to_str()).collect();
        let separator = options.get_str("sep").and_then(Value::unpack_str).unwrap_or(" ");
        Run::of(eval).print(&texts.join(separator));
        Ok(NoneType)
    }

    fn min<'v>(
        #[starlark(args)] values: UnpackTuple<Value<'v>>,
        key: Option<NoneOr<Value<'v>>>,
        default: Option<Value<'v>>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Value<'v>> {
        extreme(eval, "min", &values.items, key.and_then(NoneOr::into_option), default, Ordering::Less)
    }

    fn max<'v>(
        #[starlark(args)] values: UnpackTuple<Value<'v>>,
        key: Option<NoneOr<Value<'v>>>,
        default: Option<Value<'v>>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Value<'v>> {
        extreme(eval, "max", &values.items, key.and_then(NoneOr::into_option), default, Ordering::Greater)
    }

    fn sum<'v>(
        #[starlark(require = pos)] items: Value<'v>,
        start: Option<Value<'v>>,
        heap: Heap<'v>,
    ) -> starlark::Result<Value<'v>> {
        items.iterate(heap)?.try_fold(start.unwrap_or_else(|| heap.alloc(0)), |total, item| total.add(item, heap))
    }

    fn round<'v>(
        #[starlark(require = pos)] number: Value<'v>,
        ndigits: Option<NoneOr<i32>>,
        heap: Heap<'v>,
    ) -> starlark::Result<Value<'v>> {
        if number.get_type() == "int" {
            return Ok(number);
        }
        let float = float(number, "round()")?;
        match ndigits.and_then(NoneOr::into_option) {
            None => format::integral(float.round_ties_even()).map(|n| heap.alloc(&n)).map_err(Raised::runtime),
            Some(digits) => Ok(heap.alloc(format::round(float, digits))),
        }
    }

    fn pow<'v>(
        #[starlark(require = pos)] base: Value<'v>,
        #[starlark(require = pos)] exponent: Value<'v>,
        heap: Heap<'v>,
    ) -> starlark::Result<Value<'v>> {
        match (i64::unpack_value(base).ok().flatten(), exponent.unpack_i32()) {
            (Some(base), Some(exponent @ 0..)) => base
                .checked_pow(exponent.unsigned_abs())
                .map(|power| heap.alloc(power))
                .ok_or_else(|| Raised::runtime("pow() overflows 64 bits. Use floats: `pow(2.0, 100)`.")),
            _ => Ok(heap.alloc(float(base, "pow()")?.powf(float(exponent, "pow()")?))),
        }
    }

    /// Python's, with types given as `str`, `int`, .. or a tuple of them.
    fn isinstance<'v>(
        #[starlark(require = pos)] value: Value<'v>,
        #[starlark(require = pos)] types: Value<'v>,
        heap: Heap<'v>,
    ) -> starlark::Result<bool> {
        let name = |kind: Value| kind.to_str().trim_start_matches("type ").to_owned();
        let actual = match value.get_type() {
            "string" => "str",
            other => other,
        };
        let matches = |kind: Value| name(kind) == actual || (name(kind) == "int" && actual == "bool");
        match types.get_type() {
            "tuple" | "list" => Ok(types.iterate(heap)?.any(matches)),
            _ => Ok(matches(types)),
        }
    }
}

/// The first item that is `wanted` than all others, by `key`; Starlark's own have no `default`.
fn extreme<'v>(
    eval: &mut Evaluator<'v, '_, '_>,
    name: &str,
    values: &[Value<'v>],
    key: Option<Value<'v>>,
    default: Option<Value<'v>>,
    wanted: Ordering,
) -> starlark::Result<Value<'v>> {
    let heap = eval.heap();
    let items = match values {
        [one] => one.iterate(heap)?,
        several => heap.alloc(AllocList(several.iter().copied())).iterate(heap)?,
    };
    let mut best: Option<(Value, Value)> = None; // the item and what it is measured by
    for item in items {
        let measure = key.map_or(Ok(item), |key| eval.eval_function(key, &[item], &[]))?;
        let better = best.map_or(Ok(true), |(_, record)| measure.compare(record).map(|order| order == wanted))?;
        if better {
            best = Some((item, measure));
        }
    }
    let none = || Raised::runtime(format!("{name}() of an empty list. Give it a default: `{name}(xs, default=0)`."));
    best.map(|(item, _)| item).or(default).ok_or_else(none)
}

#[starlark_module]
fn json(builder: &mut GlobalsBuilder) {
    fn encode<'v>(#[starlark(require = pos)] value: Value<'v>, heap: Heap<'v>) -> starlark::Result<String> {
        Ok(encodable(heap, value)?.to_string())
    }

    fn decode<'v>(#[starlark(require = pos)] text: &str, heap: Heap<'v>) -> starlark::Result<Value<'v>> {
        parse(text, heap)
    }

    /// Python's names for the same; `indent` and the like are accepted and have no effect.
    fn dumps<'v>(
        #[starlark(require = pos)] value: Value<'v>,
        #[starlark(kwargs)] options: DictRef<'v>,
        heap: Heap<'v>,
    ) -> starlark::Result<String> {
        let json = encodable(heap, value)?;
        let pretty = options.get_str("indent").is_some_and(|indent| !indent.is_none());
        if pretty {
            serde_json::to_string_pretty(&json).map_err(|e| Raised::runtime(e.to_string()))
        } else {
            Ok(json.to_string())
        }
    }

    fn loads<'v>(#[starlark(require = pos)] text: &str, heap: Heap<'v>) -> starlark::Result<Value<'v>> {
        parse(text, heap)
    }
}

fn encodable<'v>(heap: Heap<'v>, value: Value<'v>) -> starlark::Result<Json> {
    convert::to_json(heap, value, ENCODE_BYTES).map_err(|e| match e {
        ConvertError::TooLarge => Raised::limit(Limit::Encode),
        ConvertError::TooDeep => Raised::limit(Limit::ValueDepth),
        ConvertError::Unsupported { what, path } => {
            Raised::runtime(format!("The value{path} holds {what}, which JSON cannot express."))
        }
    })
}

fn parse<'v>(text: &str, heap: Heap<'v>) -> starlark::Result<Value<'v>> {
    let json: Json = serde_json::from_str(text).map_err(|e| Raised::runtime(format!("The text is not JSON: {e}")))?;
    Ok(convert::from_json(heap, &json))
}

fn float(value: Value, who: &str) -> starlark::Result<f64> {
    match UnpackFloat::unpack_value(value) {
        Ok(Some(UnpackFloat(float))) => Ok(float),
        _ => Err(Raised::runtime(format!("{who} takes numbers, not a value of type {}.", value.get_type()))),
    }
}
