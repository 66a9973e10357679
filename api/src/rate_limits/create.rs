use serde::Deserialize;
use tollgate_domain::{
    RateLimitId,
    rate::{MAX, Per, RateLimit as Rule},
};
use tollgate_store::rates;
use utoipa::ToSchema;

use super::{MAX_LIMITS, RateLimit, detail};
use crate::{budgets::Scope, check::Checks, ctx::Ctx, json::Json, problem::Answer};

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewRateLimit {
    /// `Rate limit` when left out. Refused calls name it.
    #[schema(min_length = 1, max_length = 200)]
    pub name: Option<String>,
    pub scope: Scope,
    #[schema(minimum = 1, maximum = 1_000_000)]
    pub max: u32,
    /// `second`, `minute`, `hour` or `day`.
    #[schema(value_type = String)]
    pub per: Per,
}

/// Set a rate limit. Workers know of it within a second. Calls beyond it are refused, and are rows.
#[utoipa::path(post, path = "/v1/tenants/{tenant_id}/rate-limits", request_body = NewRateLimit,
    responses((status = 201, description = "Set.", body = RateLimit)))]
pub async fn handle(ctx: Ctx, body: Json<NewRateLimit>) -> Answer {
    let NewRateLimit { name, scope, max, per } = body.value;
    let name = name.unwrap_or_else(|| "Rate limit".to_owned());
    let mut checks = Checks::default();
    checks.name("/name", &name);
    scope.check(ctx.tenant, &mut checks);
    checks.require((1..=MAX).contains(&max), "/max", "use 1 to 1000000");
    checks.done()?;

    let mut write = ctx.post(&body.sha256).await?;
    let limit = Rule { id: RateLimitId::mint(ctx.now), name, scope: scope.into(), max, per };
    let made = RateLimit::from(rates::create(&mut write, &limit, MAX_LIMITS).await?);
    write.event("rate_limit.create", &made.id, detail(&made)).await?;
    write.created(&made).await
}
