//! Before the first step of a run: what in the whole script cannot succeed, whatever the tools answer, and which tools it may
//! call.
//!
//! A finding is only what would fail for certain where it is reached: a tool or a keyword that is not in the catalogue, an
//! argument that is missing, a literal of another type than the schema's. What depends on how the script runs (names that are
//! bound twice, `*` and `**`, servers that are handed around) is left to the call. Authority is not decided here.

mod calls;
mod literals;
mod names;
mod values;
mod walk;

use std::collections::BTreeSet;

use tollgate_codemode::wire::{Catalog, ErrorKind, ScriptError};

use crate::python::{Script, line_column};

/// Findings listed in one message, and collected at all.
const LISTED: usize = 20;
pub(crate) const COLLECTED: usize = 50;
/// Of a message, which quotes names of the script's.
const MESSAGE_BYTES: usize = 8 << 10;
/// Tools in the advisory list.
pub(crate) const MAY_CALL: usize = 100;

#[derive(Debug)]
pub struct Checked {
    /// What would fail where it is reached.
    findings: Vec<Finding>,
    /// Names that nothing binds. Starlark has the last word on those: it refuses the script before it runs.
    unknown_names: Vec<Finding>,
    pub may_call: Vec<String>,
}

#[derive(Debug, Clone)]
pub(crate) struct Finding {
    pub at: usize,
    pub kind: ErrorKind,
    /// What is wrong and what to write.
    pub message: String,
    /// What there is to choose from; said once, however many findings it belongs to.
    pub choice: String,
}

pub fn check(source: &str, script: &Script, catalog: &Catalog) -> Checked {
    let walk = walk::walk(script);
    let values = values::Values { scopes: &script.scopes, bindings: &walk.bindings, catalog };
    let probed = calls::probed(&walk.sites, &values);
    let mut checker = calls::Checker { source, values: &values, probed, findings: Vec::new() };
    for site in &walk.sites {
        checker.site(site);
        if checker.findings.len() > COLLECTED {
            break;
        }
    }
    let findings = checker.findings;
    let mut may_call: Vec<String> = calls::may_call(&walk.sites, &values).into_iter().take(MAY_CALL + 1).collect();
    if may_call.len() > MAY_CALL {
        may_call.truncate(MAY_CALL);
        may_call.push("?".to_owned());
    }
    let unknown_names = names::unknown(&walk.sites, &script.scopes, catalog);
    Checked { findings, unknown_names, may_call }
}

impl Checked {
    /// Everything that was found, if anything is wrong for certain.
    #[must_use]
    pub fn error(&self, source: &str) -> Option<ScriptError> {
        if self.findings.is_empty() {
            return None;
        }
        Some(report(source, self.findings.iter().chain(&self.unknown_names).cloned().collect()))
    }

    /// For a script that Starlark has refused because of a name.
    #[must_use]
    pub fn names(&self, source: &str) -> Option<ScriptError> {
        (!self.unknown_names.is_empty()).then(|| report(source, self.unknown_names.clone()))
    }
}

/// One error for all findings, at the place of the first.
pub(crate) fn report(source: &str, mut findings: Vec<Finding>) -> ScriptError {
    findings.sort_by_key(|finding| finding.at);
    findings.dedup_by(|a, b| a.at == b.at && a.message == b.message);
    let many = findings.len() > 1;
    let mut message = String::new();
    if many {
        let count = if findings.len() > LISTED { format!("More than {LISTED}") } else { findings.len().to_string() };
        message = format!("{count} things to correct; nothing has been called yet.");
    }
    let mut said: BTreeSet<&str> = BTreeSet::new();
    for finding in findings.iter().take(LISTED) {
        if many {
            let (line, column) = line_column(source, finding.at);
            message += &format!("\nline {line}, column {column}: ");
        }
        message += &finding.message;
        if !finding.choice.is_empty() && said.insert(&finding.choice) {
            message += &format!(" {}", finding.choice);
        }
    }
    if findings.len() > LISTED {
        message += "\nand more";
    }
    if message.len() > MESSAGE_BYTES {
        let end = (0..=MESSAGE_BYTES).rev().find(|&i| message.is_char_boundary(i)).unwrap_or(0);
        message.truncate(end);
        message += "...";
    }
    let first = findings.first();
    let place = first.map(|finding| line_column(source, finding.at));
    ScriptError {
        kind: first.map_or(ErrorKind::Arguments, |finding| finding.kind),
        message,
        line: place.map(|p| p.0),
        column: place.map(|p| p.1),
    }
}
