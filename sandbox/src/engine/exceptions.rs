//! `try` and `raise`: errors as values, and values as errors.

// The derives of `ProvidesStaticType` expand to an unsafe marker impl; there is no other unsafe here.
#![allow(unsafe_code)]

use std::fmt;

use allocative::Allocative;
use starlark::any::ProvidesStaticType;
use starlark::environment::GlobalsBuilder;
use starlark::eval::{Arguments, Evaluator};
use starlark::starlark_module;
use starlark::values::none::NoneType;
use starlark::values::{Heap, NoSerialize, StarlarkPagablePanic, StarlarkValue, Value, ValueLike, starlark_value};
use tollgate_codemode::wire::ErrorKind;

use super::classes::{self, Instance, Origin};
use super::hints;
use super::limits;
use super::raised::Raised;
use super::run::Run;
use super::show;

/// Python's exceptions that scripts name, each with its base.
const CLASSES: &[(&str, &str)] = &[
    ("BaseException", ""),
    ("Exception", "BaseException"),
    ("KeyboardInterrupt", "BaseException"),
    ("SystemExit", "BaseException"),
    ("ArithmeticError", "Exception"),
    ("ZeroDivisionError", "ArithmeticError"),
    ("OverflowError", "ArithmeticError"),
    ("LookupError", "Exception"),
    ("KeyError", "LookupError"),
    ("IndexError", "LookupError"),
    ("AttributeError", "Exception"),
    ("TypeError", "Exception"),
    ("ValueError", "Exception"),
    ("UnicodeError", "ValueError"),
    ("JSONDecodeError", "ValueError"),
    ("AssertionError", "Exception"),
    ("NameError", "Exception"),
    ("StopIteration", "Exception"),
    ("ImportError", "Exception"),
    ("ModuleNotFoundError", "ImportError"),
    ("RuntimeError", "Exception"),
    ("NotImplementedError", "RuntimeError"),
    ("RecursionError", "RuntimeError"),
    ("ToolError", "RuntimeError"),
    ("OSError", "Exception"),
    ("IOError", "OSError"),
    ("ConnectionError", "OSError"),
    ("TimeoutError", "OSError"),
    ("PermissionError", "OSError"),
    ("FileNotFoundError", "OSError"),
];

/// Where the module keeps the exception on its way to its handler, and the value of a `return` outside functions.
const THROWN: &str = "__thrown";
pub const EXIT: &str = "__exit_value";

/// `ValueError` and its like: a class that every script has.
#[derive(Debug, ProvidesStaticType, NoSerialize, Allocative, StarlarkPagablePanic)]
pub struct ErrorClass {
    pub name: String,
}
starlark::starlark_simple_value!(ErrorClass);

impl fmt::Display for ErrorClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<class '{}'>", self.name)
    }
}

#[starlark_value(type = "exception_class")]
impl<'v> StarlarkValue<'v> for ErrorClass {
    fn invoke(&self, me: Value<'v>, args: &Arguments<'v, '_>, eval: &mut Evaluator<'v, '_, '_>) -> starlark::Result<Value<'v>> {
        super::construct::instantiate(eval, me, args)
    }

    fn get_attr(&self, name: &str, heap: Heap<'v>) -> Option<Value<'v>> {
        (name == "__name__").then(|| heap.alloc(self.name.as_str()))
    }

    fn equals(&self, other: Value<'v>) -> starlark::Result<bool> {
        Ok(other.downcast_ref::<Self>().is_some_and(|o| o.name == self.name))
    }
}

/// Is the exception `name` a `base`?
pub fn derives(name: &str, base: &str) -> bool {
    let mut at = name;
    while at != base {
        match CLASSES.iter().find(|(n, _)| *n == at) {
            Some((_, parent)) if !parent.is_empty() => at = parent,
            _ => return false,
        }
    }
    true
}

pub fn register(builder: &mut GlobalsBuilder) {
    for (name, _) in CLASSES {
        builder.set(name, ErrorClass { name: (*name).to_owned() });
    }
    natives(builder);
}

#[starlark_module]
fn natives(builder: &mut GlobalsBuilder) {
    /// Run the body of a `try`: the exception and how the body was left, of which one is None.
    fn __try<'v>(#[starlark(require = pos)] body: Value<'v>, eval: &mut Evaluator<'v, '_, '_>) -> starlark::Result<Value<'v>> {
        let outcome = match eval.eval_function(body, &[], &[]) {
            Ok(left) => (Value::new_none(), left),
            Err(error) => (caught(eval, error)?, Value::new_none()),
        };
        Ok(eval.heap().alloc(outcome))
    }

    fn __catches<'v>(
        #[starlark(require = pos)] exception: Value<'v>,
        #[starlark(require = pos)] kinds: Value<'v>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<bool> {
        classes::is_a(eval.heap(), exception, kinds)
    }

    fn __raise<'v>(
        #[starlark(require = pos)] exception: Value<'v>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<NoneType> {
        Err(raise(eval, exception))
    }

    fn __class_of<'v>(#[starlark(require = pos)] name: &str, heap: Heap<'v>) -> starlark::Result<Value<'v>> {
        Ok(class(heap, name))
    }

    fn __exit<'v>(#[starlark(require = pos)] value: Value<'v>, eval: &mut Evaluator<'v, '_, '_>) -> starlark::Result<NoneType> {
        eval.module().set(EXIT, value);
        Err(Raised::Exit.into())
    }
}

