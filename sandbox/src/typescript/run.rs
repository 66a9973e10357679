//! The state of one run while it is replayed: which call comes next, what the journal answers, why the script has to stop.
//!
//! Answers are given in rounds. While the script still has something to do, no call is answered, journal or not; when it has
//! nothing left, all calls that it waits for are asked for at once, and answered at once. So a replay gives every answer at
//! the same place as the run did, and the calls of several chains at the same time keep their numbers.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use serde_json::{Map, Value as Json};
use tollgate_codemode::wire::{
    Answer, Catalog, ErrorKind, GATEWAY, GATEWAY_PREFIX, JournalEntry, Limits, NOW, PendingCall, RANDOM,
};

use super::memory::Usage;
use crate::engine::limits::Limit;
use crate::engine::run::{Logs, fingerprint};

/// What one visit of the interrupt handler stands for: calls and turns of loops.
const TICKS: u64 = 10_000;

pub struct Run {
    pub catalog: Catalog,
    pub limits: Limits,
    pub usage: Rc<Usage>,
    /// Where the script was when it was stopped, if that is known.
    pub stop_line: Cell<Option<u32>>,
    journal: HashMap<u32, JournalEntry>,
    last_sequence: Cell<u32>,
    ticks: Cell<u64>,
    /// Calls that the script waits for, in order, each with what would ask for it.
    waiting: RefCell<Vec<PendingCall>>,
    /// Asked of the gateway while the script runs: it cannot go on without the answer.
    urgent: RefCell<Option<PendingCall>>,
    limit: Cell<Option<Limit>>,
    lost: RefCell<Option<String>>,
    closed: Cell<bool>,
    /// The engine itself has failed.
    broken: Cell<bool>,
    /// The time of this round, in microseconds: it stands still while the script computes.
    now: Cell<Option<i64>>,
    random: Cell<Option<u64>>,
    logs: RefCell<Logs>,
}

/// A call that the script makes.
pub struct Asked<'a> {
    pub tool_id: &'a str,
    pub server: &'a str,
    pub tool: &'a str,
    pub arguments: Map<String, Json>,
    pub line: u32,
}

impl Run {
    pub fn new(catalog: Catalog, journal: Vec<JournalEntry>, limits: Limits) -> Self {
        Self {
            catalog,
            usage: Usage::new(usize::try_from(limits.heap_bytes).unwrap_or(usize::MAX)),
            stop_line: Cell::new(None),
            journal: journal.into_iter().map(|entry| (entry.sequence, entry)).collect(),
            last_sequence: Cell::new(0),
            ticks: Cell::new(0),
            waiting: RefCell::default(),
            urgent: RefCell::default(),
            limit: Cell::new(None),
            lost: RefCell::default(),
            closed: Cell::new(false),
            broken: Cell::new(false),
            now: Cell::new(None),
            random: Cell::new(None),
            logs: RefCell::new(Logs::new(limits.log_bytes)),
            limits,
        }
    }

    /// The interrupt handler's question. Whatever the script does after this is true has no effect.
    pub fn stops(&self) -> bool {
        self.is_broken() || self.stop_reason().is_some() || self.urgent.borrow().is_some() || self.lost.borrow().is_some()
    }

    pub fn interrupt(&self) -> bool {
        self.stops() || {
            self.charge(TICKS);
            self.stops()
        }
    }

    pub fn charge(&self, ticks: u64) {
        self.ticks.set(self.ticks.get().saturating_add(ticks));
        if self.ticks.get() > self.limits.ticks {
            self.stop(Limit::Ticks(self.limits.ticks));
        }
    }

    pub fn stop(&self, limit: Limit) {
        if self.limit.get().is_none() {
            self.limit.set(Some(limit));
        }
    }

    pub fn stop_reason(&self) -> Option<Limit> {
        self.limit.get().or_else(|| self.usage.is_over().then_some(Limit::Heap(self.limits.heap_bytes)))
    }

    /// Its calls are not the ones that the journal answers.
    pub fn lost(&self) -> Option<String> {
        self.lost.borrow().clone()
    }

    /// The script has ended: what its result's getters do makes no calls.
    pub fn close(&self) {
        self.closed.set(true);
    }

    pub fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// After a panic of the engine's: the script does not go on, whatever it catches.
    pub fn give_up(&self) {
        self.broken.set(true);
    }

