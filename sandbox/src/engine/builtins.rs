//! The names every script has: Starlark's own, those of Python that models expect, and what the translation calls.

// The derives of `ProvidesStaticType` expand to an unsafe marker impl; there is no other unsafe here.
#![allow(unsafe_code)]

use std::cmp::Ordering;
use std::fmt;

use allocative::Allocative;
use starlark::any::ProvidesStaticType;
use starlark::environment::{Globals, GlobalsBuilder, LibraryExtension};
use starlark::eval::{Arguments, Evaluator};
use starlark::starlark_module;
use starlark::values::dict::{AllocDict, DictRef};
use starlark::values::list::AllocList;
use starlark::values::none::{NoneOr, NoneType};
use starlark::values::tuple::{AllocTuple, UnpackTuple};
use starlark::values::{
    Heap, NoSerialize, StarlarkPagablePanic, StarlarkValue, Trace, UnpackValue, Value, ValueLike, starlark_value,
};

use super::classes::{self, Instance};
use super::modules::float;
use super::raised::Raised;
use super::run::{Run, call_back};
use super::{attr, basics, calls, dates, defaults, exceptions, format, iterators, methods, modules, show};

pub fn globals() -> Globals {
    use LibraryExtension as E;
    GlobalsBuilder::extended_by(&[E::Map, E::Filter, E::SetType, E::Typing, E::StructType])
        .with(python)
        .with(numbers)
        .with(attr::register)
        .with(basics::register)
        .with(calls::register)
        .with(classes::register)
        .with(dates::register)
        .with(defaults::register)
        .with(exceptions::register)
        .with(iterators::register)
        .with(methods::register)
        .with(modules::register)
        .build()
}

/// `functools.partial`
#[derive(Debug, Trace, ProvidesStaticType, NoSerialize, Allocative, StarlarkPagablePanic)]
struct Partial<'v> {
    function: Value<'v>,
    positional: Value<'v>,
    named: Value<'v>,
}

impl fmt::Display for Partial<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<partial>")
    }
}

#[starlark_value(type = "function")]
impl<'v> StarlarkValue<'v> for Partial<'v> {
    fn invoke(&self, _me: Value<'v>, args: &Arguments<'v, '_>, eval: &mut Evaluator<'v, '_, '_>) -> starlark::Result<Value<'v>> {
        let heap = eval.heap();
        let mut positional: Vec<Value> = self.positional.iterate(heap)?.collect();
        positional.extend(args.positions(heap)?);
        let given = args.names_map()?;
        let mut named: Vec<(String, Value)> = given.iter().map(|(k, v)| (k.as_str().to_owned(), *v)).collect();
        let own = DictRef::from_value(self.named).map(|d| d.iter().collect::<Vec<_>>()).unwrap_or_default();
        for (key, value) in own {
            let key = key.to_str();
            if !named.iter().any(|(k, _)| *k == key) {
                named.push((key, value));
            }
        }
        let named: Vec<(&str, Value)> = named.iter().map(|(k, v)| (k.as_str(), *v)).collect();
        eval.eval_function(self.function, &positional, &named)
    }
}

pub fn partial<'v>(
    heap: Heap<'v>,
    function: Value<'v>,
    positional: Vec<Value<'v>>,
    named: Vec<(Value<'v>, Value<'v>)>,
) -> Value<'v> {
    let (positional, named) = (heap.alloc(positional), heap.alloc(AllocDict(named)));
    heap.alloc_complex_no_freeze(Partial { function, positional, named })
}

/// `value` under the name of the type that Python gives it.
fn type_name(value: Value) -> &'static str {
    match value.get_type() {
        "string" => "str",
        "iterator" => "list",
        other => other,
    }
}

