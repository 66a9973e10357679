//! What a tenant sets over the table of token prices that ships with the program; only ever added to.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::types::Json;
use tollgate_domain::{
    Currency, LlmPriceId, TenantId,
    llm_price::{LlmPrice, LlmRateCard, LlmRates},
};
use uuid::Uuid;

use crate::{
    change::Change,
    error::{StoreError, StoreResult, word},
    tx::Tx,
};

#[derive(Debug, Clone)]
pub struct LlmPriceRow {
    pub price: LlmPrice,
    pub created_at: DateTime<Utc>,
    pub created_by: String,
}

/// Prices of a tenant, past ones included.
pub const MOST: i64 = 5_000;

#[derive(sqlx::FromRow)]
struct Row {
    llm_price_id: Uuid,
    provider: Option<String>,
    model: String,
    rates: Option<Json<LlmRates>>,
    effective_from: DateTime<Utc>,
    created_at: DateTime<Utc>,
    created_by: String,
}

impl TryFrom<Row> for LlmPriceRow {
    type Error = StoreError;

    fn try_from(row: Row) -> StoreResult<Self> {
        let price = LlmPrice {
            id: row.llm_price_id.into(),
            provider: row.provider,
            model: word(&row.model)?,
            rates: row.rates.map(|Json(rates)| rates),
            effective_from: row.effective_from,
        };
        Ok(Self { price, created_at: row.created_at, created_by: row.created_by })
    }
}

/// Add a price.
///
/// # Errors
/// [`StoreError::Invalid`] for a time that has passed, [`StoreError::Conflict`] for a second price of the same from the same moment on.
pub async fn create(change: &mut Change, price: &LlmPrice) -> StoreResult<()> {
    if price.effective_from < change.now {
        return Err(StoreError::invalid("/effective_from", "a price takes effect now or later: the past never changes"));
    }
    // Two at once must not both be the last one that is allowed.
    crate::prices::import::lock(change).await?;
    let count = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM llm_prices WHERE tenant_id = $1");
    if count.bind(change.tenant.uuid()).fetch_one(&mut *change.tx).await? >= MOST {
        return Err(StoreError::Conflict(format!(
            "the tenant has set {MOST} prices of models, as many as it may; use wider patterns"
        )));
    }
    sqlx::query(
        "INSERT INTO llm_prices (tenant_id, llm_price_id, provider, model, rates, effective_from, created_at, created_by)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(change.tenant.uuid())
    .bind(price.id.uuid())
    .bind(&price.provider)
    .bind(price.model.to_string())
    .bind(price.rates.map(Json))
    .bind(price.effective_from)
    .bind(change.now)
    .bind(&change.actor.id)
    .execute(&mut *change.tx)
    .await
    .map_err(|e| StoreError::from(e).taken("there is a price for this provider and model from the same moment on"))?;
    let mut detail: Value =
        json!({"model": price.model.to_string(), "provider": price.provider, "effective_from": price.effective_from});
    match &price.rates {
        Some(rates) => detail["rates"] = json!(rates),
        None => detail["inherit"] = json!(true),
    }
    change.event("llm_price.create", &price.id, detail).await
}

/// One of the tenant's own.
///
/// # Errors
/// [`StoreError::NotFound`].
pub async fn get(tx: &mut Tx, tenant: TenantId, id: LlmPriceId) -> StoreResult<LlmPriceRow> {
    let row = sqlx::query_as::<_, Row>("SELECT * FROM llm_prices WHERE tenant_id = $1 AND llm_price_id = $2");
    row.bind(tenant.uuid()).bind(id.uuid()).fetch_one(&mut **tx).await?.try_into()
}

/// All that the tenant pays for tokens, now and at any other time.
///
/// # Errors
/// When the database does not answer.
pub async fn card(tx: &mut Tx, tenant: TenantId, currency: Currency) -> StoreResult<LlmRateCard> {
    let rows = sqlx::query_as::<_, Row>("SELECT * FROM llm_prices WHERE tenant_id = $1");
    let rows = rows.bind(tenant.uuid()).fetch_all(&mut **tx).await?;
    let prices = rows.into_iter().map(|row| LlmPriceRow::try_from(row).map(|row| row.price));
    Ok(LlmRateCard::new(currency, prices.collect::<StoreResult<Vec<_>>>()?))
}

/// The currency in which a tenant reckons.
///
/// # Errors
/// [`StoreError::NotFound`].
pub async fn currency(tx: &mut Tx, tenant: TenantId) -> StoreResult<Currency> {
    let currency = sqlx::query_scalar::<_, String>("SELECT currency FROM tenants WHERE tenant_id = $1");
    word(&currency.bind(tenant.uuid()).fetch_one(&mut **tx).await?)
}
