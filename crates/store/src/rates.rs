//! Rate limits as admins set them. `counters` keeps what is used of them.

use chrono::{DateTime, Utc};
use tollgate_domain::{
    RateLimitId, TenantId,
    rate::{Measure, Per, RateLimit},
};
use uuid::Uuid;

use crate::{
    budgets::{self, ScopeColumns},
    change::Change,
    error::{StoreError, StoreResult, word},
    page::{Page, PageRequest},
    tx::Tx,
};

#[derive(Debug, Clone)]
pub struct RateLimitRow {
    pub limit: RateLimit,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

#[derive(sqlx::FromRow)]
struct Row {
    rate_limit_id: Uuid,
    name: String,
    #[sqlx(flatten)]
    scope: ScopeColumns,
    max: i32,
    unit: String,
    per: Option<String>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    version: i32,
}

impl TryFrom<Row> for RateLimitRow {
    type Error = StoreError;
    fn try_from(row: Row) -> StoreResult<Self> {
        let max = u32::try_from(row.max).map_err(|e| StoreError::Corrupt(format!("max: {e}")))?;
        let measure = Measure::of(word(&row.unit)?, row.per.as_deref().map(word).transpose()?);
        let measure = measure.ok_or_else(|| StoreError::Corrupt(format!("unit {}, per {:?}", row.unit, row.per)))?;
        let (id, scope) = (row.rate_limit_id.into(), row.scope.into());
        let limit = RateLimit { id, name: row.name, scope, max, measure, version: row.version };
        Ok(Self { limit, created_at: row.created_at, updated_at: row.updated_at })
    }
}

/// Set a limit.
///
/// # Errors
/// [`StoreError::Invalid`] for a scope that names what does not exist, [`StoreError::Conflict`] when the tenant has as many as it may.
pub async fn create(change: &mut Change, limit: &RateLimit, most: i64) -> StoreResult<RateLimitRow> {
    budgets::scope_exists(change, &limit.scope).await?;
    sqlx::query("SELECT FROM tenants WHERE tenant_id = $1 FOR NO KEY UPDATE")
        .bind(change.tenant.uuid())
        .execute(&mut *change.tx)
        .await?;
    let count = sqlx::query_scalar("SELECT count(*) FROM rate_limits WHERE tenant_id = $1");
    let count: i64 = count.bind(change.tenant.uuid()).fetch_one(&mut *change.tx).await?;
    if count >= most {
        return Err(StoreError::Conflict(format!("the tenant has {most} rate limits, as many as it may; delete one first")));
    }
    sqlx::query(
        "INSERT INTO rate_limits (tenant_id, rate_limit_id, name, team_id, key_id, upstream_id, tool_id, max, unit, per, created_at,
                                  updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $11)",
    )
    .bind(change.tenant.uuid())
    .bind(limit.id.uuid())
    .bind(&limit.name)
    .bind(limit.scope.team.map(Uuid::from))
    .bind(limit.scope.key.map(Uuid::from))
    .bind(limit.scope.upstream.map(Uuid::from))
    .bind(limit.scope.tool.map(Uuid::from))
    .bind(i32::try_from(limit.max).unwrap_or(i32::MAX))
    .bind(limit.measure.unit().as_str())
    .bind(limit.measure.per().map(Per::as_str))
    .bind(change.now)
    .execute(&mut *change.tx)
    .await?;
    Ok(RateLimitRow { limit: limit.clone(), created_at: change.now, updated_at: change.now })
}

const COLUMNS: &str =
    "SELECT rate_limit_id, name, team_id, key_id, upstream_id, tool_id, max, unit, per, created_at, updated_at, version
         FROM rate_limits WHERE tenant_id = $1";

/// A page of limits, oldest first.
///
/// # Errors
/// When the database does not answer.
pub async fn list(tx: &mut Tx, tenant: TenantId, page: PageRequest) -> StoreResult<Page<RateLimitRow>> {
    let rows = sqlx::query_as::<_, Row>(sqlx::AssertSqlSafe(format!(
        "{COLUMNS} AND ($2::uuid IS NULL OR rate_limit_id > $2) ORDER BY rate_limit_id LIMIT $3"
    )));
    let rows = rows.bind(tenant.uuid()).bind(page.after).bind(page.fetch()).fetch_all(&mut **tx).await?;
    let rows = rows.into_iter().map(RateLimitRow::try_from).collect::<StoreResult<_>>()?;
    Ok(page.cut(rows, |row: &RateLimitRow| row.limit.id.uuid()))
}

/// All of a tenant's limits, as the call path asks for them.
///
/// # Errors
/// When the database does not answer.
pub async fn all(tx: &mut Tx, tenant: TenantId) -> StoreResult<Vec<RateLimit>> {
    let rows = sqlx::query_as::<_, Row>(sqlx::AssertSqlSafe(format!("{COLUMNS} ORDER BY rate_limit_id")));
    let rows = rows.bind(tenant.uuid()).fetch_all(&mut **tx).await?;
    rows.into_iter().map(|row| RateLimitRow::try_from(row).map(|row| row.limit)).collect()
}

/// # Errors
/// `NotFound`.
pub async fn get(tx: &mut Tx, tenant: TenantId, id: RateLimitId) -> StoreResult<RateLimitRow> {
    let row = sqlx::query_as::<_, Row>(sqlx::AssertSqlSafe(format!("{COLUMNS} AND rate_limit_id = $2")));
    row.bind(tenant.uuid()).bind(id.uuid()).fetch_one(&mut **tx).await?.try_into()
}

/// The limit, locked until the change ends.
///
/// # Errors
/// `NotFound`.
pub async fn lock(change: &mut Change, id: RateLimitId) -> StoreResult<RateLimitRow> {
    let row = sqlx::query_as::<_, Row>(sqlx::AssertSqlSafe(format!("{COLUMNS} AND rate_limit_id = $2 FOR UPDATE")));
    row.bind(change.tenant.uuid()).bind(id.uuid()).fetch_one(&mut *change.tx).await?.try_into()
}

/// Change a limit's name, maximum and stretch. Under another maximum or stretch it begins anew.
///
/// # Errors
/// When the database does not answer.
pub async fn update(change: &mut Change, mut row: RateLimitRow) -> StoreResult<RateLimitRow> {
    row.limit.version += 1;
    row.updated_at = change.now;
    sqlx::query(
        "UPDATE rate_limits SET name = $3, max = $4, per = $5, version = $6, updated_at = $7 WHERE tenant_id = $1 AND rate_limit_id = $2",
    )
    .bind(change.tenant.uuid())
    .bind(row.limit.id.uuid())
    .bind(&row.limit.name)
    .bind(i32::try_from(row.limit.max).unwrap_or(i32::MAX))
    .bind(row.limit.measure.per().map(Per::as_str))
    .bind(row.limit.version)
    .bind(row.updated_at)
    .execute(&mut *change.tx)
    .await?;
    let forget = sqlx::query("DELETE FROM rate_states WHERE tenant_id = $1 AND rate_limit_id = $2");
    forget.bind(change.tenant.uuid()).bind(row.limit.id.uuid()).execute(&mut *change.tx).await?;
    Ok(row)
}

/// # Errors
/// When the database does not answer.
pub async fn delete(change: &mut Change, id: RateLimitId) -> StoreResult<()> {
    let delete = sqlx::query("DELETE FROM rate_limits WHERE tenant_id = $1 AND rate_limit_id = $2");
    delete.bind(change.tenant.uuid()).bind(id.uuid()).execute(&mut *change.tx).await?;
    Ok(())
}
