use serde::Deserialize;
use tollgate_domain::{KeyId, Outcome, ReportScheduleId, TeamId, ToolId, UpstreamId};
use tollgate_store::report_schedules as store;
use utoipa::ToSchema;

use super::{ReportSchedule, check, check_place, detail};
use crate::{
    check::Checks,
    ctx::{Ctx, Id},
    json::{Json, nullable},
    problem::Answer,
};

/// What is left out stays; null takes a filter or `top` away. A report of another rhythm is another schedule.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReportSchedulePatch {
    #[schema(min_length = 1, max_length = 200)]
    pub name: Option<String>,
    pub group_by: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<String>)]
    pub key_id: Option<Option<KeyId>>,
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<String>)]
    pub team_id: Option<Option<TeamId>>,
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<String>)]
    pub tool_id: Option<Option<ToolId>>,
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<String>)]
    pub upstream_id: Option<Option<UpstreamId>>,
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<String>)]
    pub outcome: Option<Option<Outcome>>,
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<usize>)]
    pub top: Option<Option<usize>>,
    /// `json`, `csv`, `parquet` or `focus`.
    pub format: Option<String>,
    /// Takes the place of a webhook.
    pub destination: Option<String>,
    /// Takes the place of a destination.
    pub webhook: Option<String>,
    /// `false`: nothing is delivered. Periods that end meanwhile are, once it is `true` again; what waited then is tried for a day from
    /// there on.
    pub enabled: Option<bool>,
}

/// Change a report schedule. It holds for reports that are not delivered yet.
#[utoipa::path(patch, path = "/v1/tenants/{tenant_id}/report-schedules/{report_schedule_id}", request_body = ReportSchedulePatch,
    responses((status = 200, description = "Changed.", body = ReportSchedule)))]
pub async fn handle(ctx: Ctx, Id(id): Id<ReportScheduleId>, body: Json<ReportSchedulePatch>) -> Answer {
    let patch = body.value;
    let mut write = ctx.change().await?;
    let mut schedule = store::lock(&mut write, id).await?;
    let paused = !schedule.enabled;
    write.matches(&ReportSchedule::from(schedule.clone()))?;
    let ask = &mut schedule.ask.0;
    ask.group_by = patch.group_by.unwrap_or_else(|| std::mem::take(&mut ask.group_by));
    ask.key_id = patch.key_id.unwrap_or(ask.key_id);
    ask.team_id = patch.team_id.unwrap_or(ask.team_id);
    ask.tool_id = patch.tool_id.unwrap_or(ask.tool_id);
    ask.upstream_id = patch.upstream_id.unwrap_or(ask.upstream_id);
    ask.outcome = patch.outcome.unwrap_or(ask.outcome);
    ask.top = patch.top.unwrap_or(ask.top);
    schedule.name = patch.name.unwrap_or(schedule.name);
    schedule.format = patch.format.unwrap_or(schedule.format);
    schedule.enabled = patch.enabled.unwrap_or(schedule.enabled);
    let mut checks = Checks::default();
    if patch.destination.is_some() || patch.webhook.is_some() {
        (schedule.destination, schedule.webhook) = (patch.destination, patch.webhook);
        check_place(&mut checks, &ctx, &schedule);
    }
    check(&mut checks, &schedule);
    checks.done()?;

    let changed = ReportSchedule::from(store::update(&mut write, schedule, paused).await?);
    write.event("report_schedule.update", &id, detail(&changed)).await?;
    write.ok_quietly(&changed).await
}
