//! Seals, their proofs and what stands under them, as a tenant reads its log.

use chrono::{DateTime, Utc};
use tollgate_domain::{CallId, ErasureId, TenantId};
use tollgate_evidence::{
    Hash,
    batch::{self, Sealed},
    erasure,
    hash::to_hex,
    line::Kind,
    merkle::{self, Node, Nodes},
    seal::{ConsistencyProof, InclusionProof, Seal, SignedSeal},
    sign::PublicKey,
};
use uuid::Uuid;

use crate::{
    error::{StoreError, StoreResult},
    log,
    page::{Page, PageRequest},
    sealer::{head, signed},
    tx::Tx,
};

pub(crate) struct Row {
    pub sequence: i64,
    pub first: i64,
    pub count: i32,
    pub root: Vec<u8>,
    pub tree: Vec<u8>,
    pub previous: Vec<u8>,
    pub sealed_at: DateTime<Utc>,
    pub key_id: String,
    pub signature: Vec<u8>,
}

impl Row {
    pub(crate) fn into_seal(self, tenant: TenantId) -> StoreResult<SignedSeal> {
        let corrupt = || StoreError::Corrupt(format!("seal {} of {tenant}", self.sequence));
        let hash = |bytes: &[u8]| Hash::from_slice(bytes).ok_or_else(corrupt);
        let number = |n: i64| u64::try_from(n).map_err(|_| corrupt());
        let seal = Seal {
            tenant_id: tenant,
            sequence: number(self.sequence)?,
            first: number(self.first)?,
            count: u32::try_from(self.count).map_err(|_| corrupt())?,
            root: hash(&self.root)?,
            previous: hash(&self.previous)?,
            sealed_at: self.sealed_at,
            tree: hash(&self.tree)?,
            key_id: self.key_id.clone(),
        };
        Ok(SignedSeal { seal, signature: to_hex(&self.signature) })
    }
}

/// Sequences as keyset positions of a page.
fn position(sequence: u64) -> Uuid {
    Uuid::from_u128(sequence.into())
}

fn sequence(position: Uuid) -> i64 {
    i64::try_from(position.as_u128()).unwrap_or(i64::MAX)
}

/// Newest first.
///
/// # Errors
/// When the database does not answer.
pub async fn list(tx: &mut Tx, tenant: TenantId, page: PageRequest) -> StoreResult<Page<SignedSeal>> {
    let rows = sqlx::query_as!(
        Row,
        "SELECT sequence, first, count, root, tree, previous, sealed_at, key_id, signature FROM audit_seals
         WHERE tenant_id = $1 AND sequence < $2 ORDER BY sequence DESC LIMIT $3",
        tenant.uuid(),
        page.after.map_or(i64::MAX, sequence),
        page.fetch(),
    );
    let seals = rows.fetch_all(&mut **tx).await?.into_iter().map(|row| row.into_seal(tenant)).collect::<StoreResult<_>>()?;
    Ok(page.cut(seals, |signed: &SignedSeal| position(signed.seal.sequence)))
}

/// `limit` seals from one on, oldest first.
///
/// # Errors
/// When the database does not answer.
pub async fn from(tx: &mut Tx, tenant: TenantId, sequence: u64, limit: i64) -> StoreResult<Vec<SignedSeal>> {
    let rows = sqlx::query_as!(
        Row,
        "SELECT sequence, first, count, root, tree, previous, sealed_at, key_id, signature FROM audit_seals
         WHERE tenant_id = $1 AND sequence >= $2 ORDER BY sequence LIMIT $3",
        tenant.uuid(),
        signed(sequence),
        limit,
    );
    rows.fetch_all(&mut **tx).await?.into_iter().map(|row| row.into_seal(tenant)).collect()
}

/// # Errors
/// [`StoreError::NotFound`].
pub async fn get(tx: &mut Tx, tenant: TenantId, sequence: u64) -> StoreResult<SignedSeal> {
    let found = from(tx, tenant, sequence, 1).await?.pop();
    found.filter(|signed| signed.seal.sequence == sequence).ok_or(StoreError::NotFound)
}

/// The newest seal; `None` before the first.
///
/// # Errors
/// When the database does not answer.
pub async fn newest(tx: &mut Tx, tenant: TenantId) -> StoreResult<Option<SignedSeal>> {
    head(tx, tenant).await
}

