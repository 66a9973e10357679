//! What a bundle is made of, chunk by chunk, from one snapshot: seals, the lines under them, and the payloads of the lines.

mod erased;

use std::collections::{HashMap, HashSet, VecDeque};

use chrono::{DateTime, Utc};
use tollgate_domain::{ErasureId, TenantId};
use tollgate_evidence::{
    Hash,
    batch::Sealed,
    bundle::{CHUNK, CatalogLine, Content, Writer},
    erasure::Erased,
    line::{self, Kept, Line, Part, Place},
    seal::SignedSeal,
    sign::KeyRing,
};
use uuid::Uuid;

use crate::{
    error::{StoreError, StoreResult},
    log, payload,
    sealer::signed,
    seals,
    tx::{Store, Tx},
};

/// Payload bytes, unpacked, that one query brings at most; a single one may be larger.
const PAYLOADS: i64 = 4 << 20;
/// How long a reader may take nothing.
const STALL: std::time::Duration = std::time::Duration::from_secs(60);
/// Seals that are read ahead to fill a chunk.
const SEALS: i64 = 256;

/// A bundle under way. What is sealed after it was opened is not in it.
pub struct Bundle {
    tx: Tx,
    tenant: TenantId,
    /// The sequence of the next seal, and of the last.
    next: u64,
    last: u64,
    head: Option<SignedSeal>,
    /// Where the entries begin and end, and how far they have been sent.
    positions: (u64, u64),
    reached: u64,
    /// That are to be proved before the first chunk, and that have been.
    erasures: VecDeque<ErasureId>,
    proved: HashSet<Uuid>,
    catalogs: HashSet<Hash>,
    writer: Writer,
}

/// Which of a log's whole seals are wanted: those made in a time range, and those that begin between two positions.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cover {
    pub from: Option<DateTime<Utc>>,
    pub to: Option<DateTime<Utc>>,
    pub first: Option<u64>,
    /// Exclusive.
    pub until: Option<u64>,
}

/// What a cover comes to.
#[derive(sqlx::FromRow)]
struct Range {
    first: Option<i64>,
    last: Option<i64>,
    begin: Option<i64>,
    until: Option<i64>,
    /// All of its rows are still there.
    whole: Option<bool>,
}

/// Open a bundle of the whole seals of a cover.
///
/// # Errors
/// [`StoreError::Invalid`] when rows of the range have been dropped with their month; [`StoreError::Conflict`] while an erasure is not
/// sealed yet; when the database does not answer.
pub async fn open(store: &Store, tenant: TenantId, cover: Cover, now: DateTime<Utc>) -> StoreResult<Bundle> {
    let mut tx = erased::settled_snapshot(store, tenant, now).await?;
    // A bundle takes as long as its reader; the channel's stall bounds that.
    sqlx::query("SET LOCAL statement_timeout = 0").execute(&mut *tx).await?;
    let horizon = horizon(&mut tx, tenant).await?;
    let range = sqlx::query_as::<_, Range>(
        "SELECT min(s.sequence) AS first, max(s.sequence) AS last, min(s.first) AS begin, max(s.first + s.count) AS until,
                bool_and(e.sequence IS NOT NULL AND s.low >= $4) AS whole
         FROM audit_seals s LEFT JOIN audit_entries e ON e.tenant_id = s.tenant_id AND e.sequence = s.sequence
         WHERE s.tenant_id = $1 AND ($2::timestamptz IS NULL OR s.sealed_at >= $2) AND ($3::timestamptz IS NULL OR s.sealed_at < $3)
           AND s.first >= $5 AND s.first < $6",
    );
    let range = range.bind(tenant.uuid()).bind(cover.from).bind(cover.to).bind(horizon);
    let range = range.bind(signed(cover.first.unwrap_or(0))).bind(signed(cover.until.unwrap_or(u64::MAX)));
    let range = range.fetch_one(&mut *tx).await?;
    refuse_what_is_not_there(&mut tx, tenant, &range, horizon).await?;
    let keys: Vec<_> = seals::keys(&mut tx).await?.into_iter().map(|(key, _)| key).collect();
    let writer = Writer::new(&keys, now).map_err(broken)?;
    let number = |n: Option<i64>| n.and_then(|n| u64::try_from(n).ok()).unwrap_or(0);
    let head = seals::newest(&mut tx, tenant).await?;
    let erasures = erased::touching(&mut tx, tenant, range.first.unwrap_or(0), range.last.unwrap_or(0)).await?;
    let positions = (number(range.begin), number(range.until));
    Ok(Bundle {
        tx,
        tenant,
        next: number(range.first).max(1),
        last: number(range.last),
        head,
        positions,
        reached: positions.0,
        erasures: erasures.into(),
        proved: HashSet::new(),
        catalogs: HashSet::new(),
        writer,
    })
}

