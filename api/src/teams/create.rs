use serde::Deserialize;
use serde_json::json;
use tollgate_store::teams;
use utoipa::ToSchema;

use super::Team;
use crate::{check::Checks, ctx::Ctx, json::Json, problem::Answer};

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewTeam {
    #[schema(min_length = 1, max_length = 200)]
    pub name: String,
}

/// Make a team.
#[utoipa::path(post, path = "/v1/tenants/{tenant_id}/teams", request_body = NewTeam,
    responses((status = 201, description = "Made.", body = Team)))]
pub async fn handle(ctx: Ctx, body: Json<NewTeam>) -> Answer {
    let mut checks = Checks::default();
    checks.name("/name", &body.value.name);
    checks.done()?;

    let mut write = ctx.post(&body.sha256).await?;
    let team = teams::create(&mut write, body.value.name).await?;
    write.event("team.create", &team.id, json!({"name": team.name})).await?;
    write.created(&Team::from(team)).await
}
