//! Heads of logs that were written where the database's owner cannot change them, and what a log has to say for itself beside them.

use std::{
    collections::{BTreeMap, HashMap},
    io::{self, BufRead},
};

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use tollgate_domain::TenantId;

use crate::{
    Hash,
    bundle::{Finding, Problem},
    merkle::Nodes,
    seal::{Seal, SignedSeal},
    sign::PublicKey,
};

/// A line of an anchor is no longer than this.
const MAX_LINE: usize = 64 << 10;
/// A seal of so shortly before a bundle may have been committed after it was begun.
const SLACK: TimeDelta = TimeDelta::seconds(60);

/// The heads of any number of logs: of each seal its hash, which covers all of it.
#[derive(Debug, Clone, Default)]
pub struct Anchors {
    logs: HashMap<TenantId, BTreeMap<u64, Head>>,
    /// Lines that hold no seal: a crash may leave half a line, and the seal comes again behind it.
    pub broken_lines: u64,
}

#[derive(Debug, Clone, Copy)]
struct Head {
    hash: Hash,
    sealed_at: DateTime<Utc>,
}

/// How a bundle and an anchor cover one another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Covered {
    /// Anchored heads that the bundle holds, as they were anchored.
    pub heads: u64,
    /// Anchored heads that were sealed after the bundle was made.
    pub newer: u64,
    /// Anchored heads of its tenant that lie outside of what it covers.
    pub outside: u64,
}

impl Anchors {
    /// Read a file of an anchor: one signed seal a line. What does not fit together in it is a finding.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&mut self, name: &str, input: impl BufRead) -> io::Result<Vec<Finding>> {
        let mut findings = Vec::new();
        each_line(input, |number, line| {
            let Some(signed) = seal(line) else {
                self.broken_lines += u64::from(!line.is_empty());
                return;
            };
            if let Err(text) = self.add(&signed.seal) {
                findings.push(finding(Problem::Contradicted, name, number, text));
            }
        })?;
        Ok(findings)
    }

    fn add(&mut self, seal: &Seal) -> Result<(), String> {
        let head = Head { hash: seal.hash(), sealed_at: seal.sealed_at };
        let before = self.logs.entry(seal.tenant_id).or_default().insert(seal.sequence, head);
        match before {
            Some(before) if before.hash != head.hash => Err(format!(
                "the anchor holds two different seals {} of {}: the log was rewritten",
                seal.sequence, seal.tenant_id
            )),
            _ => Ok(()),
        }
    }

    /// Whether a seal is one of those that were anchored, number and all.
    #[must_use]
    pub fn holds(&self, seal: &Seal) -> bool {
        let log = self.logs.get(&seal.tenant_id);
        log.and_then(|log| log.get(&seal.sequence)).is_some_and(|head| head.hash == seal.hash())
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.logs.is_empty()
    }

    /// Whether a seal is another than the one that was anchored under its number, and whether the one before it is.
    #[must_use]
    pub fn contradicts(&self, seal: &Seal) -> Option<String> {
        let log = self.logs.get(&seal.tenant_id)?;
        let sequence = seal.sequence;
        if log.get(&sequence).is_some_and(|head| head.hash != seal.hash()) {
            return Some(format!("seal {sequence} is not the one that was anchored: the log was rewritten"));
        }
        let before = sequence.checked_sub(1)?;
        let differs = log.get(&before).is_some_and(|head| head.hash != seal.previous);
        differs.then(|| format!("seal {sequence} does not continue seal {before} as it was anchored: the log was rewritten"))
    }

    /// How a bundle made at `made` covers the anchored heads of its tenant: it holds the seals from `first` to `last`, and proves
    /// that its log went on to `head`. With the number of the first head that the log no longer had.
    pub(crate) fn covered(
        &self,
        tenant: TenantId,
        (first, last, head): (u64, u64, u64),
        made: Option<DateTime<Utc>>,
    ) -> (Covered, Option<u64>) {
        let (mut covered, mut lost) = (Covered::default(), None);
        for (sequence, anchored) in self.logs.get(&tenant).into_iter().flatten() {
            if *sequence <= head {
                let held = (first..=last).contains(sequence) || *sequence + 1 == first || *sequence == head;
                *if held { &mut covered.heads } else { &mut covered.outside } += 1;
            } else if made.is_some_and(|made| anchored.sealed_at > made - SLACK) {
                covered.newer += 1;
            } else {
                lost.get_or_insert(*sequence);
            }
        }
        (covered, lost)
    }
}

/// What an anchor says of itself.
#[derive(Debug, Clone, Default, Serialize)]
pub struct AnchorReport {
    pub logs: u64,
    pub seals: u64,
    /// Lines that hold no seal.
    pub broken_lines: u64,
    pub signed_by: Vec<String>,
    /// At most 100.
    pub findings: Vec<Finding>,
}

