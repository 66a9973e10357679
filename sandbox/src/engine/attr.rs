//! `__attr(x, "key")`, which the rewriter puts where a script reads `x.key`.

use starlark::values::dict::DictRef;
use starlark::values::{Heap, Value, ValueLike};
use tollgate_codemode::wire::ErrorKind;

use super::hints;
use super::raised::Raised;
use super::run::Run;
use super::tools::Tool;

/// A dict's field, a tool of a server, or whatever attribute Starlark knows.
pub fn read<'v>(run: &Run, heap: Heap<'v>, value: Value<'v>, name: &str) -> starlark::Result<Value<'v>> {
    if let Some(dict) = DictRef::from_value(value) {
        // The data comes first: `order.items` is the field where there is one, the method elsewhere.
        return match dict.get_str(name) {
            Some(field) => Ok(field),
            None => value.get_attr(name, heap)?.ok_or_else(|| no_key(&dict, name)),
        };
    }
    let Some(found) = value.get_attr(name, heap)? else { return Err(no_attribute(value, name)) };
    if let Some(tool) = found.downcast_ref::<Tool>() {
        tool.check(run)?;
    }
    Ok(found)
}

fn no_key(dict: &DictRef, name: &str) -> starlark::Error {
    let keys: Vec<&str> = dict.keys().filter_map(Value::unpack_str).collect();
    let similar = hints::nearest(name, keys.iter().copied()).map(|s| format!(" Did you mean '{s}'?")).unwrap_or_default();
    Raised::runtime(format!("This dict has no key '{name}'.{similar} Keys: {}", hints::list(keys.into_iter())))
}

fn no_attribute(value: Value, name: &str) -> starlark::Error {
    let message = match value.get_type() {
        "NoneType" => format!("The value before '.{name}' is None. Check it first."),
        "list" | "tuple" => {
            format!("A {} has no '{name}'. Take an element (`xs[0].{name}`) or loop over it.", value.get_type())
        }
        "string" => format!("A string has no '{name}'. If it holds JSON, decode it: `json.decode(text).{name}`."),
        other => format!("A value of type {other} has no '{name}'."),
    };
    Raised::error(ErrorKind::Runtime, message)
}