#[starlark_module]
fn python(builder: &mut GlobalsBuilder) {
    /// One entry of the log. `end` and the like are accepted and have no effect.
    fn print<'v>(
        #[starlark(args)] values: UnpackTuple<Value<'v>>,
        #[starlark(kwargs)] options: DictRef<'v>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<NoneType> {
        let separator = options.get_str("sep").and_then(Value::unpack_str).unwrap_or(" ");
        let mut texts = Vec::with_capacity(values.items.len());
        for value in values.items {
            texts.push(show::text(eval, value, false)?);
        }
        Run::of(eval).print(&texts.join(separator));
        Ok(NoneType)
    }

    fn __set<'v>(#[starlark(require = pos)] items: Value<'v>, eval: &mut Evaluator<'v, '_, '_>) -> starlark::Result<Value<'v>> {
        make_set(eval, items)
    }

    fn frozenset<'v>(
        #[starlark(require = pos)] items: Option<Value<'v>>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Value<'v>> {
        let items = items.unwrap_or_else(|| eval.heap().alloc(Vec::<Value>::new()));
        make_set(eval, items)
    }

    fn __tuple<'v>(#[starlark(require = pos)] items: Value<'v>, heap: Heap<'v>) -> starlark::Result<Value<'v>> {
        Ok(heap.alloc(AllocTuple(items.iterate(heap)?)))
    }

    fn __enumerate<'v>(
        #[starlark(require = pos)] items: Value<'v>,
        start: Option<i32>,
        heap: Heap<'v>,
    ) -> starlark::Result<Value<'v>> {
        let numbered = (start.unwrap_or(0)..).zip(items.iterate(heap)?).map(|(n, item)| heap.alloc((n, item)));
        Ok(heap.alloc(AllocList(numbered.collect::<Vec<_>>())))
    }

    fn __filter<'v>(
        #[starlark(require = pos)] function: Value<'v>,
        #[starlark(require = pos)] items: Value<'v>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Value<'v>> {
        let heap = eval.heap();
        let mut out = Vec::new();
        for item in items.iterate(heap)? {
            let keep = if function.is_none() { item } else { call_back(eval, function, &[item])? };
            if keep.to_bool() {
                out.push(item);
            }
        }
        Ok(heap.alloc(out))
    }

    /// As many functions' arguments as there are lists, as long as the shortest.
    fn __map<'v>(
        #[starlark(require = pos)] function: Value<'v>,
        #[starlark(args)] lists: UnpackTuple<Value<'v>>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Value<'v>> {
        let heap = eval.heap();
        let lists =
            lists.items.into_iter().map(|l| Ok(l.iterate(heap)?.collect())).collect::<starlark::Result<Vec<Vec<Value>>>>()?;
        let shortest = lists.iter().map(Vec::len).min().unwrap_or(0);
        let mut out = Vec::with_capacity(shortest);
        for at in 0..shortest {
            let arguments: Vec<Value> = lists.iter().map(|list| list[at]).collect();
            out.push(call_back(eval, function, &arguments)?);
        }
        Ok(heap.alloc(out))
    }

    fn __len<'v>(#[starlark(require = pos)] value: Value<'v>, eval: &mut Evaluator<'v, '_, '_>) -> starlark::Result<Value<'v>> {
        let heap = eval.heap();
        if value.is_none() {
            return Err(Raised::type_of("The value is None, which has no length. Check it first: `len(x or [])`."));
        }
        if value.downcast_ref::<Instance>().is_some()
            && let Some(own) = value.get_attr("__len__", heap)?
        {
            return eval.eval_function(own, &[], &[]);
        }
        Ok(heap.alloc(value.length()?))
    }

    /// Python's, with types given as `str`, `int`, .. or a tuple of them.
    fn isinstance<'v>(
        #[starlark(require = pos)] value: Value<'v>,
        #[starlark(require = pos)] types: Value<'v>,
        heap: Heap<'v>,
    ) -> starlark::Result<bool> {
        let actual = type_name(value);
        let matches = |kind: Value<'v>| -> starlark::Result<bool> {
            if classes::is_class(kind) {
                return classes::is_a(heap, value, kind);
            }
            let name = kind.to_str();
            let name = name.trim_start_matches("type ");
            let number = matches!(name, "int" if actual == "bool") || (name == "date" && actual == "datetime");
            Ok(name == actual || number || (kind.is_none() && value.is_none()))
        };
        match types.get_type() {
            "tuple" | "list" => {
                let kinds: Vec<Value> = types.iterate(heap)?.collect();
                kinds.into_iter().try_fold(false, |found, kind| Ok(found || matches(kind)?))
            }
            _ => matches(types),
        }
    }

    /// The type itself, so that `type(x) == dict` and `type(x).__name__` hold.
    fn __type<'v>(#[starlark(require = pos)] value: Value<'v>, eval: &mut Evaluator<'v, '_, '_>) -> starlark::Result<Value<'v>> {
        if let Some(instance) = value.downcast_ref::<Instance>() {
            return Ok(instance.class);
        }
        let name = type_name(value);
        let known = super::given(name);
        Ok(known.unwrap_or_else(|| eval.heap().alloc(name)))
    }

    fn callable<'v>(#[starlark(require = pos)] value: Value<'v>) -> starlark::Result<bool> {
        Ok(matches!(value.get_type(), "function" | "tool" | "method" | "class" | "async_function" | "native_function"))
    }
}

