//! Followers of the log: how far each has got in every tenant's log, who delivers, and what comes next.
//!
//! A position is a place in the sealed log, which never changes and into which nothing is inserted (see [`crate::sealer`]): whoever
//! has delivered everything below it has delivered all that will ever stand there. So one number per tenant and follower is enough,
//! and is moved only after a delivery was acknowledged: at least once, in order.
//!
//! One process at a time delivers to a follower what is a tenant's: it holds a lease, renewed with every step. A lease is a row
//! and not an advisory lock, because no connection may be kept while somebody else's server takes its time.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use sqlx::Row as _;
use tollgate_domain::{CallId, TenantId};
use tollgate_evidence::line::Kind;
use uuid::Uuid;

use crate::{
    calls::{Payloads, ToolCall, select_calls, tool_call},
    error::{StoreError, StoreResult},
    events::AdminEvent,
    sealer::signed,
    seals,
    tx::{Store, Tx},
};

/// Longer than any delivery may take, by the database's clock.
pub const LEASE_SECONDS: f64 = 60.0;
/// Rows of one batch.
pub const BATCH_ROWS: usize = 500;
/// Entries looked at for one batch, of all kinds.
const BATCH_ENTRIES: usize = 4096;
/// Seals read for one batch: an idle log has many small ones.
const BATCH_SEALS: i64 = 64;

/// Where a follower that was never seen before begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    Beginning,
    /// With what is sealed from now on.
    End,
    /// With the newest seal.
    NewestSeal,
}

/// Which rows a follower wants.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    pub calls: bool,
    pub admin_events: bool,
}

/// A log that goes on beyond what a follower has.
#[derive(Debug, Clone)]
pub struct Behind {
    pub tenant: TenantId,
    pub lag: u64,
}

/// How a follower does in one tenant's log.
#[derive(Debug, Clone)]
pub struct Standing {
    pub follower: String,
    pub position: u64,
    pub updated_at: DateTime<Utc>,
    pub last_error: Option<String>,
    pub failing_since: Option<DateTime<Utc>>,
}

/// Rows in the order of the log, each with its position.
#[derive(Debug, Default)]
pub struct Batch {
    pub rows: Vec<(u64, Row)>,
    /// The position after the last entry that was looked at.
    pub end: u64,
    /// Rows that the log names and that are no more: their month was dropped.
    pub gone: u64,
}

#[derive(Debug, Clone)]
pub enum Row {
    /// Boxed: it is several times an event's size.
    Call(Box<ToolCall>),
    Event(AdminEvent),
}

/// One holder of leases.
#[derive(Debug, Clone, Copy)]
pub struct Holder(pub Uuid);

/// Remember where a new follower begins, in all logs that there are: what comes into being later it gets from the beginning. Changes
/// nothing for a follower that is known.
///
/// # Errors
/// When the database does not answer.
pub async fn register(store: &Store, follower: &str, start: Start, now: DateTime<Utc>) -> StoreResult<()> {
    let mut tx = store.control().await?;
    // The row of the nil tenant, whose log is there before any other, says that the follower is known.
    sqlx::query(
        "INSERT INTO audit_followers (tenant_id, follower, position, updated_at)
         SELECT t.tenant_id, $1, CASE $2 WHEN 'end' THEN COALESCE(h.first + h.count, 0) WHEN 'newest' THEN COALESCE(h.first, 0) ELSE 0 END, $3
         FROM (SELECT tenant_id FROM tenants UNION ALL SELECT '00000000-0000-0000-0000-000000000000') t
         LEFT JOIN LATERAL (SELECT s.first, s.count FROM audit_seals s WHERE s.tenant_id = t.tenant_id
                            ORDER BY s.sequence DESC LIMIT 1) h ON true
         WHERE NOT EXISTS (SELECT FROM audit_followers f
                           WHERE f.tenant_id = '00000000-0000-0000-0000-000000000000' AND f.follower = $1)
         ON CONFLICT DO NOTHING",
    )
    .bind(follower)
    .bind(match start {
        Start::Beginning => "beginning",
        Start::End => "end",
        Start::NewestSeal => "newest",
    })
    .bind(now)
    .execute(&mut *tx)
    .await?;
    Ok(tx.commit().await?)
}

