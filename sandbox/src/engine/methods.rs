//! Methods of strings, lists and dicts that Starlark lacks, or has with another meaning.

// The derives of `ProvidesStaticType` expand to an unsafe marker impl; there is no other unsafe here.
#![allow(unsafe_code)]

use std::fmt;

use allocative::Allocative;
use starlark::any::ProvidesStaticType;
use starlark::environment::GlobalsBuilder;
use starlark::eval::{Arguments, Evaluator};
use starlark::starlark_module;
use starlark::values::dict::{AllocDict, DictRef};
use starlark::values::list::ListRef;
use starlark::values::tuple::UnpackTuple;
use starlark::values::{Heap, NoSerialize, StarlarkPagablePanic, StarlarkValue, Value, starlark_value};

use super::basics;
use super::defaults;
use super::limits::{Limit, TEXT_BYTES};
use super::percent;
use super::raised::Raised;
use super::run::call_back;

type Named<'v> = Vec<(String, Value<'v>)>;

#[starlark_module]
pub fn register(builder: &mut GlobalsBuilder) {
    /// `value.name(..)`
    fn __method<'v>(
        #[starlark(require = pos)] value: Value<'v>,
        #[starlark(require = pos)] name: &str,
        #[starlark(args)] args: UnpackTuple<Value<'v>>,
        #[starlark(kwargs)] kwargs: DictRef<'v>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Value<'v>> {
        let named: Named = kwargs.iter().map(|(k, v)| (k.to_str(), v)).collect();
        call(eval, value, name, &args.items, &named)
    }
}

/// `str.lower`, `dict.get`: a method that is given its object as the first argument.
#[derive(Debug, ProvidesStaticType, NoSerialize, Allocative, StarlarkPagablePanic)]
struct Unbound {
    name: String,
}
starlark::starlark_simple_value!(Unbound);

impl fmt::Display for Unbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<method {}>", self.name)
    }
}

#[starlark_value(type = "function")]
impl<'v> StarlarkValue<'v> for Unbound {
    fn invoke(&self, _me: Value<'v>, args: &Arguments<'v, '_>, eval: &mut Evaluator<'v, '_, '_>) -> starlark::Result<Value<'v>> {
        let all: Vec<Value> = args.positions(eval.heap())?.collect();
        let named = args.names_map()?.iter().map(|(k, v)| (k.as_str().to_owned(), *v)).collect();
        match all.split_first() {
            Some((value, rest)) => call(eval, *value, &self.name, rest, &named),
            None => Err(Raised::type_of(format!("{}() needs the value it works on.", self.name))),
        }
    }
}

/// The method of a builtin type, if `of` is one.
pub fn unbound<'v>(heap: Heap<'v>, of: Value<'v>, name: &str) -> Option<Value<'v>> {
    let is_type = of.get_type() == "function" && matches!(of.to_str().as_str(), "str" | "list" | "dict" | "set");
    is_type.then(|| heap.alloc(Unbound { name: name.to_owned() }))
}

fn call<'v>(
    eval: &mut Evaluator<'v, '_, '_>,
    value: Value<'v>,
    name: &str,
    args: &[Value<'v>],
    named: &Named<'v>,
) -> starlark::Result<Value<'v>> {
    let own = match value.get_type() {
        "string" => string(eval, value, name, args, named)?,
        "list" => list(eval, value, name, args, named)?,
        "dict" => dict(eval, value, name, args, named)?,
        "set" if name == "copy" => Some(value.bit_or(value, eval.heap())?),
        "function" if name == "fromkeys" => Some(from_keys(eval.heap(), args)?),
        "function" if value.get_attr(name, eval.heap())?.is_none() => match unbound(eval.heap(), value, name) {
            Some(unbound) => Some(eval.eval_function(unbound, args, &[])?),
            None => None,
        },
        _ => None,
    };
    if let Some(own) = own {
        return Ok(own);
    }
    let Some(method) = value.get_attr(name, eval.heap())? else {
        let text = format!("Object of type `{}` has no attribute `{name}`", value.get_type());
        return Err(Raised::of_class("AttributeError", super::hints::runtime(&text)));
    };
    let named: Vec<(&str, Value)> = named.iter().map(|(k, v)| (k.as_str(), *v)).collect();
    eval.eval_function(method, args, &named)
}

