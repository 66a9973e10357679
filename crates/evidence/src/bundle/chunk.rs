//! One chunk: rows against leaves, leaves against seals. Where they differ, what was done and to which row.

use std::collections::HashMap;

use super::report::{Finding, Problem};
use crate::{
    Hash,
    line::{self, Line},
    merkle,
    seal::SignedSeal,
};

/// The files of a chunk that are read together.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    pub prefix: String,
    /// With the line on which each stands.
    pub seals: Vec<SignedSeal>,
    pub leaves: Vec<Hash>,
    pub lines: Vec<Vec<u8>>,
}

impl Chunk {
    fn file(&self, name: &str) -> String {
        format!("{}/{name}", self.prefix)
    }

    /// Where the entry of this line belongs in the log.
    pub(super) fn position(&self, at: usize) -> u64 {
        self.seals.first().map_or(0, |signed| signed.seal.first).saturating_add(u64::try_from(at).unwrap_or(0))
    }

    fn finding(&self, problem: Problem, at: usize, text: impl Into<String>) -> Finding {
        let row = self.lines.get(at).and_then(|line| line::parse(line)).map(|line| line.name());
        Finding {
            problem,
            file: self.file("entries.ndjson"),
            line: Some(at + 1),
            position: Some(self.position(at)),
            row,
            text: text.into(),
        }
    }

    /// Rows, leaves and roots; the findings in the order of the chunk, and how many rows are sound.
    pub(super) fn check(&self) -> (u64, Vec<Finding>) {
        let hashes: Vec<Hash> = self.lines.iter().map(|line| merkle::leaf(line)).collect();
        let mut findings = self.roots(&hashes);
        if hashes == self.leaves {
            findings.extend(self.foreign());
        } else if !findings.iter().any(|finding| finding.file.ends_with("leaves.txt")) {
            findings.push(self.difference(&hashes));
        }
        let sound = hashes.iter().zip(&self.leaves).filter(|(hash, leaf)| hash == leaf).count();
        (u64::try_from(sound).unwrap_or(0), findings)
    }

    /// Each seal's root against the leaves, and against the rows where the leaves do not lead to it.
    fn roots(&self, hashes: &[Hash]) -> Vec<Finding> {
        let (mut at, mut findings) = (0usize, Vec::new());
        for (number, signed) in self.seals.iter().enumerate() {
            let count = usize::try_from(signed.seal.count).unwrap_or(usize::MAX);
            let end = at.saturating_add(count);
            let under = |all: &[Hash]| all.get(at..end).map(merkle::root) == Some(signed.seal.root);
            if !under(&self.leaves) {
                findings.push(self.broken_root(number, at, hashes, under(hashes)));
                break;
            }
            at = end;
        }
        if findings.is_empty() && at < self.leaves.len() {
            findings.push(self.beyond(at, hashes));
        }
        findings
    }

    /// There are more leaves than the seals hold: where the rows go on as well, it is a seal that is missing.
    fn beyond(&self, at: usize, hashes: &[Hash]) -> Finding {
        let more = self.leaves.len() - at;
        let (problem, file, line, text) = if hashes.len() >= self.leaves.len() {
            let text = format!("{more} entries stand behind the last seal: the seal over them is missing");
            (Problem::Removed, "seals.ndjson", self.seals.len() + 1, text)
        } else {
            (Problem::Added, "leaves.txt", at + 1, format!("there are {more} leaves more than the seals hold"))
        };
        Finding { problem, file: self.file(file), line: Some(line), position: None, row: None, text }
    }

    /// The leaves do not lead to a root. Whichever of leaves, rows and seal stands alone against the other two was changed.
    fn broken_root(&self, seal: usize, at: usize, hashes: &[Hash], rows_hold: bool) -> Finding {
        let sequence = self.seals[seal].seal.sequence;
        if rows_hold {
            let first = hashes[at..].iter().zip(self.leaves.iter().skip(at)).position(|(a, b)| a != b);
            let line = at + first.unwrap_or_else(|| self.leaves.len().saturating_sub(at)) + 1;
            let text = format!("this leaf is not the one of its row, which is under the root of seal {sequence}");
            let file = self.file("leaves.txt");
            return Finding { problem: Problem::Edited, file, line: Some(line), position: None, row: None, text };
        }
        let file = self.file("seals.ndjson");
        let text = format!("seal {sequence} does not seal the entries that stand under it");
        Finding { problem: Problem::Edited, file, line: Some(seal + 1), position: None, row: None, text }
    }

    /// The leaves are the signed ones; the first row that does not fit them.
    fn difference(&self, hashes: &[Hash]) -> Finding {
        let at = hashes.iter().zip(&self.leaves).position(|(hash, leaf)| hash != leaf);
        let Some(at) = at else {
            return if hashes.len() < self.leaves.len() {
                let missing = self.leaves.len() - hashes.len();
                self.finding(
                    Problem::Truncated,
                    hashes.len(),
                    format!("the entries end here; {missing} that were sealed are missing"),
                )
            } else {
                self.finding(Problem::Added, self.leaves.len(), "this entry is not in the log")
            };
        };
        let place: HashMap<&Hash, usize> = self.leaves.iter().enumerate().map(|(n, leaf)| (leaf, n)).collect();
        if hashes.len() < self.leaves.len() && place.get(&hashes[at]) == Some(&(at + 1)) {
            return self.removed(at);
        }
        if hashes.len() > self.leaves.len() && hashes.get(at + 1) == self.leaves.get(at) {
            return self.finding(Problem::Added, at, "this entry is not in the log");
        }
        match place.get(&hashes[at]) {
            Some(home) if *home < at => self.finding(
                Problem::Added,
                at,
                format!("this entry stands here a second time; its place is position {}", self.position(*home)),
            ),
            Some(home) => {
                self.finding(Problem::Reordered, at, format!("this entry belongs at position {}", self.position(*home)))
            }
            None => self.edited(at),
        }
    }

    fn removed(&self, at: usize) -> Finding {
        let mut finding = self.finding(Problem::Removed, at, "the entry of this position is missing");
        // What stands on this line now is the one after it.
        finding.row = None;
        finding
    }

    fn edited(&self, at: usize) -> Finding {
        let row = line::parse(&self.lines[at]);
        let own = self.seals.first().map(|signed| signed.seal.tenant_id);
        match &row {
            Some(row) if Some(row.tenant()) != own => self.finding(Problem::Foreign, at, "this entry belongs to another tenant"),
            _ => {
                let mut finding = self.finding(Problem::Edited, at, "this entry is not what was signed");
                // Its own id may be what was edited, and a line that is no longer canonical still shows one.
                finding.row = finding.row.or_else(|| shown_id(&self.lines[at]));
                finding
            }
        }
    }

    /// A log holds its own tenant's rows: a sealer that mixed them would be at fault.
    fn foreign(&self) -> Option<Finding> {
        let own = self.seals.first()?.seal.tenant_id;
        let stranger = |bytes: &Vec<u8>| line::parse(bytes).is_none_or(|line: Line<'_>| line.tenant() != own);
        let at = self.lines.iter().position(stranger)?;
        Some(self.finding(Problem::Foreign, at, "this entry is no row of this tenant"))
    }
}

/// The id that a line shows, canonical or not.
fn shown_id(line: &[u8]) -> Option<String> {
    let value: serde_json::Value = serde_json::from_slice(line).ok()?;
    value.get("id")?.as_str().map(str::to_owned)
}
