//! Classes, their instances and what is bound to them. Fields live in Starlark's own dicts.

// The derives of `ProvidesStaticType` expand to an unsafe marker impl; there is no other unsafe here.
#![allow(unsafe_code)]

use std::fmt;

use allocative::Allocative;
use starlark::any::ProvidesStaticType;
use starlark::environment::GlobalsBuilder;
use starlark::eval::{Arguments, Evaluator};
use starlark::starlark_module;
use starlark::values::dict::{AllocDict, DictMut, DictRef};
use starlark::values::none::NoneOr;
use starlark::values::{Heap, NoSerialize, StarlarkPagablePanic, StarlarkValue, Trace, Value, ValueLike, starlark_value};
use tollgate_codemode::wire::ErrorKind;

use super::construct;
use super::exceptions::{self, ErrorClass};
use super::raised::Raised;

#[derive(Debug, Trace, ProvidesStaticType, NoSerialize, Allocative, StarlarkPagablePanic)]
pub struct Class<'v> {
    pub name: String,
    /// The one base, or None.
    pub base: Value<'v>,
    /// Names of the class's body.
    names: Value<'v>,
    /// The fields of a dataclass, in order, or None.
    pub fields: Value<'v>,
}

#[derive(Debug, Trace, ProvidesStaticType, NoSerialize, Allocative, StarlarkPagablePanic)]
pub struct Instance<'v> {
    pub class: Value<'v>,
    pub fields: Value<'v>,
    /// Of an exception that an error has become.
    pub origin: Option<Origin>,
}

#[derive(Debug, Clone, Allocative, Trace, ProvidesStaticType)]
pub struct Origin {
    #[allocative(skip)]
    #[trace(unsafe_ignore)]
    pub kind: ErrorKind,
    pub message: String,
    pub at: Option<usize>,
}

/// A method with its first argument.
#[derive(Debug, Trace, ProvidesStaticType, NoSerialize, Allocative, StarlarkPagablePanic)]
pub struct Bound<'v> {
    function: Value<'v>,
    me: Value<'v>,
}

/// `super()`
#[derive(Debug, Trace, ProvidesStaticType, NoSerialize, Allocative, StarlarkPagablePanic)]
pub struct Super<'v> {
    class: Value<'v>,
    me: Value<'v>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Trace, Allocative)]
pub enum Mark {
    Static,
    Class,
    Property,
    /// `field(default_factory=f)`
    Factory,
    Default,
}

/// A function (or value) with a decorator's mark on it.
#[derive(Debug, Trace, ProvidesStaticType, NoSerialize, Allocative, StarlarkPagablePanic)]
pub struct Marked<'v> {
    pub mark: Mark,
    pub value: Value<'v>,
}

impl fmt::Display for Class<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<class '{}'>", self.name)
    }
}

impl fmt::Display for Instance<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{} object>", name(self.class))
    }
}

impl fmt::Display for Bound<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<bound method>")
    }
}

impl fmt::Display for Super<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<super>")
    }
}

impl fmt::Display for Marked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<decorated function>")
    }
}

#[starlark_value(type = "class")]
impl<'v> StarlarkValue<'v> for Class<'v> {
    fn invoke(&self, me: Value<'v>, args: &Arguments<'v, '_>, eval: &mut Evaluator<'v, '_, '_>) -> starlark::Result<Value<'v>> {
        construct::instantiate(eval, me, args)
    }

    fn get_attr(&self, attribute: &str, heap: Heap<'v>) -> Option<Value<'v>> {
        if attribute == "__name__" {
            return Some(heap.alloc(self.name.as_str()));
        }
        let found = self.own(attribute).or_else(|| find(self.base, attribute))?;
        Some(match found.downcast_ref::<Marked>() {
            Some(marked) if marked.mark == Mark::Static => marked.value,
            _ => found,
        })
    }

    fn set_at(&self, index: Value<'v>, value: Value<'v>) -> starlark::Result<()> {
        DictMut::from_value(self.names)?.aref.insert_hashed(index.get_hashed()?, value);
        Ok(())
    }

    fn at(&self, index: Value<'v>, heap: Heap<'v>) -> starlark::Result<Value<'v>> {
        let name = index.unpack_str().unwrap_or_default();
        self.get_attr(name, heap).ok_or_else(|| Raised::of_class("AttributeError", format!("{} has no '{name}'.", self.name)))
    }
}

