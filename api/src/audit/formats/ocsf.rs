//! OCSF 1.9.0: each tool call is an API Activity event (class 6003), one JSON object a line.
//!
//! What the class requires, and where it comes from:
//!
//! | attribute | from |
//! |---|---|
//! | `class_uid`, `category_uid` | 6003, 6 |
//! | `activity_id`, `type_uid` | 99, 600399: a tool does not tell whether it reads or writes; the name of the activity is "Call" |
//! | `time` | `opened_at`; its microseconds are in `metadata.original_time` |
//! | `severity_id` | the outcome, see [`severity`] |
//! | `metadata.version`, `metadata.product` | 1.9.0; the gateway |
//! | `actor` | the virtual key as `user`, its team as a group of that user |
//! | `api.operation`, `api.request.uid` | `tool_name`; `llm_request_id` |
//! | `src_endpoint` | the id of the virtual key: it is all that is known about where a call came from |
//!
//! `cloud` and `osint` are required by profiles of these names alone; `metadata.profiles` says that none is used. Arguments and
//! result are `api.request.data` and `api.response.data`, verbatim. What has no place in the class is under `unmapped`, by the
//! name it has in the other formats: no field of a row is lost. An attribute is left out where the field is null.

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use serde_json::value::RawValue;
use tollgate_domain::{
    CallId, Decision, KeyId, LlmRequestId, Origin, Outcome, Picos, PriceId, ScriptRunId, TeamId, ToolId, UpstreamId, price::Unit,
    tool::DefinitionHash,
};
use tollgate_store::calls;

use super::{Encoder, Unwritable, ndjson::line};
use crate::tool_calls::ToolCall;

pub struct Events {
    tenant: String,
}

/// A number of an enumeration and the caption that the schema gives it.
type Level = (u8, &'static str);

#[derive(Serialize)]
struct Event<'a> {
    activity_id: u8,
    activity_name: &'static str,
    category_uid: u32,
    category_name: &'static str,
    class_uid: u32,
    class_name: &'static str,
    type_uid: u32,
    type_name: &'static str,
    time: i64,
    start_time: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_time: Option<i64>,
    /// In milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    duration: Option<i64>,
    severity_id: u8,
    severity: &'static str,
    status_id: u8,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    status_code: Option<Outcome>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status_detail: Option<&'a str>,
    metadata: Metadata<'a>,
    actor: Actor,
    api: Api<'a>,
    src_endpoint: Source,
    #[serde(skip_serializing_if = "Option::is_none")]
    dst_endpoint: Option<Service<'a>>,
    resources: [Resource<'a>; 1],
    unmapped: Unmapped<'a>,
}

#[derive(Serialize)]
struct Metadata<'a> {
    version: &'static str,
    product: Product,
    uid: CallId,
    /// What ties together the calls of one request.
    correlation_uid: LlmRequestId,
    tenant_uid: &'a str,
    original_time: String,
    profiles: [&'static str; 0],
}

#[derive(Serialize)]
struct Product {
    name: &'static str,
    vendor_name: &'static str,
    version: &'static str,
}

#[derive(Serialize)]
struct Actor {
    user: User,
}

#[derive(Serialize)]
struct User {
    uid: KeyId,
    type_id: u8,
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    groups: Option<[Group; 1]>,
}

#[derive(Serialize)]
struct Group {
    uid: TeamId,
    #[serde(rename = "type")]
    kind: &'static str,
}

#[derive(Serialize)]
struct Api<'a> {
    operation: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<Service<'a>>,
    request: Request<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response: Option<Response<'a>>,
}

/// An upstream: as the service, and as the endpoint that it is reached at.
#[derive(Clone, Copy, Serialize)]
struct Service<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<UpstreamId>,
}

#[derive(Serialize)]
struct Request<'a> {
    uid: LlmRequestId,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
}

#[derive(Serialize)]
struct Response<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Outcome>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_message: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
}

#[derive(Serialize)]
struct Source {
    name: KeyId,
}

#[derive(Serialize)]
struct Resource<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<ToolId>,
    #[serde(rename = "type")]
    kind: &'static str,
}

