use serde::Deserialize;
use serde_json::json;
use tollgate_store::tenants;
use utoipa::ToSchema;

use super::Tenant;
use crate::{check::Checks, ctx::Ctx, json::Json, problem::Answer};

/// What can be changed of a tenant. The slug and the currency cannot.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TenantPatch {
    #[schema(min_length = 1, max_length = 200)]
    pub name: Option<String>,
}

/// Rename a tenant.
#[utoipa::path(patch, path = "/v1/tenants/{tenant_id}", request_body = TenantPatch, responses((status = 200, description = "Changed.", body = Tenant)))]
pub async fn handle(ctx: Ctx, body: Json<TenantPatch>) -> Answer {
    let mut checks = Checks::default();
    if let Some(name) = &body.value.name {
        checks.name("/name", name);
    }
    checks.done()?;

    let mut write = ctx.change().await?;
    let tenant = tenants::lock(&mut write).await?;
    write.matches(&Tenant::from(tenant.clone()))?;
    let name = body.value.name.unwrap_or_else(|| tenant.name.clone());
    let tenant = tenants::rename(&mut write, tenant, name).await?;
    write.event("tenant.update", &tenant.id, json!({"name": tenant.name})).await?;
    write.ok(&Tenant::from(tenant)).await
}
