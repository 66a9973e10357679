use serde_json::json;
use tollgate_domain::AdminId;
use tollgate_store::admins;

use super::Admin;
use crate::{
    ctx::{Ctx, Id},
    problem::Answer,
};

/// Let a person in no more, from their next request on.
#[utoipa::path(delete, path = "/v1/tenants/{tenant_id}/admins/{admin_id}", responses((status = 204, description = "Deleted.")))]
pub async fn handle(ctx: Ctx, Id(id): Id<AdminId>) -> Answer {
    let mut write = ctx.change().await?;
    let admin = admins::lock(&mut write, id).await?;
    write.matches(&Admin::from(admin.clone()))?;
    ctx.may_grant(admin.role).await?;
    admins::delete(&mut write, id).await?;
    write.event("admin.delete", &id, json!({"issuer": admin.issuer, "subject": admin.subject, "role": admin.role})).await?;
    write.no_content().await
}
