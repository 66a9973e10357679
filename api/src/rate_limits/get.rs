use tollgate_domain::RateLimitId;
use tollgate_store::rates;

use super::RateLimit;
use crate::{
    ctx::{Ctx, Id},
    problem::Answer,
};

/// Read a rate limit.
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}/rate-limits/{rate_limit_id}",
    responses((status = 200, description = "The limit.", body = RateLimit)))]
pub async fn handle(ctx: Ctx, Id(id): Id<RateLimitId>) -> Answer {
    let mut tx = ctx.app.store.tenant_snapshot(ctx.tenant).await?;
    let row = rates::get(&mut tx, ctx.tenant, id).await?;
    Ok(ctx.ok(&RateLimit::from(row)))
}
