use tollgate_store::calls;

use super::{ToolCall, filter::CallQuery};
use crate::{
    ctx::Ctx,
    page::{List, ListBody, PageQuery},
    problem::Answer,
};

/// List the tool calls, newest first.
///
/// A call is listed from the moment it is recorded, before its upstream hears of it; its outcome is null until it is closed.
/// A page with filters is looked for for about two seconds: it may hold fewer items than there are, even none, while
/// `next_page` says that there is more to look through.
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}/tool-calls", params(PageQuery, CallQuery), responses((status = 200, description = "A page.", body = ListBody<ToolCall>)))]
pub async fn handle(ctx: Ctx, list: List<CallQuery>) -> Answer {
    let filter = list.filter.search(ctx.now)?;
    let mut tx = ctx.app.store.tenant_snapshot(ctx.tenant).await?;
    let page = calls::list(&mut tx, ctx.tenant, &filter, list.filter.slice(list.page)).await?;
    Ok(list.answer(page, ToolCall::from))
}
