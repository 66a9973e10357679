use serde::Deserialize;
use tollgate_domain::{KeyId, Outcome, ReportScheduleId, TeamId, ToolId, UpstreamId, zone::Calendar};
use tollgate_store::report_schedules::{self as store, Ask, Schedule};
use utoipa::ToSchema;

use super::{MAX_SCHEDULES, ReportSchedule, check, check_place, detail};
use crate::{check::Checks, ctx::Ctx, json::Json, problem::Answer};

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewReportSchedule {
    /// `Report` when left out.
    #[schema(min_length = 1, max_length = 200)]
    pub name: Option<String>,
    /// `day`, `week` (from Monday) or `month`, in the tenant's time zone.
    #[schema(value_type = String)]
    pub every: Calendar,
    /// As of `/reports/costs`: a comma list.
    pub group_by: Option<String>,
    #[schema(value_type = Option<String>)]
    pub key_id: Option<KeyId>,
    #[schema(value_type = Option<String>)]
    pub team_id: Option<TeamId>,
    #[schema(value_type = Option<String>)]
    pub tool_id: Option<ToolId>,
    #[schema(value_type = Option<String>)]
    pub upstream_id: Option<UpstreamId>,
    #[schema(value_type = Option<String>)]
    pub outcome: Option<Outcome>,
    /// The groups that cost most, this many (1 to 1,000), and the others as one line.
    pub top: Option<usize>,
    /// `json`, `csv`, `parquet` or `focus`.
    pub format: String,
    /// The name of an `[[audit.destination]]` in the operator's file. The file is `<tenant>/reports/<schedule>/<period>.<format>` there.
    pub destination: Option<String>,
    /// The name of a `[[report.webhook]]` in the operator's file; either this or `destination`.
    pub webhook: Option<String>,
    /// `true` when left out.
    pub enabled: Option<bool>,
}

/// Have a cost report delivered for each day, week or month, beginning with the present one.
///
/// A report is made 15 minutes after its period's end, or, where calls or LLM requests of the period have not ended by then, once they have;
/// 2 hours and 15 minutes after the end it is made all the same, and `still_open` says how many are missing. It is delivered once. What is
/// not taken is tried again for a day, with growing pauses; then it has failed. A report that is refused, for it would have too many rows, has
/// failed at once. Both leave an admin event, `report.delivered` or `report.failed`.
///
/// A webhook gets the file as its body, with `Idempotency-Key` (the same for each try of a period; a receiver that has it answers 2xx) and
/// `x-tollgate-` headers: `tenant`, `report-schedule`, `report-name`, `period-start`, `period-end`, `sha256` (of this body, hexadecimal: a
/// later try is made anew, and may differ), `still-open`, `timestamp`, and where the webhook has a secret `signature`: `sha256=` and the
/// hexadecimal HMAC-SHA256 of timestamp, idempotency key, tenant, report-schedule, report-name, period-start, period-end, sha256 and body,
/// with a dot behind each but the last.
#[utoipa::path(post, path = "/v1/tenants/{tenant_id}/report-schedules", request_body = NewReportSchedule,
    responses((status = 201, description = "Set.", body = ReportSchedule)))]
pub async fn handle(ctx: Ctx, body: Json<NewReportSchedule>) -> Answer {
    let new = body.value;
    let NewReportSchedule { key_id, team_id, tool_id, upstream_id, outcome, top, .. } = new;
    let ask = Ask { group_by: new.group_by.unwrap_or_default(), key_id, team_id, tool_id, upstream_id, outcome, top };
    let schedule = Schedule {
        report_schedule_id: ReportScheduleId::mint(ctx.now).uuid(),
        name: new.name.unwrap_or_else(|| "Report".to_owned()),
        every: new.every.as_str().to_owned(),
        ask: ask.into(),
        format: new.format,
        destination: new.destination,
        webhook: new.webhook,
        enabled: new.enabled.unwrap_or(true),
        // Those of its first period are worked out in the tenant's zone.
        next_start: ctx.now,
        due_at: ctx.now,
        created_at: ctx.now,
        updated_at: ctx.now,
        version: 1,
    };
    let mut checks = Checks::default();
    check(&mut checks, &schedule);
    check_place(&mut checks, &ctx, &schedule);
    checks.done()?;

    let mut write = ctx.post(&body.sha256).await?;
    let made = ReportSchedule::from(store::create(&mut write, schedule, MAX_SCHEDULES).await?);
    write.event("report_schedule.create", &made.id, detail(&made)).await?;
    write.created_quietly(&made).await
}
