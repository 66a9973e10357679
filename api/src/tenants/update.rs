use serde::Deserialize;
use serde_json::json;
use tollgate_domain::TimeZone;
use tollgate_store::tenants;
use utoipa::ToSchema;

use super::Tenant;
use crate::{
    check::Checks,
    ctx::Ctx,
    json::Json,
    keys::{CodeLanguage, check_languages},
    problem::Answer,
};

/// What can be changed of a tenant. The slug and the currency cannot.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TenantPatch {
    #[schema(min_length = 1, max_length = 200)]
    pub name: Option<String>,
    /// The IANA name of the zone in which its days, weeks and months begin. Budgets go over to it with their next period.
    #[schema(examples("Europe/Berlin"))]
    pub time_zone: Option<String>,
    #[schema(value_type = Option<Vec<CodeLanguage>>, min_items = 1, max_items = 2)]
    pub code_languages: Option<Vec<String>>,
}

/// Change a tenant.
#[utoipa::path(patch, path = "/v1/tenants/{tenant_id}", request_body = TenantPatch, responses((status = 200, description = "Changed.", body = Tenant)))]
pub async fn handle(ctx: Ctx, body: Json<TenantPatch>) -> Answer {
    let mut checks = Checks::default();
    if let Some(name) = &body.value.name {
        checks.name("/name", name);
    }
    let zone = body.value.time_zone.and_then(|zone| checks.parse::<TimeZone>("/time_zone", &zone));
    check_languages(&mut checks, body.value.code_languages.as_deref());
    checks.done()?;

    let mut write = ctx.change().await?;
    let mut tenant = tenants::lock(&mut write).await?;
    write.matches(&Tenant::from(tenant.clone()))?;
    tenant.name = body.value.name.unwrap_or(tenant.name);
    tenant.zone = zone.unwrap_or(tenant.zone);
    tenant.code_languages = body.value.code_languages.unwrap_or(tenant.code_languages);
    let tenant = tenants::update(&mut write, tenant).await?;
    let detail = json!({"name": tenant.name, "time_zone": tenant.zone, "code_languages": tenant.code_languages});
    write.event("tenant.update", &tenant.id, detail).await?;
    write.ok(&Tenant::from(tenant)).await
}
