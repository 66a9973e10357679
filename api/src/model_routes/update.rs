use serde::Deserialize;
use tollgate_domain::ModelRouteId;
use tollgate_store::providers;
use utoipa::ToSchema;

use super::{ModelRoute, RouteTarget, checked};
use crate::{
    check::Checks,
    ctx::{Ctx, Id},
    json::Json,
    problem::Answer,
};

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelRoutePatch {
    /// Replaces all of them.
    #[schema(min_items = 1, max_items = 20)]
    pub targets: Vec<RouteTarget>,
}

/// Lead a model route elsewhere. Workers see it within a second.
#[utoipa::path(patch, path = "/v1/tenants/{tenant_id}/model-routes/{model_route_id}", request_body = ModelRoutePatch,
    responses((status = 200, description = "Changed.", body = ModelRoute)))]
pub async fn handle(ctx: Ctx, Id(id): Id<ModelRouteId>, body: Json<ModelRoutePatch>) -> Answer {
    let mut checks = Checks::default();
    let targets = checked(&mut checks, body.value.targets);
    checks.done()?;
    let mut write = ctx.change().await?;
    let mut row = providers::lock_route(&mut write, id).await?;
    write.matches(&ModelRoute::from(row.clone()))?;
    row.route.targets = targets;
    let row = providers::update_route(&mut write, row).await?;
    write.ok(&ModelRoute::from(row)).await
}
