use tollgate_domain::LlmPriceId;
use tollgate_store::llm_prices;

use super::LlmPrice;
use crate::{
    ctx::{Ctx, Id},
    problem::Answer,
};

/// Read a price of a model that the tenant has set.
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}/llm-prices/{llm_price_id}", responses((status = 200, description = "The price.", body = LlmPrice)))]
pub async fn handle(ctx: Ctx, Id(id): Id<LlmPriceId>) -> Answer {
    let mut tx = ctx.app.store.tenant_snapshot(ctx.tenant).await?;
    let price = llm_prices::get(&mut tx, ctx.tenant, id).await?;
    Ok(ctx.ok(&LlmPrice::from(price)))
}
