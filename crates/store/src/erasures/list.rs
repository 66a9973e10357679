//! The list of what an erasure took, payload by payload. However long it is, none of it is held but a page.

use tollgate_domain::{ErasureId, TenantId};
use tollgate_evidence::{erasure::Erased, line::Part, merkle::Growing};
use uuid::Uuid;

use crate::{
    error::{StoreError, StoreResult},
    tx::Tx,
};

/// Lines that are read at a time.
const PAGE: i64 = 10_000;

/// Write down rows, parts by their number, and sequences.
pub(super) async fn insert(
    tx: &mut Tx,
    tenant: TenantId,
    erasure: ErasureId,
    gone: impl Iterator<Item = (Uuid, i16, i32)>,
) -> StoreResult<()> {
    let (mut rows, mut parts, mut sequences) = (Vec::new(), Vec::new(), Vec::new());
    for (row, part, sequence) in gone {
        rows.push(row);
        parts.push(part);
        sequences.push(sequence);
    }
    let insert = sqlx::query(
        "INSERT INTO audit_erased (tenant_id, row_id, part, sequence, erasure_id)
         SELECT $1, r, p, s, $5 FROM unnest($2::uuid[], $3::smallint[], $4::int[]) AS gone(r, p, s)",
    );
    insert.bind(tenant.uuid()).bind(rows).bind(parts).bind(sequences).bind(erasure.uuid()).execute(&mut **tx).await?;
    Ok(())
}

/// The root over the list of an erasure.
pub(super) async fn root(tx: &mut Tx, tenant: TenantId, erasure: ErasureId) -> StoreResult<Growing> {
    let (mut root, mut after) = (Growing::default(), None);
    loop {
        let page = page(tx, tenant, erasure, after).await?;
        page.iter().for_each(|item| root.push(item.leaf()));
        after = page.last().copied();
        if after.is_none() {
            return Ok(root);
        }
    }
}

/// What of the list follows `after`, in its order; nothing at its end.
pub(crate) async fn page(tx: &mut Tx, tenant: TenantId, erasure: ErasureId, after: Option<Erased>) -> StoreResult<Vec<Erased>> {
    // Nothing is below a part of -1.
    let (row, part, sequence) = after.map_or((Uuid::nil(), -1, 0), |item| {
        (item.row, i16::from(item.part.code()), i32::try_from(item.sequence).unwrap_or(i32::MAX))
    });
    let rows = sqlx::query_as::<_, (Uuid, i16, i32)>(
        "SELECT row_id, part, sequence FROM audit_erased
         WHERE tenant_id = $1 AND erasure_id = $2 AND (row_id, part, sequence) > ($3, $4, $5)
         ORDER BY row_id, part, sequence LIMIT $6",
    );
    let rows = rows.bind(tenant.uuid()).bind(erasure.uuid()).bind(row).bind(part).bind(sequence).bind(PAGE);
    let item = |(row, part, sequence): (Uuid, i16, i32)| {
        let part = u8::try_from(part).ok().and_then(Part::from_code)?;
        Some(Erased { row, part, sequence: u32::try_from(sequence).ok()? })
    };
    let items: Option<Vec<Erased>> = rows.fetch_all(&mut **tx).await?.into_iter().map(item).collect();
    items.ok_or_else(|| StoreError::Corrupt(format!("the list of {erasure}")))
}
