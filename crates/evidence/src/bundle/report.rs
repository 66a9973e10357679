//! What a verifier found.

use std::fmt;

use serde::Serialize;

use crate::anchor::Covered;

/// What is wrong, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Problem {
    /// It is not what was signed.
    Edited,
    /// It was in the log and is not here.
    Removed,
    /// It is here and was not in the log.
    Added,
    /// It stands in another place.
    Reordered,
    /// It ends too early.
    Truncated,
    /// It belongs to another tenant.
    Foreign,
    /// A signature does not hold, or its key is not one to be trusted.
    Signature,
    /// It is not what was written down outside.
    Contradicted,
    /// The installation itself saw, as it sealed them, that rows were not what their writer had signed, or that some were missing.
    Anomaly,
    /// A script does not give again what was recorded of it.
    Replay,
}

/// One thing that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub problem: Problem,
    /// In the archive.
    pub file: String,
    /// From 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// In the tenant's log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<u64>,
    /// The row's id, where it can be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub row: Option<String>,
    pub text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file)?;
        if let Some(line) = self.line {
            write!(f, ", line {line}")?;
        }
        if let Some(position) = self.position {
            write!(f, ", position {position}")?;
        }
        if let Some(row) = &self.row {
            write!(f, ", {row}")?;
        }
        write!(f, ": {}", self.text)
    }
}

/// What was checked, and what is wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    pub tenant_id: Option<String>,
    pub created_at: Option<String>,
    pub first_seal: u64,
    pub last_seal: u64,
    /// Rows that are what was signed.
    pub entries: u64,
    pub payloads: u64,
    pub redacted: u64,
    pub omitted: u64,
    /// Payloads that are missing, and that a sealed erasure names.
    pub erased: u64,
    /// Erasures whose lists are what was sealed.
    pub erasures: u64,
    pub scripts: u64,
    pub replayed: u64,
    /// Scripts that cannot be replayed because one of their texts was not kept as it was.
    pub not_replayable: u64,
    /// The keys whose signatures were met, `ed25519:<hex>`.
    pub signed_by: Vec<String>,
    /// In the order of the archive; the first is the first thing that is wrong. At most 100.
    pub findings: Vec<Finding>,
    /// There are more.
    pub more_findings: bool,
    /// What an anchor was compared with, if there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub anchored: Option<Covered>,
}

impl Report {
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }

    pub(super) fn add(&mut self, finding: Finding) {
        if self.findings.len() < 100 {
            self.findings.push(finding);
        } else {
            self.more_findings = true;
        }
    }
}