impl<'v> Class<'v> {
    fn own(&self, name: &str) -> Option<Value<'v>> {
        DictRef::from_value(self.names)?.get_str(name)
    }
}

/// A name in a class or in what it derives from.
pub fn find<'v>(class: Value<'v>, name: &str) -> Option<Value<'v>> {
    let mut at = class;
    while let Some(class) = at.downcast_ref::<Class>() {
        if let Some(found) = class.own(name) {
            return Some(found);
        }
        at = class.base;
    }
    None
}

#[starlark_value(type = "object")]
impl<'v> StarlarkValue<'v> for Instance<'v> {
    fn get_attr(&self, attribute: &str, heap: Heap<'v>) -> Option<Value<'v>> {
        if let Some(field) = DictRef::from_value(self.fields)?.get_str(attribute) {
            return Some(field);
        }
        match attribute {
            "__class__" => return Some(self.class),
            "__dict__" => return Some(self.fields),
            "message" if error_name(self.class).is_some() => return self.argument(heap),
            _ => {}
        }
        let me = heap.alloc_complex_no_freeze(Instance { class: self.class, fields: self.fields, origin: self.origin.clone() });
        let found = find(self.class, attribute)?;
        Some(bind(heap, found, me))
    }

    fn at(&self, index: Value<'v>, heap: Heap<'v>) -> starlark::Result<Value<'v>> {
        let attribute = index.unpack_str().unwrap_or_default();
        self.get_attr(attribute, heap).ok_or_else(|| {
            Raised::of_class(
                "AttributeError",
                format!("A {} has no '{attribute}' yet. Assign it in `__init__`.", name(self.class)),
            )
        })
    }

    fn set_at(&self, index: Value<'v>, value: Value<'v>) -> starlark::Result<()> {
        DictMut::from_value(self.fields)?.aref.insert_hashed(index.get_hashed()?, value);
        Ok(())
    }

    fn equals(&self, other: Value<'v>) -> starlark::Result<bool> {
        let Some(other) = other.downcast_ref::<Self>() else { return Ok(false) };
        // An instance is what its fields are: `get_attr` makes a new value for the same fields.
        if self.fields.ptr_eq(other.fields) {
            return Ok(true);
        }
        let plain = |class: Value<'v>| class.downcast_ref::<Class>().is_some_and(|c| !c.fields.is_none());
        Ok(self.class.ptr_eq(other.class) && plain(self.class) && self.fields.equals(other.fields)?)
    }
}

impl<'v> Instance<'v> {
    /// The first argument of an exception.
    fn argument(&self, heap: Heap<'v>) -> Option<Value<'v>> {
        let args = DictRef::from_value(self.fields)?.get_str("args")?;
        let first = args.iterate(heap).ok()?.next();
        Some(first.unwrap_or_else(|| heap.alloc("")))
    }
}

fn bind<'v>(heap: Heap<'v>, found: Value<'v>, me: Value<'v>) -> Value<'v> {
    match found.downcast_ref::<Marked>() {
        Some(marked) if marked.mark == Mark::Static => marked.value,
        Some(_) => found,
        None if matches!(found.get_type(), "function" | "async_function") => {
            heap.alloc_complex_no_freeze(Bound { function: found, me })
        }
        None => found,
    }
}

