use tollgate_domain::AdminId;
use tollgate_store::admins;

use super::Admin;
use crate::{
    ctx::{Ctx, Id},
    problem::Answer,
};

/// Read an admin.
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}/admins/{admin_id}",
    responses((status = 200, description = "The admin.", body = Admin)))]
pub async fn handle(ctx: Ctx, Id(id): Id<AdminId>) -> Answer {
    let admin = admins::get(&ctx.app.store, ctx.tenant, id).await?;
    Ok(ctx.ok(&Admin::from(admin)))
}
