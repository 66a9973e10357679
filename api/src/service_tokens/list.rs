use tollgate_store::tokens;

use super::ServiceToken;
use crate::{
    ctx::Ctx,
    page::{List, ListBody, PageQuery},
    problem::Answer,
};

/// List the service tokens, oldest first, revoked ones included.
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}/service-tokens", params(PageQuery),
    responses((status = 200, description = "A page.", body = ListBody<ServiceToken>)))]
pub async fn handle(ctx: Ctx, list: List) -> Answer {
    let page = tokens::list(&ctx.app.store, ctx.tenant, list.page).await?;
    Ok(list.answer(page, ServiceToken::from))
}
