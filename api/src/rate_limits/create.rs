use serde::Deserialize;
use tollgate_domain::{
    RateLimitId,
    rate::{Per, RateLimit as Rule, Unit},
};
use tollgate_store::rates;
use utoipa::ToSchema;

use super::{MAX_LIMITS, RateLimit, check_measure, detail};
use crate::{
    budgets::Scope,
    check::Checks,
    ctx::Ctx,
    json::Json,
    problem::{Answer, Problem},
};

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewRateLimit {
    /// `Rate limit` when left out. Refused calls name it.
    #[schema(min_length = 1, max_length = 200)]
    pub name: Option<String>,
    pub scope: Scope,
    /// Up to 1,000,000 calls, 100,000,000 tokens, 100,000 calls at once.
    #[schema(minimum = 1, maximum = 100_000_000)]
    pub max: u32,
    /// `call` when left out; `token`, of requests to language models; `concurrent`, calls under way at once, without `per`.
    #[schema(value_type = Option<String>)]
    pub unit: Option<Unit>,
    /// `second`, `minute`, `hour` or `day`.
    #[schema(value_type = Option<String>)]
    pub per: Option<Per>,
}

/// Set a rate limit. Workers know of it within a second. Calls beyond it are refused, and are rows.
#[utoipa::path(post, path = "/v1/tenants/{tenant_id}/rate-limits", request_body = NewRateLimit,
    responses((status = 201, description = "Set.", body = RateLimit)))]
pub async fn handle(ctx: Ctx, body: Json<NewRateLimit>) -> Answer {
    let NewRateLimit { name, scope, max, unit, per } = body.value;
    let name = name.unwrap_or_else(|| "Rate limit".to_owned());
    let mut checks = Checks::default();
    checks.name("/name", &name);
    scope.check(ctx.tenant, &mut checks);
    let measure = check_measure(&mut checks, unit.unwrap_or(Unit::Call), per, max);
    checks.done()?;
    let Some(measure) = measure else { return Err(Problem::field("/per", "use second, minute, hour or day").into()) };

    let mut write = ctx.post(&body.sha256).await?;
    let limit = Rule { id: RateLimitId::mint(ctx.now), name, scope: scope.into(), max, measure, version: 1 };
    let made = RateLimit::from(rates::create(&mut write, &limit, MAX_LIMITS).await?);
    write.event("rate_limit.create", &made.id, detail(&made)).await?;
    write.created(&made).await
}