/// The seal that holds a position; `None` when nothing does yet.
///
/// # Errors
/// When the database does not answer.
pub async fn at_position(tx: &mut Tx, tenant: TenantId, position: u64) -> StoreResult<Option<SignedSeal>> {
    let row = sqlx::query_as!(
        Row,
        "SELECT sequence, first, count, root, tree, previous, sealed_at, key_id, signature FROM audit_seals
         WHERE tenant_id = $1 AND first <= $2 ORDER BY first DESC LIMIT 1",
        tenant.uuid(),
        signed(position),
    );
    let found = row.fetch_optional(&mut **tx).await?.map(|row| row.into_seal(tenant)).transpose()?;
    Ok(found.filter(|signed| position < signed.seal.end()))
}

/// The entries of a seal, in order; `None` when they went with the rows of their month.
///
/// # Errors
/// When the database does not answer.
pub async fn entries(tx: &mut Tx, tenant: TenantId, sequence: u64) -> StoreResult<Option<Vec<Sealed>>> {
    let packed = sqlx::query_scalar!(
        "SELECT entries FROM audit_entries WHERE tenant_id = $1 AND sequence = $2",
        tenant.uuid(),
        signed(sequence)
    );
    let Some(packed) = packed.fetch_optional(&mut **tx).await? else { return Ok(None) };
    let corrupt = || StoreError::Corrupt(format!("entries of seal {sequence} of {tenant}"));
    batch::unpack_sealed(&packed).map(Some).ok_or_else(corrupt)
}

/// The public keys that have signed, oldest first.
///
/// # Errors
/// When the database does not answer.
pub async fn keys(tx: &mut Tx) -> StoreResult<Vec<(PublicKey, DateTime<Utc>)>> {
    let rows = sqlx::query!("SELECT public_key, first_seen_at FROM audit_keys ORDER BY first_seen_at, key_id");
    let rows = rows.fetch_all(&mut **tx).await?;
    Ok(rows.into_iter().map(|row| (PublicKey::new(&row.public_key), row.first_seen_at)).collect())
}

pub(crate) async fn nodes(tx: &mut Tx, tenant: TenantId, wanted: &[Node]) -> StoreResult<Nodes> {
    let levels: Vec<i16> = wanted.iter().map(|node| i16::from(node.level)).collect();
    let indexes: Vec<i64> = wanted.iter().map(|node| signed(node.index)).collect();
    let rows = sqlx::query!(
        "SELECT n.level, n.index, n.hash FROM audit_nodes n JOIN UNNEST($2::smallint[], $3::bigint[]) AS w(l, i)
           ON n.level = w.l AND n.index = w.i WHERE n.tenant_id = $1",
        tenant.uuid(),
        &levels,
        &indexes,
    );
    let rows = rows.fetch_all(&mut **tx).await?.into_iter();
    let known = rows.filter_map(|row| {
        let node = Node { level: u8::try_from(row.level).ok()?, index: u64::try_from(row.index).ok()? };
        Some((node, Hash::from_slice(&row.hash)?))
    });
    Ok(Nodes(known.collect()))
}

async fn path(tx: &mut Tx, tenant: TenantId, ranges: &[(u64, u64)]) -> StoreResult<Vec<Hash>> {
    let wanted: Vec<Node> = ranges.iter().flat_map(|range| merkle::cover(*range)).collect();
    let nodes = nodes(tx, tenant, &wanted).await?;
    nodes.path(ranges).ok_or_else(|| StoreError::Corrupt(format!("the tree over the seals of {tenant} lacks nodes")))
}

/// That the log at seal `old` is the beginning of the log at seal `new`.
///
/// # Errors
/// [`StoreError::NotFound`] for a seal that is not there.
pub async fn consistency(tx: &mut Tx, tenant: TenantId, old: u64, new: u64) -> StoreResult<ConsistencyProof> {
    let (from, to) = (get(tx, tenant, old).await?, get(tx, tenant, new).await?);
    let path = path(tx, tenant, &merkle::consistency_ranges(old, new)).await?;
    Ok(ConsistencyProof { from, to, path })
}

/// The proofs of a call, and when its rows that have none were written.
#[derive(Debug, Clone)]
pub struct CallProofs {
    /// One a row, the intent first.
    pub proofs: Vec<InclusionProof>,
    pub unsealed: Vec<DateTime<Utc>>,
}

