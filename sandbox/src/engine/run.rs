//! The state of one run while it is replayed: which call comes next, what the journal answers, what has been printed.

// The derives of `ProvidesStaticType` expand to an unsafe marker impl; there is no other unsafe here.
#![allow(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use serde_json::{Map, Value as Json};
use sha2::{Digest, Sha256};
use starlark::any::ProvidesStaticType;
use starlark::eval::Evaluator;
use starlark::values::Value;
use tollgate_codemode::wire::{Answer, Catalog, CatalogServer, CatalogTool, ErrorKind, JournalEntry, Limits, PendingCall};

use super::convert;
use super::limits::Limit;
use super::raised::Raised;

#[derive(ProvidesStaticType)]
pub struct Run {
    pub catalog: Catalog,
    pub limits: Limits,
    journal: HashMap<u32, JournalEntry>,
    last_sequence: Cell<u32>,
    /// While a lambda of `parallel` runs: the one sequence it may use.
    slot: Cell<Slot>,
    pending: RefCell<Vec<PendingCall>>,
    logs: RefCell<Logs>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Slot {
    /// Outside `parallel`: the next number.
    Next,
    Reserved(u32),
    Used,
}

/// What a call gives the script.
pub enum Answered<'v> {
    Value(Value<'v>),
    ToolError(String),
}

impl Run {
    #[must_use]
    pub fn new(catalog: Catalog, journal: Vec<JournalEntry>, limits: Limits) -> Self {
        Self {
            catalog,
            journal: journal.into_iter().map(|entry| (entry.sequence, entry)).collect(),
            last_sequence: Cell::new(0),
            slot: Cell::new(Slot::Next),
            pending: RefCell::default(),
            logs: RefCell::new(Logs { lines: Vec::new(), left: limits.log_bytes, limit: limits.log_bytes, cut: false }),
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
        let sequence = self.take_sequence()?;
        let fingerprint = fingerprint(&tool.tool_id, &arguments);
        let Some(entry) = self.journal.get(&sequence) else {
            self.pending.borrow_mut().push(PendingCall {
                sequence,
                tool_id: tool.tool_id.clone(),
                server: self.server(server).name.clone(),
                tool: tool.name.clone(),
                arguments,
                fingerprint,
                line: line_of_call(eval),
            });
            return Err(Raised::Suspend.into());
        };
        if entry.tool_id != tool.tool_id || entry.fingerprint != fingerprint {
            return Err(Raised::error(
                ErrorKind::Nondeterminism,
                format!(
                    "Call {sequence} of this run was made to another tool or with other arguments before. A script must make the \
                     same calls each time it is replayed; if its source, its tools and its engine are unchanged, report this."
                ),
            ));
        }
        Ok(match &entry.answer {
            Answer::Value(value) => Answered::Value(convert::from_json(eval.heap(), value)),
            Answer::Error(text) => Answered::ToolError(text.clone()),
        })
    }

    fn take_sequence(&self) -> starlark::Result<u32> {
        match self.slot.get() {
            Slot::Next => self.reserve(1),
            Slot::Reserved(sequence) => {
                self.slot.set(Slot::Used);
                Ok(sequence)
            }
            Slot::Used => Err(Raised::runtime(
                "A function in parallel() may make one tool call. Make the calls that depend on it after parallel() has returned.",
            )),
        }
    }

    /// Take the next `count` sequence numbers; the first of them is returned.
    pub fn reserve(&self, count: u32) -> starlark::Result<u32> {
        if self.slot.get() != Slot::Next {
            return Err(Raised::runtime("parallel() cannot run inside parallel(). Give the outer one all calls."));
        }
        let first = self.last_sequence.get() + 1;
        let last = self.last_sequence.get().saturating_add(count);
        if last > self.limits.calls {
            return Err(Raised::limit(Limit::Calls(self.limits.calls)));
        }
        self.last_sequence.set(last);
        Ok(first)
    }

    /// Run `body` with its one call bound to `sequence`, so that its number does not depend on which other calls are
    /// already answered.
    pub fn in_slot<T>(&self, sequence: u32, body: impl FnOnce() -> T) -> T {
        self.slot.set(Slot::Reserved(sequence));
        let out = body();
        self.slot.set(Slot::Next);
        out
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
        std::mem::take(&mut self.logs.borrow_mut().lines)
    }
}

struct Logs {
    lines: Vec<String>,
    left: usize,
    limit: usize,
    cut: bool,
}

impl Logs {
    fn push(&mut self, text: &str) {
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

/// SHA-256 over the tool's identity and its arguments as they are printed here; the gateway only stores and compares it.
fn fingerprint(tool_id: &str, arguments: &Map<String, Json>) -> String {
    let mut hash = Sha256::new();
    hash.update(tool_id.as_bytes());
    hash.update([0]);
    hash.update(serde_json::to_vec(arguments).unwrap_or_default());
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn line_of_call(eval: &Evaluator) -> u32 {
    let line = eval.call_stack_top_location().map_or(0, |at| at.resolve_span().begin.line + 1);
    u32::try_from(line).unwrap_or(u32::MAX)
}
