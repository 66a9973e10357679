//! From a commit to the log: every transaction that writes rows of the trail signs them in a batch of its own. The audit writer
//! keeps a chain per task; changes of configuration share one, ordered by a lock that each takes last.

use chrono::{DateTime, Utc};
use tollgate_evidence::{
    Hash,
    batch::{self, Batch},
    line::Line,
    sign::KeyRing,
};
use uuid::Uuid;

use crate::{error::StoreResult, tx::Tx};

/// The one chain of all changes of configuration.
pub(crate) const ADMIN_CHAIN: Uuid = Uuid::nil();

/// A batch, ready to be written.
#[derive(Debug)]
pub(crate) struct SignedBatch {
    pub batch: Batch,
    pub signature: Vec<u8>,
    pub entries: Vec<u8>,
}

impl SignedBatch {
    pub(crate) fn next(writer: Uuid, after: (i64, Hash), entries: &[batch::Entry], at: DateTime<Utc>, keys: &KeyRing) -> Self {
        let batch = Batch::next(writer, after, entries, at, keys.signer());
        let signature = keys.signer().sign(&batch.message()).to_vec();
        Self { batch, signature, entries: batch::pack(entries) }
    }
}

/// Sign the rows that this transaction has written. The last thing that a transaction does: the chain is locked until it ends.
///
/// # Errors
/// When the database refuses.
pub(crate) async fn append(tx: &mut Tx, keys: &KeyRing, lines: &[Line<'_>], now: DateTime<Utc>) -> StoreResult<()> {
    if lines.is_empty() {
        return Ok(());
    }
    let entries: Vec<_> = lines.iter().map(batch::Entry::of).collect();
    let end = sqlx::query!(r#"SELECT sequence AS "sequence?", root AS "root?" FROM tollgate_admin_chain()"#)
        .fetch_one(&mut **tx)
        .await?;
    let root = end.root.as_deref().and_then(Hash::from_slice).unwrap_or(Hash::ZERO);
    let signed = SignedBatch::next(ADMIN_CHAIN, (end.sequence.unwrap_or(0), root), &entries, now, keys);
    sqlx::query!(
        "INSERT INTO audit_batches (writer_id, sequence, at, previous, root, key_id, signature, entries)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        signed.batch.writer_id,
        signed.batch.sequence,
        signed.batch.at,
        signed.batch.previous.0.as_slice(),
        signed.batch.root.0.as_slice(),
        signed.batch.key_id,
        signed.signature,
        signed.entries,
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}
