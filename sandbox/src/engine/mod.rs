//! `step`: run a script from the top against its journal until it ends, fails, or needs a call that is not answered yet.

mod attr;
mod basics;
mod builtins;
mod calls;
pub(crate) mod check;
mod classes;
mod construct;
mod convert;
mod dates;
mod defaults;
mod depth;
mod exceptions;
mod format;
pub(crate) mod hints;
mod iterators;
mod json;
pub(crate) mod limits;
mod methods;
mod modules;
mod percent;
mod raised;
mod regex;
pub(crate) mod run;
mod show;
mod tools;

use std::collections::HashMap;

use starlark::environment::{Globals, Module};
use starlark::eval::Evaluator;
use starlark::syntax::{AstModule, Dialect, DialectTypes};
use starlark::values::{FrozenValue, Value};
use tollgate_codemode::wire::{ErrorKind, Language, Outcome, ScriptError, Step, StepReply};

use self::convert::ConvertError;
pub use self::limits::Limit;
use self::limits::exceeded;
use self::raised::Raised;
use self::run::Run;
use crate::python::{self, Script, SyntaxError, line_column};

const DIALECT: Dialect = Dialect {
    enable_def: true,
    enable_lambda: true,
    enable_load: false,
    enable_keyword_only_arguments: true,
    enable_positional_only_arguments: true,
    enable_types: DialectTypes::ParseOnly,
    enable_load_reexport: false,
    enable_top_level_stmt: true,
    enable_f_strings: true,
    _non_exhaustive: (),
};

thread_local! {
    /// The same for every script; building it costs more than most scripts.
    static GLOBALS: Globals = builtins::globals();
    static NAMES: HashMap<String, FrozenValue> =
        GLOBALS.with(|globals| globals.iter().map(|(name, value)| (name.to_owned(), value)).collect());
}

/// One of the names that every script has.
fn given<'v>(name: &str) -> Option<Value<'v>> {
    NAMES.with(|names| names.get(name).map(|value| value.to_value()))
}

/// The one of them that `name` was probably meant to be.
fn similar_given(name: &str) -> Option<String> {
    NAMES.with(|names| {
        let mut own: Vec<&str> = names.keys().map(String::as_str).filter(|n| !n.starts_with("__")).collect();
        own.sort_unstable();
        hints::nearest(name, own.into_iter()).map(str::to_owned)
    })
}

#[must_use]
pub fn step(step: Step) -> StepReply {
    if step.language == Language::Typescript {
        return crate::typescript::step(step);
    }
    let Step { source, catalog, journal, limits, .. } = step;
    // Once a call has been answered the run is under way, and is not judged by its text any more.
    let first = journal.is_empty();
    let run = Run::new(source, catalog, journal, limits);
    let script = match parse(&run) {
        Ok(script) => script,
        Err(error) => return StepReply::failed(error),
    };
    let checked = first.then(|| check::check(run.source(), &script, &run.catalog));
    let found = checked.as_ref().and_then(|checked| checked.error(run.source()));
    let (outcome, ticks) = match found.map_or_else(|| translate(&script, &run), Err) {
        Ok(ast) => evaluate(ast, &run, checked.as_ref()),
        Err(error) => (Outcome::Failed { error }, 0),
    };
    let may_call = checked.map(|checked| checked.may_call).unwrap_or_default();
    StepReply { outcome, logs: run.take_logs(), ticks, may_call }
}

fn parse(run: &Run) -> Result<Script, ScriptError> {
    let source = run.source();
    if source.len() > run.limits.source_bytes {
        return Err(Limit::Source(run.limits.source_bytes).error(None));
    }
    let refuse = |e: SyntaxError| hints::syntax_error(source, &e);
    let tokens = python::tokens(source).map_err(refuse)?;
    let too_deep = |(limit, at): (Limit, usize)| limit.error(Some(line_column(source, at).0));
    depth::check(&tokens).map_err(too_deep)?;
    python::parse(source, tokens).map_err(refuse)
}

