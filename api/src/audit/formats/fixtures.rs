//! Rows for the tests of the formats: one that has every field, one that has the least.

use chrono::{DateTime, TimeDelta, Utc};
use tollgate_domain::{
    CallId, Currency, Decision, KeyId, LlmRequestId, Origin, Outcome, Picos, PriceId, ScriptRunId, TeamId, TenantId, ToolId,
    UpstreamId,
    price::{Applied, Unit, Volume},
    tool::DefinitionHash,
};
use tollgate_store::calls::{Form, ToolCall};
use uuid::Uuid;

use super::Format;

fn uuid(kind: u128, n: u128) -> Uuid {
    Uuid::from_u128(kind << 64 | n)
}

pub fn tenant() -> TenantId {
    TenantId::from_uuid(uuid(1, 1))
}

pub fn opened() -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000, 123_456_000).unwrap()
}

/// An open call: whatever may be null is.
pub fn bare(n: u128) -> ToolCall {
    ToolCall {
        id: CallId::from_uuid(uuid(2, n)),
        llm_request_id: LlmRequestId::from_uuid(uuid(3, n)),
        script_run_id: None,
        sequence: None,
        origin: Origin::Minted,
        key_id: KeyId::from_uuid(uuid(4, 1)),
        team_id: None,
        upstream_id: None,
        upstream_name: None,
        tool_id: None,
        tool_name: "ghost".into(),
        definition_sha256: None,
        decision: Decision::Permitted,
        reason: None,
        approval_id: None,
        outcome: None,
        arguments: None,
        arguments_form: None,
        result: None,
        result_form: None,
        truncated: false,
        error: None,
        opened_at: opened(),
        closed_at: None,
        latency_us: None,
        price_id: None,
        applied: None,
        amount: None,
        currency: None,
        credited: None,
    }
}

/// A call that has everything, each value of its own.
pub fn full(n: u128) -> ToolCall {
    ToolCall {
        script_run_id: Some(ScriptRunId::from_uuid(uuid(5, 1))),
        sequence: Some(7),
        team_id: Some(TeamId::from_uuid(uuid(6, 1))),
        upstream_id: Some(UpstreamId::from_uuid(uuid(7, 1))),
        upstream_name: Some("github".into()),
        tool_id: Some(ToolId::from_uuid(uuid(8, 1))),
        tool_name: "create_issue".into(),
        definition_sha256: Some(DefinitionHash([0xab; 32])),
        reason: Some("a reason".into()),
        approval_id: None,
        outcome: Some(Outcome::ToolError),
        arguments: Some("{\n  \"b\": 1.0,\r\n  \"a\": \"x\\ny\", \"b\": 2 }".into()),
        arguments_form: Some(Form::Redacted),
        result: Some(r#"{"isError":true,"content":[]}"#.into()),
        result_form: Some(Form::Erased),
        error: Some("it broke".into()),
        closed_at: Some(opened() + TimeDelta::microseconds(65_432)),
        latency_us: Some(65_431),
        price_id: Some(PriceId::from_uuid(uuid(9, 1))),
        applied: Some(Applied { unit: Unit::Kb, amount: Picos(1_500), volume: Some(Volume { call: 1_001, tier: 2 }) }),
        amount: Some(Picos(2_000_000_001)),
        currency: Some(Currency::USD),
        ..bare(n)
    }
}

/// A whole file.
pub fn written(format: Format, chunks: Vec<Vec<ToolCall>>) -> Vec<u8> {
    let mut encoder = format.encoder(tenant()).unwrap();
    let mut file = encoder.begin().unwrap().to_vec();
    for chunk in chunks {
        file.extend(encoder.push(chunk).unwrap());
    }
    file.extend(encoder.finish().unwrap());
    file
}
