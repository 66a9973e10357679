//! A tenant's trail read onwards from a position of its log: what exports by cursor, streams and export jobs stand on.
//!
//! **Why a reader who goes on from where it was misses nothing.** It does not follow time or ids, which commits overtake, but
//! positions, which are given when a row is sealed (see `sealer.rs`): behind a position that has been given nothing is ever
//! added, and every row that is committed gets one. So the calls between a position and the head of this moment are a fixed
//! set, and what comes later stands behind that head, where the next read begins.
//!
//! A call is told of where it was closed: at its completion, at the resolution of one whose worker died, or at the intent of
//! one that was refused or held. One that was resolved as unknown and whose answer came after all is told of again, there.
//!
//! Each batch is read whole in a short transaction of its own, bounded in rows and bytes: however slow the reader is, it holds
//! no connection and no snapshot while it takes its time.

use std::collections::{HashMap, HashSet, VecDeque};

use sqlx::Row;
use tokio::sync::mpsc;
use tollgate_domain::{TenantId, ids};
use tollgate_evidence::{
    batch,
    line::{Kind, Place},
};
use uuid::Uuid;

use crate::{
    calls::{CallFilter, Payloads, ToolCall, call_conditions, select_calls, tool_call},
    error::{StoreError, StoreResult},
    events::AdminEvent,
    export::{Chunk, Exported, Rows, STALL},
    requests::{self, LlmRequest},
    sealer::{head, signed},
    seals,
    tx::{Store, Tx},
};

/// Rows of one batch at most.
const BATCH: usize = 500;
/// Payloads of one batch at most; one larger row is a batch of its own.
const BATCH_BYTES: i64 = 4 << 20;
/// Seals unpacked at once: 4096 entries each at most.
const SEALS: i64 = 16;

const GONE: &str = "what stood at this place of the log has been dropped with its month; `cursor=start` begins at the oldest \
                    row that is left";
const BEYOND: &str = "the cursor lies beyond the end of the log: it was made before the database went back to an older state; \
                      `cursor=start` begins anew";

/// Where a reader begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At the oldest row that is left; what retention has dropped is passed over.
    Oldest,
    /// At what is sealed from now on.
    Head,
    /// At this position. Rows behind it that are gone are an error.
    At(u64),
}

/// What is read.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// `from` and `to` compare with the time in a call's id, as in lists.
    pub calls: CallFilter,
    /// Calls, or requests to models, of which the same filter speaks.
    pub rows: Rows,
    /// Admin events as well.
    pub events: bool,
}

/// One row, and the position behind it.
#[derive(Debug)]
pub struct Told {
    pub next: u64,
    pub what: What,
}

#[derive(Debug)]
pub enum What {
    Call(Box<ToolCall>),
    Request(Box<LlmRequest>),
    Event(Box<AdminEvent>),
}

/// A read from one position to another.
#[derive(Debug)]
pub struct Follow {
    store: Store,
    tenant: TenantId,
    wanted: Wanted,
    /// Everything below has been told.
    position: u64,
    /// Exclusive, and never beyond what was sealed when the read was opened.
    end: u64,
    /// What is gone is passed over.
    lenient: bool,
    /// Rows of one batch.
    batch: usize,
    /// Entries that are unpacked and not told yet.
    ahead: VecDeque<(u64, Place)>,
    /// Everything below has been unpacked.
    unpacked: u64,
}

/// Where the log ends now: the position that the next row gets.
///
/// # Errors
/// When the database does not answer.
pub async fn end(store: &Store, tenant: TenantId) -> StoreResult<u64> {
    let mut tx = store.tenant(tenant).await?;
    let end = head(&mut tx, tenant).await?.map_or(0, |signed| signed.seal.end());
    tx.commit().await?;
    Ok(end)
}

/// Begin a read up to the head of this moment.
///
/// # Errors
/// [`StoreError::Gone`] where rows between are no longer there, or the position never was.
pub async fn open(store: &Store, tenant: TenantId, wanted: Wanted, start: Start) -> StoreResult<Follow> {
    let mut tx = store.tenant_snapshot(tenant).await?;
    let end = head(&mut tx, tenant).await?.map_or(0, |signed| signed.seal.end());
    let position = match start {
        Start::Oldest => 0,
        Start::Head => end,
        Start::At(position) if position > end => return Err(StoreError::Gone(BEYOND)),
        Start::At(position) => {
            if has_gap(&mut tx, tenant, position, end).await? {
                return Err(StoreError::Gone(GONE));
            }
            position
        }
    };
    tx.commit().await?;
    Ok(resume(store, tenant, wanted, position, end, start == Start::Oldest))
}

