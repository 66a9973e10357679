//! Bundles: a run of a tenant's seals in one archive (tar, zstd), with everything that it takes to check them and nothing that
//! has to be asked for.
//!
//! ```text
//! README.txt                      how to check it by hand
//! keys.json                       the public keys
//! erasures/000001/proof.json      that an erasure stands in the log, for each that took something out of these rows
//! erasures/000001/erased-0001.ndjson ...   what it took, one payload a line: root over them = the one in its event
//! chunks/000001/seals.ndjson      one signed seal a line
//! chunks/000001/leaves.txt        the leaf of each entry, one a line: root over them = the seals' roots
//! chunks/000001/entries.ndjson    the lines of the log; SHA-256(0x00 || line) = the leaf
//! chunks/000001/catalogs.ndjson   catalogues of scripts that begin in this chunk
//! chunks/000001/payloads-0001.ndjson ...   the payloads, in the order in which the entries commit to them
//! ...
//! proof.json                      that the last seal here is the beginning of the log as it was when the bundle was made
//! manifest.json, manifest.sig     every file with its size and SHA-256; signed
//! ```
//!
//! Each file fits into memory; the archive as a whole never has to.

mod chunk;
mod report;
mod verify;
mod write;

use serde::{Deserialize, Serialize};
use tollgate_domain::TenantId;

pub use report::{Finding, Problem, Report};
pub use verify::{Replay, RunRecord, Trust, verify, verify_beside};
pub use write::Writer;

use crate::{Hash, line::Part, sign::PublicKey};

/// The number of this format; it changes when a verifier of before would not understand it.
pub const VERSION: u32 = 1;
/// Entries after which a chunk ends with the seal that it is in.
pub const CHUNK: usize = 4096;
/// The largest file that a verifier reads, in bytes.
pub const MAX_FILE: u64 = 256 << 20;
/// The most lines of one, far more than a chunk has entries.
pub const MAX_LINES: usize = 1 << 20;

pub const README: &str = "README.txt";
pub const KEYS: &str = "keys.json";
/// In front of the names of what is said of erasures.
pub(crate) const ERASURES: &str = "erasures/";
pub const PROOF: &str = "proof.json";
pub const MANIFEST: &str = "manifest.json";
pub const SIGNATURE: &str = "manifest.sig";

/// What stands in `keys.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keys {
    pub keys: Vec<PublicKey>,
}

/// One line of a payload file: what the entry at `position` committed to as `part`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PayloadLine {
    pub position: u64,
    pub part: Part,
    pub content: Content,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Content {
    /// The salt in hex, and the text.
    Text { salt: String, body: String },
    /// The same for bytes that are not UTF-8: hex.
    Bytes { salt: String, body: String },
    /// Taken away on purpose, by this erasure.
    Erased { erasure_id: String },
    /// Neither stored nor erased: lost.
    Missing,
}

/// One line of a catalogue file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CatalogLine {
    pub sha256: Hash,
    /// JSON text.
    pub body: String,
}

/// What stands in `manifest.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub format: String,
    pub version: u32,
    pub tenant_id: TenantId,
    pub created_at: String,
    /// The seals in it; both 0 when there are none.
    pub first_seal: u64,
    pub last_seal: u64,
    pub entries: u64,
    pub key_id: String,
    /// In the order of the archive.
    pub files: Vec<FileEntry>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    pub name: String,
    pub bytes: u64,
    pub sha256: Hash,
}

/// What the manifest's signature covers.
#[must_use]
pub fn manifest_message(manifest: &[u8]) -> Vec<u8> {
    [b"tollgate-bundle-v1\n".as_slice(), manifest].concat()
}

pub(crate) const README_TEXT: &str = "\
This archive holds a run of one tenant's audit log. `tollgate verify <archive>` checks all of it without network or database. By hand:

1. keys.json: compare the public keys with the ones that you were given on another way.
2. manifest.sig: Ed25519 over the text `tollgate-bundle-v1`, a line break and the bytes of manifest.json. Each file named in the
   manifest has the SHA-256 that stands there.
3. Each seal (chunks/*/seals.ndjson): `signature` is Ed25519 over `tollgate-seal-v1`, a line break, and the JSON of `seal` as it
   stands in the line. `previous` is the SHA-256 of the JSON of the seal before, `first` its first + count.
4. Each line of chunks/*/entries.ndjson is a row: SHA-256 over a zero byte and the line (without its line break) is the line of
   the same number in leaves.txt. The RFC 6962 root over the `count` leaves of a seal is the seal's `root`.
5. chunks/*/payloads-*.ndjson: `content.text` has a `salt` (hex) and a `body`; SHA-256 over the salt's bytes and the body's is the
   `sha256` to which the row commits (or its `kept.redacted` hash, where a redacted copy was stored). `content.bytes` is the same
   with the body in hex; `content.erased` names the erasure that took it away (see 7). A payload that was never kept has no line.
6. `tree` is the RFC 6962 root over all of the tenant's seals up to this one. A seal's leaf is SHA-256 over a zero byte and the JSON of
   `seal` without its last two fields, `tree` and `key_id`. proof.json leads from the last seal here to the newest one of then,
   by a consistency proof (RFC 6962, 2.1.2) between trees of `sequence` leaves.
7. erasures/*/proof.json proves that an admin event (`line`) stands in the log: its leaf is SHA-256 over a zero byte and the line,
   `path` leads from it to the root of `seal`, `seal_path` from the seal's leaf to `tree` of `head` (RFC 6962, 2.1.1). `erased.root`
   in its detail is the RFC 6962 root over the lines of erased-*.ndjson beside it, and `erased.signature` is Ed25519 over
   `tollgate-erasure-v1`, a line break, and tenant, erasure, number of lines and root with blanks between them. A payload whose
   `content` is `erased` must stand in the list of that erasure.
8. chunks/*/catalogs.ndjson: what scripts could call; SHA-256 over `body` is the `catalog_sha256` of their start.
";
