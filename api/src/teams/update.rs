use serde::Deserialize;
use serde_json::json;
use tollgate_domain::TeamId;
use tollgate_store::teams;
use utoipa::ToSchema;

use super::Team;
use crate::{
    check::Checks,
    ctx::{Ctx, Id},
    json::Json,
    problem::Answer,
};

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TeamPatch {
    #[schema(min_length = 1, max_length = 200)]
    pub name: Option<String>,
}

/// Rename a team.
#[utoipa::path(patch, path = "/v1/tenants/{tenant_id}/teams/{team_id}", request_body = TeamPatch,
    responses((status = 200, description = "Changed.", body = Team)))]
pub async fn handle(ctx: Ctx, Id(id): Id<TeamId>, body: Json<TeamPatch>) -> Answer {
    let mut checks = Checks::default();
    if let Some(name) = &body.value.name {
        checks.name("/name", name);
    }
    checks.done()?;

    let mut write = ctx.change().await?;
    let team = teams::lock(&mut write, id).await?;
    write.matches(&Team::from(team.clone()))?;
    let name = body.value.name.unwrap_or_else(|| team.name.clone());
    let team = teams::rename(&mut write, team, name).await?;
    write.event("team.update", &id, json!({"name": team.name})).await?;
    write.ok(&Team::from(team)).await
}
