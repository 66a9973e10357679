//! Erasure: payloads are taken out of the trail on purpose. The rows stay, with what they commit to, and say that it was done.
//!
//! What was erased is gone from the tables. Postgres reuses the space when it tidies up; backups and archived logs forget when
//! their own time has come.

pub(crate) mod list;
mod search;

use std::{collections::BTreeSet, sync::Arc};

use chrono::{DateTime, TimeDelta, Utc};
use futures::TryStreamExt;
use serde_json::{Value, json};
use sqlx::{QueryBuilder, Row, postgres::PgRow};
use tollgate_domain::{CallId, ErasureId, KeyId, TenantId, ids};
use tollgate_evidence::{
    erasure::{self, Erased},
    line::Part,
    merkle::Growing,
};
use uuid::Uuid;

use crate::{
    change::Change,
    error::{StoreError, StoreResult},
    page::{Page, PageRequest},
    payload, settings,
    tx::Tx,
};
use search::Needle;

/// Calls that one erasure looks at, and script runs.
pub const MAX_ROWS: usize = 100_000;
/// Ids that may be listed.
pub const MAX_IDS: usize = 1_000;
/// The longest window that is searched.
pub const MAX_WINDOW: TimeDelta = TimeDelta::days(92);
/// Text that one erasure reads.
const MAX_TEXT: usize = 256 << 20;
/// Rows whose payloads one query reads or deletes.
const BATCH: usize = 500;
/// Packed payloads are searched once they are about this many bytes.
const CHUNK: usize = 4 << 20;

/// Whose payloads are to go.
#[derive(Debug, Clone)]
pub enum Selection {
    Calls(Vec<CallId>),
    /// All calls and script runs of a key.
    Key {
        key: KeyId,
        from: Option<DateTime<Utc>>,
        to: Option<DateTime<Utc>>,
    },
    /// All calls and script runs in whose payloads a text stands.
    Contains {
        text: String,
        from: DateTime<Utc>,
        to: DateTime<Utc>,
    },
}

/// The rows that a selection names: calls, script runs, and LLM requests.
#[derive(Debug, Clone, Default)]
pub struct Selected {
    calls: BTreeSet<Uuid>,
    runs: BTreeSet<Uuid>,
    requests: BTreeSet<Uuid>,
}

/// How many rows lose something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    pub calls: i64,
    pub runs: i64,
    /// Those of the LLM door: others have no payloads.
    pub requests: i64,
}

#[derive(Debug, Clone)]
pub struct Erasure {
    pub id: ErasureId,
    pub at: DateTime<Utc>,
    /// Who did it.
    pub by: String,
    pub reason: String,
    pub selection: Value,
    pub counts: Counts,
}

impl Selection {
    /// As it is recorded: what was looked for may be the very thing that must be forgotten, and a hash of it could be guessed.
    #[must_use]
    pub fn described(&self) -> Value {
        match self {
            Self::Calls(calls) => json!({"call_ids": calls}),
            Self::Key { key, from, to } => json!({"key_id": key, "from": from, "to": to}),
            Self::Contains { from, to, .. } => json!({"contains": "[not kept]", "from": from, "to": to}),
        }
    }
}

/// Find the rows that a selection names: calls, the runs in which they were made, and runs that fit by themselves.
///
/// # Errors
/// `Invalid` where it names what the tenant does not have, or more than one erasure looks at.
pub async fn select(tx: &mut Tx, tenant: TenantId, selection: &Selection) -> StoreResult<Selected> {
    let mut found = match selection {
        Selection::Calls(calls) => listed(tx, tenant, calls).await?,
        Selection::Key { key, from, to } => {
            let known = sqlx::query("SELECT FROM virtual_keys WHERE tenant_id = $1 AND key_id = $2");
            if known.bind(tenant.uuid()).bind(key.uuid()).fetch_optional(&mut **tx).await?.is_none() {
                return Err(StoreError::invalid("/selection/key_id", "there is no such key"));
            }
            let window = (from.map_or(Uuid::nil(), ids::floor), to.map_or(Uuid::max(), ids::floor));
            Selected {
                calls: CALLS.within(tx, tenant, window, Some(*key)).await?,
                runs: RUNS.within(tx, tenant, window, Some(*key)).await?,
                requests: REQUESTS.within(tx, tenant, window, Some(*key)).await?,
            }
        }
        Selection::Contains { text, from, to } => {
            let window = (ids::floor(*from), ids::floor(*to));
            let (needle, mut left) = (Arc::new(Needle::new(text)), MAX_TEXT);
            Selected {
                calls: CALLS.holding(tx, tenant, window, &needle, &mut left).await?,
                runs: RUNS.holding(tx, tenant, window, &needle, &mut left).await?,
                requests: REQUESTS.holding(tx, tenant, window, &needle, &mut left).await?,
            }
        }
    };
    let calls: Vec<Uuid> = found.calls.iter().copied().collect();
    for some in calls.chunks(BATCH) {
        let runs = sqlx::query_scalar(
            "SELECT DISTINCT script_run_id FROM tool_call_events
             WHERE tenant_id = $1 AND call_id = ANY($2) AND kind = 0 AND script_run_id IS NOT NULL",
        );
        found.runs.extend(runs.bind(tenant.uuid()).bind(some).fetch_all(&mut **tx).await? as Vec<Uuid>);
    }
    Ok(found)
}

