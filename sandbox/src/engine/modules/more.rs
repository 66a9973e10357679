//! `operator`, `copy` and `heapq`: the few names of each that scripts use.

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
use starlark::values::tuple::{AllocTuple, TupleRef, UnpackTuple};
use starlark::values::{Heap, NoSerialize, StarlarkPagablePanic, StarlarkValue, Trace, Value, ValueLike, starlark_value};

use super::super::classes::Instance;
use super::super::limits::{Limit, VALUE_DEPTH};
use super::super::raised::Raised;
use super::super::{attr, defaults, methods};
use super::all;

/// Values that one `deepcopy` may make.
const COPIED: usize = 1_000_000;

/// `itemgetter("a", "b")`, `attrgetter("a")`
#[derive(Debug, Trace, ProvidesStaticType, NoSerialize, Allocative, StarlarkPagablePanic)]
struct Getter<'v> {
    keys: Value<'v>,
    attributes: bool,
}

impl fmt::Display for Getter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<getter>")
    }
}

#[starlark_value(type = "function")]
impl<'v> StarlarkValue<'v> for Getter<'v> {
    fn invoke(&self, _me: Value<'v>, args: &Arguments<'v, '_>, eval: &mut Evaluator<'v, '_, '_>) -> starlark::Result<Value<'v>> {
        let heap = eval.heap();
        let Some(of) = args.positions(heap)?.next() else {
            return Err(Raised::type_of("A getter needs the value it reads from."));
        };
        let keys: Vec<Value> = self.keys.iterate(heap)?.collect();
        let mut found = Vec::with_capacity(keys.len());
        for key in keys {
            found.push(match key.unpack_str() {
                Some(name) if self.attributes => attr::read(eval, of, name)?,
                _ => defaults::read(eval, of, key)?,
            });
        }
        Ok(if found.len() == 1 { found[0] } else { heap.alloc(AllocTuple(found)) })
    }
}

#[starlark_module]
pub fn operator(builder: &mut GlobalsBuilder) {
    fn itemgetter<'v>(#[starlark(args)] keys: UnpackTuple<Value<'v>>, heap: Heap<'v>) -> starlark::Result<Value<'v>> {
        Ok(heap.alloc_complex_no_freeze(Getter { keys: heap.alloc(keys.items), attributes: false }))
    }

    fn attrgetter<'v>(#[starlark(args)] keys: UnpackTuple<Value<'v>>, heap: Heap<'v>) -> starlark::Result<Value<'v>> {
        Ok(heap.alloc_complex_no_freeze(Getter { keys: heap.alloc(keys.items), attributes: true }))
    }
}

struct Copier<'v> {
    heap: Heap<'v>,
    left: usize,
}

impl<'v> Copier<'v> {
    fn copy(&mut self, value: Value<'v>, depth: usize) -> starlark::Result<Value<'v>> {
        if depth > VALUE_DEPTH {
            return Err(Raised::limit(Limit::ValueDepth));
        }
        self.left =
            self.left.checked_sub(1).ok_or_else(|| Raised::value("deepcopy() of a value of more than a million parts."))?;
        if let Some(list) = ListRef::from_value(value) {
            let items: Vec<Value> = list.iter().collect();
            let items = self.all(items, depth)?;
            return Ok(self.heap.alloc(items));
        }
        if let Some(tuple) = TupleRef::from_value(value) {
            let items: Vec<Value> = tuple.iter().collect();
            let items = self.all(items, depth)?;
            return Ok(self.heap.alloc(AllocTuple(items)));
        }
        if let Some(dict) = DictRef::from_value(value) {
            let pairs: Vec<(Value, Value)> = dict.iter().collect();
            let pairs =
                pairs.into_iter().map(|(k, v)| Ok((k, self.copy(v, depth + 1)?))).collect::<starlark::Result<Vec<_>>>()?;
            return Ok(self.heap.alloc(AllocDict(pairs)));
        }
        if let Some(instance) = value.downcast_ref::<Instance>() {
            let fields = self.copy(instance.fields, depth + 1)?;
            let copied = Instance { class: instance.class, fields, origin: instance.origin.clone() };
            return Ok(self.heap.alloc_complex_no_freeze(copied));
        }
        if value.get_type() == "set" {
            return value.bit_or(value, self.heap);
        }
        Ok(value)
    }

    fn all(&mut self, items: Vec<Value<'v>>, depth: usize) -> starlark::Result<Vec<Value<'v>>> {
        items.into_iter().map(|item| self.copy(item, depth + 1)).collect()
    }
}

#[starlark_module]
pub fn copy(builder: &mut GlobalsBuilder) {
    fn copy<'v>(#[starlark(require = pos)] value: Value<'v>, heap: Heap<'v>) -> starlark::Result<Value<'v>> {
        if let Some(list) = ListRef::from_value(value) {
            return Ok(heap.alloc(list.iter().collect::<Vec<_>>()));
        }
        match DictRef::from_value(value) {
            Some(dict) => Ok(heap.alloc(AllocDict(dict.iter().collect::<Vec<_>>()))),
            None => Ok(value),
        }
    }

    fn deepcopy<'v>(#[starlark(require = pos)] value: Value<'v>, heap: Heap<'v>) -> starlark::Result<Value<'v>> {
        Copier { heap, left: COPIED }.copy(value, 0)
    }
}

#[starlark_module]
pub fn heapq(builder: &mut GlobalsBuilder) {
    fn nlargest<'v>(
        #[starlark(require = pos)] n: i32,
        #[starlark(require = pos)] items: Value<'v>,
        key: Option<Value<'v>>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Value<'v>> {
        best(eval, n, items, key, true)
    }

    fn nsmallest<'v>(
        #[starlark(require = pos)] n: i32,
        #[starlark(require = pos)] items: Value<'v>,
        key: Option<Value<'v>>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Value<'v>> {
        best(eval, n, items, key, false)
    }
}

fn best<'v>(
    eval: &mut Evaluator<'v, '_, '_>,
    n: i32,
    items: Value<'v>,
    key: Option<Value<'v>>,
    largest: bool,
) -> starlark::Result<Value<'v>> {
    let items = all(eval.heap(), items)?;
    let mut sorted = methods::sort(eval, items, key.filter(|k| !k.is_none()), largest)?;
    sorted.truncate(usize::try_from(n).unwrap_or(0));
    Ok(eval.heap().alloc(sorted))
}
