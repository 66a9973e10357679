//! `step` for TypeScript: types are left out, what remains is run by QuickJS against the journal until it ends, fails, or has
//! nothing left to do but wait for calls.

mod check;
mod enums;
mod errors;
mod hints;
mod host;
mod memory;
mod places;
mod run;
mod source;
mod strip;
mod tokens;
mod value;

use std::cell::RefCell;
use std::rc::Rc;

use oxc_allocator::Allocator;
use rquickjs::context::EvalOptions;
use rquickjs::context::intrinsic::{Date, Eval, Json, MapSet, Promise as Promises, Proxy, RegExp, RegExpCompiler, TypedArrays};
use rquickjs::promise::PromiseState;
use rquickjs::{Context, Ctx, Error, Object, Persistent, Promise, Runtime, Value};
use tollgate_codemode::wire::{ErrorKind, Outcome, ScriptError, Step, StepReply};

use self::errors::{FILE, Reader, script_error};
use self::host::Prelude;
use self::memory::Counted;
use self::run::Run;
use self::value::{ConvertError, Manner};
use crate::engine::limits::Limit;
use crate::python::{SyntaxError, line_column};

/// Of the thread's 64 MB, what the script's own calls may take.
const STACK_BYTES: usize = 2 << 20;
/// Garbage in circles is looked for when so many bytes have been asked for.
const GC_BYTES: usize = 8 << 20;

/// What a script is given of the language: no workers, no weak references, no clock but the journal's.
type Language = (Date, Eval, RegExpCompiler, RegExp, Json, Proxy, MapSet, TypedArrays, Promises);

/// Where the prelude is told of promises that were rejected.
type Watching = Rc<RefCell<Option<Persistent<Object<'static>>>>>;

#[must_use]
pub fn step(step: Step) -> StepReply {
    let Step { source, catalog, journal, limits, .. } = step;
    if source.len() > limits.source_bytes {
        return StepReply::failed(Limit::Source(limits.source_bytes).error(None));
    }
    // Once a call has been answered the run is under way, and is not judged by its text any more.
    let first = journal.is_empty();
    let (written, calls, may_call) = match read(&source, first, &catalog) {
        Ok(read) => read,
        Err(failed) => return *failed,
    };
    let reader = Rc::new(Reader { source, written, calls });
    let run = Rc::new(Run::new(catalog, journal, limits));
    let outcome = evaluate(&run, &reader);
    StepReply { outcome, logs: run.take_logs(), ticks: run.ticks(), may_call }
}

/// The text that runs, and what it may call, once nothing is known to be wrong with it.
fn read(
    source: &str,
    first: bool,
    catalog: &tollgate_codemode::wire::Catalog,
) -> Result<(places::Written, Vec<errors::Call>, Vec<String>), Box<StepReply>> {
    let refused = |error: &SyntaxError| {
        let (line, column) = line_column(source, error.at);
        let message = error.message.clone();
        let error = ScriptError { kind: ErrorKind::Syntax, message, line: Some(line), column: Some(column) };
        Box::new(StepReply::failed(error))
    };
    let allocator = Allocator::default();
    let program = source::parse(&allocator, source).map_err(|e| refused(&e))?;
    let written = source::translate(source, &program).map_err(|e| refused(&e))?;
    let checked = first.then(|| check::check(&program, catalog));
    let found = checked.as_ref().and_then(|checked| checked.error(source));
    let may_call = checked.map(|checked| checked.may_call).unwrap_or_default();
    if let Some(error) = found {
        return Err(Box::new(StepReply { may_call, ..StepReply::failed(error) }));
    }
    Ok((written, check::calls(&program), may_call))
}

fn evaluate(run: &Rc<Run>, reader: &Rc<Reader>) -> Outcome {
    let Ok(runtime) = Runtime::new_with_alloc(Counted(Rc::clone(&run.usage))) else { return broken() };
    runtime.set_max_stack_size(STACK_BYTES);
    runtime.set_gc_threshold(GC_BYTES);
    let asked = Rc::clone(run);
    runtime.set_interrupt_handler(Some(Box::new(move || asked.interrupt())));
    let watching = Watching::default();
    let watched = Rc::clone(&watching);
    runtime.set_host_promise_rejection_tracker(Some(Box::new(move |ctx, promise, reason, handled| {
        let Some(Ok(prelude)) = watched.borrow().clone().map(|prelude| prelude.restore(&ctx)) else { return };
        if Prelude::of(prelude).rejection(promise, reason, handled).is_err() {
            ctx.catch();
        }
    })));
    let Ok(context) = Context::custom::<Language>(&runtime) else { return broken() };
    let driven = context.with(|ctx| drive(&ctx, &watching, run, reader));
    watching.take();
    let outcome = match (run.stop_reason(), run.lost(), driven) {
        _ if run.is_broken() => broken(),
        (Some(limit), ..) => Outcome::Failed { error: limit.error(run.stop_line.get()) },
        (None, Some(message), _) => {
            Outcome::Failed { error: ScriptError { kind: ErrorKind::Nondeterminism, message, line: None, column: None } }
        }
        (None, None, Ok(outcome)) => outcome,
        (None, None, Err(_)) => broken(),
    };
    if matches!(&outcome, Outcome::Failed { error } if error.kind == ErrorKind::Limit) {
        // The process is thrown away after a limit; what is left of the script is not worth a walk through all its memory.
        std::mem::forget(context);
        std::mem::forget(runtime);
    }
    outcome
}