    pub fn is_broken(&self) -> bool {
        self.broken.get()
    }

    pub fn ticks(&self) -> u64 {
        self.ticks.get()
    }

    /// The call's number, or why it cannot be made.
    pub fn call(&self, asked: Asked) -> Result<u32, (ErrorKind, String)> {
        let pending = self.pending(asked)?;
        let sequence = pending.sequence;
        self.waiting.borrow_mut().push(pending);
        Ok(sequence)
    }

    fn pending(&self, asked: Asked) -> Result<PendingCall, (ErrorKind, String)> {
        if self.closed.get() || self.stops() {
            return Err((ErrorKind::Runtime, "The script has ended.".to_owned()));
        }
        let sequence = self.last_sequence.get().saturating_add(1);
        if sequence > self.limits.calls {
            let limit = Limit::Calls(self.limits.calls);
            self.stop(limit);
            return Err((ErrorKind::Limit, limit.to_string()));
        }
        self.last_sequence.set(sequence);
        self.charge(1);
        let fingerprint = fingerprint(asked.tool_id, &asked.arguments);
        if let Some(entry) = self.journal.get(&sequence)
            && (entry.tool_id != asked.tool_id || entry.fingerprint != fingerprint)
        {
            let message = crate::engine::run::nondeterministic(sequence);
            *self.lost.borrow_mut() = Some(message.clone());
            return Err((ErrorKind::Nondeterminism, message));
        }
        Ok(PendingCall {
            sequence,
            tool_id: asked.tool_id.to_owned(),
            server: asked.server.to_owned(),
            tool: asked.tool.to_owned(),
            arguments: asked.arguments,
            fingerprint,
            line: asked.line,
        })
    }

    /// What only the gateway knows; none where the script has to stop for it.
    fn ask_gateway(&self, tool_id: &str) -> Option<Answer> {
        let tool = tool_id.trim_start_matches(GATEWAY_PREFIX);
        let pending = self.pending(Asked { tool_id, server: GATEWAY, tool, arguments: Map::new(), line: 0 }).ok()?;
        match self.journal.get(&pending.sequence) {
            Some(entry) => Some(entry.answer.clone()),
            None => {
                *self.urgent.borrow_mut() = Some(pending);
                None
            }
        }
    }

    /// Microseconds since 1970; none where the script has to stop.
    pub fn now(&self) -> Option<i64> {
        if self.now.get().is_none() {
            let answer = self.ask_gateway(NOW)?;
            self.now.set(Some(if let Answer::Value(value) = answer { value.as_i64().unwrap_or_default() } else { 0 }));
        }
        self.now.get()
    }

    /// From 0 to 1; none where the script has to stop.
    pub fn random(&self) -> Option<f64> {
        let state = match self.random.get() {
            Some(state) => state,
            None => match self.ask_gateway(RANDOM)? {
                Answer::Value(seed) => seed.as_u64().unwrap_or_default(),
                Answer::Error(_) => 0,
            },
        };
        // SplitMix64: every seed is a good one.
        let state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.set(Some(state));
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        // Its upper 53 bits, each half of which a float holds exactly.
        let [high, low] = [u32::try_from(z >> 37).unwrap_or_default(), u32::try_from((z >> 11) & 0x3ff_ffff).unwrap_or_default()];
        Some((f64::from(high) * 67_108_864.0 + f64::from(low)) / 9_007_199_254_740_992.0)
    }

    /// The calls that nobody has answered yet: the one without which the script cannot go on, or all that it waits for.
    pub fn unanswered(&self) -> Vec<PendingCall> {
        if let Some(urgent) = &*self.urgent.borrow() {
            return vec![urgent.clone()];
        }
        self.waiting.borrow().iter().filter(|call| !self.journal.contains_key(&call.sequence)).cloned().collect()
    }

    /// The answers of the round that ends here, in order.
    pub fn next_round(&self) -> Vec<(u32, Answer)> {
        self.now.set(None);
        let waiting = self.waiting.take();
        waiting.iter().filter_map(|call| Some((call.sequence, self.journal.get(&call.sequence)?.answer.clone()))).collect()
    }

    pub fn print(&self, text: &str) {
        if !self.stops() && !self.closed.get() {
            self.logs.borrow_mut().push(text);
        }
    }

    pub fn take_logs(&self) -> Vec<String> {
        self.logs.borrow_mut().take()
    }
}
