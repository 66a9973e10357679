use tollgate_store::calls;

use super::{ToolCall, filter::TrailQuery};
use crate::{
    ctx::Ctx,
    page::{List, ListBody, PageQuery},
    problem::Answer,
};

/// List the tool calls, newest first.
///
/// A call is listed from the moment it is recorded, before its upstream hears of it; its outcome is null until it is closed.
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}/tool-calls", params(PageQuery, TrailQuery), responses((status = 200, description = "A page.", body = ListBody<ToolCall>)))]
pub async fn handle(ctx: Ctx, list: List<TrailQuery>) -> Answer {
    let mut tx = ctx.app.store.tenant_snapshot(ctx.tenant).await?;
    let page = calls::list(&mut tx, ctx.tenant, &list.filter.filter(), list.filter.slice(list.page)).await?;
    Ok(list.answer(page, ToolCall::from))
}