fn translate(script: &Script, run: &Run) -> Result<AstModule, ScriptError> {
    let source = run.source();
    let too_deep = |(limit, at): (Limit, usize)| limit.error(Some(line_column(source, at).0));
    let translated = script.translate().map_err(|e| hints::syntax_error(source, &e))?;
    run.set_places(translated.places);
    depth::check_starlark(&translated.text, &DIALECT).map_err(|(limit, at)| too_deep((limit, run.original(at))))?;
    AstModule::parse("script", translated.text, &DIALECT).map_err(|e| hints::untranslatable(&e, run))
}

fn evaluate(ast: AstModule, run: &Run, checked: Option<&check::Checked>) -> (Outcome, u64) {
    GLOBALS.with(|globals| {
        Module::with_temp_heap(|module| {
            for (index, server) in run.catalog.servers.iter().enumerate() {
                module.set(&server.name, module.heap().alloc(tools::Server::new(index, server)));
            }
            let mut eval = Evaluator::new(&module);
            if let Err(e) = prepare(&mut eval, run) {
                return (
                    Outcome::Failed { error: ScriptError { kind: ErrorKind::Sandbox, message: e, line: None, column: None } },
                    0,
                );
            }
            let ended = eval.eval_module(ast, globals);
            let ticks = run.ticks(&eval);
            let outcome = match (exceeded(&eval, run), ended) {
                (Some(limit), ended) => {
                    let line = ended.err().and_then(|e| hints::script_error(&e, run).line);
                    Outcome::Failed { error: limit.error(line) }
                }
                // Asked first, whatever the evaluator said: no error that a script provokes may hide a call it has made.
                (None, _) if run.is_waiting() => Outcome::Need { calls: run.take_pending() },
                (None, Ok(_)) => result(&module, "result", run),
                (None, Err(e)) if matches!(Raised::of(&e), Some(Raised::Exit)) => result(&module, exceptions::EXIT, run),
                (None, Err(e)) => {
                    let scope = matches!(e.kind(), starlark::ErrorKind::Scope(_));
                    let names = checked.filter(|_| scope).and_then(|checked| checked.names(run.source()));
                    Outcome::Failed { error: names.unwrap_or_else(|| hints::script_error(&e, run)) }
                }
            };
            (outcome, ticks)
        })
    })
}

fn prepare<'a>(eval: &mut Evaluator<'_, 'a, '_>, run: &'a Run) -> Result<(), String> {
    eval.extra = Some(run);
    // Tracing recurses over nested values; a step is short and its heap bounded.
    eval.disable_gc();
    let text = |e: &dyn std::fmt::Display| format!("limits cannot be set: {e}");
    eval.set_max_tick_count(run.limits.ticks).map_err(|e| text(&e))?;
    eval.set_max_heap_size(usize::try_from(run.limits.heap_bytes).unwrap_or(usize::MAX)).map_err(|e| text(&e))?;
    eval.set_max_callstack_size(run.limits.callstack as usize).map_err(|e| text(&e))
}

/// The value of the script's variable `result`, or of its `return`.
fn result<'v>(module: &Module<'v>, name: &str, run: &Run) -> Outcome {
    let value = module.get(name).unwrap_or_else(Value::new_none);
    let error = match convert::to_json(module.heap(), value, run.limits.result_bytes) {
        Ok(result) => return Outcome::Done { result },
        Err(ConvertError::TooLarge) => Limit::Result(run.limits.result_bytes).error(None),
        Err(ConvertError::TooDeep) => Limit::ValueDepth.error(None),
        Err(ConvertError::Unsupported { what, path }) => ScriptError {
            kind: ErrorKind::Runtime,
            message: format!(
                "`result{path}` holds {what}, which JSON cannot express. Give it plain data: dicts, lists, strings, numbers."
            ),
            line: None,
            column: None,
        },
    };
    Outcome::Failed { error }
}
