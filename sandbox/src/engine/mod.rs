//! `step`: run a script from the top against its journal until it ends, fails, or needs a call that is not answered yet.

mod attr;
mod builtins;
mod convert;
mod format;
mod hints;
mod limits;
mod raised;
mod rewrite;
mod run;
mod source;
mod tokens;
mod tools;

use starlark::environment::{Globals, Module};
use starlark::eval::Evaluator;
use starlark::syntax::{AstModule, Dialect, DialectTypes};
use starlark::values::Value;
use tollgate_codemode::wire::{ErrorKind, Outcome, ScriptError, Step, StepReply};

use self::convert::ConvertError;
use self::hints::Phase;
pub use self::limits::Limit;
use self::run::Run;

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
}

#[must_use]
pub fn step(step: Step) -> StepReply {
    let Step { source, catalog, journal, limits } = step;
    let run = Run::new(catalog, journal, limits);
    let (outcome, ticks) = match parse(&source, &run) {
        Ok(parsed) => evaluate(&source, parsed, &run),
        Err(error) => (Outcome::Failed { error }, 0),
    };
    StepReply { outcome, logs: run.take_logs(), ticks }
}

struct Parsed {
    ast: AstModule,
    rewritten: source::Rewritten,
}

fn parse(source: &str, run: &Run) -> Result<Parsed, ScriptError> {
    if source.len() > run.limits.source_bytes {
        return Err(Limit::Source(run.limits.source_bytes).error(None));
    }
    let tokens = tokens::lex(source, &DIALECT);
    tokens::check_depth(source, &tokens).map_err(|(limit, line)| limit.error(Some(line)))?;
    let rewritten = rewrite::rewrite(source, &tokens);
    match AstModule::parse("script", rewritten.text.clone(), &DIALECT) {
        Ok(ast) => Ok(Parsed { ast, rewritten }),
        Err(e) => Err(hints::script_error(&e, Phase::Parse, source, &rewritten, run)),
    }
}

fn evaluate(source: &str, parsed: Parsed, run: &Run) -> (Outcome, u64) {
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
            let ended = eval.eval_module(parsed.ast, globals);
            let ticks = eval.get_total_tick_count();
            let outcome = match (exceeded(&eval, run), ended) {
                (Some(limit), ended) => {
                    let line = ended.err().and_then(|e| hints::script_error(&e, Phase::Run, source, &parsed.rewritten, run).line);
                    Outcome::Failed { error: limit.error(line) }
                }
                // Asked first, whatever the evaluator said: no error that a script provokes may hide a call it has made.
                (None, _) if run.is_waiting() => Outcome::Need { calls: run.take_pending() },
                (None, Ok(_)) => result(&module, run),
                (None, Err(e)) => Outcome::Failed { error: hints::script_error(&e, Phase::Run, source, &parsed.rewritten, run) },
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

/// Starlark reports these two as errors without a kind of their own; its counters tell.
fn exceeded(eval: &Evaluator, run: &Run) -> Option<Limit> {
    let heap = eval.heap().peak_allocated_bytes() + eval.frozen_heap().allocated_bytes();
    if eval.get_total_tick_count() > run.limits.ticks {
        return Some(Limit::Ticks(run.limits.ticks));
    }
    (heap as u64 > run.limits.heap_bytes).then_some(Limit::Heap(run.limits.heap_bytes))
}

/// The value of the script's variable `result`.
fn result<'v>(module: &Module<'v>, run: &Run) -> Outcome {
    let value = module.get("result").unwrap_or_else(Value::new_none);
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