async fn listed(tx: &mut Tx, tenant: TenantId, calls: &[CallId]) -> StoreResult<Selected> {
    let asked: Vec<Uuid> = calls.iter().map(|call| call.uuid()).collect();
    let there =
        sqlx::query_scalar("SELECT call_id FROM tool_call_events WHERE tenant_id = $1 AND call_id = ANY($2) AND kind = 0");
    let there: Vec<Uuid> = there.bind(tenant.uuid()).bind(&asked).fetch_all(&mut **tx).await?;
    let calls: BTreeSet<Uuid> = there.into_iter().collect();
    match asked.iter().position(|call| !calls.contains(call)) {
        Some(missing) => Err(StoreError::invalid(format!("/selection/call_ids/{missing}"), "there is no such call")),
        None => Ok(Selected { calls, ..Selected::default() }),
    }
}

/// How many rows an erasure of these would take something from.
///
/// # Errors
/// When the database does not answer.
pub async fn count(tx: &mut Tx, tenant: TenantId, selected: &Selected) -> StoreResult<Counts> {
    Ok(Counts {
        calls: CALLS.with_payloads(tx, tenant, &selected.calls).await?,
        runs: RUNS.with_payloads(tx, tenant, &selected.runs).await?,
        requests: REQUESTS.with_payloads(tx, tenant, &selected.requests).await?,
    })
}

/// Erase the payloads of these rows, and record that it was done, by whom and why.
///
/// # Errors
/// `Conflict` under a legal hold.
pub async fn erase(change: &mut Change, selection: &Selection, selected: &Selected, reason: String) -> StoreResult<Erasure> {
    // Under the lock that a hold takes: one that was acknowledged before this is seen, and one that comes now waits.
    if settings::lock(change).await?.legal_hold {
        return Err(StoreError::Conflict(
            "The tenant is under a legal hold: nothing is erased while it stands. Lift it in the audit settings first."
                .to_owned(),
        ));
    }
    let id = ErasureId::mint(change.now);
    let mut gone = CALLS.erase(change, &selected.calls).await?;
    let calls = rows_of(&gone);
    gone.extend(RUNS.erase(change, &selected.runs).await?);
    let runs = rows_of(&gone) - calls;
    gone.extend(REQUESTS.erase(change, &selected.requests).await?);
    let counts = Counts { calls, runs, requests: rows_of(&gone) - calls - runs };
    gone.sort_unstable();
    let erasure = Erasure { id, at: change.now, by: change.actor.id.clone(), reason, selection: selection.described(), counts };
    record(change, &erasure).await?;
    list::insert(&mut change.tx, change.tenant, id, &gone).await?;
    // Over what was taken, and not over what the database says was written down: a line more in there is excused by nothing.
    let mut root = Growing::default();
    gone.iter().for_each(|item| root.push(item.leaf()));
    let commitment = erasure::Commitment::sign(change.tenant, id, &root, change.keys().signer());
    let detail = json!({
        "reason": erasure.reason, "selection": erasure.selection, "calls": counts.calls, "runs": counts.runs,
        "requests": counts.requests, erasure::FIELD: commitment,
    });
    change.event(erasure::ACTION, &id, detail).await?;
    Ok(erasure)
}

