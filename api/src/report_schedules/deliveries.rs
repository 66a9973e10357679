use tollgate_domain::ReportScheduleId;
use tollgate_store::report_schedules as store;

use super::ReportDelivery;
use crate::{
    ctx::{Ctx, Id},
    page::{List, ListBody, PageQuery},
    problem::Answer,
};

/// List what has become of the periods that have ended, newest first.
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}/report-schedules/{report_schedule_id}/deliveries", params(PageQuery),
    responses((status = 200, description = "A page.", body = ListBody<ReportDelivery>)))]
pub async fn handle(ctx: Ctx, Id(id): Id<ReportScheduleId>, list: List) -> Answer {
    let (_, page) = store::get(&ctx.app.store, ctx.tenant, id, list.page).await?;
    Ok(list.answer(page, ReportDelivery::from))
}
