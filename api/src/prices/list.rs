use serde::Deserialize;
use tollgate_domain::{ToolId, UpstreamId};
use tollgate_store::prices;
use utoipa::IntoParams;

use super::Price;
use crate::{
    ctx::Ctx,
    page::{List, ListBody, PageQuery},
    problem::Answer,
};

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PricesQuery {
    /// Prices of the tool itself.
    #[param(value_type = Option<String>)]
    pub tool_id: Option<ToolId>,
    /// Prices of the upstream itself.
    #[param(value_type = Option<String>)]
    pub upstream_id: Option<UpstreamId>,
}

/// List the prices, past and future ones, in the order in which they were set.
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}/prices", params(PageQuery, PricesQuery), responses((status = 200, description = "A page.", body = ListBody<Price>)))]
pub async fn handle(ctx: Ctx, list: List<PricesQuery>) -> Answer {
    let PricesQuery { tool_id, upstream_id } = list.filter;
    let mut tx = ctx.app.store.tenant_snapshot(ctx.tenant).await?;
    let page = prices::list(&mut tx, ctx.tenant, tool_id, upstream_id, list.page).await?;
    Ok(list.answer(page, Price::from))
}
