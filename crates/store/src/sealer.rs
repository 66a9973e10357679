//! The sealer: gives rows their place in their tenant's log, and signs what it has so far.
//!
//! **Why nothing can slip in behind a seal, and a cursor misses nothing.** A row has no position when it is written; it waits in
//! its commit's batch. One sealer at a time (an advisory lock) takes every batch that it can see, appends their rows to the
//! tenants' logs, and deletes the batches, in one transaction. A commit that it could not see is still there for the next
//! round, and its rows come after: positions are given in the order of sealing, not of time. So whoever has read a log up to
//! position *n* has read all that will ever stand below *n*, however many writers there are and however late they commit.
//! The order is causal as well: a row that answers another was written by a transaction that began after the other's had
//! committed, and has the larger transaction id. A round is ordered by these, and within one writer by its own numbers: a
//! change of configuration may have taken its id long before it took its place in the chain.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::{DateTime, Utc};
use serde_json::json;
use tollgate_domain::TenantId;
use tollgate_evidence::{
    Hash,
    batch::{self, Batch, Sealed},
    merkle::{self, Node, Nodes},
    seal::{Seal, SignedSeal},
    sign::KeyRing,
};
use uuid::Uuid;

use crate::{
    change::Actor,
    costs::rollup,
    error::{StoreError, StoreResult},
    events, ledger,
    locks::SEALER,
    spend,
    tx::{Store, Tx},
};

/// Batches that one round takes. More wait for the next, which begins at once.
const BATCHES: i64 = 512;
/// Entries of one seal: also what a reader unpacks to find one row.
const ENTRIES: usize = 4096;

/// What a round did.
#[derive(Debug, Default)]
pub struct Round {
    pub entries: usize,
    /// The new seals, each tenant's in order.
    pub seals: Vec<SignedSeal>,
    /// There is more to seal.
    pub more: bool,
    /// What did not fit into a writer's chain, for the log; each is an admin event too.
    pub anomalies: Vec<String>,
}

struct Waiting {
    batch: Batch,
    /// The transaction that wrote it.
    xid: String,
    signature: Vec<u8>,
    packed: Vec<u8>,
}

/// Make the public keys known to whoever verifies. Done at every start.
///
/// # Errors
/// When the database does not answer.
pub async fn publish_keys(store: &Store, now: DateTime<Utc>) -> StoreResult<()> {
    let mut tx = store.sealer().await?;
    for key in store.keys().public_keys() {
        sqlx::query!(
            "INSERT INTO audit_keys (key_id, public_key, first_seen_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
            key.key_id,
            key.raw(),
            now,
        )
        .execute(&mut *tx)
        .await?;
    }
    Ok(tx.commit().await?)
}

