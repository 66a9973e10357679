//! Payloads against the rows that commit to them, and scripts against their recorded runs.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use uuid::Uuid;

use super::{Verifier, exact, lines};
use crate::{
    Hash,
    bundle::{
        CatalogLine, Content, PayloadLine,
        report::{Finding, Problem},
    },
    erasure::Erased,
    hash::from_hex,
    line::{Commitment, Kept, Line, Part},
};

/// A script run as its log has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunRecord {
    pub id: String,
    pub engine: String,
    /// JSON texts, as are the next three.
    pub limits: String,
    pub catalog: Option<String>,
    /// By sequence.
    pub journal: BTreeMap<i32, String>,
    /// The sequences of it behind which no call stands.
    pub without_call: BTreeSet<i32>,
    pub source: Option<String>,
    pub state: String,
    pub ticks: Option<i64>,
    pub result: Option<String>,
    pub logs: Option<String>,
    pub error: Option<String>,
    catalog_sha256: Option<Hash>,
    /// A text of it was not kept as it was.
    incomplete: bool,
}

/// Runs a recorded script again.
pub trait Replay {
    /// # Errors
    /// What came out differently.
    fn replay(&mut self, run: &RunRecord) -> Result<(), String>;
}

/// A payload that is still to come.
pub(super) struct Expected {
    position: u64,
    part: Part,
    commitment: Commitment,
    row: String,
    /// As an erasure names it.
    item: Erased,
    /// Of a script: its run, and of its journal the sequence.
    run: Option<(Uuid, i32)>,
}

