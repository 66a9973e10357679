use serde::Deserialize;
use serde_json::json;
use tollgate_domain::ReportScheduleId;
use tollgate_store::{StoreError, report_schedules as store};
use utoipa::ToSchema;

use super::ReportSchedule;
use crate::{
    ctx::{Ctx, Id},
    json::MaybeJson,
    problem::Answer,
};

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReportRetry {
    /// The name of one of the schedule's deliveries that has failed, `2026-11` for instance; all of them when left out.
    pub delivery: Option<String>,
}

/// Try reports again that have failed, for another day.
///
/// Each is made of what the schedule asks for now. Asking again changes nothing while they wait; what was delivered is not delivered again.
#[utoipa::path(post, path = "/v1/tenants/{tenant_id}/report-schedules/{report_schedule_id}/retry", request_body = Option<ReportRetry>,
    responses((status = 200, description = "They wait for a try.", body = ReportSchedule)))]
pub async fn handle(ctx: Ctx, Id(id): Id<ReportScheduleId>, body: MaybeJson<ReportRetry>) -> Answer {
    let mut write = ctx.post(&body.sha256).await?;
    let schedule = store::lock(&mut write, id).await?;
    let name = body.value.delivery;
    let reports = store::retry(&mut write, id, name.as_deref()).await?;
    if reports == 0 && name.is_some() {
        let told = "use the name of a delivery of this schedule that has failed";
        return Err(StoreError::invalid("/delivery", told).into());
    }
    write.event("report_schedule.retry", &id, json!({"delivery": name, "reports": reports})).await?;
    write.ok_quietly(&ReportSchedule::from(schedule)).await
}
