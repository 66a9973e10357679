use serde_json::json;
use tollgate_domain::ToolGroupId;
use tollgate_store::groups;

use super::ToolGroup;
use crate::{
    ctx::{Ctx, Id},
    problem::Answer,
};

/// Delete a tool group that no key has.
#[utoipa::path(delete, path = "/v1/tenants/{tenant_id}/tool-groups/{tool_group_id}",
    responses((status = 204, description = "Deleted.")))]
pub async fn handle(ctx: Ctx, Id(id): Id<ToolGroupId>) -> Answer {
    let mut write = ctx.change().await?;
    let group = groups::lock(&mut write, id).await?;
    write.matches(&ToolGroup::from(group.clone()))?;
    groups::delete(&mut write, id).await?;
    write.event("tool_group.delete", &id, json!({"name": group.name, "slug": group.slug})).await?;
    write.no_content().await
}
