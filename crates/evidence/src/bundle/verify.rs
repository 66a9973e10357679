//! Checking a bundle, in one pass over the archive, without anything else.

mod erasures;
mod payloads;
mod seals;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    io::{self, Read},
};

use serde::de::DeserializeOwned;
use uuid::Uuid;

use erasures::Erasures;
use payloads::Expected;
pub use payloads::{Replay, RunRecord};

use super::{
    ERASURES, FileEntry, KEYS, MANIFEST, MAX_FILE, MAX_LINES, Manifest, PROOF, README, SIGNATURE, VERSION,
    chunk::Chunk,
    manifest_message,
    report::{Finding, Problem, Report},
};
use crate::{
    Hash,
    anchor::Anchors,
    hash::from_hex,
    line,
    merkle::{self, Nodes},
    seal::SignedSeal,
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

/// Check a bundle.
///
/// # Errors
/// When it cannot be read at all: no archive, or an input that fails. An archive that ends early is a finding.
pub fn verify(archive: impl Read, trust: Trust, replay: Option<&mut dyn Replay>) -> io::Result<Report> {
    verify_beside(archive, trust, replay, None)
}

/// Check a bundle, and its seals against those that an anchor holds.
///
/// # Errors
/// See [`verify`].
pub fn verify_beside<'a>(
    archive: impl Read,
    trust: Trust,
    replay: Option<&'a mut dyn Replay>,
    anchors: Option<&'a Anchors>,
) -> io::Result<Report> {
    let mut tar = tar::Archive::new(zstd::Decoder::new(archive)?);
    let mut verifier = Verifier { trust, replay, anchors, ..Verifier::default() };
    let mut last = String::from("the archive");
    // Raw: a bundle has short names and plain files, so whatever tar would make of other headers is no part of one.
    for entry in tar.entries()?.raw(true) {
        let read = entry.and_then(|mut entry| {
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            if !entry.header().entry_type().is_file() {
                return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{name} is no plain file")));
            }
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
            // A disk or a network that fails says nothing of the bundle.
            Err(error) if error.raw_os_error().is_some() => return Err(error),
            // Behind this nothing can be read: the file that is missing is the one after it.
            Err(error) => {
                verifier.whole(Problem::Truncated, &last, format!("the archive cannot be read behind this file: {error}"));
                return Ok(verifier.finish());
            }
        }
    }
    if !is_blank(tar.into_inner())? {
        verifier.whole(Problem::Added, &last, "something stands behind the end of the archive");
    }
    Ok(verifier.finish())
}

/// Whether nothing but zeros is left.
fn is_blank(mut rest: impl Read) -> io::Result<bool> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match rest.read(&mut buffer) {
            Ok(0) => return Ok(true),
            Ok(read) if buffer[..read].iter().all(|byte| *byte == 0) => {}
            Ok(_) => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.raw_os_error().is_some() => return Err(error),
            // What cannot be unpacked is no blank.
            Err(_) => return Ok(false),
        }
    }
}

#[derive(Default)]
struct Verifier<'a> {
    trust: Trust,
    replay: Option<&'a mut dyn Replay>,
    anchors: Option<&'a Anchors>,
    keys: Vec<PublicKey>,
    files: Vec<FileEntry>,
    chunk: Chunk,
    /// The entries of the chunk have been compared with its seals.
    checked: bool,
    last: Option<SignedSeal>,
    /// The newest seal of the log when the bundle was made.
    head: Option<SignedSeal>,
    /// The tree over the seals, where the bundle begins with the first.
    nodes: Option<Nodes>,
    erasures: Erasures,
    expected: Vec<Expected>,
    next: usize,
    /// Positions whose rows are not sound: their payloads prove nothing.
    dubious: HashSet<u64>,
    runs: HashMap<Uuid, RunRecord>,
    ended: Vec<Uuid>,
    /// Those that scripts ran against, and those that are here. Their texts only where scripts are run again.
    named_catalogs: BTreeMap<Hash, String>,
    known_catalogs: HashSet<Hash>,
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
        if self.ended_by_manifest && (name != SIGNATURE || self.signature_seen) {
            return self.whole(Problem::Added, name, "nothing may follow the manifest but its one signature");
        }
        if content.iter().filter(|byte| **byte == b'\n').count() > MAX_LINES {
            return self.whole(
                Problem::Added,
                name,
                format!("this file has more than {MAX_LINES} lines, and those of a bundle have fewer"),
            );
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
            Some((prefix, "proof.json")) if prefix.starts_with(ERASURES) => self.take_erasure(prefix, name, content),
            Some((prefix, file)) if prefix.starts_with(ERASURES) && file.starts_with("erased-") => {
                self.take_erased(prefix, name, content);
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
        for (hash, run) in std::mem::take(&mut self.named_catalogs) {
            if !self.known_catalogs.contains(&hash) {
                let name = format!("{}/catalogs.ndjson", self.chunk.prefix);
                self.whole(Problem::Removed, &name, format!("the catalogue {hash} that {run} ran against is missing"));
            }
        }
        self.end_payloads();
        self.end_runs();
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
        self.end_erasure();
        self.end_chunk();
        match self.manifest.take() {
            None if self.report.findings.iter().any(|f| f.file == MANIFEST) => {}
            None => self.whole(Problem::Truncated, MANIFEST, "the archive ends without its manifest"),
            Some(_) if !self.signed => {
                self.whole(Problem::Signature, MANIFEST, "manifest.sig is not the signature of a trusted key over this manifest");
            }
            Some((manifest, _)) => self.compare(&manifest),
        }
        self.anchored();
        self.report.signed_by = std::mem::take(&mut self.met).into_iter().collect();
        self.report
    }

    /// The archive against its signed manifest: whatever the rows could not show.
    fn compare(&mut self, manifest: &Manifest) {
        self.report.created_at = Some(manifest.created_at.clone());
        self.report.tenant_id.get_or_insert_with(|| manifest.tenant_id.to_string());
        let files = std::mem::take(&mut self.files);
        let mut by_name = HashMap::with_capacity(files.len());
        for file in &files {
            by_name.entry(&file.name).or_insert(file);
        }
        for (number, listed) in manifest.files.iter().enumerate() {
            match by_name.get(&listed.name).copied() {
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
