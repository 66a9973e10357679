//! Every ceiling a script can hit, and what it reads when it does: which limit, how large, what to write instead.

use std::fmt;

use starlark::eval::Evaluator;
use tollgate_codemode::wire::{ErrorKind, ScriptError};

use super::run::Run;

/// Levels of nesting in a value that becomes JSON. The gateway's parser refuses 128, frame included.
pub const VALUE_DEPTH: usize = 64;
/// JSON text of one call's arguments, and of one `json.encode`.
pub const ARGUMENT_BYTES: usize = 1 << 20;
pub const ENCODE_BYTES: usize = 4 << 20;
/// Of the text that one operation of the engine may make: printing a value, a regular expression's input, padding.
pub const TEXT_BYTES: usize = 1 << 20;
/// Tokens on the path from a statement to its deepest expression. It bounds the depth of the syntax tree however the
/// script nests (brackets, `not`, `1+1+..`, `f()()()`), so that the parser's recursion fits its stack.
pub const EXPRESSION_TOKENS: usize = 1_500;
/// Blocks within blocks, and `elif` branches, which the parser nests too.
pub const BLOCK_DEPTH: usize = 60;
pub const ELIF_CHAIN: usize = 200;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    Ticks(u64),
    Heap(u64),
    Callstack(u32),
    Result(usize),
    Source(usize),
    Calls(u32),
    Arguments,
    Encode,
    Text,
    ValueDepth,
    Expression,
    BlockDepth,
    ElifChain,
    /// The process's memory in MB, time in milliseconds and native stack: reported by the last words of a process that ends.
    Memory(usize),
    Time(u32),
    Stack,
    /// Of a script's own calls, where they are counted in bytes.
    Recursion,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ticks(n) => {
                write!(f, "Limit reached: ticks ({n} calls and loop turns). Loop over less data in one script.")
            }
            Self::Heap(n) => {
                write!(f, "Limit reached: heap ({n} bytes). Keep only the fields you need of each answer.")
            }
            Self::Callstack(n) => {
                write!(f, "Limit reached: call stack ({n} nested calls). Write the recursion as a loop.")
            }
            Self::Result(n) => {
                write!(f, "Limit reached: result ({n} bytes of JSON). Return a summary or fewer fields.")
            }
            Self::Source(n) => {
                write!(f, "Limit reached: source ({n} bytes). Split the script, or move data out of it.")
            }
            Self::Calls(n) => {
                write!(f, "Limit reached: calls ({n} tool calls in one run). Use a tool that answers in bulk, or split the work.")
            }
            Self::Arguments => {
                write!(f, "Limit reached: arguments ({ARGUMENT_BYTES} bytes of JSON in one call). Pass less data to the tool.")
            }
            Self::Encode => write!(f, "Limit reached: json.encode ({ENCODE_BYTES} bytes). Encode a smaller value."),
            Self::Text => {
                write!(f, "Limit reached: text ({TEXT_BYTES} bytes in one operation). Work on a shorter text or a smaller value.")
            }
            Self::ValueDepth => {
                write!(f, "Limit reached: depth ({VALUE_DEPTH} levels of lists and dicts in one value). Flatten the value.")
            }
            Self::Expression => {
                write!(f, "Limit reached: expression ({EXPRESSION_TOKENS} tokens). Split it with variables.")
            }
            Self::BlockDepth => {
                write!(f, "Limit reached: blocks ({BLOCK_DEPTH} within one another). Move the inner blocks to a function.")
            }
            Self::ElifChain => write!(f, "Limit reached: elif ({ELIF_CHAIN} branches). Use a dict."),
            Self::Recursion => write!(f, "Limit reached: call stack. Write the recursion as a loop."),
            Self::Memory(n) => write!(f, "Limit reached: memory ({n} MB). Build smaller strings and lists."),
            Self::Time(n) => {
                let seconds = f64::from(*n) / 1000.0;
                write!(f, "Limit reached: time ({seconds} s of computing in one step). Compute less in the script.")
            }
            Self::Stack => {
                write!(f, "Limit reached: native stack. A value is nested too deeply to compare or print; flatten it.")
            }
        }
    }
}

impl Limit {
    #[must_use]
    pub fn error(self, line: Option<u32>) -> ScriptError {
        ScriptError { kind: ErrorKind::Limit, message: self.to_string(), line, column: None }
    }
}

/// Starlark reports these two as errors without a kind of their own; its counters tell.
pub fn exceeded(eval: &Evaluator, run: &Run) -> Option<Limit> {
    let heap = eval.heap().peak_allocated_bytes() + eval.frozen_heap().allocated_bytes();
    if run.ticks(eval) > run.limits.ticks {
        return Some(Limit::Ticks(run.limits.ticks));
    }
    (heap as u64 > run.limits.heap_bytes).then_some(Limit::Heap(run.limits.heap_bytes))
}
