use tollgate_domain::UpstreamId;
use tollgate_store::upstreams;

use super::Upstream;
use crate::{
    ctx::{Ctx, Id},
    problem::Answer,
};

/// Delete an upstream: its tools leave every scope, its name is free again, its calls stay in the audit trail.
///
/// Refused with 409 while tool groups name it.
#[utoipa::path(delete, path = "/v1/tenants/{tenant_id}/upstreams/{upstream_id}", responses((status = 204, description = "Deleted.")))]
pub async fn handle(ctx: Ctx, Id(id): Id<UpstreamId>) -> Answer {
    let mut write = ctx.change().await?;
    let current = upstreams::lock(&mut write, id).await?;
    write.matches(&Upstream::from(current))?;
    upstreams::delete(&mut write, id).await?;
    write.no_content().await
}
