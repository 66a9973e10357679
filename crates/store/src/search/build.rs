//! Building blocks, one at a time, behind the calls.

use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use sqlx::Row;
use tollgate_domain::{TenantId, search::filter::Builder};
use uuid::Uuid;

use crate::{
    calls::{Payloads, ToolCall, select_calls, tool_call},
    error::{StoreError, StoreResult},
    locks::INDEXER,
    tx::{Store, Tx},
};

/// Calls in a block.
pub(super) const BLOCK: i64 = 1024;
/// A block that is built anew may have grown to this before it is divided.
const MAX_BLOCK: i64 = 2 * BLOCK;
/// Text that a block holds, but for its last call: what a search reads for one suspicion.
const MAX_TEXT: usize = 32 << 20;
/// Rows that one query reads, and text that is taken apart at once.
const BATCH: i64 = 256;
const CHUNK_TEXT: usize = 4 << 20;
/// Blocks into which one is divided at a time.
const PIECES: usize = 8;
/// Notes that one step reads; what is beyond leads to another step.
const NOTES: i64 = 16_384;
/// Between two blocks, for those who wait for the database.
const PAUSE: Duration = Duration::from_millis(5);

/// What a round did.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Indexed {
    pub blocks: usize,
    /// There is more to do, and no reason to wait.
    pub more: bool,
}

/// Build at most `budget` blocks, of all tenants in turn. Safe to run anywhere: while one worker does it, the others find
/// nothing to do.
///
/// # Errors
/// When the database does not answer; what was built before stays.
pub async fn index_some(store: &Store, now: DateTime<Utc>, budget: usize) -> StoreResult<Indexed> {
    // The lock lasts as long as this transaction, which does nothing else.
    let mut control = store.control().await?;
    let locked: bool = sqlx::query_scalar("SELECT pg_try_advisory_xact_lock($1)").bind(INDEXER).fetch_one(&mut *control).await?;
    let tenants = if locked { waiting(&mut control, now).await? } else { Vec::new() };
    let indexed = in_turn(store, tenants, now, budget).await;
    control.rollback().await?;
    indexed
}

async fn in_turn(store: &Store, mut tenants: Vec<TenantId>, now: DateTime<Utc>, budget: usize) -> StoreResult<Indexed> {
    let mut indexed = Indexed::default();
    while !tenants.is_empty() {
        let mut left = Vec::new();
        for tenant in tenants {
            if indexed.blocks >= budget {
                indexed.more = true;
                return Ok(indexed);
            }
            match step(store, tenant, now).await {
                Ok(true) => {
                    indexed.blocks += 1;
                    left.push(tenant);
                }
                Ok(false) => {}
                Err(error) if error.is_transient() => return Err(error),
                // One tenant's trouble must not keep the others from being indexed; its calls are found without, slowly.
                Err(error) => tracing::error!(%error, %tenant, "cannot index calls"),
            }
            tokio::time::sleep(PAUSE).await;
        }
        tenants = left;
    }
    Ok(indexed)
}

/// Build every block of one tenant that can be built; how many.
///
/// # Errors
/// When the database does not answer.
pub async fn index_all(store: &Store, tenant: TenantId, now: DateTime<Utc>) -> StoreResult<usize> {
    let mut blocks = 0;
    while step(store, tenant, now).await? {
        blocks += 1;
    }
    Ok(blocks)
}

/// Tenants with a block to build, to build anew, or to divide.
async fn waiting(control: &mut Tx, now: DateTime<Utc>) -> StoreResult<Vec<TenantId>> {
    let settled = settled(control, now).await?;
    let tenants: Vec<Uuid> = sqlx::query_scalar(
        "SELECT t.tenant_id FROM tenants t
         LEFT JOIN LATERAL (SELECT b.last_call_id FROM call_blocks b WHERE b.tenant_id = t.tenant_id
                            ORDER BY b.first_call_id DESC LIMIT 1) b ON true
         WHERE EXISTS (SELECT FROM tool_call_events e
                       WHERE e.tenant_id = t.tenant_id AND e.kind = 0 AND e.call_id < $1
                         AND e.call_id > COALESCE(b.last_call_id, '00000000-0000-0000-0000-000000000000')
                       ORDER BY e.call_id OFFSET $2 LIMIT 1)
            OR EXISTS (SELECT FROM late_calls l WHERE l.tenant_id = t.tenant_id AND l.call_id <= b.last_call_id
                         AND l.noted_at < $3::timestamptz - interval '1 minute')
            OR EXISTS (SELECT FROM call_blocks d WHERE d.tenant_id = t.tenant_id AND d.calls IS NULL)",
    )
    .bind(settled)
    .bind(BLOCK - 1)
    .bind(now)
    .fetch_all(&mut **control)
    .await?;
    Ok(tenants.into_iter().map(TenantId::from).collect())
}

/// The id below which calls are old enough: whatever is written of them from now on leaves a note (see the migration). Notes
/// go by the database's clock, so a clock of ours that is ahead of it must not matter.
async fn settled(tx: &mut Tx, now: DateTime<Utc>) -> StoreResult<Uuid> {
    let floor = sqlx::query_scalar("SELECT tollgate_uuid_floor(LEAST($1::timestamptz, now()) - interval '4 minutes')");
    Ok(floor.bind(now).fetch_one(&mut **tx).await?)
}

