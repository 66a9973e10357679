//! What the translation calls where Starlark has no words: iteration over anything, unpacking, merging, lazy `any`.

use std::cmp::Ordering;

use starlark::environment::GlobalsBuilder;
use starlark::eval::Evaluator;
use starlark::starlark_module;
use starlark::values::dict::{AllocDict, DictMut, DictRef};
use starlark::values::list::{AllocList, ListRef};
use starlark::values::none::NoneType;
use starlark::values::tuple::{AllocTuple, TupleRef, UnpackTuple};
use starlark::values::{Heap, Value, ValueLike};

use super::attr;
use super::classes::Instance;
use super::defaults;
use super::format;
use super::iterators;
use super::limits::{Limit, TEXT_BYTES};
use super::raised::Raised;
use super::run::call_back;
use super::show;

/// The items of whatever Python can loop over.
///
/// # Errors
/// When the value is none of that.
pub fn items<'v>(heap: Heap<'v>, value: Value<'v>) -> starlark::Result<Value<'v>> {
    if let Some(text) = value.unpack_str() {
        if text.len() > TEXT_BYTES {
            return Err(Raised::limit(Limit::Text));
        }
        return Ok(heap.alloc(AllocList(text.chars().map(|c| c.to_string()))));
    }
    if let Some(rest) = iterators::drain(heap, value) {
        return Ok(rest);
    }
    match value.get_type() {
        "list" | "tuple" | "dict" | "set" | "range" => Ok(value),
        "NoneType" => {
            Err(Raised::type_of("The value is None, which cannot be looped over. Check it first: `for x in xs or []:`."))
        }
        "tool" => Err(Raised::type_of("This is the tool itself, which cannot be looped over. Call it: `server.tool(..)`.")),
        other => match value.iterate(heap) {
            Ok(_) => Ok(value),
            Err(_) => Err(Raised::type_of(format!("A value of type {other} cannot be looped over. Loop over a list or a dict."))),
        },
    }
}

/// A dict's field, an element: for the fields of a script's objects too.
fn put<'v>(heap: Heap<'v>, holder: Value<'v>, name: &str, value: Value<'v>) -> starlark::Result<()> {
    holder.set_at(heap.alloc(name), value)
}

