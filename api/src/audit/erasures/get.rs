use tollgate_domain::ErasureId;
use tollgate_store::erasures;

use super::Erasure;
use crate::{
    ctx::{Ctx, Id},
    problem::Answer,
};

/// Read an erasure.
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}/audit/erasures/{erasure_id}",
    responses((status = 200, description = "The erasure.", body = Erasure)))]
pub async fn handle(ctx: Ctx, Id(id): Id<ErasureId>) -> Answer {
    let mut tx = ctx.app.store.tenant(ctx.tenant).await?;
    let erasure = erasures::get(&mut tx, ctx.tenant, id).await?;
    Ok(ctx.ok(&Erasure::from(erasure)))
}