/// Go on with a read that was opened once, here or in another process.
#[must_use]
pub fn resume(store: &Store, tenant: TenantId, wanted: Wanted, position: u64, end: u64, lenient: bool) -> Follow {
    let (store, ahead) = (store.clone(), VecDeque::new());
    Follow { store, tenant, wanted, position, end, lenient, batch: BATCH, ahead, unpacked: position }
}

/// Whether entries between two positions went with their rows. Seals have no gap, so their numbers tell.
async fn has_gap(tx: &mut Tx, tenant: TenantId, position: u64, end: u64) -> StoreResult<bool> {
    let Some(first) = seals::at_position(tx, tenant, position).await? else { return Ok(false) };
    let gap = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM audit_seals s WHERE s.tenant_id = $1 AND s.sequence >= $2 AND s.first < $3
           AND NOT EXISTS (SELECT FROM audit_entries e WHERE e.tenant_id = s.tenant_id AND e.sequence = s.sequence))",
    );
    let gap = gap.bind(tenant.uuid()).bind(signed(first.seal.sequence)).bind(signed(end));
    Ok(gap.fetch_one(&mut **tx).await?)
}

impl Follow {
    /// With at most this many rows at a time, for a reader that has room for no more.
    #[must_use]
    pub fn with_batch(self, rows: usize) -> Self {
        Self { batch: rows.clamp(1, BATCH), ..self }
    }

    /// Everything below has been told; a read that resumes begins here.
    #[must_use]
    pub const fn position(&self) -> u64 {
        self.position
    }