async fn refuse_what_is_not_there(tx: &mut Tx, tenant: TenantId, range: &Range, horizon: Uuid) -> StoreResult<()> {
    if range.whole == Some(false) {
        let oldest = sqlx::query_scalar!(
            "SELECT min(s.sealed_at) FROM audit_seals s JOIN audit_entries e ON e.tenant_id = s.tenant_id AND e.sequence = s.sequence
             WHERE s.tenant_id = $1 AND s.low >= $2
               AND s.sequence > COALESCE((SELECT max(o.sequence) FROM audit_seals o WHERE o.tenant_id = $1 AND o.low < $2), 0)",
            tenant.uuid(),
            horizon,
        );
        let oldest = oldest.fetch_one(&mut **tx).await?.map_or_else(|| "now".to_owned(), |at| at.to_rfc3339());
        let sentence = format!("rows of that time went with their retention; the oldest that are left were sealed at {oldest}");
        return Err(StoreError::invalid("?from", sentence));
    }
    if range.last.is_none() {
        let newest = seals::newest(tx, tenant).await?.map(|signed| signed.seal.sealed_at.to_rfc3339());
        let sentence = match newest {
            Some(at) => format!("nothing was sealed in that time; the newest seal was made at {at}"),
            None => "nothing is sealed yet; a row is about a second after it was written".to_owned(),
        };
        return Err(StoreError::invalid("?from", sentence));
    }
    Ok(())
}

/// The smallest id that retention has not dropped. A seal at the turn of a month may hold rows of both sides: it is whole no more.
async fn horizon(tx: &mut Tx, tenant: TenantId) -> StoreResult<Uuid> {
    let horizon = sqlx::query_scalar!(
        "SELECT tollgate_uuid_floor(max(to_date(detail->>'month', 'YYYY-MM') + interval '1 month') AT TIME ZONE 'UTC')
         FROM admin_events WHERE tenant_id = $1 AND action = 'audit.retire'",
        tenant.uuid()
    );
    Ok(horizon.fetch_one(&mut **tx).await?.unwrap_or_default())
}

/// A payload that a line commits to.
struct Wanted {
    position: u64,
    part: Part,
    row: Uuid,
    sequence: i32,
}

/// Where a part lies: in the calls' table (true) under its kind, or in the scripts' (which holds the texts of LLM requests as well) under
/// its part.
const fn place(part: Part) -> (bool, i16) {
    match part {
        Part::Arguments => (true, 0),
        Part::Result => (true, 1),
        Part::Source => (false, 0),
        Part::RunResult => (false, 1),
        Part::RunLogs => (false, 2),
        Part::RunError => (false, 3),
        Part::Journal => (false, 4),
        Part::Prompt => (false, 5),
        Part::Answer => (false, 6),
    }
}

type Key = (bool, Uuid, i16, i32);

impl Wanted {
    /// As an erasure names it.
    fn item(&self) -> Erased {
        Erased { row: self.row, part: self.part, sequence: u32::try_from(self.sequence).unwrap_or(0) }
    }

    fn key(&self) -> Key {
        let (call, kind) = place(self.part);
        (call, self.row, kind, self.sequence)
    }
}

fn broken(error: std::io::Error) -> StoreError {
    StoreError::Corrupt(format!("bundle: {error}"))
}

impl Bundle {
    /// Send the next chunk of the archive; false when only [`Self::finish`] is left.
    ///
    /// # Errors
    /// When the database does not answer, or the reader has gone.
    pub async fn next(&mut self, out: &tokio::sync::mpsc::Sender<Vec<u8>>) -> StoreResult<bool> {
        if let Some(erasure) = self.erasures.pop_front() {
            self.erasure(erasure, out).await?;
            return Ok(true);
        }
        let chunk = self.seals().await?;
        let Some(last) = chunk.last() else { return Ok(false) };
        self.next = last.seal.sequence + 1;
        let end = last.seal.end();
        let first = chunk[0].seal.first;
        let mut entries: Vec<Sealed> = Vec::new();
        for signed in &chunk {
            let missing = || StoreError::Corrupt(format!("the entries of seal {} went away", signed.seal.sequence));
            entries.extend(seals::entries(&mut self.tx, self.tenant, signed.seal.sequence).await?.ok_or_else(missing)?);
        }
        let lines = log::lines(&mut self.tx, self.tenant, &entries).await?;
        let leaves: Vec<Hash> = entries.iter().map(|(_, leaf)| *leaf).collect();
        self.writer.chunk(&chunk, &leaves, &lines).map_err(broken)?;
        self.new_catalogs(&lines).await?;
        let wanted = wanted(first, &entries, &lines);
        for group in self.groups(&wanted).await? {
            self.payloads(group).await?;
            // Whoever reads may be slow: nothing is read ahead of them.
            send(out, self.writer.take()).await?;
        }
        send(out, self.writer.take()).await?;
        self.reached = end;
        Ok(true)
    }