/// `dict.fromkeys`
fn from_keys<'v>(heap: Heap<'v>, args: &[Value<'v>]) -> starlark::Result<Value<'v>> {
    let (Some(keys), value) = (args.first(), args.get(1).copied().unwrap_or_else(Value::new_none)) else {
        return Err(Raised::type_of("dict.fromkeys() takes keys and a value."));
    };
    let out = heap.alloc(AllocDict(Vec::<(&str, Value)>::new()));
    for key in basics::items(heap, *keys)?.iterate(heap)? {
        out.set_at(key, value)?;
    }
    Ok(out)
}

fn string<'v>(
    eval: &mut Evaluator<'v, '_, '_>,
    value: Value<'v>,
    name: &str,
    args: &[Value<'v>],
    named: &Named<'v>,
) -> starlark::Result<Option<Value<'v>>> {
    let text = value.unpack_str().unwrap_or_default();
    let heap = eval.heap();
    let done = match (name, args) {
        ("format", _) => percent::braces(eval, text, args, named)?,
        ("format_map", [map]) => {
            let fields: Named =
                DictRef::from_value(*map).map(|d| d.iter().map(|(k, v)| (k.to_str(), v)).collect()).unwrap_or_default();
            percent::braces(eval, text, &[], &fields)?
        }
        ("zfill", [width]) => {
            let (sign, digits) = match text.strip_prefix(['-', '+']) {
                Some(digits) => (&text[..1], digits),
                None => ("", text),
            };
            format!("{sign}{}{digits}", fill(text, *width, '0')?)
        }
        ("ljust", [width, rest @ ..]) => text.to_owned() + &fill(text, *width, filler(rest))?,
        ("rjust", [width, rest @ ..]) => fill(text, *width, filler(rest))? + text,
        ("center", [width, rest @ ..]) => {
            let fill = fill(text, *width, filler(rest))?;
            let left: String = fill.chars().take(fill.chars().count() / 2).collect();
            let right: String = fill.chars().skip(fill.chars().count() / 2).collect();
            left + text + &right
        }
        ("casefold", []) => text.to_lowercase().replace('ß', "ss"),
        ("swapcase", []) => text
            .chars()
            .flat_map(|c| if c.is_uppercase() { c.to_lowercase().collect::<Vec<_>>() } else { c.to_uppercase().collect() })
            .collect(),
        ("encode", _) => text.to_owned(),
        ("expandtabs", []) => text.replace('\t', "        "),
        ("join", [parts]) => join(heap, text, *parts)?,
        ("split", []) if named.is_empty() => {
            return Ok(Some(heap.alloc(text.split_whitespace().collect::<Vec<_>>())));
        }
        ("split", [separator]) if separator.is_none() => {
            return Ok(Some(heap.alloc(text.split_whitespace().collect::<Vec<_>>())));
        }
        ("split", [separator]) if named.len() == 1 && named[0].0 == "maxsplit" => {
            let most = usize::try_from(named[0].1.unpack_i32().unwrap_or(-1)).unwrap_or(usize::MAX - 1);
            let separator =
                separator.unpack_str().filter(|s| !s.is_empty()).ok_or_else(|| Raised::value("The separator is empty."))?;
            return Ok(Some(heap.alloc(text.splitn(most.saturating_add(1), separator).collect::<Vec<_>>())));
        }
        ("isnumeric" | "isdecimal", []) => {
            return Ok(Some(Value::new_bool(!text.is_empty() && text.chars().all(char::is_numeric))));
        }
        ("isidentifier", []) => {
            let begins = text.starts_with(|c: char| c == '_' || c.is_alphabetic());
            return Ok(Some(Value::new_bool(begins && text.chars().all(|c| c == '_' || c.is_alphanumeric()))));
        }
        _ => return Ok(None),
    };
    Ok(Some(heap.alloc(done)))
}

/// What is missing to `width` characters.
fn fill(text: &str, width: Value, with: char) -> starlark::Result<String> {
    let width = usize::try_from(width.unpack_i32().unwrap_or(0)).unwrap_or(0);
    if width > TEXT_BYTES {
        return Err(Raised::limit(Limit::Text));
    }
    Ok(std::iter::repeat_n(with, width.saturating_sub(text.chars().count())).collect())
}

fn filler(rest: &[Value]) -> char {
    rest.first().and_then(|v| v.unpack_str()).and_then(|s| s.chars().next()).unwrap_or(' ')
}

fn join<'v>(heap: Heap<'v>, separator: &str, parts: Value<'v>) -> starlark::Result<String> {
    let mut out = String::new();
    for (index, part) in basics::items(heap, parts)?.iterate(heap)?.enumerate() {
        let Some(text) = part.unpack_str() else {
            let kind = part.get_type();
            return Err(Raised::type_of(format!(
                "join() takes strings; item {index} is of type {kind}. Write `.join([str(x) for x in xs])`."
            )));
        };
        if index > 0 {
            out.push_str(separator);
        }
        out.push_str(text);
        if out.len() > super::limits::ENCODE_BYTES {
            return Err(Raised::limit(Limit::Text));
        }
    }
    Ok(out)
}