#[starlark_module]
pub fn register(builder: &mut GlobalsBuilder) {
    fn __attr<'v>(
        #[starlark(require = pos)] value: Value<'v>,
        #[starlark(require = pos)] name: &str,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Value<'v>> {
        attr::read(eval, value, name)
    }

    fn __iter<'v>(#[starlark(require = pos)] value: Value<'v>, heap: Heap<'v>) -> starlark::Result<Value<'v>> {
        items(heap, value)
    }

    /// What can be looped over without being locked.
    fn __copy<'v>(#[starlark(require = pos)] value: Value<'v>, heap: Heap<'v>) -> starlark::Result<Value<'v>> {
        let value = items(heap, value)?;
        if value.get_type() == "range" {
            return Ok(value);
        }
        Ok(heap.alloc(AllocTuple(value.iterate(heap)?)))
    }

    fn __concat<'v>(#[starlark(args)] parts: UnpackTuple<Value<'v>>, heap: Heap<'v>) -> starlark::Result<Value<'v>> {
        let mut out = Vec::new();
        for part in parts.items {
            out.extend(items(heap, part)?.iterate(heap)?);
        }
        Ok(heap.alloc(out))
    }

    fn __merge<'v>(#[starlark(args)] parts: UnpackTuple<Value<'v>>, heap: Heap<'v>) -> starlark::Result<Value<'v>> {
        let mut pairs = Vec::new();
        for part in parts.items {
            let part = part.downcast_ref::<Instance>().map_or(part, |i| i.fields);
            let Some(dict) = DictRef::from_value(part) else {
                return Err(Raised::type_of(format!("`**` takes a dict, not a value of type {}.", part.get_type())));
            };
            pairs.extend(dict.iter());
        }
        let out = heap.alloc(AllocDict(Vec::<(&str, Value)>::new()));
        let mut dict = DictMut::from_value(out)?;
        for (key, value) in pairs {
            dict.aref.insert_hashed(key.get_hashed()?, value);
        }
        drop(dict);
        Ok(out)
    }

    /// `a, *b, c = xs`, with how many targets stand before and behind the starred one.
    fn __unpack<'v>(
        #[starlark(require = pos)] value: Value<'v>,
        #[starlark(require = pos)] before: i32,
        #[starlark(require = pos)] after: i32,
        heap: Heap<'v>,
    ) -> starlark::Result<Value<'v>> {
        let all: Vec<Value> = items(heap, value)?.iterate(heap)?.collect();
        let (before, after) = (usize::try_from(before).unwrap_or(0), usize::try_from(after).unwrap_or(0));
        if all.len() < before + after {
            let needed = before + after;
            return Err(Raised::value(format!("There are {} values to unpack, at least {needed} are needed.", all.len())));
        }
        let mut out = all[..before].to_vec();
        out.push(heap.alloc(all[before..all.len() - after].to_vec()));
        out.extend(&all[all.len() - after..]);
        Ok(heap.alloc(AllocTuple(out)))
    }

    fn __put<'v>(
        #[starlark(require = pos)] holder: Value<'v>,
        #[starlark(require = pos)] name: &str,
        #[starlark(require = pos)] value: Value<'v>,
        heap: Heap<'v>,
    ) -> starlark::Result<Value<'v>> {
        put(heap, holder, name, value)?;
        Ok(value)
    }

    fn __delete<'v>(
        #[starlark(require = pos)] holder: Value<'v>,
        #[starlark(require = pos)] key: Value<'v>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<NoneType> {
        let heap = eval.heap();
        let holder = holder.downcast_ref::<Instance>().map_or(holder, |i| i.fields);
        let Some(pop) = holder.get_attr("pop", heap)? else {
            return Err(Raised::type_of(format!("An element of a {} cannot be deleted.", holder.get_type())));
        };
        let length = ListRef::from_value(holder).map(|l| i32::try_from(l.len()).unwrap_or(i32::MAX));
        let key = match (length, key.unpack_i32()) {
            (Some(length), Some(index)) if index < 0 => heap.alloc(length.saturating_add(index)),
            _ => key,
        };
        eval.eval_function(pop, &[key], &[])?;
        Ok(NoneType)
    }

    fn __is<'v>(
        #[starlark(require = pos)] left: Value<'v>,
        #[starlark(require = pos)] right: Value<'v>,
    ) -> starlark::Result<bool> {
        if left.ptr_eq(right) {
            return Ok(true);
        }
        let plain = |v: Value| matches!(v.get_type(), "int" | "bool" | "string" | "NoneType" | "object");
        Ok(plain(left) && left.get_type() == right.get_type() && left.equals(right)?)
    }

    /// `a < f() < c`: stops at the first comparison that fails.
    fn __chain<'v>(
        #[starlark(require = pos)] operators: Value<'v>,
        #[starlark(args)] operands: UnpackTuple<Value<'v>>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<bool> {
        let operators: Vec<Value> = operators.iterate(eval.heap())?.collect();
        let mut operands = operands.items.into_iter();
        let Some(first) = operands.next() else { return Ok(true) };
        let mut left = eval.eval_function(first, &[], &[])?;
        for (operator, operand) in operators.into_iter().zip(operands) {
            let right = eval.eval_function(operand, &[], &[])?;
            if !compare(left, operator.unpack_str().unwrap_or_default(), right)? {
                return Ok(false);
            }
            left = right;
        }
        Ok(true)
    }

    fn __any<'v>(
        #[starlark(require = pos)] over: Value<'v>,
        #[starlark(require = pos)] body: Value<'v>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<bool> {
        Ok(first(eval, over, body, |v| v.to_bool())?.is_some())
    }

    fn __all<'v>(
        #[starlark(require = pos)] over: Value<'v>,
        #[starlark(require = pos)] body: Value<'v>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<bool> {
        Ok(first(eval, over, body, |v| !v.to_bool())?.is_none())
    }

    fn __first<'v>(
        #[starlark(require = pos)] over: Value<'v>,
        #[starlark(require = pos)] body: Value<'v>,
        #[starlark(require = pos)] default: Option<Value<'v>>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Value<'v>> {
        first(eval, over, body, |_| true)?.or(default).ok_or_else(iterators::exhausted)
    }

    fn __text<'v>(
        #[starlark(args)] pieces: UnpackTuple<Value<'v>>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<String> {
        let mut out = String::new();
        for piece in pieces.items {
            match piece.unpack_str() {
                Some(text) => out.push_str(text),
                None => out.push_str(&show::text(eval, piece, false)?),
            }
        }
        Ok(out)
    }

    fn __str<'v>(
        #[starlark(require = pos)] value: Option<Value<'v>>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<String> {
        value.map_or(Ok(String::new()), |value| show::text(eval, value, false))
    }

    fn __repr<'v>(#[starlark(require = pos)] value: Value<'v>, eval: &mut Evaluator<'v, '_, '_>) -> starlark::Result<String> {
        show::text(eval, value, true)
    }

    fn __format<'v>(
        #[starlark(require = pos)] value: Value<'v>,
        #[starlark(require = pos)] spec: &str,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<String> {
        format::format(eval, value, spec)
    }

    fn __mod<'v>(
        #[starlark(require = pos)] left: Value<'v>,
        #[starlark(require = pos)] right: Value<'v>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Value<'v>> {
        match left.unpack_str() {
            Some(text) => {
                let arguments = match TupleRef::from_value(right) {
                    Some(tuple) => tuple.iter().collect(),
                    None => vec![right],
                };
                let text = super::percent::percent(eval, text, &arguments, right)?;
                Ok(eval.heap().alloc(text))
            }
            None => left.percent(right, eval.heap()),
        }
    }

    fn __item<'v>(
        #[starlark(require = pos)] holder: Value<'v>,
        #[starlark(require = pos)] key: Value<'v>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Value<'v>> {
        defaults::read(eval, holder, key)
    }

    fn __augment<'v>(
        #[starlark(require = pos)] holder: Value<'v>,
        #[starlark(require = pos)] key: Value<'v>,
        #[starlark(require = pos)] operator: &str,
        #[starlark(require = pos)] value: Value<'v>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<NoneType> {
        let heap = eval.heap();
        let old = defaults::read(eval, holder, key)?;
        let new = match operator {
            "+" if old.get_type() == "list" => {
                let mut all: Vec<Value> = old.iterate(heap)?.collect();
                all.extend(items(heap, value)?.iterate(heap)?);
                heap.alloc(all)
            }
            "+" => old.add(value, heap)?,
            "-" => old.sub(value, heap)?,
            "*" => old.mul(value, heap)?,
            "/" => old.div(value, heap)?,
            "//" => old.floor_div(value, heap)?,
            "%" => old.percent(value, heap)?,
            "|" => old.bit_or(value, heap)?,
            "&" => old.bit_and(value, heap)?,
            other => {
                return Err(Raised::type_of(format!("`{other}=` is not there for elements. Write `d[k] = d[k] {other} x`.")));
            }
        };
        holder.set_at(key, new)?;
        Ok(NoneType)
    }
}

