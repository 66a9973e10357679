use serde::Deserialize;
use tollgate_domain::{CallId, KeyId, TeamId, ToolId, UpstreamId};
use tollgate_store::credits::{self, CreditFilter};
use utoipa::IntoParams;

use super::Credit;
use crate::{
    ctx::Ctx,
    page::{List, ListBody, PageQuery},
    problem::Answer,
};

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct CreditsQuery {
    #[param(value_type = Option<String>)]
    pub tool_call_id: Option<CallId>,
    #[param(value_type = Option<String>)]
    pub key_id: Option<KeyId>,
    #[param(value_type = Option<String>)]
    pub team_id: Option<TeamId>,
    #[param(value_type = Option<String>)]
    pub upstream_id: Option<UpstreamId>,
    #[param(value_type = Option<String>)]
    pub tool_id: Option<ToolId>,
}

/// List the credits, oldest first.
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}/credits", params(PageQuery, CreditsQuery),
    responses((status = 200, description = "A page.", body = ListBody<Credit>)))]
pub async fn handle(ctx: Ctx, list: List<CreditsQuery>) -> Answer {
    let CreditsQuery { tool_call_id, key_id, team_id, upstream_id, tool_id } = list.filter;
    let filter = CreditFilter { call: tool_call_id, key: key_id, team: team_id, upstream: upstream_id, tool: tool_id };
    let mut tx = ctx.app.store.tenant_snapshot(ctx.tenant).await?;
    let page = credits::list(&mut tx, ctx.tenant, &filter, list.page).await?;
    Ok(list.answer(page, Credit::from))
}
