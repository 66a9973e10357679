//! Making instances: `__init__`, the fields of dataclasses, the arguments of exceptions.

use starlark::eval::{Arguments, Evaluator};
use starlark::values::dict::{AllocDict, DictMut};
use starlark::values::list::ListRef;
use starlark::values::tuple::AllocTuple;
use starlark::values::{Value, ValueLike};

use super::classes::{Class, Instance, Mark, Marked, error_name, find, name};
use super::raised::Raised;

pub fn instantiate<'v>(
    eval: &mut Evaluator<'v, '_, '_>,
    class: Value<'v>,
    args: &Arguments<'v, '_>,
) -> starlark::Result<Value<'v>> {
    let heap = eval.heap();
    let positional: Vec<Value> = args.positions(heap)?.collect();
    let named = args.names_map()?;
    let fields = heap.alloc(AllocDict(Vec::<(&str, Value)>::new()));
    let instance = heap.alloc_complex_no_freeze(Instance { class, fields, origin: None });
    let put = |key: &str, value: Value<'v>| -> starlark::Result<()> {
        DictMut::from_value(fields)?.aref.insert_hashed(heap.alloc(key).get_hashed()?, value);
        Ok(())
    };
    let is_error = error_name(class).is_some();
    if is_error {
        put("args", heap.alloc(AllocTuple(positional.clone())))?;
    }
    if let Some(init) = find(class, "__init__") {
        let mut all = vec![instance];
        all.extend(positional);
        let named: Vec<(&str, Value)> = named.iter().map(|(k, v)| (k.as_str(), *v)).collect();
        eval.eval_function(init, &all, &named)?;
        return Ok(instance);
    }
    let names = dataclass_fields(class);
    if names.is_empty() && !is_error && (!positional.is_empty() || !named.is_empty()) {
        return Err(Raised::type_of(format!("{}() takes no arguments. Give the class an `__init__`.", name(class))));
    }
    if positional.len() > names.len() && !is_error {
        return Err(Raised::type_of(format!(
            "{}() takes {} arguments, {} were given.",
            name(class),
            names.len(),
            positional.len()
        )));
    }
    for (index, field) in names.iter().enumerate() {
        let value = match (positional.get(index), named.iter().find(|(k, _)| k.as_str() == field.as_str())) {
            (Some(value), _) => *value,
            (None, Some((_, value))) => *value,
            (None, None) => default(eval, class, field)?,
        };
        put(field, value)?;
    }
    Ok(instance)
}

/// A dataclass's fields, its base's first.
fn dataclass_fields<'v>(class: Value<'v>) -> Vec<String> {
    let Some(class) = class.downcast_ref::<Class>() else { return Vec::new() };
    let mut out = dataclass_fields(class.base);
    if let Some(own) = ListRef::from_value(class.fields) {
        for name in own.iter().filter_map(Value::unpack_str) {
            if !out.iter().any(|n| n == name) {
                out.push(name.to_owned());
            }
        }
    }
    out
}

fn default<'v>(eval: &mut Evaluator<'v, '_, '_>, class: Value<'v>, field: &str) -> starlark::Result<Value<'v>> {
    let Some(value) = find(class, field) else {
        return Err(Raised::type_of(format!("{}() needs '{field}'.", name(class))));
    };
    match value.downcast_ref::<Marked>() {
        Some(marked) if marked.mark == Mark::Factory => eval.eval_function(marked.value, &[], &[]),
        Some(marked) if marked.mark == Mark::Default => Ok(marked.value),
        _ => Ok(value),
    }
}