#[starlark_value(type = "method")]
impl<'v> StarlarkValue<'v> for Bound<'v> {
    fn invoke(&self, _me: Value<'v>, args: &Arguments<'v, '_>, eval: &mut Evaluator<'v, '_, '_>) -> starlark::Result<Value<'v>> {
        let heap = eval.heap();
        let mut positional = vec![self.me];
        positional.extend(args.positions(heap)?);
        if self.function.is_none() {
            // `super().__init__(..)` of an exception, or of nothing.
            if let Some(instance) = self.me.downcast_ref::<Instance>() {
                let args = heap.alloc(starlark::values::tuple::AllocTuple(positional[1..].to_vec()));
                instance.set_at(heap.alloc("args"), args)?;
            }
            return Ok(Value::new_none());
        }
        let named = args.names_map()?;
        let named: Vec<(&str, Value)> = named.iter().map(|(k, v)| (k.as_str(), *v)).collect();
        eval.eval_function(self.function, &positional, &named)
    }
}

#[starlark_value(type = "super")]
impl<'v> StarlarkValue<'v> for Super<'v> {
    fn get_attr(&self, attribute: &str, heap: Heap<'v>) -> Option<Value<'v>> {
        let base = self.class.downcast_ref::<Class>().map_or_else(Value::new_none, |c| c.base);
        match find(base, attribute) {
            Some(found) => Some(bind(heap, found, self.me)),
            None if attribute == "__init__" => {
                Some(heap.alloc_complex_no_freeze(Bound { function: Value::new_none(), me: self.me }))
            }
            None => None,
        }
    }
}

#[starlark_value(type = "decorated")]
impl<'v> StarlarkValue<'v> for Marked<'v> {
    fn invoke(&self, _me: Value<'v>, args: &Arguments<'v, '_>, eval: &mut Evaluator<'v, '_, '_>) -> starlark::Result<Value<'v>> {
        self.value.invoke(args, eval)
    }
}

/// A class of the script's or one of the engine's.
pub fn is_class(value: Value) -> bool {
    value.downcast_ref::<Class>().is_some() || value.downcast_ref::<ErrorClass>().is_some()
}

pub fn name(class: Value) -> String {
    match (class.downcast_ref::<Class>(), class.downcast_ref::<ErrorClass>()) {
        (Some(class), _) => class.name.clone(),
        (_, Some(class)) => class.name.clone(),
        _ => class.get_type().to_owned(),
    }
}

/// The engine's exception that `class` is or derives from.
pub fn error_name<'v>(class: Value<'v>) -> Option<String> {
    let mut at = class;
    while let Some(class) = at.downcast_ref::<Class>() {
        at = class.base;
    }
    at.downcast_ref::<ErrorClass>().map(|c| c.name.clone())
}

/// Is the instance one of `kinds`, a class or a tuple of them?
pub fn is_a<'v>(heap: Heap<'v>, value: Value<'v>, kinds: Value<'v>) -> starlark::Result<bool> {
    if matches!(kinds.get_type(), "tuple" | "list") {
        let kinds: Vec<Value> = kinds.iterate(heap)?.collect();
        return kinds.into_iter().try_fold(false, |found, kind| Ok(found || is_a(heap, value, kind)?));
    }
    if !is_class(kinds) {
        return Err(Raised::type_of(
            "`except` takes exceptions. Write `except Exception as e:` or `except (KeyError, ValueError):`.",
        ));
    }
    let Some(instance) = value.downcast_ref::<Instance>() else { return Ok(false) };
    if let Some(wanted) = kinds.downcast_ref::<ErrorClass>() {
        return Ok(error_name(instance.class).is_some_and(|n| exceptions::derives(&n, &wanted.name)));
    }
    let mut at = instance.class;
    while let Some(class) = at.downcast_ref::<Class>() {
        if at.ptr_eq(kinds) {
            return Ok(true);
        }
        at = class.base;
    }
    Ok(false)
}

