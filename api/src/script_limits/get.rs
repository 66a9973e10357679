use tollgate_store::script_limits;

use super::ScriptLimits;
use crate::{ctx::Ctx, problem::Answer};

/// Read the limits of the tenant's scripts, and the ceilings above them.
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}/script-limits",
    responses((status = 200, description = "The limits.", body = ScriptLimits)))]
pub async fn handle(ctx: Ctx) -> Answer {
    let mut tx = ctx.app.store.tenant(ctx.tenant).await?;
    let row = script_limits::get(&mut tx, ctx.tenant).await?;
    Ok(ctx.ok(&ScriptLimits::of(ctx.tenant, &row, (&ctx.app.config.limits.script).into())))
}
