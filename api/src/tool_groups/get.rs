use tollgate_domain::ToolGroupId;
use tollgate_store::groups;

use super::ToolGroup;
use crate::{
    ctx::{Ctx, Id},
    problem::Answer,
};

/// Read a tool group.
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}/tool-groups/{tool_group_id}",
    responses((status = 200, description = "The tool group.", body = ToolGroup)))]
pub async fn handle(ctx: Ctx, Id(id): Id<ToolGroupId>) -> Answer {
    let group = groups::get(&ctx.app.store, ctx.tenant, id).await?;
    Ok(ctx.ok(&ToolGroup::from(group)))
}
