//! Seals: the tenant's log up to here, signed.

pub mod get;
pub mod list;

use serde::Serialize;
use tollgate_evidence::seal;
use utoipa::ToSchema;

use crate::ctx::Resource;

/// A seal as it was signed: its JSON is not ours to reformat.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct Sealed(pub seal::SignedSeal);

impl Resource for Sealed {}

/// A signed seal.
#[derive(ToSchema)]
#[schema(as = SignedSeal)]
#[expect(dead_code, reason = "describes tollgate_evidence::seal::SignedSeal, which knows no OpenAPI")]
pub struct SignedSealDoc {
    /// Exactly this JSON is what is signed, and what the next seal's `previous` hashes.
    #[schema(inline)]
    seal: SealDoc,
    /// Ed25519 over `tollgate-seal-v1`, a line break and the JSON of `seal`; 128 hex digits.
    signature: String,
}

#[derive(ToSchema)]
#[schema(as = Seal)]
#[expect(dead_code, reason = "describes tollgate_evidence::seal::Seal")]
pub struct SealDoc {
    tenant_id: String,
    /// From 1, without a gap.
    sequence: u64,
    /// Position of the first entry in the tenant's log, from 0.
    first: u64,
    count: u32,
    /// RFC 6962 root over the leaves of its entries, hex.
    root: String,
    /// SHA-256 of the JSON of the seal before; zeros before the first.
    previous: String,
    sealed_at: String,
    /// RFC 6962 root of the tree whose leaves are the tenant's seals up to this one.
    tree: String,
    key_id: String,
}
