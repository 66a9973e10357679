//! What tokens of language models cost: the table that ships with the program, and what the tenant sets over it.

pub mod create;
pub mod get;
pub mod list;

use chrono::{DateTime, NaiveDate, Utc};
use serde::Serialize;
use tollgate_domain::{
    LlmPriceId, Picos,
    llm_price::{self, LlmEntry, LlmRates, PriceSource},
};
use tollgate_store::llm_prices::LlmPriceRow;
use utoipa::ToSchema;

use crate::ctx::Resource;

/// Amounts per 1,000,000 tokens, as exact decimals in the tenant's currency.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct TokenAmounts {
    #[schema(value_type = String, examples("1.25"))]
    pub input: Picos,
    #[schema(value_type = String, examples("10"))]
    pub output: Picos,
    /// Of input that the provider had kept; null: as other input.
    #[schema(value_type = Option<String>)]
    pub cached_input: Option<Picos>,
    /// Of input that the provider is to keep; null: as other input.
    #[schema(value_type = Option<String>)]
    pub cache_write: Option<Picos>,
    /// Of output that is not shown; null: as other output.
    #[schema(value_type = Option<String>)]
    pub reasoning: Option<Picos>,
    /// What applies in its place to a whole request with more tokens of input than so many; left out where it is the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub long_context: Option<LongContext>,
}

/// Amounts of a request with much input.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct LongContext {
    pub above: u64,
    #[schema(value_type = String)]
    pub input: Picos,
    #[schema(value_type = String)]
    pub output: Picos,
    #[schema(value_type = Option<String>)]
    pub cached_input: Option<Picos>,
    #[schema(value_type = Option<String>)]
    pub cache_write: Option<Picos>,
    #[schema(value_type = Option<String>)]
    pub reasoning: Option<Picos>,
}

impl From<&LlmRates> for TokenAmounts {
    fn from(rates: &LlmRates) -> Self {
        let long = |long: llm_price::LongContext| LongContext {
            above: long.above,
            input: long.input,
            output: long.output,
            cached_input: long.cached_input,
            cache_write: long.cache_write,
            reasoning: long.reasoning,
        };
        Self {
            input: rates.input,
            output: rates.output,
            cached_input: rates.cached_input,
            cache_write: rates.cache_write,
            reasoning: rates.reasoning,
            long_context: rates.long_context.map(long),
        }
    }
}

/// A price that the tenant has set.
#[derive(Debug, Serialize, ToSchema)]
pub struct LlmPrice {
    #[schema(value_type = String, examples("llmp_01j9zc5v8mf9r8k7x3w2q1n0pa"))]
    pub id: LlmPriceId,
    /// Null: whichever provider serves the model.
    pub provider: Option<String>,
    /// A name, or its beginning and `*`.
    pub model: String,
    /// Null: from then on the tenant has no price of its own for this.
    pub amounts: Option<TokenAmounts>,
    pub effective_from: DateTime<Utc>,
    pub created_at: DateTime<Utc>,
    pub created_by: String,
}

impl From<LlmPriceRow> for LlmPrice {
    fn from(LlmPriceRow { price, created_at, created_by }: LlmPriceRow) -> Self {
        Self {
            id: price.id,
            provider: price.provider,
            model: price.model.to_string(),
            amounts: price.rates.as_ref().map(TokenAmounts::from),
            effective_from: price.effective_from,
            created_at,
            created_by,
        }
    }
}

impl Resource for LlmPrice {
    fn tag(&self) -> Option<(String, i32)> {
        Some((self.id.to_string(), 1))
    }
}

/// A price that is in force.
#[derive(Debug, Serialize, ToSchema)]
pub struct LlmRate {
    /// `tenant`: set by the tenant; `default`: from the table that ships with the program.
    pub source: &'static str,
    /// Null: of the default table.
    #[schema(value_type = Option<String>)]
    pub id: Option<LlmPriceId>,
    pub provider: Option<String>,
    pub model: String,
    pub amounts: TokenAmounts,
    pub effective_from: Option<DateTime<Utc>>,
}

impl From<LlmEntry> for LlmRate {
    fn from(entry: LlmEntry) -> Self {
        let (source, id) = match entry.source {
            PriceSource::Tenant(id) => ("tenant", Some(id)),
            PriceSource::Shipped => ("default", None),
        };
        Self {
            source,
            id,
            provider: entry.provider,
            model: entry.model.to_string(),
            amounts: TokenAmounts::from(&entry.rates),
            effective_from: entry.effective_from,
        }
    }
}

/// The table that ships with the program.
#[derive(Debug, Serialize, ToSchema)]
pub struct DefaultTable {
    /// The day of its prices.
    pub date: NaiveDate,
    /// Whether it applies: it is in USD, and no tenant that reckons otherwise is charged by it.
    pub applies: bool,
    pub note: String,
    pub sources: Vec<String>,
}

/// All prices in force at one moment.
#[derive(Debug, Serialize, ToSchema)]
pub struct LlmPrices {
    /// The tenant's own first. Of several that fit a model, the tenant's go before those of the default table; then the narrower name, and
    /// one that names the provider. A model that none fits costs nothing, and its requests say `price: null`.
    pub items: Vec<LlmRate>,
    pub default_table: DefaultTable,
}

impl Resource for LlmPrices {}
