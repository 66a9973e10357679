use serde::Deserialize;
use tollgate_domain::{ApprovalState, KeyId, ScriptRunId, ToolId};
use tollgate_store::approvals::{self, Filter};
use utoipa::IntoParams;

use super::Approval;
use crate::{
    ctx::Ctx,
    page::{List, ListBody, PageQuery},
    problem::Answer,
};

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ApprovalsQuery {
    /// `pending`, `approved`, `denied`, `expired` or `used`.
    #[param(value_type = Option<String>)]
    pub state: Option<ApprovalState>,
    #[param(value_type = Option<String>)]
    pub key_id: Option<KeyId>,
    #[param(value_type = Option<String>)]
    pub tool_id: Option<ToolId>,
    #[param(value_type = Option<String>)]
    pub script_run_id: Option<ScriptRunId>,
}

/// List the calls that people were asked about, newest first.
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}/approvals", params(PageQuery, ApprovalsQuery), responses((status = 200, description = "A page.", body = ListBody<Approval>)))]
pub async fn handle(ctx: Ctx, list: List<ApprovalsQuery>) -> Answer {
    let ApprovalsQuery { state, key_id, tool_id, script_run_id } = list.filter;
    let filter = Filter { state, key_id, tool_id, script_run_id };
    let mut tx = ctx.app.store.tenant_snapshot(ctx.tenant).await?;
    let page = approvals::list(&mut tx, ctx.tenant, filter, list.page).await?;
    Ok(list.answer(page, Approval::from))
}
