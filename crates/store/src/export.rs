//! The audit trail as a stream: one snapshot, read in batches by id, never held in memory as a whole.
//!
//! Chunks of rows go through a bounded channel. An empty chunk says that everything has been sent; a channel that closes
//! without one was broken off, whatever the reason, and so must be what is made of it.

use std::{marker::PhantomData, time::Duration};

use futures::TryStreamExt;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::{Postgres, QueryBuilder, postgres::PgRow};
use tokio::sync::mpsc;
use tollgate_domain::{TenantId, ids};
use uuid::Uuid;

use crate::{
    calls::{CallFilter, Payloads, ToolCall, call_conditions, select_calls, tool_call},
    change::Change,
    error::{StoreError, StoreResult},
    follow::What,
    requests::{self, LlmRequest},
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
pub struct Export<R = ToolCall> {
    tx: Tx,
    tenant: TenantId,
    filter: CallFilter,
    /// The smallest id that may come next.
    next: Uuid,
    end: Uuid,
    rows: PhantomData<fn() -> R>,
}

pub type Chunk<R = ToolCall> = StoreResult<Vec<R>>;

/// Which rows are read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rows {
    #[default]
    ToolCalls,
    LlmRequests,
    /// Both, in the order of the log.
    All,
}

impl Rows {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ToolCalls => "tool_calls",
            Self::LlmRequests => "llm_requests",
            Self::All => "all",
        }
    }

    #[must_use]
    pub const fn calls(self) -> bool {
        matches!(self, Self::ToolCalls | Self::All)
    }

    #[must_use]
    pub const fn requests(self) -> bool {
        matches!(self, Self::LlmRequests | Self::All)
    }
}

/// A kind of row that is exported.
pub trait Exported: Send + Sized + 'static {
    /// All of a tenant, with a condition at the end to which others can be added.
    fn select(tenant: TenantId) -> QueryBuilder<Postgres>;
    /// Those from one id to before another that `filter` names, in the order of their ids.
    fn window(query: &mut QueryBuilder<Postgres>, ids: (Uuid, Uuid), filter: &CallFilter);
    /// # Errors
    /// For a row that cannot be.
    fn read(row: &PgRow) -> StoreResult<Self>;
    fn uuid(&self) -> Uuid;
    /// About what it takes in memory.
    fn bytes(&self) -> usize;
    /// Out of what a log tells.
    fn of(what: What) -> Option<Self>;
}

impl Exported for ToolCall {
    fn select(tenant: TenantId) -> QueryBuilder<Postgres> {
        select_calls(tenant, Payloads::All)
    }

    fn window(query: &mut QueryBuilder<Postgres>, (next, end): (Uuid, Uuid), filter: &CallFilter) {
        query.push(" AND t.call_id >= ").push_bind(next).push(" AND t.call_id < ").push_bind(end);
        call_conditions(query, "t", filter);
        query.push(" ORDER BY t.call_id");
    }

    fn read(row: &PgRow) -> StoreResult<Self> {
        tool_call(row, true)
    }

    fn uuid(&self) -> Uuid {
        self.id.uuid()
    }

    fn bytes(&self) -> usize {
        512 + [&self.arguments, &self.result].into_iter().flatten().map(String::len).sum::<usize>()
    }

    fn of(what: What) -> Option<Self> {
        what.call()
    }
}

impl Exported for LlmRequest {
    fn select(tenant: TenantId) -> QueryBuilder<Postgres> {
        requests::select(tenant)
    }

    fn window(query: &mut QueryBuilder<Postgres>, (next, end): (Uuid, Uuid), filter: &CallFilter) {
        query.push(" AND l.llm_request_id >= ").push_bind(next).push(" AND l.llm_request_id < ").push_bind(end);
        requests::conditions(query, filter);
        query.push(" ORDER BY l.llm_request_id");
    }

    fn read(row: &PgRow) -> StoreResult<Self> {
        requests::read(row)
    }

    fn uuid(&self) -> Uuid {
        self.id.uuid()
    }

    fn bytes(&self) -> usize {
        let texts = self
            .forward
            .as_ref()
            .map_or(0, |forward| [&forward.attempts, &forward.error].into_iter().flatten().map(String::len).sum::<usize>());
        1024 + texts
    }

    fn of(what: What) -> Option<Self> {
        match what {
            What::Request(request) => Some(*request),
            What::Call(_) | What::Event(_) => None,
        }
    }
}

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
    open_as(store, tenant, filter).await
}

/// [`open`], of any kind of row.
///
/// # Errors
/// When no connection is to be had.
pub async fn open_as<R: Exported>(store: &Store, tenant: TenantId, filter: CallFilter) -> StoreResult<Export<R>> {
    let mut tx = store.tenant_snapshot(tenant).await?;
    // A query lasts as long as its reader needs; STALL bounds that instead.
    sqlx::query("SET LOCAL statement_timeout = 0").execute(&mut *tx).await?;
    // The first query fixes the snapshot.
    sqlx::query!(r#"SELECT 1 AS "one!""#).fetch_one(&mut *tx).await?;
    let (next, end) = (filter.from.map_or(Uuid::nil(), ids::floor), filter.to.map_or(Uuid::max(), ids::floor));
    Ok(Export { tx, tenant, filter, next, end, rows: PhantomData })
}

impl<R: Exported> Export<R> {
    /// Send every row, oldest first, then an empty chunk. An error is the last thing that is sent.
    pub async fn run(mut self, out: mpsc::Sender<Chunk<R>>) {
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

    async fn send_all(&mut self, out: &mpsc::Sender<Chunk<R>>) -> Result<(), Stopped> {
        while let Some(last) = self.batch(out).await? {
            self.next = Uuid::from_u128(last.as_u128().saturating_add(1));
        }
        Ok(())
    }

    /// Send the next batch; the id of its last row, or `None` when there was nothing left.
    async fn batch(&mut self, out: &mpsc::Sender<Chunk<R>>) -> Result<Option<Uuid>, Stopped> {
        let mut query = R::select(self.tenant);
        R::window(&mut query, (self.next, self.end), &self.filter);
        query.push(" LIMIT ").push_bind(BATCH);
        // Row by row from the socket: a batch of large payloads is never in memory at once.
        let mut rows = query.build().fetch(&mut *self.tx);
        let (mut chunk, mut bytes, mut last) = (Vec::new(), 0, None);
        while let Some(row) = rows.try_next().await? {
            let row = R::read(&row)?;
            bytes += row.bytes();
            last = Some(row.uuid());
            chunk.push(row);
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

async fn send<R>(out: &mpsc::Sender<Chunk<R>>, chunk: Vec<R>) -> Result<(), Stopped> {
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
