use tollgate_domain::ModelRouteId;
use tollgate_store::providers;

use super::ModelRoute;
use crate::{
    ctx::{Ctx, Id},
    problem::Answer,
};

/// Read a model route.
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}/model-routes/{model_route_id}",
    responses((status = 200, description = "The route.", body = ModelRoute)))]
pub async fn handle(ctx: Ctx, Id(id): Id<ModelRouteId>) -> Answer {
    let mut tx = ctx.app.store.tenant(ctx.tenant).await?;
    Ok(ctx.ok(&ModelRoute::from(providers::get_route(&mut tx, ctx.tenant, id).await?)))
}
