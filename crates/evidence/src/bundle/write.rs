//! Writing a bundle, file by file; what has been written can be taken away at any time.

use std::io;

use chrono::{DateTime, SecondsFormat, Utc};
use tollgate_domain::TenantId;

use super::{
    CatalogLine, Content, ERASURES, FileEntry, KEYS, Keys, MANIFEST, Manifest, PROOF, PayloadLine, README, README_TEXT,
    SIGNATURE, VERSION, manifest_message,
};
use crate::{
    Hash,
    erasure::Erased,
    hash::to_hex,
    line::Part,
    seal::{ConsistencyProof, InclusionProof, SignedSeal},
    sign::{PublicKey, Signer},
};

/// Lines of one file, about.
const FILE: usize = 8 << 20;
const LEVEL: i32 = 3;

/// A bundle under way.
pub struct Writer {
    tar: tar::Builder<zstd::Encoder<'static, Vec<u8>>>,
    created_at: DateTime<Utc>,
    files: Vec<FileEntry>,
    erasure: u32,
    chunk: u32,
    /// The lines of a list or of a payload file that is not written yet.
    waiting: Vec<u8>,
    /// Of the list or the chunk that is under way.
    numbered: u32,
    first_seal: u64,
    last_seal: u64,
    entries: u64,
}

impl Writer {
    /// # Errors
    /// Only those of memory.
    pub fn new(keys: &[PublicKey], created_at: DateTime<Utc>) -> io::Result<Self> {
        let tar = tar::Builder::new(zstd::Encoder::new(Vec::new(), LEVEL)?);
        let (files, waiting) = (Vec::new(), Vec::new());
        let mut writer =
            Self { tar, created_at, files, erasure: 0, chunk: 0, waiting, numbered: 0, first_seal: 0, last_seal: 0, entries: 0 };
        writer.file(README, README_TEXT.as_bytes())?;
        writer.file(KEYS, &json(&Keys { keys: keys.to_vec() })?)?;
        Ok(writer)
    }

    /// Begin an erasure with the proof that its event stands in the log. All erasures come before the first chunk.
    ///
    /// # Errors
    /// Only those of memory.
    pub fn erasure(&mut self, proof: &InclusionProof) -> io::Result<()> {
        self.flush()?;
        (self.erasure, self.numbered) = (self.erasure + 1, 0);
        self.file(&self.name("proof.json"), &json(proof)?)
    }

    /// The next payload that the erasure took away, in the order of [`Erased`].
    ///
    /// # Errors
    /// Only those of memory.
    pub fn erased(&mut self, item: &Erased) -> io::Result<()> {
        self.push(&item.line())
    }

    /// Begin a chunk with these seals, the leaves under them and the lines that the leaves hash. Every row that is in the log goes
    /// in: a line that is gone is left out, and the verifier will say so.
    ///
    /// # Errors
    /// Only those of memory.
    pub fn chunk(&mut self, seals: &[SignedSeal], leaves: &[Hash], lines: &[Option<Vec<u8>>]) -> io::Result<()> {
        self.flush()?;
        (self.chunk, self.numbered) = (self.chunk + 1, 0);
        let mut text = Vec::new();
        for seal in seals {
            text.append(&mut json(seal)?);
            text.push(b'\n');
            if self.first_seal == 0 {
                self.first_seal = seal.seal.sequence;
            }
            self.last_seal = seal.seal.sequence;
        }
        self.file(&self.name("seals.ndjson"), &text)?;
        let text: String = leaves.iter().map(|leaf| format!("{leaf}\n")).collect();
        self.file(&self.name("leaves.txt"), text.as_bytes())?;
        let mut text = Vec::new();
        for line in lines.iter().flatten() {
            text.extend_from_slice(line);
            text.push(b'\n');
        }
        self.entries += u64::try_from(leaves.len()).unwrap_or(0);
        self.file(&self.name("entries.ndjson"), &text)
    }

    /// The catalogues of the scripts that begin in the chunk; each once in a bundle.
    ///
    /// # Errors
    /// Only those of memory.
    pub fn catalogs(&mut self, catalogs: &[CatalogLine]) -> io::Result<()> {
        if catalogs.is_empty() {
            return Ok(());
        }
        let mut text = Vec::new();
        for catalog in catalogs {
            text.append(&mut json(catalog)?);
            text.push(b'\n');
        }
        self.file(&self.name("catalogs.ndjson"), &text)
    }

    /// The next payload of the chunk, in the order of the entries and of [`crate::line::Line::commitments`].
    ///
    /// # Errors
    /// Only those of memory.
    pub fn payload(&mut self, position: u64, part: Part, content: Content) -> io::Result<()> {
        self.push(&json(&PayloadLine { position, part, content })?)
    }

    fn push(&mut self, line: &[u8]) -> io::Result<()> {
        self.waiting.extend_from_slice(line);
        self.waiting.push(b'\n');
        if self.waiting.len() >= FILE { self.flush() } else { Ok(()) }
    }

    /// End the file of lines that is under way.
    fn flush(&mut self) -> io::Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        self.numbered += 1;
        let text = std::mem::take(&mut self.waiting);
        let what = if self.chunk > 0 { "payloads" } else { "erased" };
        self.file(&self.name(&format!("{what}-{:04}.ndjson", self.numbered)), &text)
    }

    /// What has been written since the last time.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(self.tar.get_mut().get_mut())
    }

    /// Sign the manifest and end the archive: the rest of its bytes. `proof` leads from the last seal to the newest.
    ///
    /// # Errors
    /// Only those of memory.
    pub fn finish(mut self, tenant: TenantId, proof: Option<&ConsistencyProof>, signer: &Signer) -> io::Result<Vec<u8>> {
        self.flush()?;
        if let Some(proof) = proof {
            self.file(PROOF, &json(proof)?)?;
        }
        let manifest = json(&Manifest {
            format: "tollgate-bundle".to_owned(),
            version: VERSION,
            tenant_id: tenant,
            created_at: self.created_at.to_rfc3339_opts(SecondsFormat::Micros, true),
            first_seal: self.first_seal,
            last_seal: self.last_seal,
            entries: self.entries,
            key_id: signer.public().key_id.clone(),
            files: std::mem::take(&mut self.files),
        })?;
        let signature = to_hex(&signer.sign(&manifest_message(&manifest)));
        self.file(MANIFEST, &manifest)?;
        self.file(SIGNATURE, signature.as_bytes())?;
        self.tar.into_inner()?.finish()
    }

    fn name(&self, file: &str) -> String {
        if self.chunk > 0 { format!("chunks/{:06}/{file}", self.chunk) } else { format!("{ERASURES}{:06}/{file}", self.erasure) }
    }

    fn file(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        let bytes = u64::try_from(content.len()).map_err(io::Error::other)?;
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes);
        header.set_mode(0o644);
        header.set_mtime(u64::try_from(self.created_at.timestamp()).unwrap_or(0));
        self.tar.append_data(&mut header, name, content)?;
        self.files.push(FileEntry { name: name.to_owned(), bytes, sha256: Hash::of(&[content]) });
        Ok(())
    }
}

fn json<T: serde::Serialize>(value: &T) -> io::Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(io::Error::other)
}

impl Content {
    #[must_use]
    pub fn of(salt: &[u8], body: &[u8]) -> Self {
        let salt = to_hex(salt);
        match std::str::from_utf8(body) {
            Ok(text) => Self::Text { salt, body: text.to_owned() },
            Err(_) => Self::Bytes { salt, body: to_hex(body) },
        }
    }
}