/// Seal what is there. Does nothing while another sealer is at work.
///
/// # Errors
/// When the database does not answer; the rows wait for the next round.
pub async fn round(store: &Store, now: DateTime<Utc>) -> StoreResult<Round> {
    let mut tx = store.sealer().await?;
    let alone = sqlx::query_scalar!(r#"SELECT pg_try_advisory_xact_lock($1) AS "alone!""#, SEALER).fetch_one(&mut *tx).await?;
    let waiting = if alone { waiting(&mut tx).await? } else { Vec::new() };
    let mut done = Round { more: waiting.len() >= usize::try_from(BATCHES).unwrap_or(usize::MAX), ..Round::default() };
    if waiting.is_empty() {
        tx.rollback().await?;
        return Ok(done);
    }
    let mut chains = chains(&mut tx, &waiting).await?;
    // Ordered, so that what is written is written in one order everywhere.
    let mut logs: BTreeMap<TenantId, Vec<Sealed>> = BTreeMap::new();
    let mut concerned: BTreeMap<TenantId, Vec<String>> = BTreeMap::new();
    let mut ends = spend::Ends::default();
    let mut counted = rollup::Entries::default();
    for wait in &waiting {
        let known = done.anomalies.len();
        let Some(entries) = examine(wait, &mut chains, store.keys(), &mut done.anomalies) else { continue };
        let found = &done.anomalies[known..];
        if !found.is_empty() {
            let tenants: BTreeSet<TenantId> = entries.iter().map(|entry| entry.tenant).collect();
            tenants.into_iter().for_each(|tenant| concerned.entry(tenant).or_default().extend_from_slice(found));
        }
        for entry in entries {
            ends.push(entry.tenant, &entry.place, &wait.xid);
            counted.push(entry.tenant, &entry.place, &wait.xid);
            logs.entry(entry.tenant).or_default().push((entry.place, entry.leaf));
        }
    }
    for (tenant, entries) in logs {
        done.entries += entries.len();
        seal(&mut tx, store.keys(), tenant, &entries, now, &mut done.seals).await?;
    }
    rollup::count(&mut tx, counted).await?;
    settle(&mut tx, &waiting, &chains, now).await?;
    concerned.insert(PLATFORM, done.anomalies.clone());
    // Last: whoever asks for a lease of one of these budgets waits for this commit.
    let passed = spend::settle(&mut tx, ends).await?;
    note(&mut tx, store.keys(), &concerned, &passed, now).await?;
    tx.commit().await?;
    Ok(done)
}

async fn waiting(tx: &mut Tx) -> StoreResult<Vec<Waiting>> {
    let rows = sqlx::query!(
        r#"WITH next AS (
           SELECT writer_id, sequence, max(xid::text::numeric) OVER (PARTITION BY writer_id ORDER BY sequence) AS place
           FROM audit_batches ORDER BY place, writer_id, sequence LIMIT $1)
         SELECT b.writer_id, b.sequence, b.xid::text AS "xid!", b.at, b.previous, b.root, b.key_id, b.signature, b.entries
         FROM next n JOIN audit_batches b ON b.writer_id = n.writer_id AND b.sequence = n.sequence
         ORDER BY n.place, b.writer_id, b.sequence"#,
        BATCHES
    );
    let hash = |bytes: &[u8]| Hash::from_slice(bytes).unwrap_or(Hash::ZERO);
    Ok(rows
        .fetch_all(&mut **tx)
        .await?
        .into_iter()
        .map(|row| Waiting {
            batch: Batch {
                writer_id: row.writer_id,
                sequence: row.sequence,
                at: row.at,
                previous: hash(&row.previous),
                root: hash(&row.root),
                key_id: row.key_id,
            },
            xid: row.xid,
            signature: row.signature,
            packed: row.entries,
        })
        .collect())
}

/// Where the chains of these batches' writers end.
async fn chains(tx: &mut Tx, waiting: &[Waiting]) -> StoreResult<HashMap<Uuid, (i64, Hash)>> {
    let writers: Vec<Uuid> = waiting.iter().map(|w| w.batch.writer_id).collect();
    let rows = sqlx::query!("SELECT writer_id, sequence, root FROM audit_writers WHERE writer_id = ANY($1)", &writers);
    let rows = rows.fetch_all(&mut **tx).await?;
    Ok(rows.into_iter().map(|row| (row.writer_id, (row.sequence, Hash::from_slice(&row.root).unwrap_or(Hash::ZERO)))).collect())
}

/// The rows of a batch that take their places now. What is wrong with a batch is recorded, and never a reason to leave its rows out
/// of the log; one that repeats what is sealed already is left out.
fn examine(
    wait: &Waiting,
    chains: &mut HashMap<Uuid, (i64, Hash)>,
    keys: &KeyRing,
    anomalies: &mut Vec<String>,
) -> Option<Vec<batch::Entry>> {
    let Waiting { batch, signature, packed, .. } = wait;
    let (last, root) = chains.get(&batch.writer_id).copied().unwrap_or((0, Hash::ZERO));
    let name = format!("batch {} of writer {}", batch.sequence, batch.writer_id);
    if batch.sequence == last && batch.root == root {
        // Written again because its commit was in doubt, and sealed in between.
        return None;
    }
    if !keys.verifies(&batch.key_id, &batch.message(), signature) {
        anomalies.push(format!("{name} is not signed by a key of this installation ({})", batch.key_id));
    }
    if batch.sequence != last + 1 || batch.previous != root {
        anomalies.push(format!("{name} does not follow batch {last}: something between them is missing or was changed"));
    }
    let entries = batch::unpack(packed);
    match &entries {
        Some(entries) if batch::root(entries) == batch.root => {}
        Some(_) => anomalies.push(format!("{name} does not hold the rows that were signed")),
        None => anomalies.push(format!("{name} cannot be read")),
    }
    chains.insert(batch.writer_id, (batch.sequence, batch.root));
    entries
}

