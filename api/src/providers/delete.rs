use tollgate_domain::ProviderId;
use tollgate_store::providers;

use super::Provider;
use crate::{
    ctx::{Ctx, Id},
    problem::Answer,
};

/// Delete a provider. Its secrets go at once; requests that it answered still name it.
#[utoipa::path(delete, path = "/v1/tenants/{tenant_id}/providers/{provider_id}", responses((status = 204, description = "Deleted.")))]
pub async fn handle(ctx: Ctx, Id(id): Id<ProviderId>) -> Answer {
    let mut write = ctx.change().await?;
    let row = providers::lock(&mut write, id).await?;
    write.matches(&Provider::from(row))?;
    providers::delete(&mut write, id).await?;
    write.no_content().await
}