/// One log of an anchor, as far as it has been read.
struct Log {
    last: Seal,
    /// The tree over the seals, where the anchor begins with the first and leaves none out.
    nodes: Option<Nodes>,
}

/// Check the seals of an anchor: their signatures, and that each continues the one before.
///
/// # Errors
/// When it cannot be read.
pub fn check(name: &str, input: impl BufRead, keys: &[PublicKey]) -> io::Result<AnchorReport> {
    let (mut report, mut logs, mut all) = (AnchorReport::default(), HashMap::<TenantId, Log>::new(), Anchors::default());
    let mut met = std::collections::BTreeSet::new();
    each_line(input, |number, line| {
        let Some(signed) = seal(line) else {
            report.broken_lines += u64::from(!line.is_empty());
            return;
        };
        let problem = match keys.iter().find(|key| signed.is_signed_by(key)) {
            None => Err((Problem::Signature, unsigned(&signed, keys))),
            Some(key) => {
                met.insert(format!("{key:?}"));
                let twice = |text| (Problem::Contradicted, text);
                all.add(&signed.seal).map_err(twice).and_then(|()| follow(&mut logs, &signed.seal))
            }
        };
        match problem {
            Ok(()) => report.seals += 1,
            Err((problem, text)) if report.findings.len() < 100 => report.findings.push(finding(problem, name, number, text)),
            Err(_) => {}
        }
    })?;
    report.logs = u64::try_from(logs.len()).unwrap_or(u64::MAX);
    report.signed_by = met.into_iter().collect();
    Ok(report)
}

/// Why a seal's signature does not count, for whoever has named keys.
#[must_use]
pub fn unsigned(signed: &SignedSeal, keys: &[PublicKey]) -> String {
    let Seal { sequence, key_id, .. } = &signed.seal;
    if keys.iter().any(|key| key.key_id == *key_id) {
        format!("seal {sequence}: the signature does not hold: the seal is not what was signed")
    } else {
        format!("seal {sequence} is signed by {key_id}: if it is one of the installation's, pass that key too")
    }
}

fn follow(logs: &mut HashMap<TenantId, Log>, seal: &Seal) -> Result<(), (Problem, String)> {
    let Some(log) = logs.get_mut(&seal.tenant_id) else {
        let nodes = (seal.sequence == 1).then(Nodes::default);
        let log = logs.entry(seal.tenant_id).or_insert(Log { last: seal.clone(), nodes });
        return log.grow(seal);
    };
    let (before, next) = (log.last.clone(), seal.sequence);
    // It was delivered again.
    if next <= before.sequence {
        return Ok(());
    }
    if next > before.sequence + 1 {
        let text = format!("seal {next} follows seal {}: what lies between is missing", before.sequence);
        (log.last, log.nodes) = (seal.clone(), None);
        return Err((Problem::Removed, text));
    }
    log.last = seal.clone();
    if seal.previous != before.hash() || seal.first != before.end() {
        log.nodes = None;
        return Err((Problem::Contradicted, format!("seal {next} does not continue seal {}", before.sequence)));
    }
    log.grow(seal)
}

impl Log {
    fn grow(&mut self, seal: &Seal) -> Result<(), (Problem, String)> {
        let Some(nodes) = &mut self.nodes else { return Ok(()) };
        let grown = nodes.append(seal.sequence - 1, seal.leaf()).is_some();
        if grown && nodes.root_of((0, seal.sequence)) == Some(seal.tree) {
            // What is complete below a complete subtree is not needed any more.
            let edge = crate::merkle::edge(seal.sequence);
            nodes.0.retain(|node, _| edge.contains(node));
            return Ok(());
        }
        self.nodes = None;
        Err((Problem::Edited, format!("the tree that seal {} names is not the one over the seals up to it", seal.sequence)))
    }
}

fn finding(problem: Problem, file: &str, line: usize, text: String) -> Finding {
    Finding { problem, file: file.to_owned(), line: Some(line), position: None, row: None, text }
}

fn seal(line: &[u8]) -> Option<SignedSeal> {
    serde_json::from_slice(line).ok()
}

/// Each line with its number, from 1, without blanks around it.
fn each_line(mut input: impl BufRead, mut each: impl FnMut(usize, &[u8])) -> io::Result<()> {
    let (mut line, mut number) = (Vec::new(), 0);
    loop {
        line.clear();
        number += 1;
        let limit = u64::try_from(MAX_LINE).unwrap_or(u64::MAX);
        if io::Read::take(&mut input, limit).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        each(number, line.trim_ascii());
    }
}