/// At most `limit` logs in which the follower is behind, the ones that have waited longest first: of the tenants named by id or slug,
/// or of all. Logs that another process delivers are left to it.
///
/// # Errors
/// When the database does not answer.
pub async fn behind(
    store: &Store,
    follower: &str,
    tenants: Option<&[String]>,
    Holder(holder): Holder,
    limit: i64,
) -> StoreResult<Vec<Behind>> {
    let mut tx = store.control().await?;
    let rows: Vec<(Uuid, i64)> = sqlx::query_as(
        "SELECT t.tenant_id, h.head - COALESCE(f.position, 0)
         FROM (SELECT tenant_id, slug FROM tenants UNION ALL SELECT '00000000-0000-0000-0000-000000000000', NULL) t
         CROSS JOIN LATERAL (SELECT s.first + s.count AS head FROM audit_seals s WHERE s.tenant_id = t.tenant_id
                             ORDER BY s.sequence DESC LIMIT 1) h
         LEFT JOIN audit_followers f ON f.tenant_id = t.tenant_id AND f.follower = $1
         WHERE h.head > COALESCE(f.position, 0) AND ($2::text[] IS NULL OR t.slug = ANY($2) OR t.tenant_id = ANY($3))
           AND (f.holder IS NULL OR f.holder = $4 OR f.held_until < clock_timestamp())
         ORDER BY f.updated_at NULLS FIRST LIMIT $5",
    )
    .bind(follower)
    .bind(tenants)
    .bind(ids_among(tenants.unwrap_or_default()))
    .bind(holder)
    .bind(limit)
    .fetch_all(&mut *tx)
    .await?;
    tx.commit().await?;
    let read = |(tenant, lag): (Uuid, i64)| Behind { tenant: tenant.into(), lag: u64::try_from(lag).unwrap_or(0) };
    Ok(rows.into_iter().map(read).collect())
}

fn ids_among(names: &[String]) -> Vec<Uuid> {
    names.iter().filter_map(|name| Some(name.parse::<TenantId>().ok()?.uuid())).collect()
}

/// Those of `names` that are no tenant's id or slug.
///
/// # Errors
/// When the database does not answer.
pub async fn strangers(store: &Store, names: &[String]) -> StoreResult<Vec<String>> {
    let mut tx = store.control().await?;
    let rows: Vec<(Uuid, String)> =
        sqlx::query_as("SELECT tenant_id, slug FROM tenants WHERE slug = ANY($1) OR tenant_id = ANY($2)")
            .bind(names)
            .bind(ids_among(names))
            .fetch_all(&mut *tx)
            .await?;
    tx.commit().await?;
    let known = |name: &String| {
        let id = name.parse::<TenantId>().map(TenantId::uuid);
        id == Ok(Uuid::nil()) || rows.iter().any(|(tenant, slug)| slug == name || id == Ok(*tenant))
    };
    Ok(names.iter().filter(|name| !known(name)).cloned().collect())
}

