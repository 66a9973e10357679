use tollgate_domain::CallId;
use tollgate_store::calls;

use super::ToolCall;
use crate::{
    ctx::{Ctx, Id},
    problem::Answer,
};

/// Read a tool call, with its arguments and its result whatever their size.
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}/tool-calls/{call_id}", responses((status = 200, description = "The tool call.", body = ToolCall)))]
pub async fn handle(ctx: Ctx, Id(id): Id<CallId>) -> Answer {
    let mut tx = ctx.app.store.tenant_snapshot(ctx.tenant).await?;
    let call = calls::get(&mut tx, ctx.tenant, id).await?;
    Ok(ctx.ok(&ToolCall::from(call)))
}
