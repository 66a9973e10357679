use tollgate_domain::ReportScheduleId;
use tollgate_store::report_schedules as store;

use super::{ReportSchedule, detail};
use crate::{
    ctx::{Ctx, Id},
    problem::Answer,
};

/// Delete a report schedule. What was delivered stays where it is; what waits is not delivered.
#[utoipa::path(delete, path = "/v1/tenants/{tenant_id}/report-schedules/{report_schedule_id}",
    responses((status = 204, description = "Deleted.")))]
pub async fn handle(ctx: Ctx, Id(id): Id<ReportScheduleId>) -> Answer {
    let mut write = ctx.change().await?;
    let schedule = ReportSchedule::from(store::lock(&mut write, id).await?);
    write.matches(&schedule)?;
    store::delete(&mut write, id).await?;
    write.event("report_schedule.delete", &id, detail(&schedule)).await?;
    write.no_content().await
}
