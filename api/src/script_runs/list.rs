use tollgate_store::calls;

use super::ScriptRun;
use crate::{
    ctx::Ctx,
    page::{List, ListBody, PageQuery},
    problem::Answer,
    tool_calls::filter::TrailQuery,
};

/// List the script runs, newest first, without their sources and results.
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}/script-runs", params(PageQuery, TrailQuery), responses((status = 200, description = "A page.", body = ListBody<ScriptRun>)))]
pub async fn handle(ctx: Ctx, list: List<TrailQuery>) -> Answer {
    let mut tx = ctx.app.store.tenant_snapshot(ctx.tenant).await?;
    let page = calls::list_runs(&mut tx, ctx.tenant, &list.filter.filter(), list.filter.slice(list.page)).await?;
    Ok(list.answer(page, ScriptRun::from))
}