/// Append entries to one tenant's log.
async fn seal(
    tx: &mut Tx,
    keys: &KeyRing,
    tenant: TenantId,
    entries: &[Sealed],
    now: DateTime<Utc>,
    seals: &mut Vec<SignedSeal>,
) -> StoreResult<()> {
    let mut head = head(tx, tenant).await?.map(|signed| signed.seal);
    let mut nodes = edge(tx, tenant, head.as_ref().map_or(0, |seal| seal.sequence)).await?;
    for entries in entries.chunks(ENTRIES) {
        let leaves: Vec<Hash> = entries.iter().map(|(_, leaf)| *leaf).collect();
        let mut seal = Seal {
            tenant_id: tenant,
            sequence: head.as_ref().map_or(0, |seal| seal.sequence) + 1,
            first: head.as_ref().map_or(0, Seal::end),
            count: u32::try_from(entries.len()).unwrap_or(u32::MAX),
            root: merkle::root(&leaves),
            previous: head.as_ref().map_or(Hash::ZERO, Seal::hash),
            // A clock that goes backwards does not take the log with it.
            sealed_at: head.as_ref().map_or(now, |seal| seal.sealed_at.max(now)),
            tree: Hash::ZERO,
            key_id: keys.signer().public().key_id.clone(),
        };
        let broken = || StoreError::Corrupt(format!("the tree over the seals of {tenant} lacks nodes"));
        let made = nodes.append(seal.sequence - 1, seal.leaf()).ok_or_else(broken)?;
        seal.tree = nodes.root_of((0, seal.sequence)).ok_or_else(broken)?;
        let signature = keys.signer().sign(&seal.message());
        insert(tx, &seal, &signature, entries, &made).await?;
        seals.push(SignedSeal { seal: seal.clone(), signature: tollgate_evidence::hash::to_hex(&signature) });
        head = Some(seal);
    }
    Ok(())
}

