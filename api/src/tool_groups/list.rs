use tollgate_store::groups;

use super::ToolGroup;
use crate::{
    ctx::Ctx,
    page::{List, ListBody, PageQuery},
    problem::Answer,
};

/// List the tool groups, oldest first.
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}/tool-groups", params(PageQuery),
    responses((status = 200, description = "A page.", body = ListBody<ToolGroup>)))]
pub async fn handle(ctx: Ctx, list: List) -> Answer {
    let page = groups::list(&ctx.app.store, ctx.tenant, list.page).await?;
    Ok(list.answer(page, ToolGroup::from))
}
