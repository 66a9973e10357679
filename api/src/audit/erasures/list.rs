use tollgate_store::erasures;

use super::Erasure;
use crate::{
    ctx::Ctx,
    page::{List, ListBody, PageQuery},
    problem::Answer,
};

/// List the erasures, newest first.
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}/audit/erasures", params(PageQuery),
    responses((status = 200, description = "A page.", body = ListBody<Erasure>)))]
pub async fn handle(ctx: Ctx, list: List) -> Answer {
    let mut tx = ctx.app.store.tenant(ctx.tenant).await?;
    let page = erasures::list(&mut tx, ctx.tenant, list.page).await?;
    Ok(list.answer(page, Erasure::from))
}
