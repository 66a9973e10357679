//! Budgets as admins set them, and how much of them is left.

use chrono::{DateTime, Utc};
use tollgate_domain::{
    Budget, BudgetId, Picos, TenantId, TimeZone,
    budget::{BudgetScope, Window},
};
use uuid::Uuid;

use crate::{
    change::Change,
    error::{StoreError, StoreResult, word},
    page::{Page, PageRequest},
    tx::Tx,
};

#[derive(Debug, Clone)]
pub struct BudgetRow {
    pub budget: Budget,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub version: i32,
}

/// How a budget stands, in picos.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Standing {
    /// What calls that are closed and sealed cost.
    pub spent: i128,
    /// What calls that are under way may cost, and what workers keep ready for the next ones.
    pub reserved: i128,
}

/// The columns of a scope, as budgets and rate limits have them.
#[derive(sqlx::FromRow)]
pub(crate) struct ScopeColumns {
    team_id: Option<Uuid>,
    key_id: Option<Uuid>,
    upstream_id: Option<Uuid>,
    tool_id: Option<Uuid>,
}

impl From<ScopeColumns> for BudgetScope {
    fn from(row: ScopeColumns) -> Self {
        let ScopeColumns { team_id, key_id, upstream_id, tool_id } = row;
        Self {
            team: team_id.map(Into::into),
            key: key_id.map(Into::into),
            upstream: upstream_id.map(Into::into),
            tool: tool_id.map(Into::into),
        }
    }
}

#[derive(sqlx::FromRow)]
struct Row {
    budget_id: Uuid,
    name: String,
    #[sqlx(flatten)]
    scope: ScopeColumns,
    limit_picos: i64,
    period: String,
    rolling_days: Option<i32>,
    enforcement: String,
    thresholds: Vec<i16>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    version: i32,
}

impl TryFrom<Row> for BudgetRow {
    type Error = StoreError;
    fn try_from(row: Row) -> StoreResult<Self> {
        let budget = Budget {
            id: row.budget_id.into(),
            name: row.name,
            scope: row.scope.into(),
            limit: Picos(row.limit_picos),
            period: word(&row.period)?,
            rolling_days: row.rolling_days.and_then(|days| u16::try_from(days).ok()),
            enforcement: word(&row.enforcement)?,
            thresholds: row.thresholds.into_iter().filter_map(|percent| u8::try_from(percent).ok()).collect(),
        };
        Ok(Self { budget, created_at: row.created_at, updated_at: row.updated_at, version: row.version })
    }
}

/// Set a budget. It counts the calls from now on.
///
/// # Errors
/// [`StoreError::Invalid`] for a scope that names what does not exist, [`StoreError::Conflict`] when the tenant has as many budgets
/// as it may.
pub async fn create(change: &mut Change, budget: &Budget, most: i64) -> StoreResult<BudgetRow> {
    scope_exists(change, &budget.scope).await?;
    // Two at once must not both be the last one that is allowed.
    sqlx::query("SELECT FROM tenants WHERE tenant_id = $1 FOR NO KEY UPDATE")
        .bind(change.tenant.uuid())
        .execute(&mut *change.tx)
        .await?;
    let count = sqlx::query_scalar("SELECT count(*) FROM budgets WHERE tenant_id = $1 AND deleted_at IS NULL");
    let count: i64 = count.bind(change.tenant.uuid()).fetch_one(&mut *change.tx).await?;
    if count >= most {
        return Err(StoreError::Conflict(format!("the tenant has {most} budgets, as many as it may; delete one first")));
    }
    let thresholds: Vec<i16> = budget.thresholds.iter().map(|percent| i16::from(*percent)).collect();
    sqlx::query(
        "INSERT INTO budgets (tenant_id, budget_id, name, team_id, key_id, upstream_id, tool_id, limit_picos, period, rolling_days,
                              enforcement, thresholds, created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $13)",
    )
    .bind(change.tenant.uuid())
    .bind(budget.id.uuid())
    .bind(&budget.name)
    .bind(budget.scope.team.map(Uuid::from))
    .bind(budget.scope.key.map(Uuid::from))
    .bind(budget.scope.upstream.map(Uuid::from))
    .bind(budget.scope.tool.map(Uuid::from))
    .bind(budget.limit.0)
    .bind(budget.period.as_str())
    .bind(budget.rolling_days.map(i32::from))
    .bind(budget.enforcement.as_str())
    .bind(thresholds)
    .bind(change.now)
    .execute(&mut *change.tx)
    .await?;
    Ok(BudgetRow { budget: budget.clone(), created_at: change.now, updated_at: change.now, version: 1 })
}