fn broken() -> Outcome {
    let message = "The script ran into a defect of its interpreter. Write the last operation another way.".to_owned();
    Outcome::Failed { error: ScriptError { kind: ErrorKind::Sandbox, message, line: None, column: None } }
}

fn drive<'js>(ctx: &Ctx<'js>, watching: &Watching, run: &Rc<Run>, reader: &Rc<Reader>) -> Result<Outcome, Error> {
    let prelude = Prelude::install(ctx, run, reader)?;
    *watching.borrow_mut() = Some(Persistent::save(ctx, prelude.object().clone()));
    let mut options = EvalOptions::default();
    options.filename = Some(FILE.to_owned());
    let main = match ctx.eval_with_options::<Value, _>(reader.written.text.as_str(), options) {
        Ok(main) => main.as_promise().cloned(),
        Err(Error::Exception) if run.stops() => {
            let line = script_error(ctx, &prelude, reader, &run.catalog, &ctx.catch()).line;
            run.stop_line.set(line);
            None
        }
        Err(Error::Exception) => return Ok(refused(ctx, &prelude, run, reader)),
        Err(error) => return Err(error),
    };
    loop {
        while !run.stops() && ctx.execute_pending_job() {
            run.charge(1);
        }
        if run.is_broken() || run.stop_reason().is_some() || run.lost().is_some() {
            return Ok(broken());
        }
        // Asked first, however the script has ended: no error may hide a call that it has made.
        let calls = run.unanswered();
        if !calls.is_empty() {
            return Ok(Outcome::Need { calls });
        }
        let answers = run.next_round();
        if answers.is_empty() {
            let Some(main) = &main else { return Err(Error::Unknown) };
            return ended(ctx, &prelude, run, reader, main);
        }
        for (sequence, answer) in answers {
            prelude.deliver(ctx, sequence, &answer)?;
        }
    }
}

/// QuickJS refuses text that the parser has let through.
fn refused<'js>(ctx: &Ctx<'js>, prelude: &Prelude<'js>, run: &Run, reader: &Reader) -> Outcome {
    let thrown = ctx.catch();
    let mut error = script_error(ctx, prelude, reader, &run.catalog, &thrown);
    if error.kind == ErrorKind::Runtime {
        error.kind = ErrorKind::Syntax;
    }
    Outcome::Failed { error }
}

/// Nothing is left to do: the script's value, or why there is none.
fn ended<'js>(ctx: &Ctx<'js>, prelude: &Prelude<'js>, run: &Run, reader: &Reader, main: &Promise<'js>) -> Result<Outcome, Error> {
    let failed = |thrown: &Value<'js>| Outcome::Failed { error: script_error(ctx, prelude, reader, &run.catalog, thrown) };
    run.close();
    match main.state() {
        PromiseState::Pending => {
            let message = "The script awaits a promise that nothing will ever settle.".to_owned();
            Ok(Outcome::Failed { error: ScriptError { kind: ErrorKind::Runtime, message, line: None, column: None } })
        }
        PromiseState::Rejected => {
            let _ = main.result::<Value>();
            Ok(failed(&ctx.catch()))
        }
        PromiseState::Resolved => {
            if let Some(reason) = prelude.unhandled(main.as_value())? {
                return Ok(failed(&reason));
            }
            let value: Value = main.result().unwrap_or(Err(Error::Unknown))?;
            Ok(result(run, prelude, &value).unwrap_or_else(|| failed(&ctx.catch())))
        }
    }
}

/// None where the script's own code threw on the way.
fn result<'js>(run: &Run, prelude: &Prelude<'js>, value: &Value<'js>) -> Option<Outcome> {
    let error = match value::to_json(prelude, value, run.limits.result_bytes, Manner::Result) {
        Ok(result) => return Some(Outcome::Done { result }),
        Err(ConvertError::Thrown) => return None,
        Err(ConvertError::TooLarge) => Limit::Result(run.limits.result_bytes).error(None),
        Err(ConvertError::TooDeep) => Limit::ValueDepth.error(None),
        Err(ConvertError::Unsupported { what, path }) => {
            let message = format!("`result{path}` holds {what}, which JSON cannot express. Give plain data.");
            ScriptError { kind: ErrorKind::Runtime, message, line: None, column: None }
        }
    };
    Some(Outcome::Failed { error })
}
