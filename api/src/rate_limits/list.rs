use tollgate_store::rates;

use super::RateLimit;
use crate::{
    ctx::Ctx,
    page::{List, ListBody, PageQuery},
    problem::Answer,
};

/// List the rate limits, oldest first.
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}/rate-limits", params(PageQuery),
    responses((status = 200, description = "A page.", body = ListBody<RateLimit>)))]
pub async fn handle(ctx: Ctx, list: List) -> Answer {
    let mut tx = ctx.app.store.tenant_snapshot(ctx.tenant).await?;
    let page = rates::list(&mut tx, ctx.tenant, list.page).await?;
    Ok(list.answer(page, RateLimit::from))
}
