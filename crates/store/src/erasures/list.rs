//! The list of what an erasure took, payload by payload.

use tollgate_domain::{ErasureId, TenantId};
use tollgate_evidence::{erasure::Erased, line::Part};
use uuid::Uuid;

use crate::{
    error::{StoreError, StoreResult},
    tx::Tx,
};

/// Lines that are read at a time.
const PAGE: i64 = 10_000;

/// Write down what went.
pub(super) async fn insert(tx: &mut Tx, tenant: TenantId, erasure: ErasureId, gone: &[Erased]) -> StoreResult<()> {
    let insert = sqlx::query(
        "INSERT INTO audit_erased (tenant_id, row_id, part, sequence, erasure_id)
         SELECT $1, r, p, s, $5 FROM unnest($2::uuid[], $3::smallint[], $4::int[]) AS gone(r, p, s)",
    );
    let rows: Vec<Uuid> = gone.iter().map(|item| item.row).collect();
    let parts: Vec<i16> = gone.iter().map(|item| item.part.code().into()).collect();
    let sequences: Vec<i32> = gone.iter().map(|item| i32::try_from(item.sequence).unwrap_or(i32::MAX)).collect();
    insert.bind(tenant.uuid()).bind(rows).bind(parts).bind(sequences).bind(erasure.uuid()).execute(&mut **tx).await?;
    Ok(())
}

/// One payload, by the number of its part.
pub(super) fn item(row: Uuid, part: i16, sequence: i32) -> StoreResult<Erased> {
    let part = u8::try_from(part).ok().and_then(Part::from_code);
    let item = part.zip(u32::try_from(sequence).ok()).map(|(part, sequence)| Erased { row, part, sequence });
    item.ok_or_else(|| StoreError::Corrupt(format!("a payload of {row}")))
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
    rows.fetch_all(&mut **tx).await?.into_iter().map(|(row, part, sequence)| item(row, part, sequence)).collect()
}
