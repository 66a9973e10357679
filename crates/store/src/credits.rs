//! Corrections of what calls cost: rows of their own, never edits. A cost report sums them up by the time at which they were made, beside
//! what calls cost by the time at which they were opened.

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::{Postgres, QueryBuilder, Row as _, postgres::PgRow};
use tollgate_domain::{CallId, CreditId, KeyId, Picos, TeamId, TenantId, ToolId, UpstreamId};
use uuid::Uuid;

use crate::{
    change::Change,
    error::{StoreError, StoreResult},
    page::{Page, PageRequest},
    tx::Tx,
};

/// Whose cost is corrected. All that is known is set; nothing is the tenant as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CreditScope {
    pub key: Option<KeyId>,
    pub team: Option<TeamId>,
    pub upstream: Option<UpstreamId>,
    pub tool: Option<ToolId>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credit {
    pub id: CreditId,
    /// Then the scope is the call's.
    pub call: Option<CallId>,
    pub scope: CreditScope,
    pub amount: Picos,
    pub reason: String,
    pub created_at: DateTime<Utc>,
    pub created_by: String,
}

/// What is credited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Credited {
    Call(CallId),
    Scope(CreditScope),
}

/// Which credits. Empty: all of the tenant's.
#[derive(Debug, Clone, Default)]
pub struct CreditFilter {
    pub call: Option<CallId>,
    pub key: Option<KeyId>,
    pub team: Option<TeamId>,
    pub upstream: Option<UpstreamId>,
    pub tool: Option<ToolId>,
}

#[derive(sqlx::FromRow)]
struct Row {
    credit_id: Uuid,
    call_id: Option<Uuid>,
    key_id: Option<Uuid>,
    team_id: Option<Uuid>,
    upstream_id: Option<Uuid>,
    tool_id: Option<Uuid>,
    amount_picos: i64,
    reason: String,
    created_at: DateTime<Utc>,
    created_by: String,
}

impl From<Row> for Credit {
    fn from(row: Row) -> Self {
        let scope = CreditScope {
            key: row.key_id.map(Into::into),
            team: row.team_id.map(Into::into),
            upstream: row.upstream_id.map(Into::into),
            tool: row.tool_id.map(Into::into),
        };
        Self {
            id: row.credit_id.into(),
            call: row.call_id.map(Into::into),
            scope,
            amount: Picos(row.amount_picos),
            reason: row.reason,
            created_at: row.created_at,
            created_by: row.created_by,
        }
    }
}

/// Give back a part of what was charged.
///
/// # Errors
/// [`StoreError::Invalid`] for a call or a scope that does not exist, and for more than the call cost, less what was given back of it
/// before; [`StoreError::Conflict`] for a call that is still open.
pub async fn create(change: &mut Change, of: Credited, amount: Picos, reason: &str) -> StoreResult<Credit> {
    let (call, scope) = match of {
        Credited::Call(call) => (Some(call), of_call(change, call, amount).await?),
        Credited::Scope(scope) => {
            scope_exists(change, &scope).await?;
            (None, scope)
        }
    };
    let credit = Credit {
        id: CreditId::mint(change.now),
        call,
        scope,
        amount,
        reason: reason.to_owned(),
        created_at: change.now,
        created_by: change.actor.id.clone(),
    };
    sqlx::query(
        "INSERT INTO credits (tenant_id, credit_id, call_id, key_id, team_id, upstream_id, tool_id, amount_picos, reason, created_at, created_by)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
    )
    .bind(change.tenant.uuid())
    .bind(credit.id.uuid())
    .bind(call.map(CallId::uuid))
    .bind(scope.key.map(KeyId::uuid))
    .bind(scope.team.map(TeamId::uuid))
    .bind(scope.upstream.map(UpstreamId::uuid))
    .bind(scope.tool.map(ToolId::uuid))
    .bind(amount.0)
    .bind(reason)
    .bind(change.now)
    .bind(&credit.created_by)
    .execute(&mut *change.tx)
    .await?;
    let detail = json!({
        "amount": amount, "reason": reason, "tool_call_id": call, "key_id": scope.key, "team_id": scope.team,
        "upstream_id": scope.upstream, "tool_id": scope.tool,
    });
    change.event("credit.create", &credit.id, detail).await?;
    Ok(credit)
}

