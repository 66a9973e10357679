use tollgate_domain::BudgetId;
use tollgate_store::budgets;

use super::{Budget, show, zone};
use crate::{
    ctx::{Ctx, Id},
    problem::Answer,
};

/// Read a budget, and how it stands.
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}/budgets/{budget_id}",
    responses((status = 200, description = "The budget.", body = Budget)))]
pub async fn handle(ctx: Ctx, Id(id): Id<BudgetId>) -> Answer {
    let mut tx = ctx.app.store.tenant_snapshot(ctx.tenant).await?;
    let zone = zone(&ctx, &mut tx).await?;
    let row = budgets::get(&mut tx, ctx.tenant, id).await?;
    Ok(ctx.ok(&show(&mut tx, (ctx.tenant, zone), row, ctx.now).await?))
}
