use serde::Deserialize;
use tollgate_domain::{RateLimitId, rate::Per};
use tollgate_store::rates;
use utoipa::ToSchema;

use super::{RateLimit, check_measure, detail};
use crate::{
    check::Checks,
    ctx::{Ctx, Id},
    json::Json,
    problem::Answer,
};

/// What is left out stays. A limit of another scope or unit is another limit.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RateLimitPatch {
    #[schema(min_length = 1, max_length = 200)]
    pub name: Option<String>,
    #[schema(minimum = 1, maximum = 100_000_000)]
    pub max: Option<u32>,
    /// `second`, `minute`, `hour` or `day`.
    #[schema(value_type = Option<String>)]
    pub per: Option<Per>,
}

/// Change a rate limit. It begins anew: nothing of it is used. Calls under way stay under way.
#[utoipa::path(patch, path = "/v1/tenants/{tenant_id}/rate-limits/{rate_limit_id}", request_body = RateLimitPatch,
    responses((status = 200, description = "Changed.", body = RateLimit)))]
pub async fn handle(ctx: Ctx, Id(id): Id<RateLimitId>, body: Json<RateLimitPatch>) -> Answer {
    let RateLimitPatch { name, max, per } = body.value;
    let mut checks = Checks::default();
    if let Some(name) = &name {
        checks.name("/name", name);
    }
    checks.done()?;

    let mut write = ctx.change().await?;
    let mut row = rates::lock(&mut write, id).await?;
    write.matches(&RateLimit::from(row.clone()))?;
    row.limit.name = name.unwrap_or(row.limit.name);
    row.limit.max = max.unwrap_or(row.limit.max);
    let mut checks = Checks::default();
    let measure = row.limit.measure;
    let measure = check_measure(&mut checks, measure.unit(), per.or(measure.per()), row.limit.max);
    checks.done()?;
    row.limit.measure = measure.unwrap_or(row.limit.measure);
    let changed = RateLimit::from(rates::update(&mut write, row).await?);
    write.event("rate_limit.update", &id, detail(&changed)).await?;
    write.ok(&changed).await
}