    /// Where its entries begin in the log, and where they end.
    #[must_use]
    pub const fn positions(&self) -> (u64, u64) {
        self.positions
    }

    /// The position up to which it has been sent.
    #[must_use]
    pub const fn reached(&self) -> u64 {
        self.reached
    }

    /// Whole seals, up to about a chunk of entries.
    async fn seals(&mut self) -> StoreResult<Vec<SignedSeal>> {
        if self.next > self.last {
            return Ok(Vec::new());
        }
        let ahead = seals::from(&mut self.tx, self.tenant, self.next, SEALS).await?;
        let mut count = 0;
        let fits = |signed: &SignedSeal| {
            let begins = count == 0;
            count += usize::try_from(signed.seal.count).unwrap_or(CHUNK);
            begins || count <= CHUNK
        };
        Ok(ahead.into_iter().filter(|signed| signed.seal.sequence <= self.last).take_while(fits).collect())
    }

    async fn new_catalogs(&mut self, lines: &[Option<Vec<u8>>]) -> StoreResult<()> {
        let mut fresh = Vec::new();
        for line in lines.iter().flatten() {
            if let Some(Line::ScriptStart(start)) = line::parse(line)
                && self.catalogs.insert(start.catalog_sha256)
            {
                fresh.push(start.catalog_sha256);
            }
        }
        let mut catalogs = Vec::new();
        for sha256 in fresh {
            let body = sqlx::query_scalar!(
                "SELECT body FROM script_catalogs WHERE tenant_id = $1 AND catalog_sha256 = $2",
                self.tenant.uuid(),
                sha256.0.as_slice()
            );
            // One that is gone is missed by whoever replays.
            if let Some(body) = body.fetch_optional(&mut *self.tx).await? {
                let body = String::from_utf8_lossy(&payload::unpack(&body)?).into_owned();
                catalogs.push(CatalogLine { sha256, body });
            }
        }
        self.writer.catalogs(&catalogs).map_err(broken)
    }

