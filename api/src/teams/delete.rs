use serde_json::json;
use tollgate_domain::TeamId;
use tollgate_store::teams;

use super::Team;
use crate::{
    ctx::{Ctx, Id},
    problem::Answer,
};

/// Delete a team to which no key belongs.
#[utoipa::path(delete, path = "/v1/tenants/{tenant_id}/teams/{team_id}", responses((status = 204, description = "Deleted.")))]
pub async fn handle(ctx: Ctx, Id(id): Id<TeamId>) -> Answer {
    let mut write = ctx.change().await?;
    let team = teams::lock(&mut write, id).await?;
    write.matches(&Team::from(team.clone()))?;
    teams::delete(&mut write, id).await?;
    write.event("team.delete", &id, json!({"name": team.name})).await?;
    write.no_content().await
}