fn compare<'v>(left: Value<'v>, operator: &str, right: Value<'v>) -> starlark::Result<bool> {
    Ok(match operator {
        "==" => left.equals(right)?,
        "!=" => !left.equals(right)?,
        "in" => right.is_in(left)?,
        "not in" => !right.is_in(left)?,
        "is" => left.ptr_eq(right) || left.equals(right)?,
        "is not" => !left.equals(right)?,
        "<" => left.compare(right)? == Ordering::Less,
        "<=" => left.compare(right)? != Ordering::Greater,
        ">" => left.compare(right)? == Ordering::Greater,
        _ => left.compare(right)? != Ordering::Less,
    })
}

/// The first wanted value that `body` gives for the items, which are taken only as far as needed.
fn first<'v>(
    eval: &mut Evaluator<'v, '_, '_>,
    over: Value<'v>,
    body: Value<'v>,
    wanted: impl Fn(Value<'v>) -> bool,
) -> starlark::Result<Option<Value<'v>>> {
    let heap = eval.heap();
    for item in over.iterate(heap)? {
        let given = call_back(eval, body, &[item])?;
        if let Some(found) = ListRef::from_value(given).and_then(|list| list.iter().find(|v| wanted(*v))) {
            return Ok(Some(found));
        }
    }
    Ok(None)
}
