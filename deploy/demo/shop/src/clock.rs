//! Four classic tools about time, as plain as they come: what a model calls one by one rather than from a script.

use chrono::{DateTime, FixedOffset, NaiveDate, SecondsFormat, Utc};
use rmcp::{Json, ServerHandler, handler::server::wrapper::Parameters, tool, tool_handler, tool_router};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone)]
pub struct Clock;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InZone {
    /// RFC 3339, like `2026-03-01T12:00:00Z`; now where not given.
    time: Option<String>,
    /// Minutes east of Greenwich: 60 for Berlin in winter, -300 for New York in winter.
    #[schemars(range(min = -840, max = 840))]
    offset_minutes: i32,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DaysBetween {
    /// Like `2026-03-01`.
    from: String,
    /// Like `2026-03-31`; the answer is negative where it lies before `from`.
    to: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Echo {
    text: String,
}

#[derive(Debug, Serialize, JsonSchema)]
pub struct Time {
    /// RFC 3339.
    time: String,
    /// Seconds since 1970.
    unix: i64,
}

#[derive(Debug, Serialize, JsonSchema)]
pub struct Days {
    days: i64,
}

#[tool_router]
impl Clock {
    /// The time right now, in UTC.
    #[tool(annotations(title = "Now", read_only_hint = true, open_world_hint = false))]
    fn now(&self) -> Json<Time> {
        Json(show(now().fixed_offset()))
    }

    /// A time (or now) as clocks show it at the given offset from UTC.
    #[tool(annotations(title = "Time at an offset", read_only_hint = true, open_world_hint = false))]
    fn time_at_offset(&self, Parameters(ask): Parameters<InZone>) -> Result<Json<Time>, String> {
        let time = match &ask.time {
            Some(text) => DateTime::parse_from_rfc3339(text)
                .map_err(|error| format!("time {text:?} is not RFC 3339 ({error}); write 2026-03-01T12:00:00Z"))?,
            None => now().fixed_offset(),
        };
        let offset = ask.offset_minutes.checked_mul(60).filter(|seconds| seconds.abs() <= 14 * 3600);
        match offset.and_then(FixedOffset::east_opt) {
            Some(offset) => Ok(Json(show(time.with_timezone(&offset)))),
            None => Err(format!("offset_minutes must be between -840 and 840, not {}", ask.offset_minutes)),
        }
    }

    /// How many days lie between two dates.
    #[tool(annotations(title = "Days between", read_only_hint = true, open_world_hint = false))]
    fn days_between(&self, Parameters(ask): Parameters<DaysBetween>) -> Result<Json<Days>, String> {
        let date =
            |text: &str| text.parse::<NaiveDate>().map_err(|error| format!("{text:?} is not a date ({error}); write 2026-03-01"));
        Ok(Json(Days { days: (date(&ask.to)? - date(&ask.from)?).num_days() }))
    }

    /// Answers the text it was given.
    #[tool(annotations(title = "Echo", read_only_hint = true, open_world_hint = false))]
    fn echo(&self, Parameters(ask): Parameters<Echo>) -> String {
        ask.text
    }
}

#[tool_handler(name = "tollgate-demo-clock")]
impl ServerHandler for Clock {}

#[expect(clippy::disallowed_methods, reason = "telling the time is what this program is for")]
fn now() -> DateTime<Utc> {
    Utc::now()
}

fn show(time: DateTime<FixedOffset>) -> Time {
    Time { time: time.to_rfc3339_opts(SecondsFormat::Secs, true), unix: time.timestamp() }
}
