//! Payloads at rest: the exact bytes, zstd level 1. JSON text as evidence must come back byte by byte, which jsonb does not do.

use crate::error::{StoreError, StoreResult};

/// The largest payload that is read back, in bytes: a row is never a decompression bomb.
pub const MAX_PAYLOAD: usize = 64 << 20;

#[must_use]
pub fn pack(plain: &[u8]) -> Vec<u8> {
    // Fails only when memory does, and then the process is gone.
    zstd::bulk::compress(plain, 1).unwrap_or_default()
}

/// # Errors
/// When the bytes are not what [`pack`] wrote.
pub fn unpack(packed: &[u8]) -> StoreResult<Vec<u8>> {
    let size = zstd::zstd_safe::get_frame_content_size(packed).ok().flatten().and_then(|n| usize::try_from(n).ok());
    let capacity = size.unwrap_or(MAX_PAYLOAD).min(MAX_PAYLOAD);
    zstd::bulk::decompress(packed, capacity).map_err(|e| StoreError::Corrupt(format!("payload: {e}")))
}
