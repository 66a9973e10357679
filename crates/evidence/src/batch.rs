//! A batch: the rows of one commit on their way into the log. Its writer signs what they are before anyone else sees them.

use chrono::{DateTime, Utc};
use serde::Serialize;
use tollgate_domain::TenantId;
use uuid::Uuid;

use crate::{
    Hash,
    line::{Kind, Line, Place},
    merkle,
    sign::Signer,
};

/// One row of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub tenant: TenantId,
    pub place: Place,
    pub leaf: Hash,
}

impl Entry {
    #[must_use]
    pub fn of(line: &Line<'_>) -> Self {
        Self { tenant: line.tenant(), place: line.place(), leaf: line.leaf() }
    }
}

/// What a writer signs. The writer of admin changes is the nil id: they all share one chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Batch {
    pub writer_id: Uuid,
    /// From 1, without a gap.
    pub sequence: i64,
    #[serde(with = "crate::time")]
    pub at: DateTime<Utc>,
    /// The root of the same writer's batch before.
    pub previous: Hash,
    /// Over all that the entries are, in their order.
    pub root: Hash,
    pub key_id: String,
}

impl Batch {
    /// The batch that follows `previous` with these entries.
    #[must_use]
    pub fn next(writer_id: Uuid, previous: (i64, Hash), entries: &[Entry], at: DateTime<Utc>, signer: &Signer) -> Self {
        let (sequence, previous) = (previous.0 + 1, previous.1);
        Self { writer_id, sequence, at, previous, root: root(entries), key_id: signer.public().key_id.clone() }
    }

    /// What the signature covers.
    #[must_use]
    pub fn message(&self) -> Vec<u8> {
        let mut message = b"tollgate-batch-v1\n".to_vec();
        let _ = serde_json::to_writer(&mut message, self);
        message
    }
}

/// The Merkle root over a batch's entries; each leaf covers whose row it is and which, as well as what it says.
#[must_use]
pub fn root(entries: &[Entry]) -> Hash {
    let leaves: Vec<Hash> = entries.iter().map(|entry| merkle::leaf(&pack(std::slice::from_ref(entry)))).collect();
    merkle::root(&leaves)
}

const PLACE: usize = 1 + 16 + 4;
const ENTRY: usize = 16 + PLACE + 32;
const SEALED: usize = PLACE + 32;

/// 69 bytes an entry: tenant, kind, id, sequence, leaf.
#[must_use]
pub fn pack(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(entries.len() * ENTRY);
    for entry in entries {
        bytes.extend_from_slice(entry.tenant.uuid().as_bytes());
        put(&mut bytes, &entry.place, &entry.leaf);
    }
    bytes
}

/// `None` unless [`pack`] wrote it.
#[must_use]
pub fn unpack(bytes: &[u8]) -> Option<Vec<Entry>> {
    chunks(bytes, ENTRY)?
        .map(|chunk| {
            let (tenant, rest) = chunk.split_first_chunk::<16>()?;
            let (place, leaf) = take(rest)?;
            Some(Entry { tenant: Uuid::from_bytes(*tenant).into(), place, leaf })
        })
        .collect()
}

/// A row that has its place in a tenant's log.
pub type Sealed = (Place, Hash);

/// 53 bytes an entry: kind, id, sequence, leaf.
#[must_use]
pub fn pack_sealed(entries: &[Sealed]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(entries.len() * SEALED);
    for (place, leaf) in entries {
        put(&mut bytes, place, leaf);
    }
    bytes
}

/// `None` unless [`pack_sealed`] wrote it.
#[must_use]
pub fn unpack_sealed(bytes: &[u8]) -> Option<Vec<Sealed>> {
    chunks(bytes, SEALED)?.map(take).collect()
}

fn chunks(bytes: &[u8], size: usize) -> Option<std::slice::ChunksExact<'_, u8>> {
    bytes.len().is_multiple_of(size).then(|| bytes.chunks_exact(size))
}

fn put(bytes: &mut Vec<u8>, place: &Place, leaf: &Hash) {
    bytes.push(place.kind.code());
    bytes.extend_from_slice(place.id.as_bytes());
    bytes.extend_from_slice(&place.sequence.to_be_bytes());
    bytes.extend_from_slice(&leaf.0);
}

fn take(bytes: &[u8]) -> Option<Sealed> {
    let (kind, rest) = bytes.split_first()?;
    let (id, rest) = rest.split_first_chunk::<16>()?;
    let (sequence, leaf) = rest.split_first_chunk::<4>()?;
    let place = Place { kind: Kind::from_code(*kind)?, id: Uuid::from_bytes(*id), sequence: u32::from_be_bytes(*sequence) };
    Some((place, Hash::from_slice(leaf)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_entries_come_back() {
        let entries: Vec<Entry> = (1..=9u8)
            .map(|n| Entry {
                tenant: Uuid::from_u128(n.into()).into(),
                place: Place { kind: Kind::from_code(n).unwrap(), id: Uuid::from_u128(77), sequence: n.into() },
                leaf: Hash([n; 32]),
            })
            .collect();
        let packed = pack(&entries);
        assert_eq!(unpack(&packed).unwrap(), entries);
        assert_eq!(unpack(&packed[1..]), None);
        let sealed: Vec<Sealed> = entries.iter().map(|e| (e.place, e.leaf)).collect();
        assert_eq!(unpack_sealed(&pack_sealed(&sealed)).unwrap(), sealed);
        assert_eq!(Kind::from_code(12), None);
    }

    #[test]
    fn the_root_covers_whose_row_it_is() {
        let place = Place { kind: Kind::CallIntent, id: Uuid::from_u128(1), sequence: 0 };
        let of = |tenant: u128| root(&[Entry { tenant: Uuid::from_u128(tenant).into(), place, leaf: Hash::ZERO }]);
        assert_ne!(of(1), of(2));
    }
}
