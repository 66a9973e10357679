use serde::Deserialize;
use tollgate_domain::{BudgetId, Picos, budget::Enforcement};
use tollgate_store::budgets;
use utoipa::ToSchema;

use super::{Budget, Unread, check_thresholds, detail, show, zone};
use crate::{
    check::Checks,
    ctx::{Ctx, Id},
    json::Json,
    problem::Answer,
};

/// What is left out stays. Scope and period are what a budget has counted by: another one is another budget.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BudgetPatch {
    #[schema(min_length = 1, max_length = 200)]
    pub name: Option<String>,
    /// A lower one holds for calls that are opened from now on; workers give back within seconds what they keep ready.
    #[schema(pattern = r"^[0-9]+(\.[0-9]{1,12})?$", examples("10.00"))]
    pub limit: Option<String>,
    /// `hard` or `alert`.
    #[schema(value_type = Option<String>)]
    pub enforcement: Option<Enforcement>,
    /// Replaces all of them.
    pub thresholds: Option<Vec<u8>>,
}

/// Change a budget.
#[utoipa::path(patch, path = "/v1/tenants/{tenant_id}/budgets/{budget_id}", request_body = BudgetPatch,
    responses((status = 200, description = "Changed.", body = Budget)))]
pub async fn handle(ctx: Ctx, Id(id): Id<BudgetId>, body: Json<BudgetPatch>) -> Answer {
    let BudgetPatch { name, limit, enforcement, thresholds } = body.value;
    let mut checks = Checks::default();
    if let Some(name) = &name {
        checks.name("/name", name);
    }
    let limit = limit.and_then(|limit| checks.parse::<Picos>("/limit", &limit));
    check_thresholds(&mut checks, thresholds.as_deref().unwrap_or_default());
    checks.done()?;

    let mut write = ctx.change().await?;
    let mut row = budgets::lock(&mut write, id).await?;
    write.matches(&Unread(&row))?;
    row.budget.name = name.unwrap_or(row.budget.name);
    row.budget.limit = limit.unwrap_or(row.budget.limit);
    row.budget.enforcement = enforcement.unwrap_or(row.budget.enforcement);
    row.budget.thresholds = thresholds.unwrap_or(row.budget.thresholds);
    let row = budgets::update(&mut write, row).await?;
    write.event("budget.update", &id, detail(&row.budget)).await?;
    let zone = zone(&ctx, &mut write.tx).await?;
    let shown = show(&mut write.tx, (ctx.tenant, zone), row, ctx.now).await?;
    write.ok(&shown).await
}
