use tollgate_domain::PriceId;
use tollgate_store::prices;

use super::Price;
use crate::{
    ctx::{Ctx, Id},
    problem::Answer,
};

/// Read a price.
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}/prices/{price_id}", responses((status = 200, description = "The price.", body = Price)))]
pub async fn handle(ctx: Ctx, Id(id): Id<PriceId>) -> Answer {
    let mut tx = ctx.app.store.tenant_snapshot(ctx.tenant).await?;
    let price = prices::get(&mut tx, ctx.tenant, id).await?;
    Ok(ctx.ok(&Price::from(price)))
}
