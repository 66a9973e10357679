use tollgate_store::providers;

use super::Provider;
use crate::{
    ctx::Ctx,
    page::{List, ListBody, PageQuery},
    problem::Answer,
};

/// List the providers, oldest first.
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}/providers", params(PageQuery),
    responses((status = 200, description = "A page.", body = ListBody<Provider>)))]
pub async fn handle(ctx: Ctx, list: List) -> Answer {
    let mut tx = ctx.app.store.tenant(ctx.tenant).await?;
    let page = providers::list(&mut tx, ctx.tenant, list.page).await?;
    Ok(list.answer(page, Provider::from))
}
