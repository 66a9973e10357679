//! Counters in Postgres: one row a limit, and of a limit of calls under way one more a worker.

use tollgate_domain::rate::{Claim, Granted, Pace, SLOT_LIFE_US};

use super::Counted;
use crate::{error::StoreResult, spend::in_time, tx::Store};

pub(super) async fn count(
    store: &Store,
    what: Counted<'_>,
    pace: &Pace,
    difference: i64,
    weights: &[u32],
) -> StoreResult<Vec<(bool, i64)>> {
    let weights: Vec<i64> = weights.iter().map(|weight| pace.cap(i64::from(*weight))).collect();
    in_time(async {
        let mut tx = store.control().await?;
        let served =
            sqlx::query_as::<_, (Vec<bool>, Vec<i64>)>("SELECT taken, debts FROM tollgate_count($1, $2, $3, $4, $5, $6, $7, $8)")
                .bind(what.tenant.uuid())
                .bind(what.limit.id.uuid())
                .bind(what.now_us)
                .bind(pace.spacing)
                .bind(pace.burst)
                .bind(pace.ceiling)
                .bind(pace.cap(difference))
                .bind(weights)
                .fetch_one(&mut *tx)
                .await?;
        tx.commit().await?;
        Ok(served.0.into_iter().zip(served.1).collect())
    })
    .await
}

pub(super) async fn debt(store: &Store, what: Counted<'_>, pace: &Pace) -> StoreResult<i64> {
    in_time(async {
        let mut tx = store.tenant(what.tenant).await?;
        let debt = sqlx::query_scalar::<_, i64>(
            "SELECT LEAST(GREATEST(even_at - COALESCE($3, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint) * 1000, 0), $4)
             FROM rate_states WHERE tenant_id = $1 AND rate_limit_id = $2",
        );
        let debt = debt.bind(what.tenant.uuid()).bind(what.limit.id.uuid()).bind(what.now_us).bind(pace.ceiling);
        let debt = debt.fetch_optional(&mut *tx).await?.unwrap_or(0);
        tx.commit().await?;
        Ok(debt)
    })
    .await
}

pub(super) async fn claim(store: &Store, what: Counted<'_>, claim: &Claim) -> StoreResult<Granted> {
    in_time(async {
        let mut tx = store.control().await?;
        let (own, others) =
            sqlx::query_as::<_, (i64, i64)>("SELECT own, others FROM tollgate_claim($1, $2, $3, $4, $5, $6, $7, $8, $9)")
                .bind(what.tenant.uuid())
                .bind(what.limit.id.uuid())
                .bind(what.now_us)
                .bind(SLOT_LIFE_US)
                .bind(i64::from(what.limit.max))
                .bind(claim.worker)
                .bind(claim.sequence)
                .bind(i64::from(claim.held))
                .bind(i64::from(claim.wanted))
                .fetch_one(&mut *tx)
                .await?;
        tx.commit().await?;
        let count = |n: i64| u32::try_from(n).unwrap_or(0);
        Ok(Granted { own: count(own), others: count(others) })
    })
    .await
}

pub(super) async fn under_way(store: &Store, what: Counted<'_>) -> StoreResult<u32> {
    in_time(async {
        let mut tx = store.tenant(what.tenant).await?;
        let held = sqlx::query_scalar::<_, i64>(
            "SELECT COALESCE(sum(held), 0)::bigint FROM rate_slots WHERE tenant_id = $1 AND rate_limit_id = $2
             AND until_us > COALESCE($3, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)",
        );
        let held = held.bind(what.tenant.uuid()).bind(what.limit.id.uuid()).bind(what.now_us).fetch_one(&mut *tx).await?;
        tx.commit().await?;
        Ok(u32::try_from(held).unwrap_or(u32::MAX))
    })
    .await
}