#[derive(Serialize)]
struct Unmapped<'a> {
    decision: Decision,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    origin: Origin,
    #[serde(skip_serializing_if = "Option::is_none")]
    script_run_id: Option<ScriptRunId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sequence: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    definition_sha256: Option<DefinitionHash>,
    #[serde(skip_serializing_if = "Option::is_none")]
    arguments_form: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result_form: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    closed_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_us: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    price_id: Option<PriceId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<Unit>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unit_amount: Option<Picos>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tier: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    call_number: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    amount: Option<Picos>,
    #[serde(skip_serializing_if = "Option::is_none")]
    currency: Option<&'a str>,
}

impl Events {
    #[must_use]
    pub const fn new(tenant: String) -> Self {
        Self { tenant }
    }
}

impl Encoder for Events {
    fn push(&mut self, calls: Vec<calls::ToolCall>) -> Result<Bytes, Unwritable> {
        let mut lines = Vec::new();
        for call in calls {
            line(&mut lines, &event(&ToolCall::from(call), &self.tenant))?;
        }
        Ok(lines.into())
    }
}

fn event<'a>(call: &'a ToolCall, tenant: &'a str) -> Event<'a> {
    let (severity_id, severity) = severity(call.outcome);
    let (status_id, status) = status(call.outcome);
    let upstream = Service { name: call.upstream_name.as_deref(), uid: call.upstream_id };
    let upstream = (upstream.name.is_some() || upstream.uid.is_some()).then_some(upstream);
    Event {
        activity_id: 99,
        activity_name: "Call",
        category_uid: 6,
        category_name: "Application Activity",
        class_uid: 6003,
        class_name: "API Activity",
        type_uid: 6003 * 100 + 99,
        type_name: "API Activity: Other",
        time: call.opened_at.timestamp_millis(),
        start_time: call.opened_at.timestamp_millis(),
        end_time: call.closed_at.map(|at| at.timestamp_millis()),
        duration: call.latency_us.map(|micros| micros / 1000),
        severity_id,
        severity,
        status_id,
        status,
        status_code: call.outcome,
        status_detail: call.reason.as_deref(),
        metadata: metadata(call, tenant),
        actor: actor(call),
        api: api(call, upstream),
        src_endpoint: Source { name: call.key_id },
        dst_endpoint: upstream,
        resources: [Resource { name: &call.tool_name, uid: call.tool_id, kind: "Tool" }],
        unmapped: unmapped(call),
    }
}

/// A refusal is looked at first, what went wrong after it; the rest is for the record.
const fn severity(outcome: Option<Outcome>) -> Level {
    match outcome {
        None | Some(Outcome::Ok | Outcome::Held | Outcome::Cancelled) => (1, "Informational"),
        Some(Outcome::ToolError | Outcome::UpstreamError | Outcome::Timeout | Outcome::Unknown) => (2, "Low"),
        Some(Outcome::Denied) => (3, "Medium"),
    }
}

const fn status(outcome: Option<Outcome>) -> Level {
    match outcome {
        // Still open, or nobody knows what became of it.
        None | Some(Outcome::Unknown) => (0, "Unknown"),
        Some(Outcome::Ok) => (1, "Success"),
        Some(Outcome::ToolError | Outcome::UpstreamError | Outcome::Timeout | Outcome::Cancelled | Outcome::Denied) => {
            (2, "Failure")
        }
        Some(Outcome::Held) => (99, "Held"),
    }
}

fn metadata<'a>(call: &ToolCall, tenant: &'a str) -> Metadata<'a> {
    Metadata {
        version: "1.9.0",
        product: Product { name: "Tollgate", vendor_name: "Tollgate", version: env!("CARGO_PKG_VERSION") },
        uid: call.id,
        correlation_uid: call.llm_request_id,
        tenant_uid: tenant,
        original_time: shown(call.opened_at),
        profiles: [],
    }
}

fn actor(call: &ToolCall) -> Actor {
    let groups = call.team_id.map(|uid| [Group { uid, kind: "Team" }]);
    // 99: none of the kinds of account that the schema knows.
    Actor { user: User { uid: call.key_id, type_id: 99, kind: "Virtual Key", groups } }
}

fn api<'a>(call: &'a ToolCall, service: Option<Service<'a>>) -> Api<'a> {
    let response = Response {
        error: call.outcome.filter(|outcome| outcome.is_error()),
        error_message: call.error.as_deref(),
        data: call.result.as_deref(),
    };
    let said = response.error.is_some() || response.error_message.is_some() || response.data.is_some();
    Api {
        operation: &call.tool_name,
        service,
        request: Request { uid: call.llm_request_id, data: call.arguments.as_deref() },
        response: said.then_some(response),
    }
}

