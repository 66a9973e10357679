use tollgate_domain::BudgetId;
use tollgate_store::budgets;

use super::{Unread, detail};
use crate::{
    ctx::{Ctx, Id},
    problem::Answer,
};

/// Delete a budget: it holds no calls any more. What they cost stays in reports.
#[utoipa::path(delete, path = "/v1/tenants/{tenant_id}/budgets/{budget_id}", responses((status = 204, description = "Deleted.")))]
pub async fn handle(ctx: Ctx, Id(id): Id<BudgetId>) -> Answer {
    let mut write = ctx.change().await?;
    let row = budgets::lock(&mut write, id).await?;
    write.matches(&Unread(&row))?;
    budgets::delete(&mut write, id).await?;
    write.event("budget.delete", &id, detail(&row.budget)).await?;
    write.no_content().await
}