async fn record(change: &mut Change, erasure: &Erasure) -> StoreResult<()> {
    sqlx::query(
        "INSERT INTO audit_erasures (tenant_id, erasure_id, at, by, reason, selection, calls, runs, requests)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(change.tenant.uuid())
    .bind(erasure.id.uuid())
    .bind(erasure.at)
    .bind(&erasure.by)
    .bind(&erasure.reason)
    .bind(&erasure.selection)
    .bind(erasure.counts.calls)
    .bind(erasure.counts.runs)
    .bind(erasure.counts.requests)
    .execute(&mut *change.tx)
    .await?;
    Ok(())
}

fn rows_of(gone: &[Erased]) -> i64 {
    number(gone.iter().map(|item| item.row).collect::<BTreeSet<_>>().len())
}

/// A kind of row that has payloads: where they lie and under which name.
struct Kind {
    id: &'static str,
    /// The column of the payloads' table that holds it.
    payload_id: &'static str,
    rows: &'static str,
    /// What distinguishes the rows that are looked for from others of the table.
    which: &'static str,
    payloads: &'static str,
    /// The row, the part and the sequence of a payload.
    item: &'static str,
    /// The code of what the table numbers 0.
    parts: Part,
}

const CALLS: Kind = Kind {
    id: "call_id",
    payload_id: "call_id",
    rows: "tool_call_events",
    which: " AND kind = 0",
    payloads: "tool_call_payloads",
    item: "call_id, kind, 0",
    parts: Part::Arguments,
};
/// Their texts rest with those of scripts.
const REQUESTS: Kind = Kind { id: "llm_request_id", rows: "llm_requests", which: " AND origin = 'llm'", ..RUNS };
const RUNS: Kind = Kind {
    id: "script_run_id",
    payload_id: "script_run_id",
    rows: "script_run_starts",
    which: "",
    payloads: "script_payloads",
    item: "script_run_id, part, sequence",
    parts: Part::Source,
};

impl Kind {
    /// The rows of a window, and of a key.
    async fn within(
        &self,
        tx: &mut Tx,
        tenant: TenantId,
        (from, to): (Uuid, Uuid),
        key: Option<KeyId>,
    ) -> StoreResult<BTreeSet<Uuid>> {
        let mut query = QueryBuilder::new("SELECT ");
        query.push(self.id).push(" FROM ").push(self.rows).push(" WHERE tenant_id = ").push_bind(tenant.uuid());
        query.push(self.which).push(" AND ").push(self.id).push(" >= ").push_bind(from);
        query.push(" AND ").push(self.id).push(" < ").push_bind(to);
        if let Some(key) = key {
            query.push(" AND key_id = ").push_bind(key.uuid());
        }
        query.push(" LIMIT ").push_bind(number(MAX_ROWS + 1));
        let rows: Vec<Uuid> = query.build_query_scalar().fetch_all(&mut **tx).await?;
        if rows.len() > MAX_ROWS { Err(too_much()) } else { Ok(rows.into_iter().collect()) }
    }

    /// The rows of a window in whose payloads a text stands. `left` is the text that may still be read.
    async fn holding(
        &self,
        tx: &mut Tx,
        tenant: TenantId,
        window: (Uuid, Uuid),
        needle: &Arc<Needle>,
        left: &mut usize,
    ) -> StoreResult<BTreeSet<Uuid>> {
        let rows: Vec<Uuid> = self.within(tx, tenant, window, None).await?.into_iter().collect();
        let mut found = BTreeSet::new();
        for some in rows.chunks(BATCH) {
            let mut query = self.of(tenant, some, &["SELECT ", self.payload_id, ", body FROM "]);
            let mut bodies = query.build().fetch(&mut **tx);
            let (mut chunk, mut bytes) = (Vec::new(), 0);
            while let Some(row) = bodies.try_next().await? {
                let body: Vec<u8> = row.try_get("body")?;
                bytes += body.len();
                chunk.push((row.try_get::<Uuid, _>(0)?, body));
                if bytes >= CHUNK {
                    bytes = 0;
                    found.extend(search_all(std::mem::take(&mut chunk), needle, left).await?);
                }
            }
            drop(bodies);
            found.extend(search_all(chunk, needle, left).await?);
        }
        Ok(found)
    }

    async fn with_payloads(&self, tx: &mut Tx, tenant: TenantId, rows: &BTreeSet<Uuid>) -> StoreResult<i64> {
        let rows: Vec<Uuid> = rows.iter().copied().collect();
        let mut sum = 0;
        for some in rows.chunks(BATCH) {
            let mut query = self.of(tenant, some, &["SELECT count(DISTINCT ", self.payload_id, ") FROM "]);
            sum += query.build_query_scalar::<i64>().fetch_one(&mut **tx).await?;
        }
        Ok(sum)
    }

    /// Delete the payloads of these rows; what went.
    async fn erase(&self, change: &mut Change, rows: &BTreeSet<Uuid>) -> StoreResult<Vec<Erased>> {
        let rows: Vec<Uuid> = rows.iter().copied().collect();
        let mut all = Vec::new();
        for some in rows.chunks(BATCH) {
            // The one role that may take payloads away can do nothing else, so it is taken for that alone.
            sqlx::query("SET LOCAL ROLE tollgate_eraser").execute(&mut *change.tx).await?;
            let mut query = self.of(change.tenant, some, &["DELETE FROM "]);
            query.push(" RETURNING ").push(self.item);
            let gone: Vec<(Uuid, i16, i32)> = query.build_query_as().fetch_all(&mut *change.tx).await?;
            let parts = i16::from(self.parts.code());
            sqlx::query("SET LOCAL ROLE tollgate_app").execute(&mut *change.tx).await?;
            for (row, part, sequence) in gone {
                all.push(list::item(row, parts + part, sequence)?);
            }
        }
        Ok(all)
    }

    /// A statement on the payloads of these rows that begins with `what`.
    fn of(&self, tenant: TenantId, rows: &[Uuid], what: &[&'static str]) -> QueryBuilder<sqlx::Postgres> {
        let mut query = QueryBuilder::default();
        for part in what {
            query.push(*part);
        }
        query.push(self.payloads).push(" WHERE tenant_id = ").push_bind(tenant.uuid());
        query.push(" AND ").push(self.payload_id).push(" = ANY(").push_bind(rows.to_vec()).push(")");
        query
    }
}

/// Unpacking and searching takes longer than a thread that serves others may be held.
async fn search_all(bodies: Vec<(Uuid, Vec<u8>)>, needle: &Arc<Needle>, left: &mut usize) -> StoreResult<BTreeSet<Uuid>> {
    if bodies.is_empty() {
        return Ok(BTreeSet::new());
    }
    let (needle, mut rest) = (Arc::clone(needle), *left);
    let work = move || {
        let mut found = BTreeSet::new();
        for (id, body) in bodies {
            let text = payload::unpack(&body)?;
            rest = rest.checked_sub(text.len()).ok_or_else(too_much)?;
            if needle.is_in(&text) {
                found.insert(id);
            }
        }
        Ok::<_, StoreError>((found, rest))
    };
    let done = tokio::task::spawn_blocking(work).await;
    let (found, rest) = done.map_err(|e| StoreError::Corrupt(format!("a payload cannot be searched: {e}")))??;
    *left = rest;
    Ok(found)
}

fn too_much() -> StoreError {
    let text = format!(
        "this is more than one erasure looks at ({MAX_ROWS} calls or script runs, {} MiB of text to search); use a shorter time from `from` to `to`",
        MAX_TEXT >> 20
    );
    StoreError::invalid("/selection", text)
}

fn number(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

// ---------------------------------------------------------------- what was erased

const COLUMNS: &str =
    "SELECT erasure_id, at, by, reason, selection, calls, runs, requests FROM audit_erasures WHERE tenant_id = ";

/// Newest first.
///
/// # Errors
/// When the database does not answer.
pub async fn list(tx: &mut Tx, tenant: TenantId, page: PageRequest) -> StoreResult<Page<Erasure>> {
    let mut query = QueryBuilder::new(COLUMNS);
    query.push_bind(tenant.uuid());
    if let Some(after) = page.after {
        query.push(" AND erasure_id < ").push_bind(after);
    }
    query.push(" ORDER BY erasure_id DESC LIMIT ").push_bind(page.fetch());
    let rows = query.build().fetch_all(&mut **tx).await?;
    let rows: Vec<Erasure> = rows.iter().map(read).collect::<StoreResult<_>>()?;
    Ok(page.cut(rows, |row| row.id.uuid()))
}

/// # Errors
/// [`StoreError::NotFound`].
pub async fn get(tx: &mut Tx, tenant: TenantId, id: ErasureId) -> StoreResult<Erasure> {
    let mut query = QueryBuilder::new(COLUMNS);
    query.push_bind(tenant.uuid()).push(" AND erasure_id = ").push_bind(id.uuid());
    read(&query.build().fetch_one(&mut **tx).await?)
}

fn read(row: &PgRow) -> StoreResult<Erasure> {
    Ok(Erasure {
        id: row.try_get::<Uuid, _>("erasure_id")?.into(),
        at: row.try_get("at")?,
        by: row.try_get("by")?,
        reason: row.try_get("reason")?,
        selection: row.try_get("selection")?,
        counts: Counts { calls: row.try_get("calls")?, runs: row.try_get("runs")?, requests: row.try_get("requests")? },
    })
}
