use tollgate_domain::TeamId;
use tollgate_store::teams;

use super::Team;
use crate::{
    ctx::{Ctx, Id},
    problem::Answer,
};

/// Read a team.
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}/teams/{team_id}",
    responses((status = 200, description = "The team.", body = Team)))]
pub async fn handle(ctx: Ctx, Id(id): Id<TeamId>) -> Answer {
    let team = teams::get(&ctx.app.store, ctx.tenant, id).await?;
    Ok(ctx.ok(&Team::from(team)))
}