    /// The payloads in runs that fit into memory.
    async fn groups<'a>(&mut self, wanted: &'a [Wanted]) -> StoreResult<Vec<&'a [Wanted]>> {
        let sizes = self.sizes(wanted).await?;
        let (mut groups, mut begin, mut bytes) = (Vec::new(), 0, 0);
        for (at, want) in wanted.iter().enumerate() {
            let size = sizes.get(&want.key()).copied().unwrap_or(0);
            if at > begin && bytes + size > PAYLOADS {
                groups.push(&wanted[begin..at]);
                (begin, bytes) = (at, 0);
            }
            bytes += size;
        }
        groups.push(&wanted[begin..]);
        Ok(groups)
    }

    async fn sizes(&mut self, wanted: &[Wanted]) -> StoreResult<HashMap<Key, i64>> {
        let (calls, scripts) = (Keys::of(wanted, true), Keys::of(wanted, false));
        let rows = sqlx::query!(
            r#"SELECT true AS "call!", p.call_id AS "id!", p.kind AS "part!", 0 AS "sequence!", p.size AS "size!"
               FROM UNNEST($2::uuid[], $3::smallint[]) AS w(id, kind)
               JOIN tool_call_payloads p ON p.tenant_id = $1 AND p.call_id = w.id AND p.kind = w.kind
               UNION ALL
               SELECT false, p.script_run_id, p.part, p.sequence, p.size FROM UNNEST($4::uuid[], $5::smallint[], $6::int[]) AS w(id, part, sequence)
               JOIN script_payloads p ON p.tenant_id = $1 AND p.script_run_id = w.id AND p.part = w.part AND p.sequence = w.sequence"#,
            self.tenant.uuid(),
            &calls.ids,
            &calls.parts,
            &scripts.ids,
            &scripts.parts,
            &scripts.sequences,
        );
        let rows = rows.fetch_all(&mut *self.tx).await?;
        Ok(rows.into_iter().map(|row| ((row.call, row.id, row.part, row.sequence), i64::from(row.size))).collect())
    }

    async fn payloads(&mut self, wanted: &[Wanted]) -> StoreResult<()> {
        if wanted.is_empty() {
            return Ok(());
        }
        let (calls, scripts) = (Keys::of(wanted, true), Keys::of(wanted, false));
        let found = sqlx::query!(
            r#"SELECT true AS "call!", p.call_id AS "id!", p.kind AS "part!", 0 AS "sequence!", p.salt AS "salt!", p.body AS "body!"
               FROM UNNEST($2::uuid[], $3::smallint[]) AS w(id, kind)
               JOIN tool_call_payloads p ON p.tenant_id = $1 AND p.call_id = w.id AND p.kind = w.kind
               UNION ALL
               SELECT false, p.script_run_id, p.part, p.sequence, p.salt, p.body
               FROM UNNEST($4::uuid[], $5::smallint[], $6::int[]) AS w(id, part, sequence)
               JOIN script_payloads p ON p.tenant_id = $1 AND p.script_run_id = w.id AND p.part = w.part AND p.sequence = w.sequence"#,
            self.tenant.uuid(),
            &calls.ids,
            &calls.parts,
            &scripts.ids,
            &scripts.parts,
            &scripts.sequences,
        );
        let found = found.fetch_all(&mut *self.tx).await?.into_iter();
        let mut found: HashMap<Key, (Vec<u8>, Vec<u8>)> =
            found.map(|row| ((row.call, row.id, row.part, row.sequence), (row.salt, row.body))).collect();
        let missing: Vec<&Wanted> = wanted.iter().filter(|want| !found.contains_key(&want.key())).collect();
        let erased = if missing.is_empty() { HashMap::new() } else { self.erased(&missing).await? };
        for want in wanted {
            let content = match found.remove(&want.key()) {
                // What cannot be unpacked is not what was stored: whoever verifies is shown the bytes.
                Some((salt, body)) => Content::of(&salt, &payload::unpack(&body).unwrap_or(body)),
                None => match erased.get(&want.item()) {
                    Some(erasure) => Content::Erased { erasure_id: ErasureId::from_uuid(*erasure).to_string() },
                    None => Content::Missing,
                },
            };
            self.writer.payload(want.position, want.part, content).map_err(broken)?;
        }
        Ok(())
    }

    /// Send the rest of the archive: the proof that leads on to the newest seal, and the signed manifest.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn finish(mut self, keys: &KeyRing, out: &tokio::sync::mpsc::Sender<Vec<u8>>) -> StoreResult<()> {
        let proof = match &self.head {
            Some(head) if self.last > 0 => {
                Some(seals::consistency(&mut self.tx, self.tenant, self.last, head.seal.sequence).await?)
            }
            _ => None,
        };
        self.tx.rollback().await?;
        let rest = self.writer.finish(self.tenant, proof.as_ref(), keys.signer()).map_err(broken)?;
        send(out, rest).await
    }
}

fn wanted(first: u64, entries: &[Sealed], lines: &[Option<Vec<u8>>]) -> Vec<Wanted> {
    let mut wanted = Vec::new();
    for (position, ((row, _), line)) in (first..).zip(entries.iter().zip(lines)) {
        let Some(line) = line.as_deref().and_then(line::parse) else { continue };
        let Place { id, sequence, .. } = *row;
        for (part, commitment) in line.commitments() {
            if commitment.kept != Some(Kept::Omitted) {
                let sequence = i32::try_from(sequence).unwrap_or(i32::MAX);
                wanted.push(Wanted { position, part, row: id, sequence });
            }
        }
    }
    wanted
}

/// What is wanted of one of the two tables, as columns.
#[derive(Default)]
struct Keys {
    ids: Vec<Uuid>,
    parts: Vec<i16>,
    sequences: Vec<i32>,
}

impl Keys {
    fn of(wanted: &[Wanted], call: bool) -> Self {
        let mut keys = Self::default();
        for (_, id, part, sequence) in wanted.iter().map(Wanted::key).filter(|key| key.0 == call) {
            keys.ids.push(id);
            keys.parts.push(part);
            keys.sequences.push(sequence);
        }
        keys
    }
}

/// Whoever reads may be slow, and not for ever: the snapshot keeps Postgres from tidying up.
async fn send(out: &tokio::sync::mpsc::Sender<Vec<u8>>, piece: Vec<u8>) -> StoreResult<()> {
    let gone = || StoreError::Conflict("the reader of a bundle has gone, or took nothing for a minute".to_owned());
    match tokio::time::timeout(STALL, out.send(piece)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(gone()),
    }
}
