//! Calls whose failure the script wants to see, and calls that are made at the same time.

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
use starlark::values::tuple::UnpackTuple;
use starlark::values::{Heap, NoSerialize, StarlarkPagablePanic, StarlarkValue, Trace, Value, ValueLike, starlark_value};

use super::basics;
use super::exceptions;
use super::raised::Raised;
use super::run::{Answered, Run, call_back};
use super::tools::Tool;

/// `async def f`: a call of it waits to be awaited.
#[derive(Debug, Trace, ProvidesStaticType, NoSerialize, Allocative, StarlarkPagablePanic)]
struct AsyncFunction<'v> {
    function: Value<'v>,
}

/// A call that has not been made yet.
#[derive(Debug, Trace, ProvidesStaticType, NoSerialize, Allocative, StarlarkPagablePanic)]
struct Coroutine<'v> {
    function: Value<'v>,
    positional: Value<'v>,
    named: Value<'v>,
}

impl fmt::Display for AsyncFunction<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<async function>")
    }
}

impl fmt::Display for Coroutine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<coroutine: await it>")
    }
}

#[starlark_value(type = "async_function")]
impl<'v> StarlarkValue<'v> for AsyncFunction<'v> {
    fn invoke(&self, _me: Value<'v>, args: &Arguments<'v, '_>, eval: &mut Evaluator<'v, '_, '_>) -> starlark::Result<Value<'v>> {
        let heap = eval.heap();
        let positional: Vec<Value> = args.positions(heap)?.collect();
        let named = args.names_map()?;
        let named = heap.alloc(AllocDict(named.iter().map(|(k, v)| (k.as_str(), *v)).collect::<Vec<_>>()));
        Ok(heap.alloc_complex_no_freeze(Coroutine { function: self.function, positional: heap.alloc(positional), named }))
    }
}

#[starlark_value(type = "coroutine")]
impl<'v> StarlarkValue<'v> for Coroutine<'v> {}

/// Make the call of a coroutine; any other value has been awaited already.
fn settle<'v>(eval: &mut Evaluator<'v, '_, '_>, value: Value<'v>) -> starlark::Result<Value<'v>> {
    let Some(coroutine) = value.downcast_ref::<Coroutine>() else { return Ok(value) };
    let positional: Vec<Value> = coroutine.positional.iterate(eval.heap())?.collect();
    let named: Vec<(String, Value)> =
        DictRef::from_value(coroutine.named).map(|d| d.iter().map(|(k, v)| (k.to_str(), v)).collect()).unwrap_or_default();
    let named: Vec<(&str, Value)> = named.iter().map(|(k, v)| (k.as_str(), *v)).collect();
    eval.eval_function(coroutine.function, &positional, &named)
}

#[derive(Clone, Copy)]
enum Job<'v> {
    Call(Value<'v>, Option<Value<'v>>),
    Settle(Value<'v>),
}

fn run_job<'v>(eval: &mut Evaluator<'v, '_, '_>, job: Job<'v>) -> starlark::Result<Value<'v>> {
    match job {
        Job::Call(function, item) => {
            let value = call_back(eval, function, item.as_slice())?;
            settle(eval, value)
        }
        Job::Settle(value) => settle(eval, value),
    }
}

/// All jobs as if at the same time; their values in order. With `keep`, an error is the value of its job.
fn run_all<'v>(eval: &mut Evaluator<'v, '_, '_>, jobs: &[Job<'v>], keep: bool) -> starlark::Result<Value<'v>> {
    let run = Run::of(eval);
    let mut values = Vec::with_capacity(jobs.len());
    let mut one = |job: Job<'v>| -> starlark::Result<()> {
        match run_job(eval, job) {
            Ok(value) => values.push(value),
            // The other calls are worth asking for as well. An error behind a call that waits is met again on the replay
            // that has its answer.
            Err(_) if run.is_waiting() => {}
            Err(error) if keep => values.push(exceptions::caught(eval, error)?),
            Err(error) => return Err(error),
        }
        Ok(())
    };
    if run.in_branch() {
        // Within a function that runs at the same time as others, calls are made one after the other.
        for job in jobs {
            one(*job)?;
            if run.is_waiting() {
                break;
            }
        }
    } else {
        run.branches(jobs.len(), |index| one(jobs[index]))?;
    }
    if run.is_waiting() { Err(Raised::Suspend.into()) } else { Ok(eval.heap().alloc(values)) }
}

