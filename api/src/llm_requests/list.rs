use tollgate_store::requests;

use super::LlmRequest;
use crate::{
    ctx::Ctx,
    page::{List, ListBody, PageQuery},
    problem::Answer,
    tool_calls::filter::TrailQuery,
};

/// List the LLM requests, newest first.
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}/llm-requests", params(PageQuery, TrailQuery), responses((status = 200, description = "A page.", body = ListBody<LlmRequest>)))]
pub async fn handle(ctx: Ctx, list: List<TrailQuery>) -> Answer {
    let mut tx = ctx.app.store.tenant_snapshot(ctx.tenant).await?;
    let page = requests::list(&mut tx, ctx.tenant, &list.filter.filter(), list.filter.slice(list.page)).await?;
    Ok(list.answer(page, LlmRequest::from))
}