    /// Where this read ends, and the next begins.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.end
    }

    /// The next rows in the order of the log, perhaps none; `None` at the end.
    ///
    /// # Errors
    /// [`StoreError::Gone`] when retention has overtaken this read; whatever the database says.
    pub async fn next(&mut self) -> StoreResult<Option<Vec<Told>>> {
        if self.position >= self.end {
            return Ok(None);
        }
        let mut tx = self.store.tenant_snapshot(self.tenant).await?;
        if self.ahead.is_empty() {
            self.unpack(&mut tx).await?;
        }
        let closed = self.closed(&mut tx).await?;
        let told = self.tell(&mut tx, closed).await?;
        tx.commit().await?;
        Ok(Some(told))
    }

    /// Send every row of one kind, then an empty chunk, as [`crate::export::Export::run`] does.
    pub async fn run<R: Exported>(mut self, out: mpsc::Sender<Chunk<R>>) {
        loop {
            let chunk = match self.next().await {
                Ok(Some(told)) => Ok(told.into_iter().filter_map(|told| R::of(told.what)).collect::<Vec<_>>()),
                Ok(None) => Ok(Vec::new()),
                Err(error) => Err(error),
            };
            let last = match &chunk {
                Ok(calls) if calls.is_empty() && self.position < self.end => continue,
                Ok(calls) => calls.is_empty(),
                Err(_) => true,
            };
            if !matches!(tokio::time::timeout(STALL, out.send(chunk)).await, Ok(Ok(()))) {
                return tracing::debug!("the reader of an export has gone");
            }
            if last {
                return;
            }
        }
    }

    /// Unpack the entries of the next seals. A window of time passes over those that hold nothing of it.
    async fn unpack(&mut self, tx: &mut Tx) -> StoreResult<()> {
        let CallFilter { from, to, .. } = self.wanted.calls;
        let rows = sqlx::query(
            "SELECT s.sequence, s.first, s.count, e.entries FROM audit_seals s
             LEFT JOIN audit_entries e ON e.tenant_id = s.tenant_id AND e.sequence = s.sequence
             WHERE s.tenant_id = $1 AND s.first < $3 AND s.high >= $4 AND s.low < $5
               AND s.first >= COALESCE((SELECT max(b.first) FROM audit_seals b WHERE b.tenant_id = $1 AND b.first <= $2), 0)
             ORDER BY s.first LIMIT $6",
        );
        let rows = rows.bind(self.tenant.uuid()).bind(signed(self.unpacked)).bind(signed(self.end));
        let rows = rows.bind(from.map_or(Uuid::nil(), ids::floor)).bind(to.map_or(Uuid::max(), ids::floor)).bind(SEALS);
        let rows = rows.fetch_all(&mut **tx).await?;
        let more = rows.len() >= usize::try_from(SEALS).unwrap_or(usize::MAX);
        for row in rows {
            let (sequence, first, count): (i64, i64, i32) =
                (row.try_get("sequence")?, row.try_get("first")?, row.try_get("count")?);
            let corrupt = || StoreError::Corrupt(format!("entries of seal {sequence} of {}", self.tenant));
            let first = u64::try_from(first).map_err(|_| corrupt())?;
            let count = u64::try_from(count).map_err(|_| corrupt())?;
            match row.try_get::<Option<&[u8]>, _>("entries")? {
                Some(packed) => {
                    let entries = batch::unpack_sealed(packed).ok_or_else(corrupt)?;
                    let places = (first..).zip(entries.into_iter().map(|(place, _)| place));
                    let (from, to, wanted) = (self.unpacked, self.end, &self.wanted);
                    self.ahead.extend(places.filter(|(at, place)| *at >= from && *at < to && wanted.may_want(place)));
                }
                None if self.lenient => {}
                None => return Err(StoreError::Gone(GONE)),
            }
            self.unpacked = (first + count).min(self.end);
        }
        if !more {
            self.unpacked = self.end;
        }
        Ok(())
    }

    /// Cut the next batch and find which of its calls and requests were closed where they stand in it.
    async fn closed(&mut self, tx: &mut Tx) -> StoreResult<Vec<(u64, Place)>> {
        let looked: Vec<(u64, Place)> = self.ahead.iter().take(self.batch).copied().collect();
        let (ids, low, high) = of_calls(&looked);
        // Sizes first, so that a batch of large payloads is never in memory at once.
        let rows = sqlx::query(
            "SELECT i.call_id, i.outcome IS NOT NULL AS closed,
                    EXISTS (SELECT FROM tool_call_events c WHERE c.tenant_id = i.tenant_id AND c.call_id = i.call_id AND c.kind = 1) AS answered,
                    (SELECT COALESCE(sum(p.size), 0) FROM tool_call_payloads p
                      WHERE p.tenant_id = i.tenant_id AND p.call_id = i.call_id) AS bytes
             FROM tool_call_events i WHERE i.tenant_id = $1 AND i.call_id = ANY($2) AND i.call_id >= $3 AND i.call_id <= $4 AND i.kind = 0",
        );
        let rows = rows.bind(self.tenant.uuid()).bind(&ids).bind(low).bind(high);
        let mut found: HashMap<Uuid, (bool, bool, i64)> = HashMap::with_capacity(ids.len());
        let rows = if ids.is_empty() { Vec::new() } else { rows.fetch_all(&mut **tx).await? };
        for row in rows {
            found.insert(row.try_get("call_id")?, (row.try_get("closed")?, row.try_get("answered")?, row.try_get("bytes")?));
        }
        let requests = self.closed_requests(tx, &looked).await?;
        let (mut bytes, mut taken) = (0i64, Vec::new());
        for (at, place) in looked {
            let call = found.get(&place.id);
            bytes += call.map_or(0, |(_, _, bytes)| *bytes);
            if bytes > BATCH_BYTES && !taken.is_empty() {
                break;
            }
            self.ahead.pop_front();
            taken.push((at, place));
            if place.kind == Kind::AdminEvent {
                continue;
            }
            if is_request(place.kind) {
                match requests.get(&place.id) {
                    Some((_, true)) if place.kind == Kind::LlmResolution => drop(taken.pop()),
                    Some((closed, _)) if place.kind != Kind::LlmRequest || *closed => {}
                    Some(_) => drop(taken.pop()),
                    None if self.lenient => drop(taken.pop()),
                    None => return Err(StoreError::Gone(GONE)),
                }
                continue;
            }
            match call {
                // Its answer has come after all, and stands further on.
                Some((_, true, _)) if place.kind == Kind::CallResolution => drop(taken.pop()),
                Some((closed, ..)) if place.kind != Kind::CallIntent || *closed => {}
                Some(_) => drop(taken.pop()),
                None if self.lenient => drop(taken.pop()),
                None => return Err(StoreError::Gone(GONE)),
            }
        }
        self.position = self.ahead.front().map_or(self.unpacked, |(at, _)| *at);
        // A call that was resolved and then answered within one batch is told of once, at its end.
        let mut seen = HashSet::new();
        taken.reverse();
        taken.retain(|(_, place)| seen.insert(place.id));
        taken.reverse();
        Ok(taken)
    }

    /// Of the requests among these places: whether each was closed as it was opened, and whether its truth is known.
    async fn closed_requests(&self, tx: &mut Tx, looked: &[(u64, Place)]) -> StoreResult<HashMap<Uuid, (bool, bool)>> {
        let (ids, low, high) = of_requests(looked);
        if ids.is_empty() {
            return Ok(HashMap::new());
        }
        // One that was not forwarded has no end: it was made for calls, or refused.
        let rows = sqlx::query_as::<_, (Uuid, bool, bool)>(
            "SELECT l.llm_request_id, f.llm_request_id IS NULL OR f.decision = 'denied',
                    EXISTS (SELECT FROM llm_request_ends e WHERE e.tenant_id = l.tenant_id AND e.llm_request_id = l.llm_request_id AND e.kind = 1)
             FROM llm_requests l LEFT JOIN llm_forwards f ON f.tenant_id = l.tenant_id AND f.llm_request_id = l.llm_request_id
             WHERE l.tenant_id = $1 AND l.llm_request_id = ANY($2) AND l.llm_request_id >= $3 AND l.llm_request_id <= $4",
        );
        let rows = rows.bind(self.tenant.uuid()).bind(ids).bind(low).bind(high).fetch_all(&mut **tx).await?;
        Ok(rows.into_iter().map(|(id, closed, answered)| (id, (closed, answered))).collect())
    }

    async fn tell(&self, tx: &mut Tx, places: Vec<(u64, Place)>) -> StoreResult<Vec<Told>> {
        let (ids, low, high) = of_calls(&places);
        let mut rows: HashMap<Uuid, What> = HashMap::with_capacity(places.len());
        if !ids.is_empty() {
            let mut query = select_calls(self.tenant, Payloads::All);
            query.push(" AND t.call_id = ANY(").push_bind(ids).push(") AND t.call_id >= ").push_bind(low);
            query.push(" AND t.call_id <= ").push_bind(high);
            call_conditions(&mut query, "t", &self.wanted.calls);
            for row in query.build().fetch_all(&mut **tx).await? {
                let call = tool_call(&row, true)?;
                rows.insert(call.id.uuid(), What::Call(Box::new(call)));
            }
        }
        let (ids, low, high) = of_requests(&places);
        if !ids.is_empty() {
            let mut query = requests::select(self.tenant);
            query.push(" AND l.llm_request_id = ANY(").push_bind(ids).push(") AND l.llm_request_id >= ").push_bind(low);
            query.push(" AND l.llm_request_id <= ").push_bind(high);
            requests::conditions(&mut query, &self.wanted.calls);
            for row in query.build().fetch_all(&mut **tx).await? {
                let request = requests::read(&row)?;
                rows.insert(request.id.uuid(), What::Request(Box::new(request)));
            }
        }
        let events: Vec<Uuid> = places.iter().filter(|(_, p)| p.kind == Kind::AdminEvent).map(|(_, p)| p.id).collect();
        if !events.is_empty() {
            let query = sqlx::query_as::<_, AdminEvent>(
                "SELECT event_id, at, actor_kind, actor_id, role, action, target_id, detail, request_id FROM admin_events
                 WHERE tenant_id = $1 AND event_id = ANY($2)",
            );
            for event in query.bind(self.tenant.uuid()).bind(&events).fetch_all(&mut **tx).await? {
                rows.insert(event.event_id, What::Event(Box::new(event)));
            }
        }
        Ok(places.into_iter().filter_map(|(at, place)| Some(Told { next: at + 1, what: rows.remove(&place.id)? })).collect())
    }
}