pub fn class<'v>(heap: Heap<'v>, name: &str) -> Value<'v> {
    heap.alloc(ErrorClass { name: name.to_owned() })
}

fn raise<'v>(eval: &mut Evaluator<'v, '_, '_>, exception: Value<'v>) -> starlark::Error {
    let made = match exception.downcast_ref::<Instance>() {
        Some(_) => Ok(exception),
        None if classes::is_class(exception) => eval.eval_function(exception, &[], &[]),
        None => Err(Raised::type_of("`raise` takes an exception. Write `raise ValueError(\"message\")`.")),
    };
    let exception = match made {
        Ok(exception) => exception,
        Err(error) => return error,
    };
    let Some(instance) = exception.downcast_ref::<Instance>().filter(|i| classes::error_name(i.class).is_some()) else {
        return Raised::type_of("`raise` takes an exception. Derive its class from Exception: `class Failed(Exception):`.");
    };
    let (kind, message, at) = match &instance.origin {
        Some(origin) => (origin.kind, origin.message.clone(), origin.at),
        None => {
            let text = show::text(eval, exception, false).unwrap_or_default();
            let name = classes::name(instance.class);
            (ErrorKind::Runtime, if text.is_empty() { name } else { format!("{name}: {text}") }, None)
        }
    };
    eval.module().set(THROWN, exception);
    Raised::Thrown { kind, message, at }.into()
}

/// The exception that `error` is to the script, or the error again where no script may catch it.
///
/// # Errors
/// `error` itself: a suspended call, a limit, a mistake in the script's use of its tools.
pub fn caught<'v>(eval: &mut Evaluator<'v, '_, '_>, error: starlark::Error) -> starlark::Result<Value<'v>> {
    use starlark::ErrorKind as K;
    let run = Run::of(eval);
    if run.is_waiting() || limits::exceeded(eval, run).is_some() {
        return Err(error);
    }
    let at = error.span().map(|s| s.span.begin().get() as usize);
    let (class_name, text) = match (Raised::of(&error), error.kind()) {
        (Some(Raised::Suspend | Raised::Exit), _) | (None, K::StackOverflow(_) | K::Scope(_) | K::Internal(_)) => {
            return Err(error);
        }
        (Some(Raised::Error { kind, .. }), _) if !matches!(kind, ErrorKind::Runtime | ErrorKind::ToolError) => return Err(error),
        (Some(Raised::Error { message, class, .. }), _) => (*class, message.clone()),
        (Some(Raised::Thrown { kind, message, at: first }), _) => {
            let thrown = eval.module().get(THROWN).unwrap_or_else(Value::new_none);
            let Some(instance) = thrown.downcast_ref::<Instance>() else { return Err(error) };
            let origin = Some(Origin { kind: *kind, message: message.clone(), at: first.or(at) });
            let seen = Instance { class: instance.class, fields: instance.fields, origin };
            return Ok(eval.heap().alloc_complex_no_freeze(seen));
        }
        (None, K::Fail(e)) => ("Exception", e.to_string().trim().trim_start_matches("fail: ").to_owned()),
        (None, kind) => {
            let text = error.without_diagnostic().to_string();
            (starlark_class(kind, &text), text)
        }
    };
    let (kind, message) = hints::describe_caught(&error, run);
    let argument = match text.strip_prefix("Key `").and_then(|t| t.strip_suffix("` was not found")) {
        Some(key) if class_name == "KeyError" => key.trim_matches('"').to_owned(),
        _ => text,
    };
    let heap = eval.heap();
    Ok(classes::exception(heap, class(heap, class_name), &argument, Some(Origin { kind, message, at })))
}

/// The class of one of Starlark's own errors.
fn starlark_class(kind: &starlark::ErrorKind, text: &str) -> &'static str {
    let has = |part| text.contains(part);
    if has("Key `") && has("was not found") {
        "KeyError"
    } else if has("out of bound") {
        "IndexError"
    } else if has("ivide by zero") || has("ivision by zero") || has("modulo by zero") {
        "ZeroDivisionError"
    } else if has("has no attribute") {
        "AttributeError"
    } else if matches!(kind, starlark::ErrorKind::Function(_))
        || has("not supported")
        || has("Type of parameter")
        || has("hashable")
    {
        "TypeError"
    } else if has("not found") || has("parse") || has("unpack") || has("mpty") {
        "ValueError"
    } else {
        "RuntimeError"
    }
}
