use tollgate_store::events;

use super::{AdminEvent, EventFilter};
use crate::{
    ctx::Ctx,
    page::{List, ListBody, PageQuery},
    problem::Answer,
};

/// List what admins of the tenant did, newest first.
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}/admin-events", params(EventFilter, PageQuery),
    responses((status = 200, description = "A page.", body = ListBody<AdminEvent>)))]
pub async fn handle(ctx: Ctx, list: List<EventFilter>) -> Answer {
    list.filter.check()?;
    let page = events::list(&ctx.app.store, ctx.tenant, &list.filter.clone().into_store(), list.page).await?;
    Ok(list.answer(page, AdminEvent::from))
}
