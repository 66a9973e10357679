//! The state of one run while it is replayed: which call comes next, what the journal answers, what has been printed.

// The derives of `ProvidesStaticType` expand to an unsafe marker impl; there is no other unsafe here.
#![allow(unsafe_code)]

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;

use regex::Regex;
use serde_json::{Map, Value as Json};
use sha2::{Digest, Sha256};
use starlark::any::ProvidesStaticType;
use starlark::eval::Evaluator;
use starlark::values::Value;
use tollgate_codemode::wire::{
    Answer, Catalog, CatalogServer, CatalogTool, ErrorKind, GATEWAY, GATEWAY_PREFIX, JournalEntry, Limits, PendingCall,
};

use super::convert;
use super::limits::Limit;
use super::raised::Raised;
use crate::python::{Places, line_column};

/// Compiled patterns that are kept.
const PATTERNS: usize = 64;

#[derive(ProvidesStaticType)]
pub struct Run {
    pub catalog: Catalog,
    pub limits: Limits,
    journal: HashMap<u32, JournalEntry>,
    last_sequence: Cell<u32>,
    charged: Cell<u64>,
    /// While a function of `parallel` runs: the sequences it may use.
    slot: Cell<Slot>,
    /// State of `random()`, once the gateway has given a seed; each function of `parallel` has its own.
    random: Cell<Option<u64>>,
    /// Compiled in this step.
    patterns: RefCell<HashMap<(String, i32), Regex>>,
    /// From the Starlark text back to the author's.
    source: String,
    places: OnceCell<Places>,
    pending: RefCell<Vec<PendingCall>>,
    logs: RefCell<Logs>,
}

/// Where the next call's number comes from. The calls of `count` functions that run at the same time are numbered in rounds,
/// first calls first, so that no number depends on which other calls are already answered.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Slot {
    /// Outside `parallel`: the next number.
    Next,
    /// `base` is the first number of all, `turn` how many calls this function has made.
    Branch { base: u32, index: u32, count: u32, turn: u32 },
}

struct Asked<'a> {
    tool_id: &'a str,
    server: &'a str,
    tool: &'a str,
}

/// What a call gives the script.
pub enum Answered<'v> {
    Value(Value<'v>),
    ToolError(String),
}

impl Run {
    #[must_use]
    pub fn new(source: String, catalog: Catalog, journal: Vec<JournalEntry>, limits: Limits) -> Self {
        Self {
            catalog,
            journal: journal.into_iter().map(|entry| (entry.sequence, entry)).collect(),
            last_sequence: Cell::new(0),
            charged: Cell::new(0),
            slot: Cell::new(Slot::Next),
            random: Cell::new(None),
            patterns: RefCell::default(),
            source,
            places: OnceCell::new(),
            pending: RefCell::default(),
            logs: RefCell::new(Logs::new(limits.log_bytes)),
            limits,
        }
    }

