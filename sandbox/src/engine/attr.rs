//! `__attr(x, "key")`, which the translation writes where a script reads `x.key`.

use starlark::environment::GlobalsBuilder;
use starlark::eval::Evaluator;
use starlark::starlark_module;
use starlark::values::dict::DictRef;
use starlark::values::{Value, ValueLike};

use super::classes::{Instance, Mark, Marked};
use super::hints;
use super::methods;
use super::raised::Raised;
use super::run::Run;
use super::tools::Tool;

/// A dict's field, a tool of a server, or whatever attribute Starlark knows.
pub fn read<'v>(eval: &mut Evaluator<'v, '_, '_>, value: Value<'v>, name: &str) -> starlark::Result<Value<'v>> {
    let heap = eval.heap();
    if let Some(dict) = DictRef::from_value(value) {
        // The data comes first: `order.items` is the field where there is one, the method elsewhere.
        return match dict.get_str(name) {
            Some(field) => Ok(field),
            None => value.get_attr(name, heap)?.ok_or_else(|| no_key(&dict, name)),
        };
    }
    let Some(found) = value.get_attr(name, heap)? else { return missing(eval, value, name) };
    if let Some(tool) = found.downcast_ref::<Tool>() {
        tool.check(Run::of(eval))?;
    }
    match found.downcast_ref::<Marked>() {
        Some(marked) if marked.mark == Mark::Property => eval.eval_function(marked.value, &[value], &[]),
        _ => Ok(found),
    }
}

fn missing<'v>(eval: &Evaluator<'v, '_, '_>, value: Value<'v>, name: &str) -> starlark::Result<Value<'v>> {
    if name == "__name__" {
        let text = value.to_str();
        let name = text.trim_start_matches("<class '").trim_end_matches("'>");
        return Ok(eval.heap().alloc(name.rsplit('.').next().unwrap_or(name)));
    }
    methods::unbound(eval.heap(), value, name).ok_or_else(|| no_attribute(value, name))
}

fn no_key(dict: &DictRef, name: &str) -> starlark::Error {
    let keys: Vec<&str> = dict.keys().filter_map(Value::unpack_str).collect();
    let similar = hints::nearest(name, keys.iter().copied()).map(|s| format!(" Did you mean '{s}'?")).unwrap_or_default();
    let keys = hints::list(keys.into_iter());
    Raised::of_class("AttributeError", format!("This dict has no key '{name}'.{similar} Keys: {keys}"))
}

fn no_attribute(value: Value, name: &str) -> starlark::Error {
    let message = match value.get_type() {
        "NoneType" => format!("The value before '.{name}' is None. Check it first."),
        "list" | "tuple" => {
            format!("A {} has no '{name}'. Take an element (`xs[0].{name}`) or loop over it.", value.get_type())
        }
        "string" => format!("A string has no '{name}'. If it holds JSON, decode it: `json.decode(text).{name}`."),
        "namespace" => {
            format!("This module has no '{name}'. It has: {}", hints::list(value.dir_attr().iter().map(String::as_str)))
        }
        "object" => {
            let fields = value.downcast_ref::<Instance>().and_then(|i| DictRef::from_value(i.fields));
            let names: Vec<String> = fields.iter().flat_map(|d| d.keys().map(|k| k.to_str())).collect();
            format!("This object has no '{name}'. Fields: {}", hints::list(names.iter().map(String::as_str)))
        }
        other => format!("A value of type {other} has no '{name}'."),
    };
    Raised::of_class("AttributeError", message)
}

#[starlark_module]
pub fn register(builder: &mut GlobalsBuilder) {
    fn __getattr<'v>(
        #[starlark(require = pos)] value: Value<'v>,
        #[starlark(require = pos)] name: &str,
        #[starlark(require = pos)] default: Option<Value<'v>>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Value<'v>> {
        let known = has(eval, value, name)?;
        match default {
            Some(default) if !known => Ok(default),
            _ => read(eval, value, name),
        }
    }

    fn __hasattr<'v>(
        #[starlark(require = pos)] value: Value<'v>,
        #[starlark(require = pos)] name: &str,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<bool> {
        has(eval, value, name)
    }
}

fn has<'v>(eval: &Evaluator<'v, '_, '_>, value: Value<'v>, name: &str) -> starlark::Result<bool> {
    if let Some(dict) = DictRef::from_value(value) {
        return Ok(dict.get_str(name).is_some());
    }
    if value.get_type() == "server" {
        return Ok(value.has_attr(name, eval.heap()));
    }
    Ok(value.get_attr(name, eval.heap())?.is_some())
}