impl Wanted {
    fn may_want(&self, place: &Place) -> bool {
        let CallFilter { from, to, .. } = self.calls;
        let within = || from.is_none_or(|from| place.id >= ids::floor(from)) && to.is_none_or(|to| place.id < ids::floor(to));
        match place.kind {
            Kind::AdminEvent => self.events,
            kind if is_call(kind) => self.rows.calls() && within(),
            kind if is_request(kind) => self.rows.requests() && within(),
            _ => false,
        }
    }
}

impl What {
    /// The call, where it is one.
    #[must_use]
    pub fn call(self) -> Option<ToolCall> {
        match self {
            Self::Call(call) => Some(*call),
            Self::Request(_) | Self::Event(_) => None,
        }
    }
}

const fn is_call(kind: Kind) -> bool {
    matches!(kind, Kind::CallIntent | Kind::CallCompletion | Kind::CallResolution)
}

const fn is_request(kind: Kind) -> bool {
    matches!(kind, Kind::LlmRequest | Kind::LlmEnd | Kind::LlmResolution)
}

/// The calls among these places, and the range of their ids: it names the partitions.
fn of_calls(places: &[(u64, Place)]) -> (Vec<Uuid>, Uuid, Uuid) {
    of(places, is_call)
}

/// And the requests to models.
fn of_requests(places: &[(u64, Place)]) -> (Vec<Uuid>, Uuid, Uuid) {
    of(places, is_request)
}

fn of(places: &[(u64, Place)], are: fn(Kind) -> bool) -> (Vec<Uuid>, Uuid, Uuid) {
    let ids: HashSet<Uuid> = places.iter().filter(|(_, p)| are(p.kind)).map(|(_, p)| p.id).collect();
    let (low, high) = (ids.iter().min().copied().unwrap_or_default(), ids.iter().max().copied().unwrap_or_default());
    (ids.into_iter().collect(), low, high)
}