fn make_set<'v>(eval: &mut Evaluator<'v, '_, '_>, items: Value<'v>) -> starlark::Result<Value<'v>> {
    let items = basics::items(eval.heap(), items)?;
    let make = super::given("set");
    match make {
        Some(make) => eval.eval_function(make, &[items], &[]),
        None => Err(Raised::runtime("There are no sets.")),
    }
}

#[starlark_module]
fn numbers(builder: &mut GlobalsBuilder) {
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
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Value<'v>> {
        let heap = eval.heap();
        let run = Run::of(eval);
        // A bool counts as 0 or 1.
        let count = |item: Value<'v>| item.unpack_bool().map_or(item, |b| heap.alloc(i32::from(b)));
        items.iterate(heap)?.try_fold(start.unwrap_or_else(|| heap.alloc(0)), |total, item| {
            run.charge(eval)?;
            total.add(count(item), heap)
        })
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
        power(heap, base, exponent)
    }

    /// `base ** exponent`
    fn __pow<'v>(
        #[starlark(require = pos)] base: Value<'v>,
        #[starlark(require = pos)] exponent: Value<'v>,
        heap: Heap<'v>,
    ) -> starlark::Result<Value<'v>> {
        power(heap, base, exponent)
    }

    fn divmod<'v>(
        #[starlark(require = pos)] left: Value<'v>,
        #[starlark(require = pos)] right: Value<'v>,
        heap: Heap<'v>,
    ) -> starlark::Result<Value<'v>> {
        Ok(heap.alloc((left.floor_div(right, heap)?, left.percent(right, heap)?)))
    }

    fn hex(#[starlark(require = pos)] n: i64) -> starlark::Result<String> {
        Ok(format!("{}0x{:x}", if n < 0 { "-" } else { "" }, n.unsigned_abs()))
    }

    fn bin(#[starlark(require = pos)] n: i64) -> starlark::Result<String> {
        Ok(format!("{}0b{:b}", if n < 0 { "-" } else { "" }, n.unsigned_abs()))
    }

    fn __int<'v>(
        #[starlark(require = pos)] value: Option<Value<'v>>,
        #[starlark(require = pos)] base: Option<Value<'v>>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Value<'v>> {
        let Some(value) = value else { return Ok(eval.heap().alloc(0)) };
        let text = value.unpack_str().map(|t| t.trim().replace('_', ""));
        if text.as_ref().is_some_and(|t| t.len() > INTEGER_DIGITS) {
            return Err(too_many_digits());
        }
        let given = text.as_ref().map_or(value, |t| eval.heap().alloc(t.as_str()));
        let mut arguments = vec![given];
        arguments.extend(base);
        convert_number(eval, "int", &arguments, value)
    }

    fn __float<'v>(
        #[starlark(require = pos)] value: Option<Value<'v>>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Value<'v>> {
        let Some(value) = value else { return Ok(eval.heap().alloc(0.0)) };
        let given = value.unpack_str().map_or(value, |t| eval.heap().alloc(t.trim()));
        convert_number(eval, "float", &[given], value)
    }
}