/// Take the lease, and learn where to go on. `None` while another process has it.
///
/// # Errors
/// When the database does not answer.
pub async fn claim(
    store: &Store,
    tenant: TenantId,
    follower: &str,
    Holder(holder): Holder,
    now: DateTime<Utc>,
) -> StoreResult<Option<u64>> {
    let mut tx = store.control().await?;
    let position: Option<i64> = sqlx::query_scalar(
        "INSERT INTO audit_followers AS f (tenant_id, follower, position, updated_at, holder, held_until)
         VALUES ($1, $2, 0, $3, $4, clock_timestamp() + make_interval(secs => $5))
         ON CONFLICT (tenant_id, follower) DO UPDATE SET updated_at = $3, holder = $4, held_until = EXCLUDED.held_until
           WHERE f.holder IS NULL OR f.holder = $4 OR f.held_until < clock_timestamp()
         RETURNING position",
    )
    .bind(tenant.uuid())
    .bind(follower)
    .bind(now)
    .bind(holder)
    .bind(LEASE_SECONDS)
    .fetch_optional(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(position.map(|position| u64::try_from(position).unwrap_or(0)))
}

/// Everything below `position` was delivered; `error` is why what follows was not. Renews the lease. `false` when it has gone to
/// another process, which will deliver the same again.
///
/// # Errors
/// When the database does not answer.
pub async fn advance(
    store: &Store,
    tenant: TenantId,
    follower: &str,
    Holder(holder): Holder,
    (position, error): (u64, Option<&str>),
    now: DateTime<Utc>,
) -> StoreResult<bool> {
    let mut tx = store.control().await?;
    let done = sqlx::query(
        "UPDATE audit_followers SET position = $4, updated_at = $5, held_until = clock_timestamp() + make_interval(secs => $7),
           last_error = $6, failing_since = CASE WHEN $6 IS NOT NULL THEN COALESCE(failing_since, $5) END
         WHERE tenant_id = $1 AND follower = $2 AND holder = $3",
    )
    .bind(tenant.uuid())
    .bind(follower)
    .bind(holder)
    .bind(signed(position))
    .bind(now)
    .bind(error)
    .bind(LEASE_SECONDS)
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(done.rows_affected() == 1)
}

/// Give back all leases: the process ends.
///
/// # Errors
/// When the database does not answer; the leases run out by themselves.
pub async fn release(store: &Store, Holder(holder): Holder) -> StoreResult<()> {
    let mut tx = store.control().await?;
    let leases = sqlx::query("UPDATE audit_followers SET holder = NULL, held_until = NULL WHERE holder = $1");
    leases.bind(holder).execute(&mut *tx).await?;
    Ok(tx.commit().await?)
}

/// A tenant's followers, by name.
///
/// # Errors
/// When the database does not answer.
pub async fn standings(tx: &mut Tx, tenant: TenantId) -> StoreResult<Vec<Standing>> {
    let rows = sqlx::query(
        "SELECT follower, position, updated_at, last_error, failing_since FROM audit_followers WHERE tenant_id = $1 ORDER BY follower",
    );
    let rows = rows.bind(tenant.uuid()).fetch_all(&mut **tx).await?;
    let read = |row: &sqlx::postgres::PgRow| {
        Ok(Standing {
            follower: row.try_get("follower")?,
            position: u64::try_from(row.try_get::<i64, _>("position")?).unwrap_or(0),
            updated_at: row.try_get("updated_at")?,
            last_error: row.try_get("last_error")?,
            failing_since: row.try_get("failing_since")?,
        })
    };
    rows.iter().map(read).collect()
}

// ---------------------------------------------------------------- what comes next

/// The rows from a position on: at most [`BATCH_ROWS`], and no more than about `bytes` of payloads unless a single row is larger.
/// `None` at the end of the log.
///
/// A tool call stands where its end does (a refused one where it begins), as it then is. One that was resolved as unknown and
/// ended after all stands twice.
///
/// # Errors
/// When the database does not answer.
pub async fn batch(store: &Store, tenant: TenantId, from: u64, wanted: Wanted, bytes: usize) -> StoreResult<Option<Batch>> {
    let mut tx = store.tenant_snapshot(tenant).await?;
    let mut batch = Batch { end: from, ..Batch::default() };
    let mut places = entries(&mut tx, tenant, wanted, &mut batch).await?;
    if batch.end == from {
        return Ok(None);
    }
    keep_ended(&mut tx, tenant, &mut places).await?;
    if let Some((position, ..)) = places.get(BATCH_ROWS) {
        batch.end = *position;
        places.truncate(BATCH_ROWS);
    }
    if let Some(cut) = beyond(&mut tx, tenant, &places, bytes).await? {
        batch.end = places[cut].0;
        places.truncate(cut);
    }
    let (calls, events) = (calls(&mut tx, tenant, &places).await?, events(&mut tx, tenant, &places).await?);
    for (position, kind, id) in places {
        let row = match kind {
            Kind::AdminEvent => events.get(&id).cloned().map(Row::Event),
            _ => calls.get(&id).cloned().map(|call| Row::Call(Box::new(call))),
        };
        match row {
            Some(row) => batch.rows.push((position, row)),
            None => batch.gone += 1,
        }
    }
    Ok(Some(batch))
}

type Position = (u64, Kind, Uuid);

/// The entries that a batch could be made of; moves its end.
async fn entries(tx: &mut Tx, tenant: TenantId, wanted: Wanted, batch: &mut Batch) -> StoreResult<Vec<Position>> {
    let mut places = Vec::new();
    let Some(first) = seals::at_position(tx, tenant, batch.end).await? else { return Ok(places) };
    let mut looked_at = 0;
    for signed in seals::from(tx, tenant, first.seal.sequence, BATCH_SEALS).await? {
        let Some(entries) = seals::entries(tx, tenant, signed.seal.sequence).await? else {
            batch.gone += signed.seal.end() - batch.end.max(signed.seal.first);
            batch.end = signed.seal.end();
            continue;
        };
        for (position, (place, _)) in (signed.seal.first..).zip(entries) {
            if position < batch.end {
                continue;
            }
            let (call, event) = (is_call(place.kind), place.kind == Kind::AdminEvent);
            if (wanted.calls && call) || (wanted.admin_events && event) {
                places.push((position, place.kind, place.id));
            }
            batch.end = position + 1;
            looked_at += 1;
            if looked_at == BATCH_ENTRIES {
                return Ok(places);
            }
        }
    }
    Ok(places)
}

const fn is_call(kind: Kind) -> bool {
    matches!(kind, Kind::CallIntent | Kind::CallCompletion | Kind::CallResolution)
}

/// Of intents, keep those that are ends as well: the call was refused.
async fn keep_ended(tx: &mut Tx, tenant: TenantId, places: &mut Vec<Position>) -> StoreResult<()> {
    let intents: Vec<Uuid> = places.iter().filter(|(_, kind, _)| *kind == Kind::CallIntent).map(|(.., id)| *id).collect();
    if intents.is_empty() {
        return Ok(());
    }
    let rows = sqlx::query_scalar(
        "SELECT call_id FROM tool_call_events WHERE tenant_id = $1 AND call_id = ANY($2) AND kind = 0 AND outcome IS NOT NULL",
    );
    let ended: HashSet<Uuid> = rows.bind(tenant.uuid()).bind(intents).fetch_all(&mut **tx).await?.into_iter().collect();
    places.retain(|(_, kind, id)| *kind != Kind::CallIntent || ended.contains(id));
    Ok(())
}

fn ids(places: &[Position], event: bool) -> Vec<Uuid> {
    places.iter().filter(|(_, kind, _)| (*kind == Kind::AdminEvent) == event).map(|(.., id)| *id).collect()
}

/// The index of the first place that does not fit in `bytes`; never the first of all.
async fn beyond(tx: &mut Tx, tenant: TenantId, places: &[Position], bytes: usize) -> StoreResult<Option<usize>> {
    let rows: Vec<(Uuid, i64)> = sqlx::query_as(
        "SELECT call_id, sum(size)::bigint FROM tool_call_payloads WHERE tenant_id = $1 AND call_id = ANY($2) GROUP BY call_id",
    )
    .bind(tenant.uuid())
    .bind(ids(places, false))
    .fetch_all(&mut **tx)
    .await?;
    let sizes: HashMap<Uuid, i64> = rows.into_iter().collect();
    let mut left = i64::try_from(bytes).unwrap_or(i64::MAX);
    let over = places.iter().position(|(.., id)| {
        left = left.saturating_sub(sizes.get(id).copied().unwrap_or(0));
        left < 0
    });
    Ok(over.map(|index| index.max(1)).filter(|index| *index < places.len()))
}

async fn calls(tx: &mut Tx, tenant: TenantId, places: &[Position]) -> StoreResult<HashMap<Uuid, ToolCall>> {
    let ids = ids(places, false);
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let mut query = select_calls(tenant, Payloads::All);
    query.push(" AND t.call_id = ANY(").push_bind(ids).push(")");
    let rows = query.build().fetch_all(&mut **tx).await?;
    let with_id = |call: ToolCall| (CallId::uuid(call.id), call);
    rows.iter().map(|row| tool_call(row, true).map(with_id)).collect::<Result<_, StoreError>>()
}

async fn events(tx: &mut Tx, tenant: TenantId, places: &[Position]) -> StoreResult<HashMap<Uuid, AdminEvent>> {
    let ids = ids(places, true);
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = sqlx::query_as::<_, AdminEvent>(
        "SELECT event_id, at, actor_kind, actor_id, role, action, target_id, detail, request_id FROM admin_events
         WHERE tenant_id = $1 AND event_id = ANY($2)",
    );
    let rows = rows.bind(tenant.uuid()).bind(ids).fetch_all(&mut **tx).await?;
    Ok(rows.into_iter().map(|event| (event.event_id, event)).collect())
}
