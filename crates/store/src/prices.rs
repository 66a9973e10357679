//! Prices, which are only ever added.

pub mod import;
pub mod volumes;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::{Postgres, QueryBuilder};
use tollgate_domain::{
    Picos, PriceId, TenantId, ToolId, UpstreamId,
    price::{Price, Rate, RateCard, Target, Tier},
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

#[derive(sqlx::FromRow)]
struct Row {
    price_id: Uuid,
    tool_id: Option<Uuid>,
    upstream_id: Option<Uuid>,
    amount_picos: Option<i64>,
    unit: Option<String>,
    tier_from: Option<Vec<i64>>,
    tier_picos: Option<Vec<i64>>,
    max_picos: Option<i64>,
    effective_from: DateTime<Utc>,
    created_at: DateTime<Utc>,
    created_by: String,
}

const COLUMNS: &str =
    "SELECT price_id, tool_id, upstream_id, amount_picos, unit, tier_from, tier_picos, max_picos, effective_from,
    created_at, created_by";

impl TryFrom<Row> for PriceRow {
    type Error = StoreError;

    fn try_from(row: Row) -> StoreResult<Self> {
        let target = match (row.tool_id, row.upstream_id) {
            (Some(tool), _) => Target::Tool(tool.into()),
            (None, Some(upstream)) => Target::Upstream(upstream.into()),
            (None, None) => Target::Tenant,
        };
        let max = row.max_picos.map(Picos);
        let rate = match (row.amount_picos.map(Picos), row.unit, row.tier_from.zip(row.tier_picos)) {
            (Some(_), Some(unit), Some(tiers)) => Some(tiered(&unit, tiers, max)?),
            (Some(amount), Some(unit), None) => Some(Rate::flat(word(&unit)?, amount, max)),
            _ => None,
        };
        let price = Price { id: row.price_id.into(), target, rate, effective_from: row.effective_from };
        Ok(Self { price, created_at: row.created_at, created_by: row.created_by })
    }
}

fn tiered(unit: &str, (from, amounts): (Vec<i64>, Vec<i64>), max: Option<Picos>) -> StoreResult<Rate> {
    let tier = |(from, amount): (i64, i64)| Tier { from_call: u64::try_from(from).unwrap_or(0), amount: Picos(amount) };
    let tiers = from.into_iter().zip(amounts).map(tier).collect();
    Rate::tiered(word(unit)?, tiers, max).map_err(|e| StoreError::Corrupt(format!("tiers of a price: {e}")))
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
    insert(change, std::slice::from_ref(price)).await?;
    change.event("price.create", &price.id, detail(price)).await
}

/// What the log says of a price.
fn detail(price: &Price) -> Value {
    let target = match price.target {
        Target::Tool(id) => id.to_string(),
        Target::Upstream(id) => id.to_string(),
        Target::Tenant => "tenant".to_owned(),
    };
    let Some(rate) = &price.rate else {
        return json!({"target": target, "inherit": true, "effective_from": price.effective_from});
    };
    let mut detail = json!({"target": target, "amount": rate.amount, "unit": rate.unit, "effective_from": price.effective_from});
    if rate.counts_calls() {
        detail["tiers"] = rate.tiers().iter().map(|tier| json!({"from_call": tier.from_call, "amount": tier.amount})).collect();
    }
    if let Some(max) = rate.max {
        detail["max_amount"] = json!(max);
    }
    detail
}

/// Prices that one statement adds: each has twelve parameters, of which a statement takes 65,535.
const TOGETHER: usize = 1_000;

async fn insert(change: &mut Change, prices: &[Price]) -> StoreResult<()> {
    for some in prices.chunks(TOGETHER) {
        let mut query = QueryBuilder::<Postgres>::new(
            "INSERT INTO prices (tenant_id, price_id, tool_id, upstream_id, amount_picos, unit, tier_from, tier_picos, max_picos,
                                 effective_from, created_at, created_by) ",
        );
        query.push_values(some, |mut row, price| {
            let (tool, upstream) = columns(price.target);
            let rate = price.rate.as_ref();
            let tiers = rate.filter(|rate| rate.counts_calls()).map(Rate::tiers);
            let from = |tier: &Tier| i64::try_from(tier.from_call).unwrap_or(i64::MAX);
            row.push_bind(change.tenant.uuid()).push_bind(price.id.uuid()).push_bind(tool).push_bind(upstream);
            row.push_bind(rate.map(|rate| rate.amount.0)).push_bind(rate.map(|rate| rate.unit.as_str()));
            row.push_bind(tiers.map(|tiers| tiers.iter().map(from).collect::<Vec<_>>()));
            row.push_bind(tiers.map(|tiers| tiers.iter().map(|tier| tier.amount.0).collect::<Vec<_>>()));
            row.push_bind(rate.and_then(|rate| rate.max).map(|max| max.0));
            row.push_bind(price.effective_from).push_bind(change.now).push_bind(change.actor.id.clone());
        });
        let done = query.build().execute(&mut *change.tx).await;
        done.map_err(|e| StoreError::from(e).taken("there is a price for this target from the same moment on"))?;
    }
    Ok(())
}