fn list<'v>(
    eval: &mut Evaluator<'v, '_, '_>,
    value: Value<'v>,
    name: &str,
    args: &[Value<'v>],
    named: &Named<'v>,
) -> starlark::Result<Option<Value<'v>>> {
    let heap = eval.heap();
    let items = || ListRef::from_value(value).map(|l| l.iter().collect::<Vec<_>>()).unwrap_or_default();
    match (name, args) {
        ("sort", []) => {
            let option = |key: &str| named.iter().find(|(k, _)| k == key).map(|(_, v)| *v);
            let sorted =
                sort(eval, items(), option("key").filter(|k| !k.is_none()), option("reverse").is_some_and(Value::to_bool))?;
            replace(eval, value, sorted)
        }
        ("reverse", []) => {
            let mut all = items();
            all.reverse();
            replace(eval, value, all)
        }
        ("copy", []) => Ok(Some(heap.alloc(items()))),
        ("count", [wanted]) => {
            let count =
                items().into_iter().try_fold(0i32, |n, item| Ok::<_, starlark::Error>(n + i32::from(item.equals(*wanted)?)))?;
            Ok(Some(heap.alloc(count)))
        }
        ("appendleft", [item]) => {
            let mut all = vec![*item];
            all.extend(items());
            replace(eval, value, all)
        }
        ("popleft", []) => {
            let all = items();
            let Some((first, rest)) = all.split_first() else {
                return Err(Raised::of_class("IndexError", "popleft() from an empty deque. Check it first: `if queue:`."));
            };
            replace(eval, value, rest.to_vec())?;
            Ok(Some(*first))
        }
        ("extend", [more]) => {
            let mut all = items();
            all.extend(basics::items(heap, *more)?.iterate(heap)?);
            replace(eval, value, all)
        }
        _ => Ok(None),
    }
}

/// Put other items into the same list.
fn replace<'v>(eval: &mut Evaluator<'v, '_, '_>, list: Value<'v>, items: Vec<Value<'v>>) -> starlark::Result<Option<Value<'v>>> {
    let heap = eval.heap();
    let items = heap.alloc(items);
    for (method, arguments) in [("clear", &[][..]), ("extend", &[items][..])] {
        let Some(method) = list.get_attr(method, heap)? else { return Err(Raised::type_of("This is no list.")) };
        eval.eval_function(method, arguments, &[])?;
    }
    Ok(Some(Value::new_none()))
}

/// A stable sort, by `key`.
///
/// # Errors
/// When two items cannot be compared.
pub fn sort<'v>(
    eval: &mut Evaluator<'v, '_, '_>,
    items: Vec<Value<'v>>,
    key: Option<Value<'v>>,
    reverse: bool,
) -> starlark::Result<Vec<Value<'v>>> {
    let mut keyed = Vec::with_capacity(items.len());
    for item in items {
        keyed.push((key.map_or(Ok(item), |key| call_back(eval, key, &[item]))?, item));
    }
    let mut failed = None;
    keyed.sort_by(|(a, _), (b, _)| {
        let order = a.compare(*b).unwrap_or_else(|e| {
            failed.get_or_insert(e);
            std::cmp::Ordering::Equal
        });
        if reverse { order.reverse() } else { order }
    });
    match failed {
        Some(error) => Err(error),
        None => Ok(keyed.into_iter().map(|(_, item)| item).collect()),
    }
}

fn dict<'v>(
    eval: &mut Evaluator<'v, '_, '_>,
    value: Value<'v>,
    name: &str,
    args: &[Value<'v>],
    named: &Named<'v>,
) -> starlark::Result<Option<Value<'v>>> {
    let heap = eval.heap();
    let pairs = || DictRef::from_value(value).map(|d| d.iter().collect::<Vec<_>>()).unwrap_or_default();
    match (name, args) {
        ("copy", []) => Ok(Some(heap.alloc(AllocDict(pairs())))),
        ("update", [from]) if named.is_empty() && defaults::is_counter(eval, value) => {
            defaults::count(heap, value, *from)?;
            Ok(Some(Value::new_none()))
        }
        ("most_common", rest) => {
            let counts = heap.alloc(pairs().into_iter().map(|(k, n)| heap.alloc((k, n))).collect::<Vec<_>>());
            let items: Vec<Value> = counts.iterate(heap)?.collect();
            let mut ordered: Vec<(Value, Value)> = Vec::new();
            for item in items {
                ordered.push((item.at(heap.alloc(1), heap)?, item));
            }
            let mut failed = None;
            ordered.sort_by(|(a, _), (b, _)| {
                b.compare(*a).unwrap_or_else(|e| {
                    failed.get_or_insert(e);
                    std::cmp::Ordering::Equal
                })
            });
            if let Some(error) = failed {
                return Err(error);
            }
            let most = rest.first().and_then(|n| n.unpack_i32()).map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(0));
            Ok(Some(heap.alloc(ordered.into_iter().take(most).map(|(_, item)| item).collect::<Vec<_>>())))
        }
        ("total", []) => {
            let total = pairs().into_iter().try_fold(heap.alloc(0), |sum, (_, n)| sum.add(n, heap))?;
            Ok(Some(total))
        }
        _ => Ok(None),
    }
}