/// The values' calls at the same time.
///
/// # Errors
/// The first call's that fails, unless `keep` makes it the value.
pub fn gather<'v>(eval: &mut Evaluator<'v, '_, '_>, values: &[Value<'v>], keep: bool) -> starlark::Result<Value<'v>> {
    let jobs: Vec<Job> = values.iter().map(|value| Job::Settle(*value)).collect();
    run_all(eval, &jobs, keep)
}

#[starlark_module]
pub fn register(builder: &mut GlobalsBuilder) {
    /// A call whose failure the script wants to handle: `{"ok": bool, "value": .., "error": ..}`.
    fn try_call<'v>(
        #[starlark(require = pos)] tool: Value<'v>,
        #[starlark(args)] args: UnpackTuple<Value<'v>>,
        #[starlark(kwargs)] kwargs: DictRef<'v>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Value<'v>> {
        let Some(tool) = Tool::from_value(tool) else {
            return Err(Raised::runtime(
                "try_call() takes the tool itself, uncalled, then its arguments: `try_call(server.tool, key=value)`.",
            ));
        };
        let named = kwargs.iter().filter_map(|(k, v)| Some((k.unpack_str()?, v)));
        let (ok, value, error) = match tool.call(eval, &args.items, named)? {
            Answered::Value(value) => (true, value, Value::new_none()),
            Answered::ToolError(text) => (false, Value::new_none(), eval.heap().alloc(text)),
        };
        Ok(eval.heap().alloc(AllocDict([("ok", Value::new_bool(ok)), ("value", value), ("error", error)])))
    }

    /// `parallel([lambda: a.b(x=1), lambda: c.d()])` or `parallel(lambda id: a.b(id=id), ids)`: functions that run at the same
    /// time, their results in order.
    fn parallel<'v>(
        #[starlark(require = pos)] functions: Value<'v>,
        #[starlark(require = pos)] items: Option<Value<'v>>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Value<'v>> {
        let heap = eval.heap();
        let jobs: Vec<Job> = match (items, ListRef::from_value(functions)) {
            (Some(items), _) => basics::items(heap, items)?.iterate(heap)?.map(|item| Job::Call(functions, Some(item))).collect(),
            (None, Some(list)) => list
                .iter()
                .map(|job| if job.downcast_ref::<Coroutine>().is_some() { Job::Settle(job) } else { Job::Call(job, None) })
                .collect(),
            (None, None) => {
                return Err(Raised::type_of(
                    "parallel() takes a list of functions, `parallel([lambda: a.b(), lambda: c.d()])`, or a function and a list, \
                     `parallel(lambda id: a.b(id=id), ids)`.",
                ));
            }
        };
        for job in &jobs {
            if let Job::Call(function, _) = job
                && !matches!(function.get_type(), "function" | "tool" | "method" | "async_function")
            {
                return Err(Raised::type_of(
                    "parallel() takes functions, not results. Write `lambda: server.tool(..)` for each call.",
                ));
            }
        }
        run_all(eval, &jobs, false)
    }

    /// The calls of a `gather`, each as a function; what is no call stands as it is.
    fn __gather<'v>(
        #[starlark(require = pos)] parts: Value<'v>,
        #[starlark(require = pos)] keep: Option<bool>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Value<'v>> {
        let heap = eval.heap();
        let mut jobs = Vec::new();
        for part in parts.iterate(heap)? {
            for item in basics::items(heap, part)?.iterate(heap)? {
                jobs.push(Job::Settle(item));
            }
        }
        run_all(eval, &jobs, keep.unwrap_or(false))
    }

    /// `gather(xs)`: the list's items, or the one value.
    fn __gathered<'v>(#[starlark(require = pos)] value: Value<'v>, heap: Heap<'v>) -> starlark::Result<Value<'v>> {
        Ok(if matches!(value.get_type(), "list" | "tuple") { value } else { heap.alloc(vec![value]) })
    }

    fn __later<'v>(#[starlark(require = pos)] function: Value<'v>, heap: Heap<'v>) -> starlark::Result<Value<'v>> {
        let (positional, named) = (heap.alloc(Vec::<Value>::new()), heap.alloc(AllocDict(Vec::<(&str, Value)>::new())));
        let awaited = heap.alloc_complex_no_freeze(Awaited { function });
        Ok(heap.alloc_complex_no_freeze(Coroutine { function: awaited, positional, named }))
    }

    fn __async<'v>(#[starlark(require = pos)] function: Value<'v>, heap: Heap<'v>) -> starlark::Result<Value<'v>> {
        Ok(heap.alloc_complex_no_freeze(AsyncFunction { function }))
    }

    fn __await<'v>(#[starlark(require = pos)] value: Value<'v>, eval: &mut Evaluator<'v, '_, '_>) -> starlark::Result<Value<'v>> {
        settle(eval, value)
    }
}

/// A function whose value is awaited too: `gather(f(1))`, where `f` is `async`.
#[derive(Debug, Trace, ProvidesStaticType, NoSerialize, Allocative, StarlarkPagablePanic)]
struct Awaited<'v> {
    function: Value<'v>,
}

impl fmt::Display for Awaited<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<call>")
    }
}

#[starlark_value(type = "call")]
impl<'v> StarlarkValue<'v> for Awaited<'v> {
    fn invoke(&self, _me: Value<'v>, _args: &Arguments<'v, '_>, eval: &mut Evaluator<'v, '_, '_>) -> starlark::Result<Value<'v>> {
        let value = eval.eval_function(self.function, &[], &[])?;
        settle(eval, value)
    }
}