async fn insert(tx: &mut Tx, seal: &Seal, signature: &[u8], entries: &[Sealed], made: &[(Node, Hash)]) -> StoreResult<()> {
    let ids = || entries.iter().map(|(place, _)| place.id);
    sqlx::query!(
        "INSERT INTO audit_seals (tenant_id, sequence, first, count, root, tree, previous, sealed_at, key_id, signature, low, high)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
        seal.tenant_id.uuid(),
        signed(seal.sequence),
        signed(seal.first),
        i32::try_from(seal.count).unwrap_or(i32::MAX),
        seal.root.0.as_slice(),
        seal.tree.0.as_slice(),
        seal.previous.0.as_slice(),
        seal.sealed_at,
        seal.key_id,
        signature,
        ids().min().unwrap_or_default(),
        ids().max().unwrap_or_default(),
    )
    .execute(&mut **tx)
    .await?;
    sqlx::query!(
        "INSERT INTO audit_entries (tenant_id, sequence, entries) VALUES ($1, $2, $3)",
        seal.tenant_id.uuid(),
        signed(seal.sequence),
        batch::pack_sealed(entries),
    )
    .execute(&mut **tx)
    .await?;
    let levels: Vec<i16> = made.iter().map(|(node, _)| i16::from(node.level)).collect();
    let indexes: Vec<i64> = made.iter().map(|(node, _)| signed(node.index)).collect();
    let hashes: Vec<Vec<u8>> = made.iter().map(|(_, hash)| hash.0.to_vec()).collect();
    sqlx::query!(
        "INSERT INTO audit_nodes (tenant_id, level, index, hash)
         SELECT $1, l, i, h FROM UNNEST($2::smallint[], $3::bigint[], $4::bytea[]) AS n(l, i, h)",
        seal.tenant_id.uuid(),
        &levels,
        &indexes,
        &hashes,
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// A tenant's newest seal.
pub(crate) async fn head(tx: &mut Tx, tenant: TenantId) -> StoreResult<Option<SignedSeal>> {
    let row = sqlx::query_as!(
        crate::seals::Row,
        "SELECT sequence, first, count, root, tree, previous, sealed_at, key_id, signature FROM audit_seals
         WHERE tenant_id = $1 ORDER BY sequence DESC LIMIT 1",
        tenant.uuid()
    );
    row.fetch_optional(&mut **tx).await?.map(|row| row.into_seal(tenant)).transpose()
}

/// The nodes that the tree over `size` seals needs in order to grow.
async fn edge(tx: &mut Tx, tenant: TenantId, size: u64) -> StoreResult<Nodes> {
    crate::seals::nodes(tx, tenant, &merkle::edge(size)).await
}

/// The batches have served, and their writers' chains end further on.
async fn settle(tx: &mut Tx, waiting: &[Waiting], chains: &HashMap<Uuid, (i64, Hash)>, now: DateTime<Utc>) -> StoreResult<()> {
    let writers: Vec<Uuid> = waiting.iter().map(|w| w.batch.writer_id).collect();
    let sequences: Vec<i64> = waiting.iter().map(|w| w.batch.sequence).collect();
    sqlx::query!(
        "DELETE FROM audit_batches b USING UNNEST($1::uuid[], $2::bigint[]) AS n(w, s) WHERE b.writer_id = n.w AND b.sequence = n.s",
        &writers,
        &sequences,
    )
    .execute(&mut **tx)
    .await?;
    let ends: Vec<_> = chains.iter().collect();
    let writers: Vec<Uuid> = ends.iter().map(|(writer, _)| **writer).collect();
    let sequences: Vec<i64> = ends.iter().map(|(_, (sequence, _))| *sequence).collect();
    let roots: Vec<Vec<u8>> = ends.iter().map(|(_, (_, root))| root.0.to_vec()).collect();
    sqlx::query!(
        "INSERT INTO audit_writers (writer_id, sequence, root, sealed_at)
         SELECT w, s, r, $4 FROM UNNEST($1::uuid[], $2::bigint[], $3::bytea[]) AS n(w, s, r)
         ON CONFLICT (writer_id) DO UPDATE SET sequence = EXCLUDED.sequence, root = EXCLUDED.root, sealed_at = EXCLUDED.sealed_at",
        &writers,
        &sequences,
        &roots,
        now,
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// An anomaly belongs to the installation, because which tenant's rows are missing is what nobody can say; and to the tenants whose
/// rows came in such a batch, so that their bundles tell of it.
async fn note(
    tx: &mut Tx,
    keys: &KeyRing,
    anomalies: &BTreeMap<TenantId, Vec<String>>,
    passed: &[spend::Passed],
    now: DateTime<Utc>,
) -> StoreResult<()> {
    let mut lines = Vec::new();
    for spend::Passed { tenant, budget, detail } in passed {
        let what = ("budget.threshold", budget.to_string());
        lines.push(events::insert(tx, *tenant, &Actor::system("sealer"), now, (what.0, &what.1, detail)).await?);
    }
    for (tenant, texts) in anomalies {
        for text in texts {
            let detail = json!({"anomaly": text});
            let what = ("audit.anomaly", "audit_batches", &detail);
            lines.push(events::insert(tx, *tenant, &Actor::system("sealer"), now, what).await?);
        }
    }
    ledger::append(tx, keys, &lines, now).await
}

/// Under the nil id stands what belongs to the whole installation.
const PLATFORM: TenantId = TenantId::from_uuid(Uuid::nil());

/// Positions and sequences fit: Postgres counts them in 63 bits.
pub(crate) fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