fn unmapped(call: &ToolCall) -> Unmapped<'_> {
    Unmapped {
        decision: call.decision,
        reason: call.reason.as_deref(),
        origin: call.origin,
        script_run_id: call.script_run_id,
        sequence: call.sequence,
        definition_sha256: call.definition_sha256,
        arguments_form: call.arguments_form,
        result_form: call.result_form,
        closed_at: call.closed_at.map(shown),
        latency_us: call.latency_us,
        price_id: call.price_id,
        unit: call.unit,
        unit_amount: call.unit_amount,
        tier: call.tier,
        call_number: call.call_number,
        amount: call.amount,
        currency: call.currency.as_deref(),
    }
}

fn shown(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            COLUMNS, Format,
            fixtures::{bare, full, written},
        },
        *,
    };
    use serde_json::Value;

    fn lines(format: Format, calls: Vec<calls::ToolCall>) -> Vec<Value> {
        let file = String::from_utf8(written(format, vec![calls])).unwrap();
        file.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn events(calls: Vec<calls::ToolCall>) -> Vec<Value> {
        lines(Format::Ocsf, calls)
    }

    #[test]
    fn an_event_is_one_line_and_verbatim() {
        let file = String::from_utf8(written(Format::Ocsf, vec![vec![full(1), bare(2)]])).unwrap();
        assert_eq!(file.lines().count(), 2);
        assert!(file.contains(r#""data":{   "b": 1.0,    "a": "x\ny", "b": 2 }"#), "{file}");
    }

    #[test]
    fn what_an_event_looks_like() {
        insta::assert_json_snapshot!(events(vec![full(1), bare(2)]), { "[].metadata.product.version" => "[version]" });
    }

    #[test]
    fn what_the_class_requires_is_there_even_where_a_row_has_the_least() {
        for event in events(vec![full(1), bare(2)]) {
            for required in [
                "/activity_id",
                "/actor/user/uid",
                "/api/operation",
                "/api/request/uid",
                "/category_uid",
                "/class_uid",
                "/metadata/product/name",
                "/metadata/version",
                "/severity_id",
                "/src_endpoint/name",
                "/time",
                "/type_uid",
            ] {
                assert!(event.pointer(required).is_some_and(|value| !value.is_null()), "{required} of {event}");
            }
            // "At least one of name and uid", wherever one of these objects stands.
            for named in ["/api/service", "/dst_endpoint", "/resources/0"] {
                let one = |object: &Value| object.get("name").or(object.get("uid")).is_some();
                assert!(event.pointer(named).is_none_or(one), "{named} of {event}");
            }
            assert_eq!(event["type_uid"], 600_399);
            assert!(!event.to_string().contains("null"), "an attribute without a value is left out: {event}");
        }
    }

    #[test]
    fn no_field_of_a_row_is_lost() {
        fn holds(value: &Value, wanted: &Value) -> bool {
            value == wanted
                || match value {
                    Value::Array(values) => values.iter().any(|value| holds(value, wanted)),
                    Value::Object(values) => values.values().any(|value| holds(value, wanted)),
                    _ => false,
                }
        }
        let (event, row) = (&events(vec![full(1)])[0], &lines(Format::Ndjson, vec![full(1)])[0]);
        for column in COLUMNS {
            assert!(!row[column].is_null() && holds(event, &row[column]), "{column} of {event}");
        }
    }

    #[test]
    fn outcomes_have_their_status_and_severity() {
        let told = |outcome| {
            let event = &events(vec![calls::ToolCall { outcome, ..bare(1) }])[0];
            let number = |name: &str| event[name].as_u64().unwrap();
            (
                number("status_id"),
                number("severity_id"),
                event["status"].as_str().unwrap().to_owned(),
                event["status_code"].clone(),
            )
        };
        assert_eq!(told(None), (0, 1, "Unknown".into(), Value::Null));
        for &outcome in Outcome::ALL {
            let (status, severity, caption, code) = told(Some(outcome));
            assert_eq!(code, outcome.as_str());
            assert_eq!(status == 2, outcome.is_error() && outcome != Outcome::Unknown, "{outcome}");
            assert_eq!(status == 1, outcome == Outcome::Ok);
            assert_eq!(severity == 3, outcome == Outcome::Denied);
            assert_eq!(caption == "Held", outcome == Outcome::Held);
        }
    }
}
