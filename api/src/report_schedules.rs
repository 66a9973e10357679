//! Cost reports that are delivered by themselves, at the end of each day, week or month.

pub mod create;
pub mod delete;
pub mod deliveries;
pub mod get;
pub mod list;
pub mod retry;
pub mod runner;
pub mod update;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Value, json};
use tollgate_domain::{KeyId, Outcome, ReportScheduleId, TeamId, ToolId, UpstreamId};
use tollgate_evidence::hash::to_hex;
use tollgate_store::report_schedules::{Ask, Delivery, Schedule};
use utoipa::ToSchema;

use crate::{
    check::Checks,
    ctx::{Ctx, Resource},
    reports::costs::{FORMATS, Format, MAX_TOP, dimensions},
};

/// Schedules of one tenant at most.
const MAX_SCHEDULES: i64 = 50;
/// Deliveries that are shown with a schedule.
const LAST: u32 = 5;

/// A cost report that is delivered by itself.
#[derive(Debug, Serialize, ToSchema)]
pub struct ReportSchedule {
    #[schema(value_type = String, examples("rps_01j9zc5v8mf9r8k7x3w2q1n0pa"))]
    pub id: ReportScheduleId,
    pub name: String,
    /// `day`, `week` (from Monday) or `month`, in the tenant's time zone.
    pub every: String,
    pub group_by: String,
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
    pub top: Option<usize>,
    pub format: String,
    pub destination: Option<String>,
    pub webhook: Option<String>,
    pub enabled: bool,
    /// Where the next period begins that no report was made of.
    pub next_period_start: DateTime<Utc>,
    /// When its report is made, where nothing of it is open by then; null while nothing is delivered.
    pub next_due_at: Option<DateTime<Utc>>,
    /// The newest five; null in a list, and in the answer to a change.
    pub last_deliveries: Option<Vec<ReportDelivery>>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    /// For the ETag.
    #[serde(skip)]
    version: i32,
}

/// What has become of the report of one period.
#[derive(Debug, Serialize, ToSchema)]
pub struct ReportDelivery {
    /// `2026-11`, `2026-W48`, `2026-11-28`; the moment where it begins, for the rest of a period in which the time zone was changed.
    pub name: String,
    pub period_start: DateTime<Utc>,
    /// Exclusive.
    pub period_end: DateTime<Utc>,
    /// `waiting`, `delivered` or `failed`.
    pub state: String,
    pub attempts: i32,
    /// Null where there is none any more.
    pub next_try_at: Option<DateTime<Utc>>,
    pub delivered_at: Option<DateTime<Utc>>,
    pub bytes: Option<i64>,
    /// Of its bytes, hexadecimal.
    pub sha256: Option<String>,
    /// Why the last try came to nothing, or what it waits for.
    pub error: Option<String>,
    /// How many calls and LLM requests of the period (of each, 1,000 at most) had not ended when the report was made: what they came to
    /// after that is in no report. Null until it is delivered.
    pub still_open: Option<i64>,
}

impl From<Schedule> for ReportSchedule {
    fn from(row: Schedule) -> Self {
        let Ask { group_by, key_id, team_id, tool_id, upstream_id, outcome, top } = row.ask.0;
        Self {
            id: row.report_schedule_id.into(),
            name: row.name,
            every: row.every,
            group_by,
            key_id,
            team_id,
            tool_id,
            upstream_id,
            outcome,
            top,
            format: row.format,
            destination: row.destination,
            webhook: row.webhook,
            enabled: row.enabled,
            next_period_start: row.next_start,
            next_due_at: row.enabled.then_some(row.due_at),
            last_deliveries: None,
            created_at: row.created_at,
            updated_at: row.updated_at,
            version: row.version,
        }
    }
}

impl From<Delivery> for ReportDelivery {
    fn from(row: Delivery) -> Self {
        Self {
            name: row.name,
            period_start: row.starts_at,
            period_end: row.ends_at,
            next_try_at: (row.state == "waiting").then_some(row.next_try_at),
            state: row.state,
            attempts: row.attempts,
            delivered_at: row.delivered_at,
            bytes: row.bytes,
            sha256: row.sha256.map(|hash| to_hex(&hash)),
            error: row.error,
            still_open: row.still_open,
        }
    }
}

impl Resource for ReportSchedule {
    fn tag(&self) -> Option<(String, i32)> {
        Some((self.id.to_string(), self.version))
    }
}

fn check(checks: &mut Checks, schedule: &Schedule) {
    checks.name("/name", &schedule.name);
    let mut of_query = Checks::default();
    dimensions(&mut of_query, &schedule.ask.group_by);
    for error in of_query.into_errors() {
        checks.refuse("/group_by", error.message);
    }
    let format = Format::parse(&schedule.format);
    checks.require(format.is_some(), "/format", FORMATS);
    checks.require(schedule.ask.top.is_none_or(|top| (1..=MAX_TOP).contains(&top)), "/top", "use a number from 1 to 1000");
    let whole = "a FOCUS data set has every row: use another format, or leave `top` out";
    checks.require(format != Some(Format::Focus) || schedule.ask.top.is_none(), "/top", whole);
}

/// Nothing but names of the operator's file: an address of the caller's choice could lie in the operator's network.
fn check_place(checks: &mut Checks, ctx: &Ctx, schedule: &Schedule) {
    let (destination, webhook) = (schedule.destination.as_deref(), schedule.webhook.as_deref());
    let one = destination.is_some() != webhook.is_some();
    checks.require(one, "/destination", "name a destination or a webhook, and not both");
    let known = destination.is_none_or(|name| ctx.app.config.destination(name).is_some());
    checks.require(known, "/destination", "use the name of an `[[audit.destination]]` in the operator's file");
    let known = webhook.is_none_or(|name| ctx.app.config.report_webhook(name).is_some());
    checks.require(known, "/webhook", "use the name of a `[[report.webhook]]` in the operator's file");
}

fn detail(schedule: &ReportSchedule) -> Value {
    json!({
        "name": schedule.name, "every": schedule.every, "group_by": schedule.group_by, "key_id": schedule.key_id,
        "team_id": schedule.team_id, "tool_id": schedule.tool_id, "upstream_id": schedule.upstream_id, "outcome": schedule.outcome,
        "top": schedule.top, "format": schedule.format, "destination": schedule.destination, "webhook": schedule.webhook,
        "enabled": schedule.enabled,
    })
}
