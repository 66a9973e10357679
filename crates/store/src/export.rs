//! The audit trail as a stream: one snapshot, read in batches by id, never held in memory as a whole.
//!
//! Chunks of rows go through a bounded channel. An empty chunk says that everything has been sent; a channel that closes
//! without one was broken off, whatever the reason, and so must be what is made of it.

use std::time::Duration;

use futures::TryStreamExt;
use serde_json::Value;
use tokio::sync::mpsc;
use tollgate_domain::{CallId, TenantId, ids};
use uuid::Uuid;

use crate::{
    calls::{CallFilter, Payloads, ToolCall, call_conditions, select_calls, tool_call},
    change::Change,
    error::{StoreError, StoreResult},
    tx::{Store, Tx},
};

/// Rows that one query reads.
const BATCH: i64 = 500;
/// Rows are handed over once they hold about this many bytes, however few they are.
const CHUNK_BYTES: usize = 256 << 10;
/// A reader who takes nothing for this long is gone: the snapshot it holds keeps Postgres from tidying up.
pub(crate) const STALL: Duration = Duration::from_secs(60);

/// An export whose snapshot has been taken: what commits from now on is not in it.
#[derive(Debug)]
pub struct Export {
    tx: Tx,
    tenant: TenantId,
    filter: CallFilter,
    /// The smallest id that may come next.
    next: Uuid,
    end: Uuid,
}

pub type Chunk = StoreResult<Vec<ToolCall>>;

/// Record that an admin takes an export. It is no change of configuration: workers are not told.
///
/// # Errors
/// When the database refuses; nothing may be exported then.
pub async fn announce(mut change: Change, target: &impl std::fmt::Display, detail: Value) -> StoreResult<()> {
    change.event("audit.export", target, detail).await?;
    change.commit_quietly().await
}

/// Take the snapshot of the calls that `filter` names.
///
/// # Errors
/// When no connection is to be had.
pub async fn open(store: &Store, tenant: TenantId, filter: CallFilter) -> StoreResult<Export> {
    let mut tx = store.tenant_snapshot(tenant).await?;
    // A query lasts as long as its reader needs; STALL bounds that instead.
    sqlx::query("SET LOCAL statement_timeout = 0").execute(&mut *tx).await?;
    // The first query fixes the snapshot.
    sqlx::query!(r#"SELECT 1 AS "one!""#).fetch_one(&mut *tx).await?;
    let (next, end) = (filter.from.map_or(Uuid::nil(), ids::floor), filter.to.map_or(Uuid::max(), ids::floor));
    Ok(Export { tx, tenant, filter, next, end })
}

impl Export {
    /// Send every row, oldest first, then an empty chunk. An error is the last thing that is sent.
    pub async fn run(mut self, out: mpsc::Sender<Chunk>) {
        let result = self.send_all(&out).await;
        if let Err(error) = self.tx.rollback().await {
            tracing::debug!(%error, "the transaction of an export did not end by itself");
        }
        let last = match result {
            Ok(()) => Ok(Vec::new()),
            Err(Stopped::Store(error)) => Err(error),
            Err(Stopped::Reader) => return tracing::debug!("the reader of an export has gone"),
        };
        if out.send(last).await.is_err() {
            tracing::debug!("the reader of an export has gone");
        }
    }

    async fn send_all(&mut self, out: &mpsc::Sender<Chunk>) -> Result<(), Stopped> {
        while let Some(last) = self.batch(out).await? {
            self.next = Uuid::from_u128(last.uuid().as_u128().saturating_add(1));
        }
        Ok(())
    }

    /// Send the next batch; the id of its last row, or `None` when there was nothing left.
    async fn batch(&mut self, out: &mpsc::Sender<Chunk>) -> Result<Option<CallId>, Stopped> {
        let mut query = select_calls(self.tenant, Payloads::All);
        query.push(" AND t.call_id >= ").push_bind(self.next).push(" AND t.call_id < ").push_bind(self.end);
        call_conditions(&mut query, "t", &self.filter);
        query.push(" ORDER BY t.call_id LIMIT ").push_bind(BATCH);
        // Row by row from the socket: a batch of large payloads is never in memory at once.
        let mut rows = query.build().fetch(&mut *self.tx);
        let (mut chunk, mut bytes, mut last) = (Vec::new(), 0, None);
        while let Some(row) = rows.try_next().await? {
            let call = tool_call(&row, true)?;
            bytes += 512 + [&call.arguments, &call.result].into_iter().flatten().map(String::len).sum::<usize>();
            last = Some(call.id);
            chunk.push(call);
            if bytes >= CHUNK_BYTES {
                send(out, std::mem::take(&mut chunk)).await?;
                bytes = 0;
            }
        }
        if !chunk.is_empty() {
            send(out, chunk).await?;
        }
        Ok(last)
    }
}

async fn send(out: &mpsc::Sender<Chunk>, chunk: Vec<ToolCall>) -> Result<(), Stopped> {
    match tokio::time::timeout(STALL, out.send(Ok(chunk))).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(Stopped::Reader),
    }
}

enum Stopped {
    Reader,
    Store(StoreError),
}

impl<E: Into<StoreError>> From<E> for Stopped {
    fn from(error: E) -> Self {
        Self::Store(error.into())
    }
}
