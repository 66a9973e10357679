use serde_json::json;
use tollgate_store::tenants;

use super::Tenant;
use crate::{ctx::Ctx, problem::Answer};

/// Delete a tenant: its keys and tokens stop working, its audit trail stays.
#[utoipa::path(delete, path = "/v1/tenants/{tenant_id}", responses((status = 204, description = "Deleted.")))]
pub async fn handle(ctx: Ctx) -> Answer {
    let mut write = ctx.change().await?;
    let tenant = tenants::lock(&mut write).await?;
    write.matches(&Tenant::from(tenant.clone()))?;
    tenants::delete(&mut write).await?;
    write.event("tenant.delete", &tenant.id, json!({"slug": tenant.slug})).await?;
    write.no_content().await
}
