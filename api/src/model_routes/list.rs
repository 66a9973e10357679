use tollgate_store::providers;

use super::ModelRoute;
use crate::{
    ctx::Ctx,
    page::{List, ListBody, PageQuery},
    problem::Answer,
};

/// List the model routes, oldest first.
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}/model-routes", params(PageQuery),
    responses((status = 200, description = "A page.", body = ListBody<ModelRoute>)))]
pub async fn handle(ctx: Ctx, list: List) -> Answer {
    let mut tx = ctx.app.store.tenant(ctx.tenant).await?;
    let page = providers::list_routes(&mut tx, ctx.tenant, list.page).await?;
    Ok(list.answer(page, ModelRoute::from))
}
