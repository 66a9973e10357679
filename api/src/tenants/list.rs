use tollgate_store::tenants;

use super::Tenant;
use crate::{
    ctx::Ctx,
    page::{List, ListBody, PageQuery},
    problem::Answer,
};

/// List the tenants, oldest first.
#[utoipa::path(get, path = "/v1/tenants", params(PageQuery), responses((status = 200, description = "A page.", body = ListBody<Tenant>)))]
pub async fn handle(ctx: Ctx, list: List) -> Answer {
    let page = tenants::list(&ctx.app.store, list.page).await?;
    Ok(list.answer(page, Tenant::from))
}
