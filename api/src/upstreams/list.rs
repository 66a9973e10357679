use tollgate_store::upstreams;

use super::Upstream;
use crate::{
    ctx::Ctx,
    page::{List, ListBody, PageQuery},
    problem::Answer,
};

/// List the upstreams, oldest first.
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}/upstreams", params(PageQuery), responses((status = 200, description = "A page.", body = ListBody<Upstream>)))]
pub async fn handle(ctx: Ctx, list: List) -> Answer {
    let mut tx = ctx.app.store.tenant_snapshot(ctx.tenant).await?;
    let page = upstreams::list(&mut tx, ctx.tenant, list.page, ctx.now).await?;
    Ok(list.answer(page, Upstream::from))
}
