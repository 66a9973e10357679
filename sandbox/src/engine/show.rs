//! `str` and `repr` as Python writes them, within bounds: `x = [x, x]`, forty times, is small in memory and a terabyte as
//! text.

use starlark::eval::Evaluator;
use starlark::values::dict::DictRef;
use starlark::values::float::UnpackFloat;
use starlark::values::list::ListRef;
use starlark::values::tuple::TupleRef;
use starlark::values::{UnpackValue, Value, ValueLike};

use super::builtins::check_digits;
use super::classes::{self, Instance};
use super::dates;
use super::format;
use super::limits::{Limit, TEXT_BYTES, VALUE_DEPTH};
use super::raised::Raised;

/// # Errors
/// When the text grows beyond its limit, or the script's own `__str__` fails.
pub fn text<'v>(eval: &mut Evaluator<'v, '_, '_>, value: Value<'v>, repr: bool) -> starlark::Result<String> {
    let mut out = String::new();
    write(eval, value, repr, 0, &mut out)?;
    Ok(out)
}

fn write<'v>(
    eval: &mut Evaluator<'v, '_, '_>,
    value: Value<'v>,
    repr: bool,
    depth: usize,
    out: &mut String,
) -> starlark::Result<()> {
    if out.len() > TEXT_BYTES {
        return Err(Raised::limit(Limit::Text));
    }
    if let Some(text) = value.unpack_str() {
        if repr {
            quote(text, out)
        } else {
            out.push_str(text)
        }
        return Ok(());
    }
    if depth > VALUE_DEPTH {
        out.push_str("...");
        return Ok(());
    }
    if let Some(dict) = DictRef::from_value(value) {
        let pairs: Vec<(Value, Value)> = dict.iter().collect();
        drop(dict);
        out.push('{');
        for (index, (key, value)) in pairs.into_iter().enumerate() {
            out.push_str(if index > 0 { ", " } else { "" });
            write(eval, key, true, depth + 1, out)?;
            out.push_str(": ");
            write(eval, value, true, depth + 1, out)?;
        }
        out.push('}');
        return Ok(());
    }
    if let Some(list) = ListRef::from_value(value) {
        let items: Vec<Value> = list.iter().collect();
        return sequence(eval, &items, ("[", "]"), depth, out);
    }
    if let Some(tuple) = TupleRef::from_value(value) {
        let items: Vec<Value> = tuple.iter().collect();
        return sequence(eval, &items, ("(", if items.len() == 1 { ",)" } else { ")" }), depth, out);
    }
    if value.get_type() == "set" {
        let items: Vec<Value> = value.iterate(eval.heap())?.collect();
        let around = if items.is_empty() { ("set(", ")") } else { ("{", "}") };
        return sequence(eval, &items, around, depth, out);
    }
    if value.downcast_ref::<Instance>().is_some() {
        return instance(eval, value, repr, depth, out);
    }
    if let Some(shown) = dates::shown(value, repr) {
        out.push_str(&shown);
        return Ok(());
    }
    if let ("float", Ok(Some(UnpackFloat(float)))) = (value.get_type(), UnpackFloat::unpack_value(value)) {
        out.push_str(&format::shortest(float));
        return Ok(());
    }
    if value.get_type() == "function"
        && matches!(value.to_str().as_str(), "str" | "int" | "float" | "bool" | "list" | "dict" | "tuple")
    {
        out.push_str(&format!("<class '{}'>", value.to_str()));
        return Ok(());
    }
    check_digits(eval.heap(), value)?;
    out.push_str(&value.to_str());
    Ok(())
}

fn sequence<'v>(
    eval: &mut Evaluator<'v, '_, '_>,
    items: &[Value<'v>],
    around: (&str, &str),
    depth: usize,
    out: &mut String,
) -> starlark::Result<()> {
    out.push_str(around.0);
    for (index, item) in items.iter().enumerate() {
        out.push_str(if index > 0 { ", " } else { "" });
        write(eval, *item, true, depth + 1, out)?;
    }
    out.push_str(around.1);
    Ok(())
}

fn instance<'v>(
    eval: &mut Evaluator<'v, '_, '_>,
    value: Value<'v>,
    repr: bool,
    depth: usize,
    out: &mut String,
) -> starlark::Result<()> {
    let Some(instance) = value.downcast_ref::<Instance>() else { return Ok(()) };
    let heap = eval.heap();
    let own = (!repr).then(|| value.get_attr("__str__", heap)).transpose()?.flatten();
    let own = match own {
        Some(own) => Some(own),
        None => value.get_attr("__repr__", heap)?,
    };
    if let Some(own) = own {
        let shown = eval.eval_function(own, &[], &[])?;
        out.push_str(shown.unpack_str().unwrap_or_default());
        return Ok(());
    }
    let fields = DictRef::from_value(instance.fields).map(|d| d.iter().collect::<Vec<_>>()).unwrap_or_default();
    let name = classes::name(instance.class);
    if classes::error_name(instance.class).is_none() {
        out.push_str(&name);
        out.push('(');
        for (index, (key, value)) in fields.into_iter().enumerate() {
            out.push_str(if index > 0 { ", " } else { "" });
            write(eval, key, false, depth + 1, out)?;
            out.push('=');
            write(eval, value, true, depth + 1, out)?;
        }
        out.push(')');
        return Ok(());
    }
    let args: Vec<Value> = match fields.iter().find(|(k, _)| k.unpack_str() == Some("args")) {
        Some((_, args)) => args.iterate(heap)?.collect(),
        None => Vec::new(),
    };
    if repr {
        out.push_str(&name);
        return sequence(eval, &args, ("(", ")"), depth, out);
    }
    match args.as_slice() {
        [] => Ok(()),
        [one] => write(eval, *one, classes::error_name(instance.class).as_deref() == Some("KeyError"), depth + 1, out),
        several => sequence(eval, several, ("(", ")"), depth, out),
    }
}

fn quote(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            c if c.is_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push(quote);
}
