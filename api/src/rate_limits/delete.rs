use tollgate_domain::RateLimitId;
use tollgate_store::rates;

use super::{RateLimit, detail};
use crate::{
    ctx::{Ctx, Id},
    problem::Answer,
};

/// Delete a rate limit.
#[utoipa::path(delete, path = "/v1/tenants/{tenant_id}/rate-limits/{rate_limit_id}", responses((status = 204, description = "Deleted.")))]
pub async fn handle(ctx: Ctx, Id(id): Id<RateLimitId>) -> Answer {
    let mut write = ctx.change().await?;
    let limit = RateLimit::from(rates::lock(&mut write, id).await?);
    write.matches(&limit)?;
    rates::delete(&mut write, id).await?;
    write.event("rate_limit.delete", &id, detail(&limit)).await?;
    write.no_content().await
}