impl Verifier<'_> {
    pub(super) fn expect(&mut self, position: u64, row: &Line<'_>) {
        let run = match row {
            Line::ScriptStart(start) => {
                let record = RunRecord {
                    id: start.id.to_string(),
                    engine: start.engine.to_string(),
                    limits: start.limits.to_string(),
                    catalog_sha256: Some(start.catalog_sha256),
                    ..RunRecord::default()
                };
                self.report.scripts += 1;
                self.named_catalogs.insert(start.catalog_sha256, record.id.clone());
                if self.replay.is_some() {
                    self.runs.insert(start.id.uuid(), record);
                }
                Some((start.id.uuid(), 0))
            }
            Line::ScriptJournal(journal) => {
                if let Some(run) = self.runs.get_mut(&journal.id.uuid()).filter(|_| journal.call_id.is_none()) {
                    run.without_call.insert(journal.sequence);
                }
                Some((journal.id.uuid(), journal.sequence))
            }
            Line::AdminEvent(event) if event.action == "audit.anomaly" => {
                self.report.add(Finding {
                    problem: Problem::Anomaly,
                    file: "entries".to_owned(),
                    line: None,
                    position: Some(position),
                    row: Some(row.name()),
                    text: format!("recorded as these rows were sealed: {}", event.detail),
                });
                None
            }
            Line::ScriptEnd(end) => {
                if let Some(run) = self.runs.get_mut(&end.id.uuid()) {
                    (run.state, run.ticks) = (end.state.to_string(), end.ticks);
                    self.ended.push(end.id.uuid());
                }
                Some((end.id.uuid(), 0))
            }
            _ => None,
        };
        for (part, commitment) in row.commitments() {
            if commitment.kept == Some(Kept::Omitted) {
                self.report.omitted += 1;
                self.incomplete(run);
                continue;
            }
            let place = row.place();
            let item = Erased { row: place.id, part, sequence: place.sequence };
            self.expected.push(Expected { position, part, commitment, row: row.name(), item, run });
        }
    }

    fn incomplete(&mut self, run: Option<(Uuid, i32)>) {
        if let Some(record) = run.and_then(|(id, _)| self.runs.get_mut(&id)) {
            record.incomplete = true;
        }
    }

    pub(super) fn take_catalogs(&mut self, name: &str, content: &[u8]) {
        for (number, text) in lines(content).enumerate() {
            match exact::<CatalogLine>(text) {
                Some(catalog) if Hash::of(&[catalog.body.as_bytes()]) == catalog.sha256 => {
                    self.known_catalogs.insert(catalog.sha256);
                    if self.replay.is_some() {
                        self.catalogs.insert(catalog.sha256, catalog.body);
                    }
                }
                _ => self.at(Problem::Edited, name, Some(number + 1), "this catalogue is not the one of its hash"),
            }
        }
    }

    pub(super) fn take_payloads(&mut self, name: &str, content: &[u8]) {
        // Without the entries nothing is known of them; that these are missing is said at the chunk's end.
        if !self.checked {
            return;
        }
        let all: Vec<Option<PayloadLine>> = lines(content).map(exact).collect();
        let here: HashSet<(u64, Part)> = all.iter().flatten().map(|line| (line.position, line.part)).collect();
        for (number, payload) in all.into_iter().enumerate() {
            let place = Some(number + 1);
            let Some(payload) = payload else {
                // Whatever it was, it took the place of the next one.
                let row = self.expected.get(self.next).map(|e| e.row.clone());
                self.next += 1;
                let text = "this payload is not what was signed".to_owned();
                let finding = Finding { problem: Problem::Edited, file: name.to_owned(), line: place, position: None, row, text };
                self.report.add(finding);
                continue;
            };
            if self.dubious.contains(&payload.position) {
                continue;
            }
            let is = |e: &Expected| (e.position, e.part) == (payload.position, payload.part);
            match self.expected.iter().skip(self.next).position(is) {
                Some(0) => self.payload(name, place, payload),
                Some(skipped)
                    if self.expected[self.next..self.next + skipped].iter().all(|e| here.contains(&(e.position, e.part))) =>
                {
                    self.misplaced(Problem::Reordered, name, place, &payload);
                    self.next += skipped;
                    self.payload(name, place, payload);
                }
                Some(skipped) => {
                    for _ in 0..skipped {
                        self.lost(Problem::Removed, name, place);
                    }
                    self.payload(name, place, payload);
                }
                None if self.expected.iter().take(self.next).any(is) => self.misplaced(Problem::Reordered, name, place, &payload),
                None => self.misplaced(Problem::Added, name, place, &payload),
            }
        }
    }

    fn misplaced(&mut self, problem: Problem, name: &str, line: Option<usize>, payload: &PayloadLine) {
        let text = match problem {
            Problem::Reordered => "this payload stands in another place than its entry",
            _ => "no entry commits to this payload",
        };
        let (file, position, text) = (name.to_owned(), Some(payload.position), text.to_owned());
        self.report.add(Finding { problem, file, line, position, row: None, text });
    }

    fn lost(&mut self, problem: Problem, name: &str, line: Option<usize>) {
        let Some(expected) = self.expected.get(self.next) else { return };
        let (position, row) = (Some(expected.position), Some(expected.row.clone()));
        let text = format!("the {:?} of this row are missing", expected.part).to_lowercase();
        let run = expected.run;
        self.incomplete(run);
        self.report.add(Finding { problem, file: name.to_owned(), line, position, row, text });
        self.next += 1;
    }

    fn payload(&mut self, name: &str, line: Option<usize>, payload: PayloadLine) {
        let expected = &self.expected[self.next];
        let (commitment, part, run, item) = (expected.commitment, expected.part, expected.run, expected.item);
        let (position, row) = (Some(expected.position), Some(expected.row.clone()));
        let wrong = |problem, text: &str| Finding { problem, file: name.to_owned(), line, position, row, text: text.to_owned() };
        let (salt, body) = match &payload.content {
            Content::Text { salt, body } => (salt, Some(body.as_bytes().to_vec())),
            Content::Bytes { salt, body } => (salt, from_hex(body)),
            Content::Erased { erasure_id } => {
                let finding = self.erased(erasure_id, &item, wrong);
                finding.into_iter().for_each(|finding| self.report.add(finding));
                self.next += 1;
                return self.incomplete(run);
            }
            Content::Missing => {
                let finding = wrong(Problem::Removed, "this payload was lost: it is neither stored nor was it erased");
                return self.unsound(finding, run);
            }
        };
        let holds = from_hex(salt).zip(body).is_some_and(|(salt, body)| commitment.holds(&salt, &body));
        if !holds {
            let finding = wrong(Problem::Edited, "this payload is not the one to which its row commits");
            return self.unsound(finding, run);
        }
        self.report.payloads += 1;
        self.next += 1;
        match (commitment.kept, payload.content) {
            (None, Content::Text { body, .. }) => self.keep(part, run, body),
            (None, _) => self.incomplete(run),
            (Some(_), _) => {
                self.report.redacted += 1;
                self.incomplete(run);
            }
        }
    }

    fn unsound(&mut self, finding: Finding, run: Option<(Uuid, i32)>) {
        self.report.add(finding);
        self.incomplete(run);
        self.next += 1;
    }

    /// Texts of scripts, for their replay.
    fn keep(&mut self, part: Part, run: Option<(Uuid, i32)>, body: String) {
        let Some((id, sequence)) = run else { return };
        let Some(record) = self.runs.get_mut(&id) else { return };
        match part {
            Part::Source => record.source = Some(body),
            Part::Journal => drop(record.journal.insert(sequence, body)),
            Part::RunResult => record.result = Some(body),
            Part::RunLogs => record.logs = Some(body),
            Part::RunError => record.error = Some(body),
            Part::Arguments | Part::Result | Part::Prompt | Part::Answer => {}
        }
    }

    /// What a chunk commits to and does not hold.
    pub(super) fn end_payloads(&mut self) {
        let name = format!("{}/payloads", self.chunk.prefix);
        while self.next < self.expected.len() {
            self.lost(Problem::Truncated, &name, None);
        }
        (self.next, self.expected) = (0, Vec::new());
        self.dubious.clear();
    }

    /// The scripts that ended in this chunk, run again.
    pub(super) fn end_runs(&mut self) {
        for id in std::mem::take(&mut self.ended) {
            let Some(mut run) = self.runs.remove(&id) else { continue };
            run.catalog = run.catalog_sha256.and_then(|hash| self.catalogs.get(&hash).cloned());
            if run.incomplete || run.catalog.is_none() || run.source.is_none() {
                self.report.not_replayable += 1;
                continue;
            }
            let Some(replay) = &mut self.replay else { continue };
            match replay.replay(&run) {
                Ok(()) => self.report.replayed += 1,
                Err(text) => self.report.add(Finding {
                    problem: Problem::Replay,
                    file: format!("{}/entries.ndjson", self.chunk.prefix),
                    line: None,
                    position: None,
                    row: Some(run.id),
                    text,
                }),
            }
        }
    }
}