    /// The run an evaluator works for.
    ///
    /// # Panics
    /// Never: `engine::evaluate` sets it before anything runs.
    pub fn of<'a>(eval: &Evaluator<'_, 'a, '_>) -> &'a Self {
        eval.extra.and_then(|extra| extra.downcast_ref()).expect("the evaluator has its run")
    }

    pub fn server(&self, index: usize) -> &CatalogServer {
        &self.catalog.servers[index]
    }

    /// Answer a call from the journal, or suspend the run with it.
    pub fn call<'v>(
        &self,
        eval: &Evaluator<'v, '_, '_>,
        server: usize,
        tool: &CatalogTool,
        arguments: Map<String, Json>,
    ) -> starlark::Result<Answered<'v>> {
        let to = Asked { tool_id: &tool.tool_id, server: &self.server(server).name, tool: &tool.name };
        self.ask(eval, &to, arguments)
    }

    /// What the gateway itself answers: the time, a seed.
    pub fn ask_gateway<'v>(&self, eval: &Evaluator<'v, '_, '_>, tool_id: &str) -> starlark::Result<Answered<'v>> {
        let to = Asked { tool_id, server: GATEWAY, tool: tool_id.trim_start_matches(GATEWAY_PREFIX) };
        self.ask(eval, &to, Map::new())
    }

    fn ask<'v>(&self, eval: &Evaluator<'v, '_, '_>, to: &Asked, arguments: Map<String, Json>) -> starlark::Result<Answered<'v>> {
        let sequence = self.take_sequence()?;
        let fingerprint = fingerprint(to.tool_id, &arguments);
        let Some(entry) = self.journal.get(&sequence) else {
            self.pending.borrow_mut().push(PendingCall {
                sequence,
                tool_id: to.tool_id.to_owned(),
                server: to.server.to_owned(),
                tool: to.tool.to_owned(),
                arguments,
                fingerprint,
                line: self.line_of_call(eval),
            });
            return Err(Raised::Suspend.into());
        };
        if entry.tool_id != to.tool_id || entry.fingerprint != fingerprint {
            return Err(Raised::error(ErrorKind::Nondeterminism, nondeterministic(sequence)));
        }
        Ok(match &entry.answer {
            Answer::Value(value) => Answered::Value(convert::from_json(eval.heap(), value)),
            Answer::Error(text) => Answered::ToolError(text.clone()),
        })
    }

    fn take_sequence(&self) -> starlark::Result<u32> {
        let sequence = match self.slot.get() {
            Slot::Next => {
                let next = self.last_sequence.get().saturating_add(1);
                self.last_sequence.set(next);
                next
            }
            Slot::Branch { base, index, count, turn } => {
                self.slot.set(Slot::Branch { base, index, count, turn: turn + 1 });
                count.saturating_mul(turn).saturating_add(base).saturating_add(index)
            }
        };
        if sequence > self.limits.calls {
            return Err(Raised::limit(Limit::Calls(self.limits.calls)));
        }
        Ok(sequence)
    }

    /// Is this inside a function of `parallel`?
    pub fn in_branch(&self) -> bool {
        self.slot.get() != Slot::Next
    }

    /// Run `count` bodies as if at the same time.
    ///
    /// # Errors
    /// The limit of calls, or what `body` ends with; that is not asked of the bodies behind it.
    pub fn branches<T>(&self, count: usize, mut body: impl FnMut(usize) -> starlark::Result<T>) -> starlark::Result<()> {
        let base = self.last_sequence.get() + 1;
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        if self.last_sequence.get().saturating_add(count) > self.limits.calls {
            return Err(Raised::limit(Limit::Calls(self.limits.calls)));
        }
        let random = self.random.get();
        let mut rounds = 1;
        let mut done = Ok(());
        for index in 0..count {
            self.slot.set(Slot::Branch { base, index, count, turn: 0 });
            self.random.set(None);
            done = body(index as usize).map(|_| ());
            if let Slot::Branch { turn, .. } = self.slot.get() {
                rounds = rounds.max(turn);
            }
            if done.is_err() {
                break;
            }
        }
        self.slot.set(Slot::Next);
        self.random.set(random);
        self.last_sequence.set((base - 1).saturating_add(count.saturating_mul(rounds)));
        done
    }

    pub fn random_state(&self) -> Option<u64> {
        self.random.get()
    }

    pub fn set_random_state(&self, state: u64) {
        self.random.set(Some(state));
    }

    /// # Errors
    /// Those of `compile`, which is asked once for each pattern.
    pub fn pattern(&self, text: &str, flags: i32, compile: impl FnOnce() -> starlark::Result<Regex>) -> starlark::Result<Regex> {
        let key = (text.to_owned(), flags);
        if let Some(known) = self.patterns.borrow().get(&key) {
            return Ok(known.clone());
        }
        let new = compile()?;
        let mut patterns = self.patterns.borrow_mut();
        if patterns.len() < PATTERNS {
            patterns.insert(key, new.clone());
        }
        Ok(new)
    }

    pub fn set_places(&self, places: Places) {
        let _ = self.places.set(places);
    }

    /// Offset in the author's text of an offset in the Starlark text.
    pub fn original(&self, offset: usize) -> usize {
        self.places.get().map_or(0, |places| places.original(offset))
    }

    pub fn source(&self) -> &str {
        &self.source
    }

    fn line_of_call(&self, eval: &Evaluator) -> u32 {
        let begin = eval.call_stack_top_location().map_or(0, |at| at.span.begin().get() as usize);
        line_column(&self.source, self.original(begin)).0
    }

    /// One turn of a native's own loop, which Starlark does not count.
    ///
    /// # Errors
    /// The limit of ticks.
    pub fn charge(&self, eval: &Evaluator) -> starlark::Result<()> {
        self.charged.set(self.charged.get() + 1);
        if self.ticks(eval) > self.limits.ticks { Err(Raised::limit(Limit::Ticks(self.limits.ticks))) } else { Ok(()) }
    }

    /// Calls and turns of loops, Starlark's and ours.
    pub fn ticks(&self, eval: &Evaluator) -> u64 {
        eval.get_total_tick_count() + self.charged.get()
    }

    pub fn print(&self, text: &str) {
        self.logs.borrow_mut().push(text);
    }

    pub fn is_waiting(&self) -> bool {
        !self.pending.borrow().is_empty()
    }

    pub fn take_pending(&self) -> Vec<PendingCall> {
        self.pending.take()
    }

    pub fn take_logs(&self) -> Vec<String> {
        self.logs.borrow_mut().take()
    }
}

/// Call a function of the script's from a native's loop.
///
/// # Errors
/// The function's, or the limit of ticks.
pub fn call_back<'v>(
    eval: &mut Evaluator<'v, '_, '_>,
    function: Value<'v>,
    arguments: &[Value<'v>],
) -> starlark::Result<Value<'v>> {
    Run::of(eval).charge(eval)?;
    eval.eval_function(function, arguments, &[])
}

pub(crate) struct Logs {
    lines: Vec<String>,
    left: usize,
    limit: usize,
    cut: bool,
}

impl Logs {
    pub(crate) fn new(limit: usize) -> Self {
        Self { lines: Vec::new(), left: limit, limit, cut: false }
    }

    pub(crate) fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.lines)
    }

    pub(crate) fn push(&mut self, text: &str) {
        if self.cut {
            return;
        }
        if let Some(left) = self.left.checked_sub(text.len() + 1) {
            self.left = left;
            self.lines.push(text.to_owned());
            return;
        }
        let end = (0..=self.left.min(text.len())).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
        self.lines.push(format!("{}[logs cut: over {} bytes]", &text[..end], self.limit));
        self.cut = true;
    }
}

/// What a script reads whose calls are not those that the journal answers.
pub(crate) fn nondeterministic(sequence: u32) -> String {
    format!(
        "Call {sequence} of this run was made to another tool or with other arguments before. A script must make the same calls \
         each time it is replayed; if its source, its tools and its engine are unchanged, report this."
    )
}

/// SHA-256 over the tool's identity and its arguments as they are printed here; the gateway only stores and compares it.
pub(crate) fn fingerprint(tool_id: &str, arguments: &Map<String, Json>) -> String {
    let mut hash = Sha256::new();
    hash.update(tool_id.as_bytes());
    hash.update([0]);
    hash.update(serde_json::to_vec(arguments).unwrap_or_default());
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
