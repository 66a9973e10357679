//! What an erasure took away, as a list that its admin event commits to.
//!
//! A payload that is missing is excused only by an erasure that says so under a signature: the admin event `audit.erase`, which is a
//! line of the log like every other, holds the Merkle root (RFC 6962) over the list of what went, and a signature over that root. So
//! whoever owns the database and not the key cannot delete a payload and write afterwards that it was erased, neither by a row of
//! their own nor by one more line in the list of an erasure that there was.

use serde::{Deserialize, Serialize};
use tollgate_domain::{CallId, ErasureId, LlmRequestId, ScriptRunId, TenantId};
use uuid::Uuid;

use crate::{
    Hash,
    hash::{from_hex, to_hex},
    line::Part,
    merkle,
    sign::{PublicKey, Signer},
};

/// The action of the admin event, and the field of its detail that holds a [`Commitment`].
pub const ACTION: &str = "audit.erase";
pub const FIELD: &str = "erased";

/// One payload that was erased. Lists are in this order, and name nothing twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Erased {
    /// A call, a script run or an LLM request.
    pub row: Uuid,
    /// By part: that results were erased does not excuse arguments that are missing.
    pub part: Part,
    /// Of a run's journal; otherwise 0.
    pub sequence: u32,
}

/// One line of a list.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ErasedLine {
    row_id: String,
    part: Part,
    sequence: u32,
}

impl Erased {
    fn row_id(&self) -> String {
        match self.part {
            Part::Arguments | Part::Result => CallId::from_uuid(self.row).to_string(),
            Part::Prompt | Part::Answer => LlmRequestId::from_uuid(self.row).to_string(),
            _ => ScriptRunId::from_uuid(self.row).to_string(),
        }
    }

    /// The canonical JSON, without a line break.
    #[must_use]
    pub fn line(&self) -> Vec<u8> {
        let line = ErasedLine { row_id: self.row_id(), part: self.part, sequence: self.sequence };
        // Text keys, integers and strings: it cannot fail.
        serde_json::to_vec(&line).unwrap_or_default()
    }

    /// Read a line; `None` unless it is in canonical form, byte by byte.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let ErasedLine { row_id, part, sequence } = serde_json::from_slice(bytes).ok()?;
        let row = match part {
            Part::Arguments | Part::Result => row_id.parse::<CallId>().ok()?.uuid(),
            Part::Prompt | Part::Answer => row_id.parse::<LlmRequestId>().ok()?.uuid(),
            _ => row_id.parse::<ScriptRunId>().ok()?.uuid(),
        };
        let erased = Self { row, part, sequence };
        (erased.line() == bytes).then_some(erased)
    }

    #[must_use]
    pub fn leaf(&self) -> Hash {
        merkle::leaf(&self.line())
    }
}

/// How the admin event of an erasure commits to its list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Commitment {
    pub payloads: u64,
    /// RFC 6962 root over the lines of the list.
    pub root: Hash,
    pub key_id: String,
    /// Ed25519 over `tollgate-erasure-v1`, a line break, and tenant, erasure, number of payloads and root with blanks between them.
    pub signature: String,
}

fn message(tenant: TenantId, erasure: ErasureId, payloads: u64, root: Hash) -> Vec<u8> {
    format!("tollgate-erasure-v1\n{tenant} {erasure} {payloads} {root}").into_bytes()
}

impl Commitment {
    #[must_use]
    pub fn sign(tenant: TenantId, erasure: ErasureId, list: &merkle::Growing, signer: &Signer) -> Self {
        let (payloads, root) = (list.count(), list.root());
        let signature = to_hex(&signer.sign(&message(tenant, erasure, payloads, root)));
        Self { payloads, root, key_id: signer.public().key_id.clone(), signature }
    }

    #[must_use]
    pub fn is_signed_by(&self, tenant: TenantId, erasure: ErasureId, keys: &[PublicKey]) -> bool {
        let message = message(tenant, erasure, self.payloads, self.root);
        let Some(signature) = from_hex(&self.signature) else { return false };
        keys.iter().any(|key| key.key_id == self.key_id && key.verifies(&message, &signature))
    }

    #[must_use]
    pub fn is_over(&self, list: &merkle::Growing) -> bool {
        (self.payloads, self.root) == (list.count(), list.root())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_one_spelling_and_names_a_part() {
        let erased = Erased { row: Uuid::from_u128(7), part: Part::Result, sequence: 0 };
        let text = String::from_utf8(erased.line()).unwrap();
        assert_eq!(text, r#"{"row_id":"call_00000000000000000000000007","part":"result","sequence":0}"#);
        assert_eq!(Erased::parse(text.as_bytes()), Some(erased));
        let journal = Erased { part: Part::Journal, sequence: 3, ..erased };
        assert!(String::from_utf8(journal.line()).unwrap().starts_with(r#"{"row_id":"run_"#));
        assert_eq!(Erased::parse(&journal.line()), Some(journal));
        for other in [text.replace("call_", "run_"), text.replace(",\"p", ", \"p"), text.replace("result", "journal")] {
            assert_eq!(Erased::parse(other.as_bytes()), None, "{other}");
        }
        assert!(erased < journal && Erased { part: Part::Arguments, ..erased } < erased);
    }

    #[test]
    fn a_commitment_holds_for_one_list_of_one_erasure_of_one_tenant() {
        let (tenant, erasure) = (TenantId::from_uuid(Uuid::from_u128(1)), ErasureId::from_uuid(Uuid::from_u128(2)));
        let signer = Signer::from_seed(&[1; 32]).unwrap();
        let mut list = merkle::Growing::default();
        list.push(Erased { row: Uuid::from_u128(7), part: Part::Result, sequence: 0 }.leaf());
        let commitment = Commitment::sign(tenant, erasure, &list, &signer);
        let keys = [signer.public().clone()];
        assert!(commitment.is_signed_by(tenant, erasure, &keys) && commitment.is_over(&list));
        let others = (TenantId::from_uuid(Uuid::from_u128(3)), ErasureId::from_uuid(Uuid::from_u128(3)));
        assert!(!commitment.is_signed_by(others.0, erasure, &keys) && !commitment.is_signed_by(tenant, others.1, &keys));
        assert!(!commitment.is_signed_by(tenant, erasure, &[Signer::from_seed(&[2; 32]).unwrap().public().clone()]));
        assert!(!Commitment { payloads: 2, ..commitment.clone() }.is_signed_by(tenant, erasure, &keys));
        list.push(Erased { row: Uuid::from_u128(8), part: Part::Result, sequence: 0 }.leaf());
        assert!(!commitment.is_over(&list));
    }
}
