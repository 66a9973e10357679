//! Seals: a tenant's log up to here, signed.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tollgate_domain::TenantId;

use crate::{Hash, hash::from_hex, merkle, sign::PublicKey};

/// One seal. Its canonical JSON ([`Self::line`]) is what is signed, and what the next seal's `previous` hashes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seal {
    pub tenant_id: TenantId,
    /// From 1, without a gap.
    pub sequence: u64,
    /// Position of the first entry in the tenant's log, from 0; the entry after the last of the seal before.
    pub first: u64,
    pub count: u32,
    /// RFC 6962 root over the leaves of its entries.
    pub root: Hash,
    /// SHA-256 of the line of the seal before; zeros before the first.
    pub previous: Hash,
    #[serde(with = "crate::time")]
    pub sealed_at: DateTime<Utc>,
    /// RFC 6962 root of the tree whose leaves are the [`Self::leaf`]s of the tenant's seals up to this one.
    pub tree: Hash,
    /// Who signed.
    pub key_id: String,
}

/// A seal with its signature, as it stands in the API and in bundles.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedSeal {
    pub seal: Seal,
    /// Ed25519 over `tollgate-seal-v1`, a line break, and the seal's line; 128 hex digits.
    pub signature: String,
}

impl Seal {
    /// The canonical JSON.
    #[must_use]
    pub fn line(&self) -> Vec<u8> {
        // Text keys, integers and strings: it cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// What the next seal names as its `previous`.
    #[must_use]
    pub fn hash(&self) -> Hash {
        Hash::of(&[&self.line()])
    }

    /// The seal as a leaf of the tree over seals: all that precedes the tree's own root.
    #[must_use]
    pub fn leaf(&self) -> Hash {
        let Self { tenant_id, sequence, first, count, root, previous, sealed_at, .. } = self;
        let body = Body { tenant_id, sequence, first, count, root, previous, sealed_at };
        merkle::leaf(&serde_json::to_vec(&body).unwrap_or_default())
    }

    /// What the signature covers.
    #[must_use]
    pub fn message(&self) -> Vec<u8> {
        [b"tollgate-seal-v1\n".as_slice(), &self.line()].concat()
    }

    /// The position after its last entry.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.first.saturating_add(u64::from(self.count))
    }
}

#[derive(Serialize)]
struct Body<'a> {
    tenant_id: &'a TenantId,
    sequence: &'a u64,
    first: &'a u64,
    count: &'a u32,
    root: &'a Hash,
    previous: &'a Hash,
    #[serde(serialize_with = "crate::time::serialize")]
    sealed_at: &'a DateTime<Utc>,
}

impl SignedSeal {
    #[must_use]
    pub fn is_signed_by(&self, key: &PublicKey) -> bool {
        key.key_id == self.seal.key_id
            && from_hex(&self.signature).is_some_and(|signature| key.verifies(&self.seal.message(), &signature))
    }
}

/// That a row stands in the log: from its line to the signed root of a seal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InclusionProof {
    /// The canonical line; its leaf is SHA-256 over a zero byte and these bytes.
    pub line: String,
    pub position: u64,
    /// From the leaf to `seal.root`, after RFC 6962.
    pub path: Vec<Hash>,
    /// The seal that holds it.
    pub seal: SignedSeal,
    /// From the seal's leaf to `head.tree`.
    pub seal_path: Vec<Hash>,
    /// The newest seal when the proof was made.
    pub head: SignedSeal,
}

impl InclusionProof {
    /// Whether the proof holds under `keys`.
    ///
    /// # Errors
    /// What does not.
    pub fn check(&self, keys: &[PublicKey]) -> Result<(), &'static str> {
        let (seal, head) = (&self.seal.seal, &self.head.seal);
        for signed in [&self.seal, &self.head] {
            if !keys.iter().any(|key| signed.is_signed_by(key)) {
                return Err("a seal is not signed by a known key");
            }
        }
        let leaf = merkle::leaf(self.line.as_bytes());
        let index = self.position.checked_sub(seal.first).ok_or("the position lies before the seal")?;
        if merkle::climb(leaf, index, u64::from(seal.count), &self.path) != Some(seal.root) {
            return Err("the line is not under the seal's root");
        }
        if merkle::climb(seal.leaf(), seal.sequence - 1, head.sequence, &self.seal_path) != Some(head.tree) {
            return Err("the seal is not under the head's tree");
        }
        if seal.tenant_id != head.tenant_id {
            return Err("the seals belong to different tenants");
        }
        Ok(())
    }
}

/// That the log at one seal is the beginning of the log at a later one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsistencyProof {
    pub from: SignedSeal,
    pub to: SignedSeal,
    /// From `from.tree` to `to.tree`, after RFC 6962.
    pub path: Vec<Hash>,
}

impl ConsistencyProof {
    #[must_use]
    pub fn holds(&self) -> bool {
        let (from, to) = (&self.from.seal, &self.to.seal);
        from.tenant_id == to.tenant_id && merkle::is_consistent(from.sequence, from.tree, to.sequence, to.tree, &self.path)
    }
}
