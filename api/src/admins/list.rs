use tollgate_store::admins;

use super::Admin;
use crate::{
    ctx::Ctx,
    page::{List, ListBody, PageQuery},
    problem::Answer,
};

/// List the people who come in through identity providers, oldest first.
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}/admins", params(PageQuery),
    responses((status = 200, description = "A page.", body = ListBody<Admin>)))]
pub async fn handle(ctx: Ctx, list: List) -> Answer {
    let page = admins::list(&ctx.app.store, ctx.tenant, list.page).await?;
    Ok(list.answer(page, Admin::from))
}
