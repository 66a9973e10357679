use serde::Deserialize;
use tollgate_domain::{ModelRouteId, llm};
use tollgate_store::providers::{self, RouteRow};
use utoipa::ToSchema;

use super::{ModelRoute, RouteTarget, checked, is_name};
use crate::{check::Checks, ctx::Ctx, json::Json, problem::Answer};

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewModelRoute {
    /// What callers ask for; it goes before any provider's model of the same name. It cannot be changed.
    #[schema(min_length = 1, max_length = 200, examples("fast"))]
    pub name: String,
    #[schema(min_items = 1, max_items = 20)]
    pub targets: Vec<RouteTarget>,
}

/// Give models a name of the tenant's own.
#[utoipa::path(post, path = "/v1/tenants/{tenant_id}/model-routes", request_body = NewModelRoute,
    responses((status = 201, description = "Made.", body = ModelRoute)))]
pub async fn handle(ctx: Ctx, body: Json<NewModelRoute>) -> Answer {
    let NewModelRoute { name, targets } = body.value;
    let mut checks = Checks::default();
    checks.require(is_name(&name), "/name", "use 1 to 200 characters without spaces and \"*\"");
    let targets = checked(&mut checks, targets);
    checks.done()?;
    let mut write = ctx.post(&body.sha256).await?;
    let route = llm::ModelRoute { id: ModelRouteId::mint(ctx.now), name, targets };
    providers::create_route(&mut write, &route).await?;
    let row = RouteRow { route, created_at: ctx.now, updated_at: ctx.now, version: 1 };
    write.created(&ModelRoute::from(row)).await
}
