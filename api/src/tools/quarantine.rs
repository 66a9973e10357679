use tollgate_domain::ToolId;
use tollgate_store::tools;

use super::Tool;
use crate::{
    ctx::{Ctx, Id},
    json::{MaybeJson, NoFields},
    problem::Answer,
};

/// Take a tool away from every key until an admin approves it again.
#[utoipa::path(post, path = "/v1/tenants/{tenant_id}/tools/{tool_id}/quarantine", request_body = Option<NoFields>, responses((status = 200, description = "Quarantined.", body = Tool)))]
pub async fn handle(ctx: Ctx, Id(id): Id<ToolId>, body: MaybeJson<NoFields>) -> Answer {
    let mut write = ctx.post(&body.sha256).await?;
    tools::quarantine(&mut write, id).await?;
    let tool = tools::get(&mut write.tx, ctx.tenant, id).await?;
    write.ok(&Tool::from(tool)).await
}