/// Whose the call was, if so much of its cost is left. Others who credit the same call wait until the change ends.
async fn of_call(change: &mut Change, call: CallId, amount: Picos) -> StoreResult<CreditScope> {
    // The rows of calls cannot be locked: nobody may update them.
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))")
        .bind(format!("credit/{}/{}", change.tenant.uuid(), call.uuid()))
        .execute(&mut *change.tx)
        .await?;
    let row = sqlx::query(
        "SELECT t.key_id, t.team_id, t.upstream_id, t.tool_id, t.outcome IS NOT NULL AS closed, COALESCE(t.amount_picos, 0) AS cost,
                (SELECT COALESCE(sum(c.amount_picos), 0)::bigint FROM credits c WHERE c.tenant_id = t.tenant_id AND c.call_id = t.call_id)
                  AS credited
         FROM tool_calls t WHERE t.tenant_id = $1 AND t.call_id = $2",
    );
    let row = row.bind(change.tenant.uuid()).bind(call.uuid()).fetch_optional(&mut *change.tx).await?;
    let Some(row) = row else { return Err(StoreError::invalid("/tool_call_id", "there is no such tool call")) };
    if !row.try_get::<bool, _>("closed")? {
        return Err(StoreError::Conflict("the call is open: nobody knows yet what it will cost".to_owned()));
    }
    let (cost, credited): (i64, i64) = (row.try_get("cost")?, row.try_get("credited")?);
    // The truth that a worker brings late may be less than was charged, and was given back, before.
    let left = cost.saturating_sub(credited).max(0);
    if amount.0 > left {
        let sentence = format!("the call cost {}, and {} of that is credited already", Picos(cost), Picos(credited));
        return Err(StoreError::invalid("/amount", sentence));
    }
    Ok(CreditScope {
        key: maybe(&row, "key_id")?,
        team: maybe(&row, "team_id")?,
        upstream: maybe(&row, "upstream_id")?,
        tool: maybe(&row, "tool_id")?,
    })
}

fn maybe<T: From<Uuid>>(row: &PgRow, column: &str) -> StoreResult<Option<T>> {
    Ok(row.try_get::<Option<Uuid>, _>(column)?.map(T::from))
}

async fn scope_exists(change: &mut Change, scope: &CreditScope) -> StoreResult<()> {
    let exists = sqlx::query_as::<_, (bool, bool, bool, bool)>(
        // What is gone may have been charged too much while it was there.
        "SELECT $2::uuid IS NULL OR EXISTS (SELECT FROM virtual_keys WHERE tenant_id = $1 AND key_id = $2),
                $3::uuid IS NULL OR EXISTS (SELECT FROM teams WHERE tenant_id = $1 AND team_id = $3),
                $4::uuid IS NULL OR EXISTS (SELECT FROM upstreams WHERE tenant_id = $1 AND upstream_id = $4),
                $5::uuid IS NULL OR EXISTS (SELECT FROM tools WHERE tenant_id = $1 AND tool_id = $5)",
    );
    let exists = exists.bind(change.tenant.uuid()).bind(scope.key.map(KeyId::uuid)).bind(scope.team.map(TeamId::uuid));
    let exists = exists.bind(scope.upstream.map(UpstreamId::uuid)).bind(scope.tool.map(ToolId::uuid)).fetch_one(&mut *change.tx);
    let missing = |what: &str| Err(StoreError::invalid(format!("/{what}_id"), format!("there is no such {what}")));
    match exists.await? {
        (false, ..) => missing("key"),
        (_, false, ..) => missing("team"),
        (_, _, false, _) => missing("upstream"),
        (.., false) => missing("tool"),
        _ => Ok(()),
    }
}

fn select(tenant: TenantId) -> QueryBuilder<Postgres> {
    let mut query = QueryBuilder::new(
        "SELECT credit_id, call_id, key_id, team_id, upstream_id, tool_id, amount_picos, reason, created_at, created_by
         FROM credits WHERE tenant_id = ",
    );
    query.push_bind(tenant.uuid());
    query
}

/// One credit.
///
/// # Errors
/// [`StoreError::NotFound`].
pub async fn get(tx: &mut Tx, tenant: TenantId, id: CreditId) -> StoreResult<Credit> {
    let mut query = select(tenant);
    query.push(" AND credit_id = ").push_bind(id.uuid());
    Ok(query.build_query_as::<Row>().fetch_one(&mut **tx).await?.into())
}

/// A page of credits, oldest first.
///
/// # Errors
/// When the database does not answer.
pub async fn list(tx: &mut Tx, tenant: TenantId, filter: &CreditFilter, page: PageRequest) -> StoreResult<Page<Credit>> {
    let mut query = select(tenant);
    let ids = [
        (" AND call_id = ", filter.call.map(CallId::uuid)),
        (" AND key_id = ", filter.key.map(KeyId::uuid)),
        (" AND team_id = ", filter.team.map(TeamId::uuid)),
        (" AND upstream_id = ", filter.upstream.map(UpstreamId::uuid)),
        (" AND tool_id = ", filter.tool.map(ToolId::uuid)),
        (" AND credit_id > ", page.after),
    ];
    for (condition, id) in ids.into_iter().filter_map(|(condition, id)| Some((condition, id?))) {
        query.push(condition).push_bind(id);
    }
    query.push(" ORDER BY credit_id LIMIT ").push_bind(page.fetch());
    let rows = query.build_query_as::<Row>().fetch_all(&mut **tx).await?;
    Ok(page.cut(rows.into_iter().map(Credit::from).collect(), |credit: &Credit| credit.id.uuid()))
}
