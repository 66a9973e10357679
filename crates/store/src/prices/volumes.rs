//! Which number a call has in its month, for prices by volume. A number is given to one call; the number of a call that was refused
//! after all is nobody's.

use chrono::{DateTime, NaiveDate, Utc};
use tollgate_domain::{TenantId, TimeZone, price::Target, zone::Calendar};
use uuid::Uuid;

use crate::{
    error::{StoreError, StoreResult},
    spend::in_time,
    tx::{Store, Tx},
};

/// The month in which a call counts, by its first day in the tenant's time zone.
#[must_use]
pub fn month(zone: TimeZone, at: DateTime<Utc>) -> NaiveDate {
    TimeZone::days_of(Calendar::Month, zone.day(at)).0
}

const fn key(target: Target) -> Uuid {
    match target {
        Target::Tool(id) => id.uuid(),
        Target::Upstream(id) => id.uuid(),
        Target::Tenant => Uuid::nil(),
    }
}

/// The first of `wanted` numbers, which no other call has or will have.
///
/// # Errors
/// When the database does not answer. The numbers may be gone.
pub async fn draw(store: &Store, tenant: TenantId, target: Target, month: NaiveDate, wanted: i32) -> StoreResult<u64> {
    in_time(async {
        let mut tx = store.control().await?;
        let draw = sqlx::query_scalar::<_, i64>("SELECT tollgate_number_calls($1, $2, $3, $4)");
        let first = draw.bind(tenant.uuid()).bind(key(target)).bind(month).bind(wanted).fetch_one(&mut *tx).await?;
        tx.commit().await?;
        u64::try_from(first).map_err(|e| StoreError::Corrupt(format!("the number of a call: {e}")))
    })
    .await
}

/// The last number that was drawn.
///
/// # Errors
/// When the database does not answer.
pub async fn last(tx: &mut Tx, tenant: TenantId, target: Target, month: NaiveDate) -> StoreResult<u64> {
    let last =
        sqlx::query_scalar::<_, i64>("SELECT calls FROM price_volumes WHERE tenant_id = $1 AND target = $2 AND month = $3");
    let last = last.bind(tenant.uuid()).bind(key(target)).bind(month).fetch_optional(&mut **tx).await?;
    Ok(last.and_then(|last| u64::try_from(last).ok()).unwrap_or(0))
}
