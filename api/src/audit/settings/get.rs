use tollgate_store::settings;

use super::AuditSettings;
use crate::{ctx::Ctx, problem::Answer};

/// Read the settings of the audit trail. A tenant that has never changed any has the defaults.
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}/audit/settings",
    responses((status = 200, description = "The settings.", body = AuditSettings)))]
pub async fn handle(ctx: Ctx) -> Answer {
    let mut tx = ctx.app.store.tenant(ctx.tenant).await?;
    let row = settings::get(&mut tx, ctx.tenant).await?;
    Ok(ctx.ok(&AuditSettings::of(ctx.tenant, row)?))
}
