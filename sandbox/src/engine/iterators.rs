//! `iter(xs)` and `next(it)`: a list with a position. Generator expressions are computed at once, which only `any`, `all`
//! and `next` could tell apart; those are translated so that they stop where Python's do.

// The derives of `ProvidesStaticType` expand to an unsafe marker impl; there is no other unsafe here.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::fmt;

use allocative::Allocative;
use starlark::any::ProvidesStaticType;
use starlark::environment::GlobalsBuilder;
use starlark::starlark_module;
use starlark::values::list::ListRef;
use starlark::values::{Heap, NoSerialize, StarlarkPagablePanic, StarlarkValue, Trace, Value, ValueLike, starlark_value};

use super::basics;
use super::raised::Raised;

#[derive(Debug, Trace, ProvidesStaticType, NoSerialize, Allocative, StarlarkPagablePanic)]
struct Iterator<'v> {
    items: Value<'v>,
    #[allocative(skip)]
    at: Cell<usize>,
}

impl fmt::Display for Iterator<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<iterator>")
    }
}

#[starlark_value(type = "iterator")]
impl<'v> StarlarkValue<'v> for Iterator<'v> {
    fn iterate_collect(&self, _heap: Heap<'v>) -> starlark::Result<Vec<Value<'v>>> {
        Ok(self.rest())
    }
}

impl<'v> Iterator<'v> {
    fn rest(&self) -> Vec<Value<'v>> {
        let Some(list) = ListRef::from_value(self.items) else { return Vec::new() };
        let from = self.at.replace(list.len());
        list.iter().skip(from).collect()
    }
}

/// What an iterator still holds, as a list; it is at its end then.
pub fn drain<'v>(heap: Heap<'v>, value: Value<'v>) -> Option<Value<'v>> {
    value.downcast_ref::<Iterator>().map(|iterator| heap.alloc(iterator.rest()))
}

pub fn exhausted() -> starlark::Error {
    Raised::of_class("StopIteration", "There is no such item. Give next() a default: `next((x for x in xs if ..), None)`.")
}

#[starlark_module]
pub fn register(builder: &mut GlobalsBuilder) {
    fn iter<'v>(#[starlark(require = pos)] value: Value<'v>, heap: Heap<'v>) -> starlark::Result<Value<'v>> {
        if value.downcast_ref::<Iterator>().is_some() {
            return Ok(value);
        }
        let items: Vec<Value> = basics::items(heap, value)?.iterate(heap)?.collect();
        Ok(heap.alloc_complex_no_freeze(Iterator { items: heap.alloc(items), at: Cell::new(0) }))
    }

    /// The value of a generator expression.
    fn __items<'v>(#[starlark(require = pos)] items: Value<'v>) -> starlark::Result<Value<'v>> {
        Ok(items)
    }

    fn next<'v>(
        #[starlark(require = pos)] iterator: Value<'v>,
        #[starlark(require = pos)] default: Option<Value<'v>>,
    ) -> starlark::Result<Value<'v>> {
        let Some(iterator) = iterator.downcast_ref::<Iterator>() else {
            return Err(Raised::type_of("next() takes an iterator. Write `next(iter(xs))`, or `xs[0]`."));
        };
        let at = iterator.at.get();
        let item = ListRef::from_value(iterator.items).and_then(|list| list.get(at).copied());
        iterator.at.set(at + usize::from(item.is_some()));
        item.or(default).ok_or_else(exhausted)
    }
}