/// Of an integer that is read from text or shown as text, as Python has it: both take the square of their number in time.
/// Source: `sys.int_info.default_max_str_digits`.
const INTEGER_DIGITS: usize = 4_300;

/// `INTEGER_DIGITS` in bits, rounded up: what has more can be told without a conversion.
const INTEGER_BITS: i32 = 14_285;

fn too_many_digits() -> starlark::Error {
    Raised::value(format!("An integer of more than {INTEGER_DIGITS} digits is neither read from text nor shown. Use floats."))
}

/// # Errors
/// Python's ValueError, if `value` is an integer of too many digits for a text.
pub fn check_digits<'v>(heap: Heap<'v>, value: Value<'v>) -> starlark::Result<()> {
    if value.get_type() != "int" || i64::unpack_value(value).ok().flatten().is_some() {
        return Ok(());
    }
    let rest = value.right_shift(heap.alloc(INTEGER_BITS), heap)?;
    if matches!(rest.unpack_i32(), Some(0 | -1)) { Ok(()) } else { Err(too_many_digits()) }
}

/// Of an integer that `**` makes.
const POWER_BITS: u64 = 65_536;

fn power<'v>(heap: Heap<'v>, base: Value<'v>, exponent: Value<'v>) -> starlark::Result<Value<'v>> {
    let (Some(base_int), Some(exponent_int @ 0..)) = (i64::unpack_value(base).ok().flatten(), exponent.unpack_i32()) else {
        return Ok(heap.alloc(float(base, "pow()")?.powf(float(exponent, "pow()")?)));
    };
    let bits = u64::from(64 - base_int.unsigned_abs().leading_zeros());
    if bits > 1 && bits.saturating_mul(u64::from(exponent_int.unsigned_abs())) > POWER_BITS {
        return Err(Raised::of_class("OverflowError", "The power has too many digits. Use floats: `2.0 ** 100000`."));
    }
    let (mut left, mut square, mut out) = (exponent_int.unsigned_abs(), base, heap.alloc(1));
    while left > 0 {
        if left & 1 == 1 {
            out = out.mul(square, heap)?;
        }
        left >>= 1;
        if left > 0 {
            square = square.mul(square, heap)?;
        }
    }
    Ok(out)
}

/// Starlark's own `int` and `float`, with Python's exceptions.
fn convert_number<'v>(
    eval: &mut Evaluator<'v, '_, '_>,
    name: &'static str,
    arguments: &[Value<'v>],
    given: Value<'v>,
) -> starlark::Result<Value<'v>> {
    let native = super::given(name);
    let made = native.map_or_else(|| Err(Raised::runtime("There are no numbers.")), |n| eval.eval_function(n, arguments, &[]));
    made.map_err(|_| match given.get_type() {
        "string" => {
            let shown: String = given.unpack_str().unwrap_or_default().chars().take(60).collect();
            let hint = if name == "int" && shown.contains('.') {
                " Write `int(float(text))`."
            } else {
                " Check it first: `text.isdigit()`."
            };
            Raised::value(format!("Cannot parse '{shown}' as {name}.{hint}"))
        }
        "NoneType" => Raised::type_of(format!("{name}() of None. Give a default: `{name}(x or 0)`.")),
        other => Raised::type_of(format!("{name}() takes a number or text, not a value of type {other}.")),
    })
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
        Run::of(eval).charge(eval)?;
        let measure = key.map_or(Ok(item), |key| call_back(eval, key, &[item]))?;
        let better = best.map_or(Ok(true), |(_, record)| measure.compare(record).map(|order| order == wanted))?;
        if better {
            best = Some((item, measure));
        }
    }
    let none = || Raised::runtime(format!("{name}() of an empty list. Give it a default: `{name}(xs, default=0)`."));
    best.map(|(item, _)| item).or(default).ok_or_else(none)
}