/// Whether what a scope names exists in the change's tenant.
///
/// # Errors
/// [`StoreError::Invalid`] with the pointer of the first that does not.
pub async fn scope_exists(change: &mut Change, scope: &BudgetScope) -> StoreResult<()> {
    let exists = sqlx::query_as::<_, (bool, bool, bool, bool)>(
        "SELECT $2::uuid IS NULL OR EXISTS (SELECT FROM teams WHERE tenant_id = $1 AND team_id = $2),
                $3::uuid IS NULL OR EXISTS (SELECT FROM virtual_keys WHERE tenant_id = $1 AND key_id = $3),
                $4::uuid IS NULL OR EXISTS (SELECT FROM upstreams WHERE tenant_id = $1 AND upstream_id = $4 AND deleted_at IS NULL),
                $5::uuid IS NULL OR EXISTS (SELECT FROM tools WHERE tenant_id = $1 AND tool_id = $5)",
    );
    let exists = exists.bind(change.tenant.uuid()).bind(scope.team.map(Uuid::from)).bind(scope.key.map(Uuid::from));
    let exists = exists.bind(scope.upstream.map(Uuid::from)).bind(scope.tool.map(Uuid::from)).fetch_one(&mut *change.tx).await?;
    let missing = |what: &str| Err(StoreError::invalid(format!("/scope/{what}_id"), format!("there is no such {what}")));
    match exists {
        (false, ..) => missing("team"),
        (_, false, ..) => missing("key"),
        (_, _, false, _) => missing("upstream"),
        (.., false) => missing("tool"),
        _ => Ok(()),
    }
}

const COLUMNS: &str =
    "SELECT budget_id, name, team_id, key_id, upstream_id, tool_id, limit_picos, period, rolling_days, enforcement,
        thresholds, created_at, updated_at, version FROM budgets WHERE tenant_id = $1 AND deleted_at IS NULL";

/// A page of budgets, oldest first.
///
/// # Errors
/// When the database does not answer.
pub async fn list(tx: &mut Tx, tenant: TenantId, page: PageRequest) -> StoreResult<Page<BudgetRow>> {
    let rows = sqlx::query_as::<_, Row>(sqlx::AssertSqlSafe(format!(
        "{COLUMNS} AND ($2::uuid IS NULL OR budget_id > $2) ORDER BY budget_id LIMIT $3"
    )));
    let rows = rows.bind(tenant.uuid()).bind(page.after).bind(page.fetch()).fetch_all(&mut **tx).await?;
    let rows = rows.into_iter().map(BudgetRow::try_from).collect::<StoreResult<_>>()?;
    Ok(page.cut(rows, |row: &BudgetRow| row.budget.id.uuid()))
}

/// All of a tenant's budgets, as the call path asks for them.
///
/// # Errors
/// When the database does not answer.
pub async fn all(tx: &mut Tx, tenant: TenantId) -> StoreResult<Vec<Budget>> {
    let rows = sqlx::query_as::<_, Row>(sqlx::AssertSqlSafe(format!("{COLUMNS} ORDER BY budget_id")));
    let rows = rows.bind(tenant.uuid()).fetch_all(&mut **tx).await?;
    rows.into_iter().map(|row| BudgetRow::try_from(row).map(|row| row.budget)).collect()
}

/// # Errors
/// `NotFound`.
pub async fn get(tx: &mut Tx, tenant: TenantId, id: BudgetId) -> StoreResult<BudgetRow> {
    let row = sqlx::query_as::<_, Row>(sqlx::AssertSqlSafe(format!("{COLUMNS} AND budget_id = $2")));
    row.bind(tenant.uuid()).bind(id.uuid()).fetch_one(&mut **tx).await?.try_into()
}

/// The budget, locked until the change ends.
///
/// # Errors
/// `NotFound`.
pub async fn lock(change: &mut Change, id: BudgetId) -> StoreResult<BudgetRow> {
    let row = sqlx::query_as::<_, Row>(sqlx::AssertSqlSafe(format!("{COLUMNS} AND budget_id = $2 FOR UPDATE")));
    row.bind(change.tenant.uuid()).bind(id.uuid()).fetch_one(&mut *change.tx).await?.try_into()
}

