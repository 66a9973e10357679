use chrono::{DateTime, Utc};
use serde::Deserialize;
use tollgate_domain::llm_price::shipped;
use tollgate_store::llm_prices;
use utoipa::IntoParams;

use super::{DefaultTable, LlmPrices, LlmRate};
use crate::{ctx::Ctx, page::Query, problem::Answer};

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct LlmPricesQuery {
    /// The moment that is asked about; now when left out.
    pub at: Option<DateTime<Utc>>,
}

/// What tokens cost: the tenant's own prices and the dated default table.
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}/llm-prices", params(LlmPricesQuery),
    responses((status = 200, description = "All of them.", body = LlmPrices)))]
pub async fn handle(ctx: Ctx, Query(asked): Query<LlmPricesQuery>) -> Answer {
    let mut tx = ctx.app.store.tenant_snapshot(ctx.tenant).await?;
    let currency = llm_prices::currency(&mut tx, ctx.tenant).await?;
    let card = llm_prices::card(&mut tx, ctx.tenant, currency).await?;
    let table = shipped();
    let default_table =
        DefaultTable { date: table.date, applies: card.has_shipped(), note: table.note.clone(), sources: table.sources.clone() };
    let items = card.entries(asked.at.unwrap_or(ctx.now)).into_iter().map(LlmRate::from).collect();
    Ok(ctx.ok(&LlmPrices { items, default_table }))
}
