use serde::Deserialize;
use tollgate_domain::{
    Budget as Rule, BudgetId, Picos,
    budget::{Enforcement, Period},
};
use tollgate_store::budgets;
use utoipa::ToSchema;

use super::{Budget, MAX_BUDGETS, Scope, check_thresholds, detail, show, zone};
use crate::{
    check::Checks,
    ctx::Ctx,
    json::Json,
    problem::{Answer, Problem},
};

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewBudget {
    /// `Budget` when left out. Refused calls name it.
    #[schema(min_length = 1, max_length = 200)]
    pub name: Option<String>,
    pub scope: Scope,
    /// A decimal of at most 12 places, in the tenant's currency.
    #[schema(pattern = r"^[0-9]+(\.[0-9]{1,12})?$", examples("10.00"))]
    pub limit: String,
    /// `day`, `week`, `month`, `total` or `rolling`.
    #[schema(value_type = String)]
    pub period: Period,
    /// 1 to 366; with `rolling` alone.
    pub rolling_days: Option<u16>,
    /// `hard` (when left out) or `alert`.
    #[schema(value_type = Option<String>)]
    pub enforcement: Option<Enforcement>,
    /// Percent of the limit; 80 and 100 when left out.
    pub thresholds: Option<Vec<u8>>,
}

/// Set a budget. It counts the calls that are opened from now on; workers know of it within a second.
#[utoipa::path(post, path = "/v1/tenants/{tenant_id}/budgets", request_body = NewBudget,
    responses((status = 201, description = "Set.", body = Budget)))]
pub async fn handle(ctx: Ctx, body: Json<NewBudget>) -> Answer {
    let NewBudget { name, scope, limit, period, rolling_days, enforcement, thresholds } = body.value;
    let name = name.unwrap_or_else(|| "Budget".to_owned());
    let thresholds = thresholds.unwrap_or_else(|| vec![80, 100]);
    let mut checks = Checks::default();
    checks.name("/name", &name);
    scope.check(ctx.tenant, &mut checks);
    let limit = checks.parse::<Picos>("/limit", &limit);
    let days = "use 1 to 366 days, with the period \"rolling\" alone";
    checks.require((period == Period::Rolling) == rolling_days.is_some(), "/rolling_days", days);
    checks.require(rolling_days.is_none_or(|n| (1..=366).contains(&n)), "/rolling_days", days);
    check_thresholds(&mut checks, &thresholds);
    checks.done()?;
    let limit = limit.ok_or_else(|| Problem::internal(&"a budget that was checked lacks its limit"))?;

    let mut write = ctx.post(&body.sha256).await?;
    let budget = Rule {
        id: BudgetId::mint(ctx.now),
        name,
        scope: scope.into(),
        limit,
        period,
        rolling_days,
        enforcement: enforcement.unwrap_or(Enforcement::Hard),
        thresholds,
    };
    let made = budgets::create(&mut write, &budget, MAX_BUDGETS).await?;
    write.event("budget.create", &budget.id, detail(&budget)).await?;
    let zone = zone(&ctx, &mut write.tx).await?;
    let shown = show(&mut write.tx, (ctx.tenant, zone), made, ctx.now).await?;
    write.created(&shown).await
}
