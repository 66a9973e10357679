use tollgate_store::report_schedules as store;

use super::ReportSchedule;
use crate::{
    ctx::Ctx,
    page::{List, ListBody, PageQuery},
    problem::Answer,
};

/// List the report schedules, oldest first, without their deliveries.
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}/report-schedules", params(PageQuery),
    responses((status = 200, description = "A page.", body = ListBody<ReportSchedule>)))]
pub async fn handle(ctx: Ctx, list: List) -> Answer {
    let page = store::list(&ctx.app.store, ctx.tenant, list.page).await?;
    Ok(list.answer(page, ReportSchedule::from))
}
