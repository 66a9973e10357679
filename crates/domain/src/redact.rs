//! Redaction: what a tenant does not want to keep is replaced before it is written to the audit trail.
//!
//! # What rules reach
//! **Paths** select values of a document and replace each by `"[redacted]"`. They are applied from several roots:
//! the whole document; the member `structuredContent` of a root, which is where a tool's result repeats itself as
//! data; and every text in the document that is JSON itself (one value or several that follow each other), since a
//! tool's result carries its answer as a text in `content[].text`. A path that is meant for the answer, `$.customer.ssn`,
//! therefore finds it in all three. Paths look into a text only if all of it is JSON: not into `Result: {..}`.
//!
//! **Detectors** and **patterns** see every text, key and number, decoded: `a\u0040b.example` is an address. What
//! matches is replaced by `[redacted:<name>]`; of a number, the whole. A text that is JSON is searched value by value
//! first and then as it stands. Nothing looks into base64 or compressed data.
//!
//! # What is kept
//! Only the values that are replaced differ: all other bytes stay, with the order of keys, white space and the spelling
//! of numbers. Of a key that comes twice, both members are searched.
//!
//! Redacting twice is redacting once, unless a pattern matches a marker together with the text around it.

use std::{fmt, sync::Arc};

mod detect;
mod parse;
mod path;
mod rules;
mod scan;
mod tape;
#[cfg(test)]
mod tests;
mod walk;

pub use rules::{MAX_PATHS, MAX_PATTERN_NAME, MAX_PATTERNS, MAX_REGEX, RedactionPattern, RedactionRules, RuleError};

/// What stands in place of a value that a path selects.
pub const MARKER: &str = "[redacted]";

/// A tenant's rules, compiled. Cheap to clone.
#[derive(Clone)]
pub struct Redactor(Arc<Inner>);

struct Inner {
    paths: path::Paths,
    scanner: scan::Scanner,
}

/// What became of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Redacted {
    /// No rule reaches anything in it: the bytes may be kept as they are.
    Unchanged,
    /// What may be kept instead.
    Changed(Vec<u8>),
    /// It is not JSON, so the paths cannot tell what is in it: keep none of it.
    Unreadable,
}

impl Redactor {
    fn of(paths: path::Paths, scanner: scan::Scanner) -> Self {
        Self(Arc::new(Inner { paths, scanner }))
    }

    /// Whether there are no rules.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.paths.is_empty() && self.0.scanner.is_empty()
    }

    /// Redact a document. Bytes that are not one JSON value are a text where there are no path rules.
    #[must_use]
    pub fn redact_json(&self, bytes: &[u8]) -> Redacted {
        self.redact_json_within(bytes, scan::BUDGET)
    }

    /// Redact a text that need not be JSON: a script's source, a log line, an error message. If it is JSON, paths reach into
    /// it. `None` where nothing is to be replaced.
    #[must_use]
    pub fn redact_text(&self, text: &str) -> Option<String> {
        if self.is_empty() { None } else { walk::text(&self.0, text, 0, &mut { scan::BUDGET }) }
    }

    fn redact_json_within(&self, bytes: &[u8], mut budget: usize) -> Redacted {
        if self.is_empty() {
            return Redacted::Unchanged;
        }
        let document = std::str::from_utf8(bytes).ok().and_then(|text| Some((text, tape::read_one(text)?)));
        let changed = match document {
            Some((text, tape)) => walk::json(&self.0, text, &tape, 0, &mut budget),
            None if !self.0.paths.is_empty() => return Redacted::Unreadable,
            None => walk::text(&self.0, &String::from_utf8_lossy(bytes), 0, &mut budget),
        };
        changed.map_or(Redacted::Unchanged, |text| Redacted::Changed(text.into_bytes()))
    }
}

/// How many rules, not which: a pattern may spell what it protects.
impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redactor({} paths, {} detectors and patterns)", self.0.paths.len(), self.0.scanner.len())
    }
}
