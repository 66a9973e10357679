//! Payloads: the exact bytes, zstd level 1, under a salt of their own. JSON text as evidence must come back byte by byte, which
//! jsonb does not do.

use std::{cell::RefCell, sync::Arc};

use tollgate_evidence::{
    Hash,
    line::{Commitment, Kept},
};
use zstd::bulk::{Compressor, Decompressor};

use crate::error::{StoreError, StoreResult};

/// The largest payload that is read back, in bytes: a row is never a decompression bomb.
pub const MAX_PAYLOAD: usize = 64 << 20;

/// A payload on its way to the disk, and what of it goes there.
#[derive(Debug, Clone)]
pub struct Payload {
    original: Arc<[u8]>,
    stored: Stored,
}

#[derive(Debug, Clone)]
enum Stored {
    Whole,
    Redacted(Arc<[u8]>),
    Omitted,
}

impl Payload {
    /// Store it as it is.
    #[must_use]
    pub fn whole(bytes: impl Into<Arc<[u8]>>) -> Self {
        Self { original: bytes.into(), stored: Stored::Whole }
    }

    /// Store `copy`, and the hash of the original.
    #[must_use]
    pub fn redacted(original: impl Into<Arc<[u8]>>, copy: impl Into<Arc<[u8]>>) -> Self {
        Self { original: original.into(), stored: Stored::Redacted(copy.into()) }
    }

    /// Store the hash alone.
    #[must_use]
    pub fn omitted(original: impl Into<Arc<[u8]>>) -> Self {
        Self { original: original.into(), stored: Stored::Omitted }
    }

    /// The same, with nothing stored but the hash.
    #[must_use]
    pub fn without_copy(self) -> Self {
        Self::omitted(self.original)
    }

    /// What is stored.
    #[must_use]
    pub fn stored(&self) -> Option<&[u8]> {
        match &self.stored {
            Stored::Whole => Some(&self.original),
            Stored::Redacted(copy) => Some(copy),
            Stored::Omitted => None,
        }
    }

    /// What waits in memory until it is written.
    #[must_use]
    pub fn len(&self) -> usize {
        self.original.len() + if let Stored::Redacted(copy) = &self.stored { copy.len() } else { 0 }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.original.is_empty()
    }

    /// Whether the original is what is stored.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        matches!(self.stored, Stored::Whole)
    }

    /// The same copy, of another original.
    #[must_use]
    pub fn of_original(self, original: impl Into<Arc<[u8]>>) -> Self {
        let stored = match self.stored {
            Stored::Whole => Stored::Redacted(self.original),
            other => other,
        };
        Self { original: original.into(), stored }
    }

    /// `blind` is asked for where the original is not stored.
    pub(crate) fn commitment(&self, salt: &Salt, blind: impl FnOnce() -> Hash) -> Commitment {
        let kept = match &self.stored {
            Stored::Whole => return Commitment::to(salt, &self.original),
            Stored::Redacted(copy) => Kept::Redacted(Hash::of(&[salt, copy])),
            Stored::Omitted => Kept::Omitted,
        };
        Commitment { sha256: Hash::of(&[&blind().0, &self.original]), kept: Some(kept) }
    }
}

/// Without randomness there is no salt, and a commitment without one could be guessed: the log says so.
pub(crate) fn salt() -> Salt {
    let mut salt = [0; 16];
    if aws_lc_rs::rand::fill(&mut salt).is_err() {
        tracing::error!("the system gives no randomness for the salts of the audit trail");
    }
    salt
}

pub(crate) type Salt = [u8; 16];

thread_local! {
    // Making a context costs more than a typical payload does with it.
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

#[must_use]
pub fn pack(plain: &[u8]) -> Vec<u8> {
    COMPRESSOR.with_borrow_mut(|kept| {
        // Fails only when memory does, and then the process is gone.
        let Ok(compressor) = kept.take().map_or_else(|| Compressor::new(1), Ok) else { return Vec::new() };
        kept.insert(compressor).compress(plain).unwrap_or_default()
    })
}

/// # Errors
/// When the bytes are not what [`pack`] wrote.
pub fn unpack(packed: &[u8]) -> StoreResult<Vec<u8>> {
    let size = zstd::zstd_safe::get_frame_content_size(packed).ok().flatten().and_then(|n| usize::try_from(n).ok());
    let capacity = size.unwrap_or(MAX_PAYLOAD).min(MAX_PAYLOAD);
    DECOMPRESSOR
        .with_borrow_mut(|kept| {
            let decompressor = kept.take().map_or_else(Decompressor::new, Ok)?;
            kept.insert(decompressor).decompress(packed, capacity)
        })
        .map_err(|e| StoreError::Corrupt(format!("payload: {e}")))
}