const fn columns(target: Target) -> (Option<Uuid>, Option<Uuid>) {
    match target {
        Target::Tool(id) => (Some(id.uuid()), None),
        Target::Upstream(id) => (None, Some(id.uuid())),
        Target::Tenant => (None, None),
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
        (true, _) | (_, Target::Tenant) => Ok(()),
        (false, Target::Tool(_)) => Err(StoreError::invalid("/tool_id", "there is no such tool")),
        (false, Target::Upstream(_)) => Err(StoreError::invalid("/upstream_id", "there is no such upstream")),
    }
}

/// One price.
///
/// # Errors
/// [`StoreError::NotFound`].
pub async fn get(tx: &mut Tx, tenant: TenantId, id: PriceId) -> StoreResult<PriceRow> {
    let mut query = select(tenant);
    query.push(" AND price_id = ").push_bind(id.uuid());
    query.build_query_as::<Row>().fetch_one(&mut **tx).await?.try_into()
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
    let mut query = select(tenant);
    if let Some(tool) = tool {
        query.push(" AND tool_id = ").push_bind(tool.uuid());
    }
    if let Some(upstream) = upstream {
        query.push(" AND upstream_id = ").push_bind(upstream.uuid());
    }
    if let Some(after) = page.after {
        query.push(" AND price_id > ").push_bind(after);
    }
    query.push(" ORDER BY price_id LIMIT ").push_bind(page.fetch());
    let rows = query.build_query_as::<Row>().fetch_all(&mut **tx).await?;
    let rows = rows.into_iter().map(PriceRow::try_from).collect::<StoreResult<_>>()?;
    Ok(page.cut(rows, |row: &PriceRow| row.price.id.uuid()))
}

fn select(tenant: TenantId) -> QueryBuilder<Postgres> {
    let mut query = QueryBuilder::new(COLUMNS);
    query.push(" FROM prices WHERE tenant_id = ").push_bind(tenant.uuid());
    query
}

/// The prices that are in force at `from` or will be later: all that whoever asks about a moment from then on has to know.
///
/// # Errors
/// When the database does not answer.
pub async fn card(tx: &mut Tx, tenant: TenantId, from: DateTime<Utc>) -> StoreResult<RateCard> {
    let mut query = QueryBuilder::<Postgres>::new(COLUMNS);
    query.push(
        " FROM (SELECT *, lead(effective_from) OVER (PARTITION BY tool_id, upstream_id ORDER BY effective_from) AS until FROM prices
                WHERE tenant_id = ",
    );
    query.push_bind(tenant.uuid()).push(") p WHERE until IS NULL OR until > ").push_bind(from);
    let rows = query.build_query_as::<Row>().fetch_all(&mut **tx).await?;
    let prices = rows.into_iter().map(|row| PriceRow::try_from(row).map(|row| row.price));
    Ok(RateCard::new(prices.collect::<StoreResult<Vec<_>>>()?))
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
    let card = card(tx, tenant, at).await?;
    let tools = tools::list(tx, tenant, &ToolFilter::default(), page).await?;
    let priced = |tool: ToolRow| {
        let price = card.in_force(tool.id, tool.upstream_id, at).cloned();
        RateCardRow { tool, price }
    };
    Ok(Page { items: tools.items.into_iter().map(priced).collect(), next: tools.next })
}
