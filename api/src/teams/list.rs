use tollgate_store::teams;

use super::Team;
use crate::{
    ctx::Ctx,
    page::{List, ListBody, PageQuery},
    problem::Answer,
};

/// List the teams, oldest first.
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}/teams", params(PageQuery),
    responses((status = 200, description = "A page.", body = ListBody<Team>)))]
pub async fn handle(ctx: Ctx, list: List) -> Answer {
    let page = teams::list(&ctx.app.store, ctx.tenant, list.page).await?;
    Ok(list.answer(page, Team::from))
}
