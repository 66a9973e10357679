//! `defaultdict` and `Counter`: plain dicts, of which the run remembers what a missing key gives. Only in scripts that name
//! one of the two does reading an element come by here.

// The derives of `ProvidesStaticType` expand to an unsafe marker impl; there is no other unsafe here.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;

use allocative::Allocative;
use starlark::any::ProvidesStaticType;
use starlark::environment::GlobalsBuilder;
use starlark::eval::Evaluator;
use starlark::starlark_module;
use starlark::values::dict::{AllocDict, DictRef};
use starlark::values::{
    Heap, NoSerialize, StarlarkPagablePanic, StarlarkValue, Trace, Tracer, Value, ValueIdentity, ValueLike, starlark_value,
};

use super::basics;
use super::raised::Raised;

const NAME: &str = "__defaults";

/// By the dict's identity: nothing is moved, since no garbage is collected during a step.
#[derive(Debug, ProvidesStaticType, NoSerialize, Allocative, StarlarkPagablePanic)]
struct Defaults<'v> {
    #[allocative(skip)]
    makers: RefCell<HashMap<ValueIdentity<'v>, Maker<'v>>>,
}

#[derive(Debug, Clone, Copy)]
enum Maker<'v> {
    /// A Counter: 0, and the key is not added.
    Zero,
    Call(Value<'v>),
}

unsafe impl<'v> Trace<'v> for Defaults<'v> {
    // SAFETY: collections are disabled for the whole step, so no value is ever moved.
    fn trace(&mut self, _tracer: &Tracer<'v>) {}
}

impl fmt::Display for Defaults<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<defaults>")
    }
}

#[starlark_value(type = "defaults")]
impl<'v> StarlarkValue<'v> for Defaults<'v> {}

fn remember<'v>(eval: &Evaluator<'v, '_, '_>, dict: Value<'v>, maker: Maker<'v>) {
    let all = eval.module().get(NAME).unwrap_or_else(|| {
        let new = eval.heap().alloc_complex_no_freeze(Defaults { makers: RefCell::default() });
        eval.module().set(NAME, new);
        new
    });
    if let Some(all) = all.downcast_ref::<Defaults>() {
        all.makers.borrow_mut().insert(dict.identity(), maker);
    }
}

fn maker<'v>(eval: &Evaluator<'v, '_, '_>, dict: Value<'v>) -> Option<Maker<'v>> {
    let all = eval.module().get(NAME)?;
    all.downcast_ref::<Defaults>()?.makers.borrow().get(&dict.identity()).copied()
}

/// Is it a Counter?
pub fn is_counter<'v>(eval: &Evaluator<'v, '_, '_>, dict: Value<'v>) -> bool {
    matches!(maker(eval, dict), Some(Maker::Zero))
}

/// `holder[key]`
///
/// # Errors
/// Those of Starlark's own, for a key without default.
pub fn read<'v>(eval: &mut Evaluator<'v, '_, '_>, holder: Value<'v>, key: Value<'v>) -> starlark::Result<Value<'v>> {
    let heap = eval.heap();
    if holder.get_type() != "dict" {
        return holder.at(key, heap);
    }
    let found = DictRef::from_value(holder).map(|d| d.get(key)).transpose()?.flatten();
    match (found, maker(eval, holder)) {
        (Some(found), _) => Ok(found),
        (None, None) => holder.at(key, heap),
        (None, Some(Maker::Zero)) => Ok(heap.alloc(0)),
        (None, Some(Maker::Call(function))) => {
            let made = eval.eval_function(function, &[], &[])?;
            holder.set_at(key, made)?;
            Ok(made)
        }
    }
}

fn pairs<'v>(heap: Heap<'v>, from: Option<Value<'v>>) -> starlark::Result<Vec<(Value<'v>, Value<'v>)>> {
    let Some(from) = from else { return Ok(Vec::new()) };
    if let Some(dict) = DictRef::from_value(from) {
        return Ok(dict.iter().collect());
    }
    basics::items(heap, from)?
        .iterate(heap)?
        .map(|pair| {
            let pair: Vec<Value> = pair.iterate(heap)?.collect();
            match pair.as_slice() {
                [key, value] => Ok((*key, *value)),
                _ => Err(Raised::type_of("A dict is made of pairs: `[(key, value), ..]`.")),
            }
        })
        .collect()
}

/// A dict of the pairs, the later of two with one key winning.
fn dict_of<'v>(heap: Heap<'v>, pairs: Vec<(Value<'v>, Value<'v>)>) -> starlark::Result<Value<'v>> {
    let out = heap.alloc(AllocDict(Vec::<(&str, Value)>::new()));
    for (key, value) in pairs {
        out.set_at(key, value)?;
    }
    Ok(out)
}

/// Add to a Counter: items one each, a dict's values.
pub fn count<'v>(heap: Heap<'v>, counter: Value<'v>, from: Value<'v>) -> starlark::Result<()> {
    let counted: Vec<(Value, Value)> = match DictRef::from_value(from) {
        Some(dict) => dict.iter().collect(),
        None => basics::items(heap, from)?.iterate(heap)?.map(|item| (item, heap.alloc(1))).collect(),
    };
    for (key, by) in counted {
        let old = DictRef::from_value(counter).map(|d| d.get(key)).transpose()?.flatten();
        counter.set_at(key, old.map_or(Ok(by), |old| old.add(by, heap))?)?;
    }
    Ok(())
}

/// A dict of pairs, or of another dict.
///
/// # Errors
/// When it is made of something else.
pub fn plain<'v>(heap: Heap<'v>, from: Option<Value<'v>>) -> starlark::Result<Value<'v>> {
    dict_of(heap, pairs(heap, from)?)
}

#[starlark_module]
pub fn register(builder: &mut GlobalsBuilder) {
    fn defaultdict<'v>(
        #[starlark(require = pos)] factory: Option<Value<'v>>,
        #[starlark(require = pos)] from: Option<Value<'v>>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Value<'v>> {
        let heap = eval.heap();
        let dict = dict_of(heap, pairs(heap, from)?)?;
        if let Some(factory) = factory.filter(|f| !f.is_none()) {
            remember(eval, dict, Maker::Call(factory));
        }
        Ok(dict)
    }

    fn Counter<'v>(
        #[starlark(require = pos)] from: Option<Value<'v>>,
        #[starlark(kwargs)] named: DictRef<'v>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Value<'v>> {
        let heap = eval.heap();
        let dict = dict_of(heap, named.iter().collect())?;
        if let Some(from) = from.filter(|f| !f.is_none()) {
            count(heap, dict, from)?;
        }
        remember(eval, dict, Maker::Zero);
        Ok(dict)
    }

    /// Python's `dict`, which takes iterators as well.
    fn __dict<'v>(
        #[starlark(require = pos)] from: Option<Value<'v>>,
        #[starlark(kwargs)] named: DictRef<'v>,
        heap: Heap<'v>,
    ) -> starlark::Result<Value<'v>> {
        let mut all = pairs(heap, from)?;
        all.extend(named.iter());
        dict_of(heap, all)
    }
}
