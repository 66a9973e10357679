use tollgate_domain::ModelRouteId;
use tollgate_store::providers;

use super::ModelRoute;
use crate::{
    ctx::{Ctx, Id},
    problem::Answer,
};

/// Delete a model route: nobody is served under its name any more.
#[utoipa::path(delete, path = "/v1/tenants/{tenant_id}/model-routes/{model_route_id}", responses((status = 204, description = "Deleted.")))]
pub async fn handle(ctx: Ctx, Id(id): Id<ModelRouteId>) -> Answer {
    let mut write = ctx.change().await?;
    let row = providers::lock_route(&mut write, id).await?;
    write.matches(&ModelRoute::from(row))?;
    providers::delete_route(&mut write, id).await?;
    write.no_content().await
}
