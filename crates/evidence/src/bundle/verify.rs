//! Checking a bundle, in one pass over the archive, without anything else.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    io::{self, Read},
};

use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::{
    CatalogLine, Content, FileEntry, KEYS, Keys, MANIFEST, MAX_FILE, Manifest, PROOF, PayloadLine, README, SIGNATURE, VERSION,
    chunk::Chunk,
    manifest_message,
    report::{Finding, Problem, Report},
};
use crate::{
    Hash,
    hash::from_hex,
    line::{self, Commitment, Kept, Line, Part},
    merkle::{self, Nodes},
    seal::{ConsistencyProof, SignedSeal},
    sign::PublicKey,
};

/// Whose signatures count.
#[derive(Debug, Clone, Default)]
pub enum Trust {
    /// The keys in the bundle. The report names them: compare them with what you were given on another way.
    #[default]
    InBundle,
    /// These public keys (64 hex digits) or names of keys (16) alone.
    Only(Vec<String>),
}

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

/// Check a bundle.
///
/// # Errors
/// When it cannot be read at all: no archive, or an input that fails. An archive that ends early is a finding.
pub fn verify(archive: impl Read, trust: Trust, replay: Option<&mut dyn Replay>) -> io::Result<Report> {
    let mut tar = tar::Archive::new(zstd::Decoder::new(archive)?);
    let mut verifier = Verifier { trust, replay, ..Verifier::default() };
    let mut last = String::from("the archive");
    for entry in tar.entries()? {
        let read = entry.and_then(|mut entry| {
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            if entry.size() > MAX_FILE {
                return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{name} is larger than a bundle's files are")));
            }
            let mut content = Vec::new();
            entry.read_to_end(&mut content)?;
            Ok((name, content))
        });
        match read {
            Ok((name, content)) => {
                verifier.file(&name, &content);
                last = name;
            }
            Err(error) if verifier.files.is_empty() && error.kind() != io::ErrorKind::UnexpectedEof => return Err(error),
            // Behind this nothing can be read: the file that is missing is the one after it.
            Err(error) => {
                verifier.whole(Problem::Truncated, &last, format!("the archive cannot be read behind this file: {error}"));
                break;
            }
        }
    }
    Ok(verifier.finish())
}

/// A payload that is still to come.
struct Expected {
    position: u64,
    part: Part,
    commitment: Commitment,
    row: String,
    /// Of a script: its run, and of its journal the sequence.
    run: Option<(Uuid, i32)>,
}

#[derive(Default)]
struct Verifier<'a> {
    trust: Trust,
    replay: Option<&'a mut dyn Replay>,
    keys: Vec<PublicKey>,
    files: Vec<FileEntry>,
    chunk: Chunk,
    /// The entries of the chunk have been compared with its seals.
    checked: bool,
    last: Option<SignedSeal>,
    /// The tree over the seals, where the bundle begins with the first.
    nodes: Option<Nodes>,
    expected: Vec<Expected>,
    next: usize,
    /// Positions whose rows are not sound: their payloads prove nothing.
    dubious: HashSet<u64>,
    runs: HashMap<Uuid, RunRecord>,
    ended: Vec<Uuid>,
    catalogs: HashMap<Hash, String>,
    manifest: Option<(Manifest, Vec<u8>)>,
    ended_by_manifest: bool,
    signature_seen: bool,
    signed: bool,
    met: BTreeSet<String>,
    report: Report,
}

