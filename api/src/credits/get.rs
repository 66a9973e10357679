use tollgate_domain::CreditId;
use tollgate_store::credits;

use super::Credit;
use crate::{
    ctx::{Ctx, Id},
    problem::Answer,
};

/// Read a credit.
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}/credits/{credit_id}", responses((status = 200, description = "The credit.", body = Credit)))]
pub async fn handle(ctx: Ctx, Id(id): Id<CreditId>) -> Answer {
    let mut tx = ctx.app.store.tenant_snapshot(ctx.tenant).await?;
    let credit = credits::get(&mut tx, ctx.tenant, id).await?;
    Ok(ctx.ok(&Credit::from(credit)))
}