/// Change what can be changed: name, limit, enforcement, thresholds. A lower limit holds for what is granted from now on; what workers
/// hold already is given back within seconds.
///
/// # Errors
/// When the database does not answer.
pub async fn update(change: &mut Change, mut row: BudgetRow) -> StoreResult<BudgetRow> {
    row.version += 1;
    row.updated_at = change.now;
    let thresholds: Vec<i16> = row.budget.thresholds.iter().map(|percent| i16::from(*percent)).collect();
    sqlx::query(
        "UPDATE budgets SET name = $3, limit_picos = $4, enforcement = $5, thresholds = $6, version = $7, updated_at = $8
         WHERE tenant_id = $1 AND budget_id = $2",
    )
    .bind(change.tenant.uuid())
    .bind(row.budget.id.uuid())
    .bind(&row.budget.name)
    .bind(row.budget.limit.0)
    .bind(row.budget.enforcement.as_str())
    .bind(thresholds)
    .bind(row.version)
    .bind(row.updated_at)
    .execute(&mut *change.tx)
    .await?;
    recall(change, row.budget.id).await?;
    Ok(row)
}

/// With the commit, workers give back what they keep ready: from then on the changed budget holds.
async fn recall(change: &mut Change, id: BudgetId) -> StoreResult<()> {
    let recall = sqlx::query("SELECT pg_notify('tollgate_recall', $1::text)").bind(id.uuid().to_string());
    recall.execute(&mut *change.tx).await?;
    Ok(())
}

/// Let a budget hold no more.
///
/// # Errors
/// When the database does not answer.
pub async fn delete(change: &mut Change, id: BudgetId) -> StoreResult<()> {
    let delete =
        "UPDATE budgets SET deleted_at = $3, updated_at = $3, version = version + 1 WHERE tenant_id = $1 AND budget_id = $2";
    sqlx::query(delete).bind(change.tenant.uuid()).bind(id.uuid()).bind(change.now).execute(&mut *change.tx).await?;
    recall(change, id).await
}

/// The window around `at`, and how the budget stands in it; nothing was spent in one that nobody has drawn from. A window that has begun
/// goes on to its end, also when the tenant has moved to another time zone meanwhile.
///
/// # Errors
/// When the database does not answer.
pub async fn standing(
    tx: &mut Tx,
    tenant: TenantId,
    budget: &Budget,
    (zone, at): (TimeZone, DateTime<Utc>),
) -> StoreResult<(Window, Standing)> {
    let mut window = budget.window(zone, at);
    if window.counts_from == window.starts_at {
        let begun = sqlx::query_as::<_, (DateTime<Utc>, DateTime<Utc>)>(
            "SELECT starts_at, ends_at FROM budget_windows WHERE tenant_id = $1 AND budget_id = $2 AND starts_at <= $3 AND ends_at > $3
             ORDER BY starts_at LIMIT 1",
        );
        if let Some((starts_at, ends_at)) =
            begun.bind(tenant.uuid()).bind(budget.id.uuid()).bind(at).fetch_optional(&mut **tx).await?
        {
            window = Window { starts_at, ends_at, counts_from: starts_at };
        }
    }
    let sums = sqlx::query_as::<_, (String, String)>(
        "SELECT COALESCE(sum(spent), 0)::text, COALESCE(sum(granted - spent), 0)::text FROM budget_windows
         WHERE tenant_id = $1 AND budget_id = $2 AND starts_at >= $3 AND starts_at <= $4",
    );
    let sums = sums.bind(tenant.uuid()).bind(budget.id.uuid()).bind(window.counts_from).bind(window.starts_at);
    let (spent, reserved) = sums.fetch_one(&mut **tx).await?;
    Ok((window, Standing { spent: number(&spent)?, reserved: number(&reserved)? }))
}

pub(crate) fn number(text: &str) -> StoreResult<i128> {
    text.parse().map_err(|e| StoreError::Corrupt(format!("{text:?}: {e}")))
}

/// The zone in which a tenant's days begin.
///
/// # Errors
/// `NotFound`.
pub async fn zone(tx: &mut Tx, tenant: TenantId) -> StoreResult<TimeZone> {
    let zone = sqlx::query_scalar::<_, String>("SELECT time_zone FROM tenants WHERE tenant_id = $1");
    word(&zone.bind(tenant.uuid()).fetch_one(&mut **tx).await?)
}