impl Verifier<'_> {
    fn whole(&mut self, problem: Problem, file: &str, text: impl Into<String>) {
        self.at(problem, file, None, text);
    }

    fn at(&mut self, problem: Problem, file: &str, line: Option<usize>, text: impl Into<String>) {
        self.report.add(Finding { problem, file: file.to_owned(), line, position: None, row: None, text: text.into() });
    }

    fn file(&mut self, name: &str, content: &[u8]) {
        // The manifest and its signature end the archive, once: a second one would speak for what the first does not name.
        if self.ended_by_manifest && !(name == SIGNATURE && !self.signature_seen) {
            return self.whole(Problem::Added, name, "nothing may follow the manifest but its one signature");
        }
        let bytes = u64::try_from(content.len()).unwrap_or(u64::MAX);
        let entry = FileEntry { name: name.to_owned(), bytes, sha256: Hash::of(&[content]) };
        match name.rsplit_once('/') {
            None if name == README => {}
            None if name == KEYS => self.take_keys(content),
            None if name == PROOF => self.take_proof(content),
            None if name == MANIFEST => {
                self.ended_by_manifest = true;
                return self.take_manifest(content);
            }
            None if name == SIGNATURE => {
                self.signature_seen = true;
                return self.take_signature(content);
            }
            Some((prefix, "seals.ndjson")) => self.take_seals(prefix, name, content),
            Some((prefix, "leaves.txt")) if prefix == self.chunk.prefix => self.take_leaves(name, content),
            Some((prefix, "entries.ndjson")) if prefix == self.chunk.prefix => self.take_entries(content),
            Some((prefix, "catalogs.ndjson")) if prefix == self.chunk.prefix => self.take_catalogs(name, content),
            Some((prefix, file)) if prefix == self.chunk.prefix && file.starts_with("payloads-") => {
                self.take_payloads(name, content)
            }
            _ => self.whole(Problem::Added, name, "a bundle has no such file here"),
        }
        self.files.push(entry);
    }

    fn take_keys(&mut self, content: &[u8]) {
        let Some(Keys { keys }) = exact(content) else {
            return self.whole(Problem::Edited, KEYS, "these are not the keys of a bundle");
        };
        for key in &keys {
            if key.raw().is_none() {
                self.whole(Problem::Edited, KEYS, format!("key {} is not the one that its name says", key.key_id));
            }
        }
        self.keys = match &self.trust {
            Trust::InBundle => keys,
            Trust::Only(named) => {
                let named = |key: &PublicKey| named.iter().any(|name| *name == key.public_key || *name == key.key_id);
                keys.into_iter().filter(named).collect()
            }
        };
    }

    fn is_signed(&mut self, signed: &SignedSeal) -> bool {
        let Some(key) = self.keys.iter().find(|key| signed.is_signed_by(key)) else { return false };
        self.met.insert(format!("{key:?}"));
        true
    }

    fn take_seals(&mut self, prefix: &str, name: &str, content: &[u8]) {
        if !self.files.iter().any(|file| file.name == KEYS) && self.last.is_none() {
            self.whole(Problem::Removed, KEYS, "the keys are missing: no signature can be checked");
        }
        self.end_chunk();
        self.chunk = Chunk { prefix: prefix.to_owned(), ..Chunk::default() };
        for (number, text) in lines(content).enumerate() {
            let place = Some(number + 1);
            let Some(signed) = exact::<SignedSeal>(text) else {
                self.at(Problem::Edited, name, place, "this is no seal");
                continue;
            };
            if !self.is_signed(&signed) {
                let why = match self.keys.iter().any(|key| key.key_id == signed.seal.key_id) {
                    true => "the signature does not hold: the seal is not what was signed",
                    false => "it is signed with a key that is not trusted",
                };
                self.at(Problem::Signature, name, place, format!("seal {}: {why}", signed.seal.sequence));
            }
            self.follow(name, place, &signed);
            if self.report.first_seal == 0 {
                self.report.first_seal = signed.seal.sequence;
                self.report.tenant_id = Some(signed.seal.tenant_id.to_string());
            }
            self.report.last_seal = signed.seal.sequence;
            self.last = Some(signed.clone());
            self.chunk.seals.push(signed);
        }
    }

    /// Whether a seal continues the one before.
    fn follow(&mut self, name: &str, place: Option<usize>, signed: &SignedSeal) {
        let seal = &signed.seal;
        let Some(before) = self.last.as_ref().map(|signed| &signed.seal) else {
            let beginning = seal.sequence == 1;
            self.nodes = beginning.then(Nodes::default);
            if beginning && (seal.first != 0 || seal.previous != Hash::ZERO) {
                self.at(Problem::Edited, name, place, "the first seal does not begin the log");
            }
            return self.grow(name, place, signed);
        };
        let problem = if seal.tenant_id != before.tenant_id {
            Some((Problem::Foreign, "this seal belongs to another tenant".to_owned()))
        } else if seal.sequence > before.sequence + 1 {
            let text = format!("seal {} follows seal {}: what lies between is missing", seal.sequence, before.sequence);
            Some((Problem::Removed, text))
        } else if seal.sequence <= before.sequence {
            Some((Problem::Reordered, format!("seal {} stands behind seal {}", seal.sequence, before.sequence)))
        } else if seal.previous != before.hash() || seal.first != before.end() {
            Some((
                Problem::Edited,
                format!("seal {} does not continue seal {} as it stands here", seal.sequence, before.sequence),
            ))
        } else {
            None
        };
        match problem {
            Some((problem, text)) => self.at(problem, name, place, text),
            None => self.grow(name, place, signed),
        }
    }

    fn grow(&mut self, name: &str, place: Option<usize>, signed: &SignedSeal) {
        let seal = &signed.seal;
        let Some(nodes) = &mut self.nodes else { return };
        let grown = nodes.append(seal.sequence - 1, seal.leaf()).is_some();
        if !grown || nodes.root_of((0, seal.sequence)) != Some(seal.tree) {
            let text = format!("the tree that seal {} names is not the one over the seals up to it", seal.sequence);
            self.nodes = None;
            self.at(Problem::Edited, name, place, text);
        }
    }

    fn take_leaves(&mut self, name: &str, content: &[u8]) {
        for (number, text) in lines(content).enumerate() {
            match std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()) {
                Some(leaf) => self.chunk.leaves.push(leaf),
                None => {
                    self.at(Problem::Edited, name, Some(number + 1), "this is no leaf");
                    self.chunk.leaves.push(Hash::ZERO);
                }
            }
        }
    }

    fn take_entries(&mut self, content: &[u8]) {
        self.checked = true;
        self.chunk.lines = lines(content).map(<[u8]>::to_vec).collect();
        let (sound, findings) = self.chunk.check();
        self.report.entries += sound;
        findings.into_iter().for_each(|finding| self.report.add(finding));
        let chunk = std::mem::take(&mut self.chunk);
        for (at, bytes) in chunk.lines.iter().enumerate() {
            let position = chunk.position(at);
            match line::parse(bytes).filter(|_| chunk.leaves.get(at) == Some(&merkle::leaf(bytes))) {
                Some(row) => self.expect(position, &row),
                None => drop(self.dubious.insert(position)),
            }
        }
        self.dubious.extend((chunk.lines.len()..chunk.leaves.len()).map(|at| chunk.position(at)));
        self.chunk = Chunk { lines: Vec::new(), ..chunk };
    }

    fn expect(&mut self, position: u64, row: &Line<'_>) {
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
                if self.replay.is_some() {
                    self.runs.insert(start.id.uuid(), record);
                }
                Some((start.id.uuid(), 0))
            }
            Line::ScriptJournal(journal) => Some((journal.id.uuid(), journal.sequence)),
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
            self.expected.push(Expected { position, part, commitment, row: row.name(), run });
        }
    }

    fn incomplete(&mut self, run: Option<(Uuid, i32)>) {
        if let Some(record) = run.and_then(|(id, _)| self.runs.get_mut(&id)) {
            record.incomplete = true;
        }
    }

    fn take_catalogs(&mut self, name: &str, content: &[u8]) {
        for (number, text) in lines(content).enumerate() {
            match exact::<CatalogLine>(text) {
                Some(catalog) if Hash::of(&[catalog.body.as_bytes()]) == catalog.sha256 => {
                    if self.replay.is_some() {
                        self.catalogs.insert(catalog.sha256, catalog.body);
                    }
                }
                _ => self.at(Problem::Edited, name, Some(number + 1), "this catalogue is not the one of its hash"),
            }
        }
    }

    fn take_payloads(&mut self, name: &str, content: &[u8]) {
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
        let (commitment, part, run) = (expected.commitment, expected.part, expected.run);
        let wrong = |problem, text: &str| Finding {
            problem,
            file: name.to_owned(),
            line,
            position: Some(expected.position),
            row: Some(expected.row.clone()),
            text: text.to_owned(),
        };
        let (salt, body) = match &payload.content {
            Content::Text { salt, body } => (salt, Some(body.as_bytes().to_vec())),
            Content::Bytes { salt, body } => (salt, from_hex(body)),
            Content::Erased { .. } => {
                self.report.erased += 1;
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
            Part::Arguments | Part::Result => {}
        }
    }

    fn end_chunk(&mut self) {
        // Seals without their entries are no proof of anything.
        let checked = std::mem::take(&mut self.checked);
        if !self.chunk.seals.is_empty() && !checked {
            let name = format!("{}/entries.ndjson", self.chunk.prefix);
            self.whole(Problem::Removed, &name, "the entries under these seals are missing");
        }
        if !self.chunk.prefix.is_empty() {
            self.chunk.seals.clear();
        }
        let name = format!("{}/payloads", self.chunk.prefix);
        while self.next < self.expected.len() {
            self.lost(Problem::Truncated, &name, None);
        }
        (self.next, self.expected) = (0, Vec::new());
        self.dubious.clear();
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

    fn take_proof(&mut self, content: &[u8]) {
        self.end_chunk();
        let Some(proof) = exact::<ConsistencyProof>(content) else {
            return self.whole(Problem::Edited, PROOF, "this is no proof");
        };
        if !self.is_signed(&proof.to) || !self.is_signed(&proof.from) {
            self.whole(Problem::Signature, PROOF, "a seal of the proof is not signed by a trusted key");
        } else if Some(&proof.from) != self.last.as_ref() || !proof.holds() {
            self.whole(
                Problem::Edited,
                PROOF,
                "the last seal is not shown to be the beginning of the log as it was when this was made",
            );
        }
    }

    fn take_manifest(&mut self, content: &[u8]) {
        self.end_chunk();
        match exact::<Manifest>(content) {
            Some(manifest) if manifest.format == "tollgate-bundle" && manifest.version == VERSION => {
                self.manifest = Some((manifest, content.to_vec()));
            }
            Some(_) => {
                self.whole(Problem::Edited, MANIFEST, format!("not a bundle of version {VERSION}: use the tollgate that made it"))
            }
            None => self.whole(Problem::Edited, MANIFEST, "this is no manifest"),
        }
    }

    fn take_signature(&mut self, content: &[u8]) {
        let Some((manifest, bytes)) = &self.manifest else { return };
        let signature = std::str::from_utf8(content).ok().and_then(from_hex).unwrap_or_default();
        let key = self.keys.iter().find(|key| key.key_id == manifest.key_id);
        self.signed = key.is_some_and(|key| key.verifies(&manifest_message(bytes), &signature));
        if let Some(key) = key.filter(|_| self.signed) {
            self.met.insert(format!("{key:?}"));
        }
    }

    fn finish(mut self) -> Report {
        self.end_chunk();
        match self.manifest.take() {
            None if self.report.findings.iter().any(|f| f.file == MANIFEST) => {}
            None => self.whole(Problem::Truncated, MANIFEST, "the archive ends without its manifest"),
            Some(_) if !self.signed => {
                self.whole(Problem::Signature, MANIFEST, "manifest.sig is not the signature of a trusted key over this manifest");
            }
            Some((manifest, _)) => self.compare(&manifest),
        }
        self.report.signed_by = std::mem::take(&mut self.met).into_iter().collect();
        self.report
    }

    /// The archive against its signed manifest: whatever the rows could not show.
    fn compare(&mut self, manifest: &Manifest) {
        self.report.created_at = Some(manifest.created_at.clone());
        self.report.tenant_id.get_or_insert_with(|| manifest.tenant_id.to_string());
        let files = std::mem::take(&mut self.files);
        for (number, listed) in manifest.files.iter().enumerate() {
            match files.iter().find(|file| file.name == listed.name) {
                None => self.whole(Problem::Removed, &listed.name, "the manifest names this file, and it is missing"),
                Some(file) if file != listed && !self.report.findings.iter().any(|f| f.file == listed.name) => {
                    self.whole(Problem::Edited, &listed.name, "this file is not the one that the manifest names");
                }
                Some(_)
                    if files.get(number).map(|file| &file.name) != Some(&listed.name) && files.len() == manifest.files.len() =>
                {
                    self.whole(Problem::Reordered, &listed.name, "this file stands in another place");
                }
                Some(_) => {}
            }
        }
        let known: HashSet<&String> = manifest.files.iter().map(|file| &file.name).collect();
        let mut seen = HashSet::new();
        for file in &files {
            if !known.contains(&file.name) || !seen.insert(&file.name) {
                self.whole(Problem::Added, &file.name, "the manifest does not name this file");
            }
        }
        if manifest.last_seal > self.report.last_seal {
            let text =
                format!("the bundle holds the seals up to {}; these end with {}", manifest.last_seal, self.report.last_seal);
            self.whole(Problem::Truncated, MANIFEST, text);
        }
        if self.report.tenant_id.as_ref().is_some_and(|tenant| *tenant != manifest.tenant_id.to_string()) {
            self.whole(Problem::Foreign, MANIFEST, "the manifest belongs to another tenant's bundle");
        }
    }
}

/// Lines, each with its line break: what stands behind the last one is a line that lost it, and no longer the same text.
fn lines(content: &[u8]) -> impl Iterator<Item = &[u8]> {
    content.split_inclusive(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\n").unwrap_or(line))
}

/// JSON in exactly the form in which it is written.
fn exact<T: DeserializeOwned + serde::Serialize>(bytes: &[u8]) -> Option<T> {
    let value: T = serde_json::from_slice(bytes).ok()?;
    (serde_json::to_vec(&value).ok()? == bytes).then_some(value)
}
