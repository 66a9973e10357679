use tollgate_store::seals;

use super::{Sealed, SignedSealDoc};
use crate::{
    ctx::{Ctx, Id},
    problem::Answer,
};

/// Read a seal.
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}/audit/seals/{sequence}", responses((status = 200, description = "The seal.", body = SignedSealDoc)))]
pub async fn handle(ctx: Ctx, Id(sequence): Id<u64>) -> Answer {
    let mut tx = ctx.app.store.tenant_snapshot(ctx.tenant).await?;
    Ok(ctx.ok(&Sealed(seals::get(&mut tx, ctx.tenant, sequence).await?)))
}