/// Do what is next for this tenant; false when there is nothing.
async fn step(store: &Store, tenant: TenantId, now: DateTime<Utc>) -> StoreResult<bool> {
    let mut tx = store.tenant(tenant).await?;
    let done = match stale(&mut tx, tenant, now).await? {
        Some(block) => {
            rebuild(&mut tx, tenant, block, now).await?;
            true
        }
        None => append(&mut tx, tenant, now).await?,
    };
    tx.commit().await?;
    Ok(done)
}

/// Inclusive.
#[derive(Debug, Clone, Copy)]
struct Range {
    first: Uuid,
    last: Uuid,
}

/// Build the block after the last one, when there are calls enough for it.
async fn append(tx: &mut Tx, tenant: TenantId, now: DateTime<Utc>) -> StoreResult<bool> {
    let end = "SELECT last_call_id FROM call_blocks WHERE tenant_id = $1 ORDER BY first_call_id DESC LIMIT 1";
    let end: Option<Uuid> = sqlx::query_scalar(end).bind(tenant.uuid()).fetch_optional(&mut **tx).await?;
    let first = end.map_or(Uuid::nil(), after);
    let enough: Option<Uuid> = sqlx::query_scalar(
        "SELECT call_id FROM tool_call_events WHERE tenant_id = $1 AND kind = 0 AND call_id >= $2 AND call_id < $3
         ORDER BY call_id OFFSET $4 LIMIT 1",
    )
    .bind(tenant.uuid())
    .bind(first)
    .bind(settled(tx, now).await?)
    .bind(BLOCK - 1)
    .fetch_optional(&mut **tx)
    .await?;
    let Some(last) = enough else { return Ok(false) };
    forget(tx, tenant).await?;
    let run = gather(tx, tenant, Range { first, last }, BLOCK).await?;
    let last = run.stopped_at.unwrap_or(last);
    insert(tx, tenant, Range { first, last }, &run, now).await?;
    Ok(true)
}

