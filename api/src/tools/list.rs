use serde::Deserialize;
use tollgate_domain::{UpstreamId, tool::ToolStatus};
use tollgate_store::tools::{self, ToolFilter};
use utoipa::IntoParams;

use super::Tool;
use crate::{
    ctx::Ctx,
    page::{List, ListBody, PageQuery},
    problem::Answer,
};

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ToolsQuery {
    #[param(value_type = Option<String>)]
    pub upstream_id: Option<UpstreamId>,
    /// `approved` or `quarantined`.
    #[param(value_type = Option<String>)]
    pub status: Option<ToolStatus>,
    /// Exactly this name.
    pub name: Option<String>,
    /// Tools that their upstream no longer lists, in place of those that it does.
    pub removed: Option<bool>,
}

/// List the tools, oldest first.
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}/tools", params(PageQuery, ToolsQuery), responses((status = 200, description = "A page.", body = ListBody<Tool>)))]
pub async fn handle(ctx: Ctx, list: List<ToolsQuery>) -> Answer {
    let ToolsQuery { upstream_id, status, name, removed } = &list.filter;
    // No tool has a name with a NUL in it, and Postgres has no such text.
    let name = name.as_ref().map(|name| name.replace('\0', "\u{fffd}"));
    let filter = ToolFilter { upstream_id: *upstream_id, status: *status, name, removed: removed.unwrap_or(false) };
    let mut tx = ctx.app.store.tenant_snapshot(ctx.tenant).await?;
    let page = tools::list(&mut tx, ctx.tenant, &filter, list.page).await?;
    Ok(list.answer(page, Tool::from))
}
