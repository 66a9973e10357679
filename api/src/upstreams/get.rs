use tollgate_domain::UpstreamId;
use tollgate_store::upstreams;

use super::Upstream;
use crate::{
    ctx::{Ctx, Id},
    problem::Answer,
};

/// Read an upstream and its state.
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}/upstreams/{upstream_id}", responses((status = 200, description = "The upstream.", body = Upstream)))]
pub async fn handle(ctx: Ctx, Id(id): Id<UpstreamId>) -> Answer {
    let mut tx = ctx.app.store.tenant_snapshot(ctx.tenant).await?;
    let row = upstreams::get(&mut tx, ctx.tenant, id, ctx.now).await?;
    Ok(ctx.ok(&Upstream::from(row)))
}
