use tollgate_domain::ReportScheduleId;
use tollgate_store::{PageRequest, report_schedules as store};

use super::{LAST, ReportDelivery, ReportSchedule};
use crate::{
    ctx::{Ctx, Id},
    problem::Answer,
};

/// Read a report schedule, with its last deliveries.
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}/report-schedules/{report_schedule_id}",
    responses((status = 200, description = "The schedule.", body = ReportSchedule)))]
pub async fn handle(ctx: Ctx, Id(id): Id<ReportScheduleId>) -> Answer {
    let newest = PageRequest { limit: LAST, after: None };
    let (schedule, last) = store::get(&ctx.app.store, ctx.tenant, id, newest).await?;
    let last = last.items.into_iter().map(ReportDelivery::from).collect();
    Ok(ctx.ok(&ReportSchedule { last_deliveries: Some(last), ..ReportSchedule::from(schedule) }))
}
