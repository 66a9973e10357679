use tollgate_domain::ProviderId;
use tollgate_store::providers;

use super::Provider;
use crate::{
    ctx::{Ctx, Id},
    problem::Answer,
};

/// Read a provider.
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}/providers/{provider_id}",
    responses((status = 200, description = "The provider.", body = Provider)))]
pub async fn handle(ctx: Ctx, Id(id): Id<ProviderId>) -> Answer {
    let mut tx = ctx.app.store.tenant(ctx.tenant).await?;
    Ok(ctx.ok(&Provider::from(providers::get(&mut tx, ctx.tenant, id).await?)))
}
