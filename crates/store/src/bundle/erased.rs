//! Erasures in a bundle: for each that took something out of its rows, the proof of its event and the list that it commits to.

use std::{collections::HashMap, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use tollgate_domain::{ErasureId, TenantId};
use tollgate_evidence::erasure::Erased;
use uuid::Uuid;

use super::{Bundle, Wanted, broken, send};
use crate::{
    erasures::list,
    error::{StoreError, StoreResult},
    seals,
    tx::{Store, Tx},
};

/// An event that is not sealed after this long will not be: nobody waits for it.
const SEALED_WITHIN: TimeDelta = TimeDelta::minutes(5);
/// How long a bundle waits for the erasure of a moment ago to be sealed, and how often it looks.
const WAIT: Duration = Duration::from_millis(250);
const LOOKS: u32 = 20;

/// A snapshot in which every erasure of the tenant is sealed: one of a moment ago would look like one that never was.
pub(super) async fn settled_snapshot(store: &Store, tenant: TenantId, now: DateTime<Utc>) -> StoreResult<Tx> {
    for look in 0..LOOKS {
        if look > 0 {
            tokio::time::sleep(WAIT).await;
        }
        let mut tx = store.tenant_snapshot(tenant).await?;
        // Events are sealed in the order of their changes: the newest one speaks for those before it.
        let newest = sqlx::query_scalar(
            "SELECT erasure_id FROM audit_erasures WHERE tenant_id = $1 AND at > $2 ORDER BY erasure_id DESC LIMIT 1",
        );
        let newest: Option<Uuid> = newest.bind(tenant.uuid()).bind(now - SEALED_WITHIN).fetch_optional(&mut *tx).await?;
        let settled = match newest {
            Some(erasure) => seals::of_erasure(&mut tx, tenant, erasure.into()).await?.is_some(),
            None => true,
        };
        if settled {
            return Ok(tx);
        }
        tx.rollback().await?;
    }
    Err(StoreError::Conflict(
        "an erasure of a moment ago is not sealed yet, so nothing could prove it; ask again in a second".to_owned(),
    ))
}

/// The erasures that took something out of the rows of these seals.
pub(super) async fn touching(tx: &mut Tx, tenant: TenantId, first: i64, last: i64) -> StoreResult<Vec<ErasureId>> {
    let erasures = sqlx::query_scalar(
        "WITH rows AS MATERIALIZED (
           SELECT (SELECT low FROM audit_seals WHERE tenant_id = $1 AND sequence BETWEEN $2 AND $3 ORDER BY low LIMIT 1) AS low,
                  (SELECT high FROM audit_seals WHERE tenant_id = $1 AND sequence BETWEEN $2 AND $3 ORDER BY high DESC LIMIT 1) AS high)
         SELECT e.erasure_id FROM audit_erasures e CROSS JOIN rows r
         WHERE e.tenant_id = $1 AND EXISTS (SELECT FROM audit_erased x WHERE x.tenant_id = e.tenant_id AND x.erasure_id = e.erasure_id
                                              AND x.row_id BETWEEN r.low AND r.high)
         ORDER BY e.erasure_id",
    );
    let erasures: Vec<Uuid> = erasures.bind(tenant.uuid()).bind(first).bind(last).fetch_all(&mut **tx).await?;
    Ok(erasures.into_iter().map(Into::into).collect())
}

impl Bundle {
    /// Send what proves one erasure. One without a sealed event proves nothing, and is left out: whoever verifies is told of each
    /// payload that it would have to excuse.
    pub(super) async fn erasure(&mut self, erasure: ErasureId, out: &tokio::sync::mpsc::Sender<Vec<u8>>) -> StoreResult<()> {
        let Some(proof) = seals::of_erasure(&mut self.tx, self.tenant, erasure).await? else { return Ok(()) };
        self.writer.erasure(&proof).map_err(broken)?;
        self.proved.insert(erasure.uuid());
        let mut after = None;
        loop {
            let items = list::page(&mut self.tx, self.tenant, erasure, after).await?;
            items.iter().try_for_each(|item| self.writer.erased(item)).map_err(broken)?;
            send(out, self.writer.take()).await?;
            after = items.last().copied();
            if after.is_none() {
                return Ok(());
            }
        }
    }

    /// Which erasure took each of these, where one says so; one that is proved before one that is not.
    pub(super) async fn erased(&mut self, missing: &[&Wanted]) -> StoreResult<HashMap<Erased, Uuid>> {
        let (mut rows, mut parts, mut sequences) = (Vec::new(), Vec::new(), Vec::new());
        for want in missing {
            rows.push(want.row);
            parts.push(i16::from(want.part.code()));
            sequences.push(want.sequence);
        }
        let named = sqlx::query_as::<_, (i64, Uuid)>(
            "SELECT w.n, e.erasure_id FROM unnest($2::uuid[], $3::smallint[], $4::int[]) WITH ORDINALITY AS w(row, part, sequence, n)
             JOIN audit_erased e ON e.tenant_id = $1 AND e.row_id = w.row AND e.part = w.part AND e.sequence = w.sequence",
        );
        let named = named.bind(self.tenant.uuid()).bind(rows).bind(parts).bind(sequences).fetch_all(&mut *self.tx).await?;
        let mut erased = HashMap::new();
        for (number, erasure) in named {
            let want = usize::try_from(number).ok().and_then(|n| missing.get(n.checked_sub(1)?));
            let Some(item) = want.map(|want| want.item()) else { continue };
            if self.proved.contains(&erasure) {
                erased.insert(item, erasure);
            } else {
                erased.entry(item).or_insert(erasure);
            }
        }
        Ok(erased)
    }
}
