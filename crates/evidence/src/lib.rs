//! What the audit trail is made of, and how it is proved: lines, leaves, trees, seals, bundles. No SQL, no network.
//!
//! - A row of the trail is one **line** of canonical JSON ([`line`]); its leaf is `SHA-256(0x00 || line)`. Payloads are not in the
//!   line but committed to by it, each under a salt of its own, so that a payload can be erased and the line still be proved.
//! - A **seal** ([`seal`]) covers a run of a tenant's lines: their Merkle root (RFC 6962, [`merkle`]), the hash of the seal before, and
//!   the root of a second tree whose leaves are the seals themselves. It is signed with Ed25519 ([`sign`]).
//! - An **erasure** ([`erasure`]) is a line of the log that names, by a root of its own, the payloads that were taken away on purpose.
//! - A **bundle** ([`bundle`]) is a run of seals with everything that it takes to check them.

pub mod anchor;
pub mod batch;
pub mod bundle;
pub mod erasure;
pub mod hash;
pub mod line;
pub mod merkle;
pub mod seal;
pub mod sign;
mod time;

pub use hash::Hash;
