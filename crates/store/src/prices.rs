//! Prices, which are only ever added.

use chrono::{DateTime, Utc};
use serde_json::json;
use tollgate_domain::{
    Picos, PriceId, TenantId, ToolId, UpstreamId,
    price::{Price, RateCard, Target, Unit},
};
use uuid::Uuid;

use crate::{
    change::Change,
    error::{StoreError, StoreResult, word},
    page::{Page, PageRequest},
    tools::{self, ToolFilter, ToolRow},
    tx::Tx,
};

#[derive(Debug, Clone)]
pub struct PriceRow {
    pub price: Price,
    pub created_at: DateTime<Utc>,
    pub created_by: String,
}

/// Add a price.
///
/// # Errors
/// [`StoreError::Invalid`] for a target that does not exist or a time that has passed, [`StoreError::Conflict`] for a
/// second price of one target from the same moment on.
pub async fn create(change: &mut Change, price: &Price) -> StoreResult<()> {
    if price.effective_from < change.now {
        return Err(StoreError::invalid("/effective_from", "a price takes effect now or later: the past never changes"));
    }
    target_exists(change, price.target).await?;
    let (tool, upstream) = columns(price.target);
    sqlx::query!(
        "INSERT INTO prices (tenant_id, price_id, tool_id, upstream_id, amount_picos, unit, effective_from, created_at, created_by)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        change.tenant.uuid(),
        price.id.uuid(),
        tool,
        upstream,
        price.amount.0,
        price.unit.as_str(),
        price.effective_from,
        change.now,
        change.actor.id,
    )
    .execute(&mut *change.tx)
    .await
    .map_err(|e| StoreError::from(e).taken("there is a price for this target from the same moment on"))?;
    let target = match price.target {
        Target::Tool(id) => id.to_string(),
        Target::Upstream(id) => id.to_string(),
    };
    let detail = json!({"target": target, "amount": price.amount, "unit": price.unit, "effective_from": price.effective_from});
    change.event("price.create", &price.id, detail).await
}

const fn columns(target: Target) -> (Option<Uuid>, Option<Uuid>) {
    match target {
        Target::Tool(id) => (Some(id.uuid()), None),
        Target::Upstream(id) => (None, Some(id.uuid())),
    }
}

async fn target_exists(change: &mut Change, target: Target) -> StoreResult<()> {
    let (tool, upstream) = columns(target);
    let exists = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM tools WHERE tenant_id = $1 AND tool_id = $2)
               OR EXISTS (SELECT FROM upstreams WHERE tenant_id = $1 AND upstream_id = $3 AND deleted_at IS NULL) AS "exists!""#,
        change.tenant.uuid(),
        tool,
        upstream,
    )
    .fetch_one(&mut *change.tx)
    .await?;
    match (exists, target) {
        (true, _) => Ok(()),
        (false, Target::Tool(_)) => Err(StoreError::invalid("/tool_id", "there is no such tool")),
        (false, Target::Upstream(_)) => Err(StoreError::invalid("/upstream_id", "there is no such upstream")),
    }
}

/// One price.
///
/// # Errors
/// [`StoreError::NotFound`].
pub async fn get(tx: &mut Tx, tenant: TenantId, id: PriceId) -> StoreResult<PriceRow> {
    let one = Select { one: Some(id.uuid()), limit: 1, ..Select::default() };
    select(tx, tenant, one).await?.pop().ok_or(StoreError::NotFound)
}

/// A page of prices, past and future ones, in the order in which they were set.
///
/// # Errors
/// When the database does not answer.
pub async fn list(
    tx: &mut Tx,
    tenant: TenantId,
    tool: Option<ToolId>,
    upstream: Option<UpstreamId>,
    page: PageRequest,
) -> StoreResult<Page<PriceRow>> {
    let (tool, upstream) = (tool.map(ToolId::uuid), upstream.map(UpstreamId::uuid));
    let some = Select { one: None, tool, upstream, after: page.after, limit: page.fetch() };
    let rows = select(tx, tenant, some).await?;
    Ok(page.cut(rows, |row| row.price.id.uuid()))
}

#[derive(Default)]
struct Select {
    one: Option<Uuid>,
    tool: Option<Uuid>,
    upstream: Option<Uuid>,
    after: Option<Uuid>,
    limit: i64,
}

async fn select(tx: &mut Tx, tenant: TenantId, which: Select) -> StoreResult<Vec<PriceRow>> {
    let rows = sqlx::query!(
        "SELECT price_id, tool_id, upstream_id, amount_picos, unit, effective_from, created_at, created_by FROM prices
         WHERE tenant_id = $1 AND ($2::uuid IS NULL OR price_id = $2) AND ($3::uuid IS NULL OR tool_id = $3)
           AND ($4::uuid IS NULL OR upstream_id = $4) AND ($5::uuid IS NULL OR price_id > $5)
         ORDER BY price_id LIMIT $6",
        tenant.uuid(),
        which.one,
        which.tool,
        which.upstream,
        which.after,
        which.limit,
    );
    let rows = rows.fetch_all(&mut **tx).await?;
    rows.into_iter()
        .map(|row| {
            let target = target(row.tool_id, row.upstream_id)?;
            let (amount, unit) = (Picos(row.amount_picos), word::<Unit>(&row.unit)?);
            let price = Price { id: row.price_id.into(), target, amount, unit, effective_from: row.effective_from };
            Ok(PriceRow { price, created_at: row.created_at, created_by: row.created_by })
        })
        .collect()
}

fn target(tool: Option<Uuid>, upstream: Option<Uuid>) -> StoreResult<Target> {
    match (tool, upstream) {
        (Some(tool), _) => Ok(Target::Tool(tool.into())),
        (None, Some(upstream)) => Ok(Target::Upstream(upstream.into())),
        (None, None) => Err(StoreError::Corrupt("a price without a target".to_owned())),
    }
}

/// A tool and the price that its calls are charged at one moment.
#[derive(Debug, Clone)]
pub struct RateCardRow {
    pub tool: ToolRow,
    pub price: Option<Price>,
}

/// A page of the rate card at `at`: every tool that is listed, with the price that [`RateCard`], which the call path asks as
/// well, has for it.
///
/// # Errors
/// When the database does not answer.
pub async fn rate_card(tx: &mut Tx, tenant: TenantId, at: DateTime<Utc>, page: PageRequest) -> StoreResult<Page<RateCardRow>> {
    let prices = sqlx::query!(
        "SELECT price_id, tool_id, upstream_id, amount_picos, unit, effective_from FROM prices
         WHERE tenant_id = $1 AND effective_from <= $2",
        tenant.uuid(),
        at,
    );
    let prices = prices.fetch_all(&mut **tx).await?.into_iter().map(|row| {
        let (id, target) = (row.price_id.into(), target(row.tool_id, row.upstream_id)?);
        Ok(Price { id, target, amount: Picos(row.amount_picos), unit: word(&row.unit)?, effective_from: row.effective_from })
    });
    let card = RateCard::new(prices.collect::<StoreResult<Vec<_>>>()?);
    let tools = tools::list(tx, tenant, &ToolFilter::default(), page).await?;
    let priced = |tool: ToolRow| {
        let price = card.in_force(tool.id, tool.upstream_id, at).cloned();
        RateCardRow { tool, price }
    };
    Ok(Page { items: tools.items.into_iter().map(priced).collect(), next: tools.next })
}
