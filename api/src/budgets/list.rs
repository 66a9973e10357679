use tollgate_store::{Page, budgets};

use super::{Budget, show, zone};
use crate::{
    ctx::Ctx,
    page::{List, ListBody, PageQuery},
    problem::Answer,
};

/// List the budgets with how they stand, oldest first.
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}/budgets", params(PageQuery),
    responses((status = 200, description = "A page.", body = ListBody<Budget>)))]
pub async fn handle(ctx: Ctx, list: List) -> Answer {
    let mut tx = ctx.app.store.tenant_snapshot(ctx.tenant).await?;
    let zone = zone(&ctx, &mut tx).await?;
    let page = budgets::list(&mut tx, ctx.tenant, list.page).await?;
    let mut items = Vec::with_capacity(page.items.len());
    for row in page.items {
        items.push(show(&mut tx, (ctx.tenant, zone), row, ctx.now).await?);
    }
    Ok(list.answer(Page { items, next: page.next }, |budget| budget))
}