/// Drop the blocks of calls that are no longer kept, and the notes of them.
async fn forget(tx: &mut Tx, tenant: TenantId) -> StoreResult<()> {
    sqlx::query(
        "WITH oldest AS (SELECT call_id FROM tool_call_events WHERE tenant_id = $1 AND kind = 0 ORDER BY call_id LIMIT 1),
              notes AS (DELETE FROM late_calls WHERE tenant_id = $1 AND call_id < (SELECT call_id FROM oldest))
         DELETE FROM call_blocks WHERE tenant_id = $1 AND first_call_id < (SELECT call_id FROM oldest)
            AND last_call_id < (SELECT call_id FROM oldest)",
    )
    .bind(tenant.uuid())
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// The first block that is to be divided or has had late calls for a minute: they often come in groups.
async fn stale(tx: &mut Tx, tenant: TenantId, now: DateTime<Utc>) -> StoreResult<Option<Range>> {
    let undivided = "SELECT first_call_id, last_call_id FROM call_blocks WHERE tenant_id = $1 AND calls IS NULL ORDER BY first_call_id LIMIT 1";
    if let Some(row) = sqlx::query(undivided).bind(tenant.uuid()).fetch_optional(&mut **tx).await? {
        return Ok(Some(Range { first: row.try_get(0)?, last: row.try_get(1)? }));
    }
    let row = sqlx::query(
        "SELECT b.first_call_id, b.last_call_id FROM late_calls l
         CROSS JOIN LATERAL (SELECT c.first_call_id, c.last_call_id FROM call_blocks c
                             WHERE c.tenant_id = l.tenant_id AND c.first_call_id <= l.call_id
                             ORDER BY c.first_call_id DESC LIMIT 1) b
         WHERE l.tenant_id = $1 AND l.noted_at < $2::timestamptz - interval '1 minute' AND b.last_call_id >= l.call_id
           AND l.call_id <= (SELECT e.last_call_id FROM call_blocks e WHERE e.tenant_id = $1 ORDER BY e.first_call_id DESC LIMIT 1)
         ORDER BY l.call_id LIMIT 1",
    );
    let row = row.bind(tenant.uuid()).bind(now).fetch_optional(&mut **tx).await?;
    row.map(|row| Ok(Range { first: row.try_get(0)?, last: row.try_get(1)? })).transpose()
}

/// Replace a block by what its calls are now, divided if they have become many.
async fn rebuild(tx: &mut Tx, tenant: TenantId, block: Range, now: DateTime<Utc>) -> StoreResult<()> {
    let delete = sqlx::query("DELETE FROM call_blocks WHERE tenant_id = $1 AND first_call_id = $2");
    delete.bind(tenant.uuid()).bind(block.first).execute(&mut **tx).await?;
    let mut left = block;
    for _ in 0..PIECES {
        let run = gather(tx, tenant, left, MAX_BLOCK).await?;
        let Some(last) = run.stopped_at.filter(|last| *last < block.last) else {
            return insert(tx, tenant, left, &run, now).await;
        };
        insert(tx, tenant, Range { first: left.first, last }, &run, now).await?;
        left.first = after(last);
    }
    // The rest may be millions, brought in at once: it is divided step by step, and read as it is until then.
    let rest = sqlx::query(
        "INSERT INTO call_blocks (tenant_id, first_call_id, last_call_id, filter, built_at) VALUES ($1, $2, $3, '', $4)",
    );
    rest.bind(tenant.uuid()).bind(left.first).bind(left.last).bind(now).execute(&mut **tx).await?;
    Ok(())
}

/// The calls of a block.
#[derive(Default)]
struct Run {
    builder: Builder,
    calls: i32,
    text: usize,
    /// The last call that was taken, where the block is full and more may follow.
    stopped_at: Option<Uuid>,
    /// Notes that were there before the calls were read: what they tell of is in the filter.
    notes: Vec<(Uuid, Uuid)>,
}

/// Read the calls of `range` from its beginning, `most` of them or as many as a block can take.
async fn gather(tx: &mut Tx, tenant: TenantId, range: Range, most: i64) -> StoreResult<Run> {
    let notes = sqlx::query_as(
        "SELECT call_id, note_id FROM late_calls WHERE tenant_id = $1 AND call_id BETWEEN $2 AND $3 ORDER BY call_id LIMIT $4",
    );
    let notes = notes.bind(tenant.uuid()).bind(range.first).bind(range.last).bind(NOTES).fetch_all(&mut **tx).await?;
    let mut run = Run { notes, ..Run::default() };
    let mut next = range.first;
    loop {
        let mut query = select_calls(tenant, Payloads::All);
        query.push(" AND t.call_id BETWEEN ").push_bind(next).push(" AND ").push_bind(range.last);
        query.push(" ORDER BY t.call_id LIMIT ").push_bind(BATCH);
        let mut rows = query.build().fetch(&mut **tx);
        let (mut chunk, mut bytes, mut read) = (Vec::new(), 0, 0);
        let mut last = None;
        while let Some(row) = rows.try_next().await? {
            let call = readable(tool_call(&row, true), || tool_call(&row, false))?;
            (last, read) = (Some(call.id.uuid()), read + 1);
            bytes += [&call.arguments, &call.result].into_iter().flatten().map(String::len).sum::<usize>();
            chunk.push(call);
            if bytes >= CHUNK_TEXT {
                break;
            }
        }
        drop(rows);
        let Some(last) = last else { return Ok(run) };
        run.calls = run.calls.saturating_add(i32::try_from(chunk.len()).unwrap_or(i32::MAX));
        run.text += bytes;
        run.builder = take_apart(run.builder, chunk).await?;
        if i64::from(run.calls) >= most || run.text >= MAX_TEXT || run.builder.is_full() {
            run.stopped_at = Some(last);
            return Ok(run);
        }
        if read < BATCH && bytes < CHUNK_TEXT {
            return Ok(run);
        }
        next = after(last);
    }
}

/// A payload that cannot be read has no words; its call is there all the same.
fn readable(call: StoreResult<ToolCall>, without: impl FnOnce() -> StoreResult<ToolCall>) -> StoreResult<ToolCall> {
    match call {
        Err(StoreError::Corrupt(error)) => {
            tracing::warn!(error, "a payload cannot be indexed");
            without()
        }
        call => call,
    }
}

/// Off the threads that serve: a payload may have megabytes.
async fn take_apart(mut builder: Builder, calls: Vec<ToolCall>) -> StoreResult<Builder> {
    let work = tokio::task::spawn_blocking(move || {
        for call in calls {
            super::walk::fields(&call, |name, value| builder.field(name, value));
            [call.arguments, call.result].iter().flatten().for_each(|payload| builder.payload(payload));
        }
        builder
    });
    work.await.map_err(|e| StoreError::Corrupt(format!("indexing ended early: {e}")))
}

async fn insert(tx: &mut Tx, tenant: TenantId, range: Range, run: &Run, now: DateTime<Utc>) -> StoreResult<()> {
    sqlx::query(
        "INSERT INTO call_blocks (tenant_id, first_call_id, last_call_id, calls, filter, built_at) VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(tenant.uuid())
    .bind(range.first)
    .bind(range.last)
    .bind(run.calls)
    .bind(run.builder.build())
    .bind(now)
    .execute(&mut **tx)
    .await?;
    let (calls, notes): (Vec<Uuid>, Vec<Uuid>) = run.notes.iter().filter(|(call, _)| *call <= range.last).copied().unzip();
    if !notes.is_empty() {
        sqlx::query(
            "DELETE FROM late_calls WHERE tenant_id = $1 AND (call_id, note_id) IN (SELECT * FROM UNNEST($2::uuid[], $3::uuid[]))",
        )
        .bind(tenant.uuid())
        .bind(calls)
        .bind(notes)
        .execute(&mut **tx)
        .await?;
    }
    Ok(())
}

fn after(id: Uuid) -> Uuid {
    Uuid::from_u128(id.as_u128().saturating_add(1))
}
