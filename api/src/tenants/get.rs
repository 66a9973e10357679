use tollgate_store::tenants;

use super::Tenant;
use crate::{ctx::Ctx, problem::Answer};

/// Read a tenant.
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}", responses((status = 200, description = "The tenant.", body = Tenant)))]
pub async fn handle(ctx: Ctx) -> Answer {
    let tenant = tenants::get(&ctx.app.store, ctx.tenant).await?;
    Ok(ctx.ok(&Tenant::from(tenant)))
}