/// That the rows of a call stand in the log.
///
/// # Errors
/// [`StoreError::NotFound`] when there is no such call.
pub async fn of_call(tx: &mut Tx, tenant: TenantId, call: CallId) -> StoreResult<CallProofs> {
    let rows = sqlx::query!(
        "SELECT kind, at FROM tool_call_events WHERE tenant_id = $1 AND call_id = $2 ORDER BY kind",
        tenant.uuid(),
        call.uuid()
    );
    let rows = rows.fetch_all(&mut **tx).await?;
    if rows.is_empty() {
        return Err(StoreError::NotFound);
    }
    let head = head(tx, tenant).await?;
    let (mut proofs, mut unsealed) = (Vec::new(), Vec::new());
    for row in rows {
        let kind = match row.kind {
            0 => Kind::CallIntent,
            1 => Kind::CallCompletion,
            _ => Kind::CallResolution,
        };
        let proof = match &head {
            Some(head) => prove(tx, tenant, (kind, call.uuid(), row.at), head).await?,
            None => None,
        };
        match proof {
            Some(proof) => proofs.push(proof),
            None => unsealed.push(row.at),
        }
    }
    Ok(CallProofs { proofs, unsealed })
}

/// That the event of an erasure stands in the log; `None` when it is not sealed yet, or there is none.
///
/// # Errors
/// When the database does not answer.
pub async fn of_erasure(tx: &mut Tx, tenant: TenantId, erasure: ErasureId) -> StoreResult<Option<InclusionProof>> {
    // The event's id was made after the erasure's.
    let event = sqlx::query_as::<_, (Uuid, DateTime<Utc>)>(
        "SELECT event_id, at FROM admin_events WHERE tenant_id = $1 AND event_id > $2 AND action = $3 AND target_id = $4
         ORDER BY event_id LIMIT 1",
    );
    let event = event.bind(tenant.uuid()).bind(erasure.uuid()).bind(erasure::ACTION).bind(erasure.to_string());
    let Some((event, at)) = event.fetch_optional(&mut **tx).await? else { return Ok(None) };
    let Some(head) = head(tx, tenant).await? else { return Ok(None) };
    prove(tx, tenant, (Kind::AdminEvent, event, at), &head).await
}

/// That one row stands in the log; `None` when it is not sealed yet.
async fn prove(
    tx: &mut Tx,
    tenant: TenantId,
    (kind, id, at): (Kind, Uuid, DateTime<Utc>),
    head: &SignedSeal,
) -> StoreResult<Option<InclusionProof>> {
    let Some((seal, at, entries)) = find(tx, tenant, kind, id, at).await? else { return Ok(None) };
    let gone = || StoreError::Corrupt(format!("{kind:?} {id} is sealed and gone"));
    let line = log::lines(tx, tenant, &entries[at..=at]).await?.into_iter().next().flatten().ok_or_else(gone)?;
    let leaves: Vec<Hash> = entries.iter().map(|(_, leaf)| *leaf).collect();
    let ranges = merkle::inclusion_ranges(seal.seal.sequence - 1, head.seal.sequence);
    Ok(Some(InclusionProof {
        line: String::from_utf8_lossy(&line).into_owned(),
        position: seal.seal.first + u64::try_from(at).unwrap_or(u64::MAX),
        path: merkle::inclusion(&leaves, at),
        seal_path: path(tx, tenant, &ranges).await?,
        seal,
        head: head.clone(),
    }))
}

/// Seals looked through for one row, from its time on: rows are sealed within seconds, or after an outage.
const LOOKED_THROUGH: i64 = 10_000;

async fn find(
    tx: &mut Tx,
    tenant: TenantId,
    kind: Kind,
    id: Uuid,
    at: DateTime<Utc>,
) -> StoreResult<Option<(SignedSeal, usize, Vec<Sealed>)>> {
    // The sealer's clock and the writer's may differ.
    let from = at - chrono::TimeDelta::minutes(10);
    let rows = sqlx::query_scalar!(
        "SELECT sequence FROM (SELECT sequence, low, high FROM audit_seals WHERE tenant_id = $1 AND sealed_at >= $2
                               ORDER BY sealed_at LIMIT $4) s
         WHERE low <= $3 AND high >= $3 ORDER BY sequence",
        tenant.uuid(),
        from,
        id,
        LOOKED_THROUGH,
    );
    for sequence in rows.fetch_all(&mut **tx).await? {
        let sequence = u64::try_from(sequence).unwrap_or(0);
        let Some(found) = entries(tx, tenant, sequence).await? else { continue };
        if let Some(at) = found.iter().position(|(place, _)| place.kind == kind && place.id == id) {
            return Ok(Some((get(tx, tenant, sequence).await?, at, found)));
        }
    }
    Ok(None)
}