pub fn exception<'v>(heap: Heap<'v>, class: Value<'v>, argument: &str, origin: Option<Origin>) -> Value<'v> {
    let args = heap.alloc((heap.alloc(argument),));
    let fields = heap.alloc(AllocDict([("args", args)]));
    heap.alloc_complex_no_freeze(Instance { class, fields, origin })
}

#[starlark_module]
pub fn register(builder: &mut GlobalsBuilder) {
    fn __class<'v>(
        #[starlark(require = pos)] name: &str,
        #[starlark(require = pos)] bases: Value<'v>,
        #[starlark(require = pos)] names: Value<'v>,
        #[starlark(require = pos)] fields: Value<'v>,
        heap: Heap<'v>,
    ) -> starlark::Result<Value<'v>> {
        let bases: Vec<Value> = bases.iterate(heap)?.collect();
        let base = match bases.as_slice() {
            [] => Value::new_none(),
            [one] if is_class(*one) => *one,
            [_] => {
                return Err(Raised::type_of(
                    "A class derives from a class of the script or from Exception. Use a dict for data.",
                ));
            }
            _ => return Err(Raised::type_of("A class has one base. Keep the other as a field.")),
        };
        let class = heap.alloc_complex_no_freeze(Class { name: name.to_owned(), base, names, fields });
        let own: Vec<(Value, Value)> = DictRef::from_value(names).map(|d| d.iter().collect()).unwrap_or_default();
        for (name, value) in own {
            if let Some(marked) = value.downcast_ref::<Marked>().filter(|m| m.mark == Mark::Class) {
                let bound = heap.alloc_complex_no_freeze(Bound { function: marked.value, me: class });
                DictMut::from_value(names)?.aref.insert_hashed(name.get_hashed()?, bound);
            }
        }
        Ok(class)
    }

    fn __super<'v>(
        #[starlark(require = pos)] class: Value<'v>,
        #[starlark(require = pos)] me: Value<'v>,
        heap: Heap<'v>,
    ) -> starlark::Result<Value<'v>> {
        Ok(heap.alloc_complex_no_freeze(Super { class, me }))
    }

    fn staticmethod<'v>(#[starlark(require = pos)] value: Value<'v>, heap: Heap<'v>) -> starlark::Result<Value<'v>> {
        Ok(heap.alloc_complex_no_freeze(Marked { mark: Mark::Static, value }))
    }

    fn classmethod<'v>(#[starlark(require = pos)] value: Value<'v>, heap: Heap<'v>) -> starlark::Result<Value<'v>> {
        Ok(heap.alloc_complex_no_freeze(Marked { mark: Mark::Class, value }))
    }

    fn property<'v>(#[starlark(require = pos)] value: Value<'v>, heap: Heap<'v>) -> starlark::Result<Value<'v>> {
        Ok(heap.alloc_complex_no_freeze(Marked { mark: Mark::Property, value }))
    }

    fn field<'v>(
        #[starlark(require = named)] default: Option<NoneOr<Value<'v>>>,
        #[starlark(require = named)] default_factory: Option<Value<'v>>,
        heap: Heap<'v>,
    ) -> starlark::Result<Value<'v>> {
        let marked = match default_factory {
            Some(value) => Marked { mark: Mark::Factory, value },
            None => Marked { mark: Mark::Default, value: default.and_then(NoneOr::into_option).unwrap_or_else(Value::new_none) },
        };
        Ok(heap.alloc_complex_no_freeze(marked))
    }

    fn asdict<'v>(#[starlark(require = pos)] value: Value<'v>, heap: Heap<'v>) -> starlark::Result<Value<'v>> {
        let Some(instance) = value.downcast_ref::<Instance>() else {
            return Err(Raised::type_of("asdict() takes an instance of a dataclass."));
        };
        let fields = DictRef::from_value(instance.fields).map(|d| d.iter().collect::<Vec<_>>()).unwrap_or_default();
        Ok(heap.alloc(AllocDict(fields)))
    }
}
