//! One pass over a JSON document: paths, detectors and patterns together.

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
};

use super::{
    Inner, MARKER,
    path::Place,
    tape::{self, Kind, Token},
};

/// How often JSON may stand as a text inside JSON. Each level is read once more, so this bounds the work.
const MAX_EMBEDDED: usize = 8;

/// An object or array that the walk is in.
struct Frame {
    /// The token behind it.
    next: usize,
    /// Its part of `Walk::states`.
    states: Range<usize>,
    object: bool,
    /// The items seen so far, and how many there are.
    index: usize,
    len: usize,
    first: usize,
    names: Option<Names>,
}

/// The keys of an object in which a key was replaced.
struct Names {
    taken: HashSet<String>,
    /// How often each replacement has been given out.
    given: HashMap<String, usize>,
}

struct Walk<'w> {
    rules: &'w Inner,
    text: &'w str,
    tape: &'w [Token],
    embedded: usize,
    budget: &'w mut usize,
    frames: Vec<Frame>,
    /// The states of all open containers, the innermost last.
    states: Vec<u16>,
    out: String,
    copied: usize,
}

/// The document with what the rules select replaced; `None` where they select nothing.
pub(super) fn json(rules: &Inner, text: &str, tape: &[Token], embedded: usize, budget: &mut usize) -> Option<String> {
    let (frames, states) = (Vec::new(), Vec::new());
    let mut walk = Walk { rules, text, tape, embedded, budget, frames, states, out: String::new(), copied: 0 };
    let mut at = 0;
    while at < tape.len() {
        at = walk.step(at);
    }
    if walk.copied == 0 {
        return None;
    }
    walk.out.push_str(&text[walk.copied..]);
    Some(walk.out)
}

/// A text that may be JSON itself: first as JSON, then as it stands.
pub(super) fn text(rules: &Inner, text: &str, embedded: usize, budget: &mut usize) -> Option<String> {
    let mut changed = None;
    if text.trim_start().starts_with(['{', '[', '"'])
        && let Some(tape) = tape::read_many(text)
    {
        if embedded == MAX_EMBEDDED {
            return Some(MARKER.to_owned());
        }
        changed = json(rules, text, &tape, embedded + 1, budget);
    }
    let whole = rules.scanner.redact(changed.as_deref().unwrap_or(text), budget);
    whole.or(changed)
}

impl<'w> Walk<'w> {
    /// Handle one value, with its key where it has one; the answer is the token to go on with.
    fn step(&mut self, at: usize) -> usize {
        while self.frames.last().is_some_and(|frame| frame.next <= at) {
            let left = self.frames.pop();
            self.states.truncate(left.map_or(0, |frame| frame.states.start));
        }
        let begin = self.states.len();
        let (at, selected) = self.enter(at);
        let token = self.tape[at];
        if selected {
            self.states.truncate(begin);
            if token.kind != Kind::String || token.decoded(self.text) != MARKER {
                self.replace(&token, MARKER);
            }
            return token.next();
        }
        match token.kind {
            Kind::Object | Kind::Array => {
                let (states, object) = (begin..self.states.len(), token.kind == Kind::Object);
                self.frames.push(Frame {
                    next: token.next(),
                    states,
                    object,
                    index: 0,
                    len: token.len(),
                    first: at + 1,
                    names: None,
                });
                return at + 1;
            }
            Kind::String => {
                if let Some(changed) = text(self.rules, &token.decoded(self.text), self.embedded, self.budget) {
                    self.replace(&token, &changed);
                }
            }
            Kind::Number => {
                if let Some(marker) = self.rules.scanner.marker(token.text(self.text), self.budget) {
                    self.replace(&token, marker);
                }
            }
            Kind::Word | Kind::Key => {}
        }
        self.states.truncate(begin);
        at + 1
    }

    /// Push the states of the value at `at` (or behind the key at `at`); the value's token and whether it is selected.
    fn enter(&mut self, at: usize) -> (usize, bool) {
        let paths = &self.rules.paths;
        let root = self.frames.len() == 1;
        let Some(frame) = self.frames.last_mut() else {
            self.states.extend_from_slice(paths.starts());
            return (at, paths.selects_root());
        };
        let parent = frame.states.clone();
        if !frame.object {
            let place = Place::Item { index: frame.index, len: frame.len };
            frame.index += 1;
            return (at, paths.advance(parent, place, &mut self.states));
        }
        let key = self.tape[at];
        let name = key.decoded(self.text);
        let begin = self.states.len();
        let selected = paths.advance(parent, Place::Name(&name), &mut self.states);
        if root && name == "structuredContent" {
            self.restart(begin);
        }
        if let Some(changed) = self.rules.scanner.redact(&name, self.budget) {
            let unique = self.unique(changed);
            self.replace(&key, &unique);
        }
        (at + 1, selected)
    }

    /// Make the value that is being entered a root as well.
    fn restart(&mut self, begin: usize) {
        let mut states = self.states.split_off(begin);
        states.extend_from_slice(self.rules.paths.starts());
        states.sort_unstable();
        states.dedup();
        self.states.append(&mut states);
    }

    /// A key that no other member of the innermost object has.
    fn unique(&mut self, name: String) -> String {
        let Some(frame) = self.frames.last_mut() else { return name };
        let (text, tape) = (self.text, self.tape);
        let names = frame.names.get_or_insert_with(|| {
            let (mut taken, mut at) = (HashSet::new(), frame.first);
            while at < frame.next {
                taken.insert(tape[at].decoded(text).into_owned());
                at = tape[at + 1].next();
            }
            Names { taken, given: HashMap::new() }
        });
        let given = names.given.entry(name.clone()).or_insert(0);
        loop {
            *given += 1;
            let candidate = if *given == 1 { name.clone() } else { format!("{name} {given}") };
            if names.taken.insert(candidate.clone()) {
                return candidate;
            }
        }
    }

    fn replace(&mut self, token: &Token, text: &str) {
        self.out.push_str(&self.text[self.copied..token.start()]);
        self.out.push_str(&serde_json::Value::from(text).to_string());
        self.copied = token.end();
    }
}
