//! The lines of the log: one per row of the audit trail, as canonical JSON. The bytes of a line are what its leaf hashes, so they
//! are made in one place, from the columns of the row alone, and anyone can check them with a hash function and nothing else.
//!
//! Canonical: fields in the order in which they stand here, no blanks, times in UTC to the microsecond, ids and hashes as text,
//! nothing left out but what is marked so. [`parse`] accepts no other spelling.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tollgate_domain::{
    AdminEventId, ApprovalId, CallId, KeyId, LlmRequestId, PriceId, ProviderId, ScriptRunId, TeamId, TenantId, ToolId,
    UpstreamId, WorkerId,
};
use uuid::Uuid;

use crate::{Hash, merkle};

/// What a line says of a payload that does not stand in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Commitment {
    /// SHA-256 over the salt and the original's bytes. Of an original that is not stored, over a secret and its bytes
    /// ([`crate::sign::KeyRing::blind`]): what was taken out shall not be found again by guessing.
    pub sha256: Hash,
    /// Left out where the original is what was stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept: Option<Kept>,
}

/// What was stored instead of an original.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kept {
    /// A copy from which the tenant's redaction rules had taken something: SHA-256 over the salt and its bytes.
    Redacted(Hash),
    /// Nothing: it was larger than the tenant keeps, or could not be redacted.
    Omitted,
}

impl Commitment {
    #[must_use]
    pub fn to(salt: &[u8], original: &[u8]) -> Self {
        Self { sha256: Hash::of(&[salt, original]), kept: None }
    }

    /// Whether these are the bytes that were stored.
    #[must_use]
    pub fn holds(&self, salt: &[u8], stored: &[u8]) -> bool {
        let hash = Hash::of(&[salt, stored]);
        match self.kept {
            None => hash == self.sha256,
            Some(Kept::Redacted(kept)) => hash == kept,
            Some(Kept::Omitted) => false,
        }
    }
}

/// The part of a row that a payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    Arguments,
    Result,
    Source,
    RunResult,
    RunLogs,
    RunError,
    Journal,
    Prompt,
    Answer,
}

impl Part {
    /// The number under which an erased part is kept; in the order of the parts.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    #[must_use]
    pub const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            0 => Self::Arguments,
            1 => Self::Result,
            2 => Self::Source,
            3 => Self::RunResult,
            4 => Self::RunLogs,
            5 => Self::RunError,
            6 => Self::Journal,
            7 => Self::Prompt,
            8 => Self::Answer,
            _ => return None,
        })
    }
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[expect(clippy::large_enum_variant, reason = "a line lives on the stack for as long as it takes to write it down")]
pub enum Line<'a> {
    #[serde(borrow)]
    LlmRequest(LlmRequest<'a>),
    LlmEnd(LlmEnd<'a>),
    LlmResolution(LlmEnd<'a>),
    ScriptStart(ScriptStart<'a>),
    CallIntent(CallIntent<'a>),
    CallCompletion(CallEnd<'a>),
    CallResolution(CallEnd<'a>),
    ScriptJournal(ScriptJournal),
    ScriptEnd(ScriptEnd<'a>),
    ScriptResolution(ScriptEnd<'a>),
    AdminEvent(AdminEvent<'a>),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LlmRequest<'a> {
    pub tenant_id: TenantId,
    pub id: LlmRequestId,
    #[serde(with = "crate::time")]
    pub at: DateTime<Utc>,
    pub key_id: KeyId,
    pub team_id: Option<TeamId>,
    #[serde(borrow)]
    pub origin: Cow<'a, str>,
    pub method: Cow<'a, str>,
    pub model: Option<Cow<'a, str>>,
    pub client: Option<Cow<'a, str>>,
    /// An estimate of what Code Mode kept out of one prompt. Left out where it was not used, as in lines of before there was this field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_tokens_avoided: Option<i64>,
    /// Of a request that came through the LLM door. Left out of any other, as in lines of before there was this field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forward: Option<Forward<'a>>,
}

/// What an LLM request has that was forwarded, or refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forward<'a> {
    pub root_id: LlmRequestId,
    pub turn: i32,
    #[serde(borrow)]
    pub mode: Cow<'a, str>,
    pub streaming: bool,
    pub worker_id: WorkerId,
    pub decision: Cow<'a, str>,
    pub reason: Option<Cow<'a, str>>,
    pub tools_offered: i32,
    pub tools_tokens: i64,
    pub quoted_picos: i64,
    pub currency: Cow<'a, str>,
    pub prompt: Commitment,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LlmEnd<'a> {
    pub tenant_id: TenantId,
    pub id: LlmRequestId,
    #[serde(with = "crate::time")]
    pub at: DateTime<Utc>,
    #[serde(borrow)]
    pub outcome: Cow<'a, str>,
    pub error: Option<Cow<'a, str>>,
    pub provider_id: Option<ProviderId>,
    pub provider_name: Option<Cow<'a, str>>,
    pub model_served: Option<Cow<'a, str>>,
    /// JSON text.
    pub attempts: Cow<'a, str>,
    pub usage: Cow<'a, str>,
    pub input_tokens: i64,
    pub cached_tokens: i64,
    pub cache_write_tokens: i64,
    pub output_tokens: i64,
    pub reasoning_tokens: i64,
    pub price: Option<Cow<'a, str>>,
    pub amount_picos: i64,
    pub latency_us: Option<i64>,
    pub first_token_us: Option<i64>,
    pub finish_reason: Option<Cow<'a, str>>,
    pub answer: Option<Commitment>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScriptStart<'a> {
    pub tenant_id: TenantId,
    pub id: ScriptRunId,
    #[serde(with = "crate::time")]
    pub at: DateTime<Utc>,
    pub llm_request_id: LlmRequestId,
    pub key_id: KeyId,
    pub team_id: Option<TeamId>,
    pub worker_id: WorkerId,
    #[serde(borrow)]
    pub engine: Cow<'a, str>,
    /// JSON text.
    pub limits: Cow<'a, str>,
    pub catalog_sha256: Hash,
    pub source: Commitment,
    /// The tool group by whose route it came in. Left out where there is none, as in lines of before there was this field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<Cow<'a, str>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CallIntent<'a> {
    pub tenant_id: TenantId,
    pub id: CallId,
    #[serde(with = "crate::time")]
    pub at: DateTime<Utc>,
    pub llm_request_id: LlmRequestId,
    #[serde(borrow)]
    pub origin: Cow<'a, str>,
    pub script_run_id: Option<ScriptRunId>,
    pub sequence: Option<i32>,
    pub key_id: KeyId,
    pub team_id: Option<TeamId>,
    pub upstream_id: Option<UpstreamId>,
    pub upstream_name: Option<Cow<'a, str>>,
    pub tool_id: Option<ToolId>,
    pub tool_name: Cow<'a, str>,
    pub definition_sha256: Option<Hash>,
    pub decision: Cow<'a, str>,
    pub reason: Option<Cow<'a, str>>,
    pub price_id: Option<PriceId>,
    pub quoted_picos: i64,
    pub currency: Cow<'a, str>,
    pub worker_id: WorkerId,
    pub arguments: Commitment,
    /// Of a call that was denied or held; what follows as well.
    pub outcome: Option<Cow<'a, str>>,
    pub error: Option<Cow<'a, str>>,
    pub latency_us: Option<i64>,
    pub amount_picos: Option<i64>,
    /// For which it was held, or under which it was made. Left out where there is none, as in lines of before there was this field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval_id: Option<ApprovalId>,
    /// What of the price applied: for what an amount is charged, and how much. Left out where there is none, as in lines of before
    /// there was this field; so are the next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit_picos: Option<i64>,
    /// Under a price by volume: the tier, from 1, and the call's number in the month.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<i16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call_number: Option<i64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CallEnd<'a> {
    pub tenant_id: TenantId,
    pub id: CallId,
    #[serde(with = "crate::time")]
    pub at: DateTime<Utc>,
    #[serde(borrow)]
    pub outcome: Cow<'a, str>,
    pub error: Option<Cow<'a, str>>,
    pub latency_us: Option<i64>,
    pub amount_picos: i64,
    pub result: Option<Commitment>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScriptJournal {
    pub tenant_id: TenantId,
    pub id: ScriptRunId,
    pub sequence: i32,
    /// Left out where the gateway answered by itself: the time, a random number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub call_id: Option<CallId>,
    pub entry: Commitment,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScriptEnd<'a> {
    pub tenant_id: TenantId,
    pub id: ScriptRunId,
    #[serde(with = "crate::time")]
    pub at: DateTime<Utc>,
    #[serde(borrow)]
    pub state: Cow<'a, str>,
    pub ticks: Option<i64>,
    pub result: Option<Commitment>,
    pub logs: Option<Commitment>,
    pub error: Option<Commitment>,
    /// The tools that its text shows, as JSON text. Left out where none is known, as in lines of before there was this field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub may_call: Option<Cow<'a, str>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdminEvent<'a> {
    /// The nil id for what belongs to the whole installation.
    pub tenant_id: TenantId,
    pub id: AdminEventId,
    #[serde(with = "crate::time")]
    pub at: DateTime<Utc>,
    #[serde(borrow)]
    pub actor_kind: Cow<'a, str>,
    pub actor_id: Cow<'a, str>,
    pub role: Option<Cow<'a, str>>,
    pub action: Cow<'a, str>,
    pub target_id: Cow<'a, str>,
    /// JSON text after RFC 8785.
    pub detail: Cow<'a, str>,
    pub request_id: Option<Cow<'a, str>>,
}

/// Which row a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    pub kind: Kind,
    pub id: Uuid,
    /// Of a journal line; otherwise 0.
    pub sequence: u32,
}

macro_rules! kinds {
    ($($name:ident = $code:literal,)+) => {
        /// The kinds of lines, by the number under which they are kept.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Kind { $($name = $code,)+ }
        impl Kind {
            #[must_use]
            pub const fn code(self) -> u8 { self as u8 }
            #[must_use]
            pub const fn from_code(code: u8) -> Option<Self> { match code { $($code => Some(Self::$name),)+ _ => None } }
        }
    };
}
kinds! {
    LlmRequest = 1, ScriptStart = 2, CallIntent = 3, CallCompletion = 4, CallResolution = 5, ScriptJournal = 6, ScriptEnd = 7,
    ScriptResolution = 8, AdminEvent = 9, LlmEnd = 10, LlmResolution = 11,
}

impl Line<'_> {
    /// The bytes of the line, without a line break.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(1024);
        // Text keys, integers and strings: it cannot fail.
        let _ = serde_json::to_writer(&mut bytes, self);
        bytes
    }

    #[must_use]
    pub fn leaf(&self) -> Hash {
        merkle::leaf(&self.bytes())
    }

    #[must_use]
    pub fn tenant(&self) -> TenantId {
        match self {
            Self::LlmRequest(l) => l.tenant_id,
            Self::LlmEnd(l) | Self::LlmResolution(l) => l.tenant_id,
            Self::ScriptStart(l) => l.tenant_id,
            Self::CallIntent(l) => l.tenant_id,
            Self::CallCompletion(l) | Self::CallResolution(l) => l.tenant_id,
            Self::ScriptJournal(l) => l.tenant_id,
            Self::ScriptEnd(l) | Self::ScriptResolution(l) => l.tenant_id,
            Self::AdminEvent(l) => l.tenant_id,
        }
    }

    #[must_use]
    pub fn place(&self) -> Place {
        let (kind, id) = match self {
            Self::LlmRequest(l) => (Kind::LlmRequest, l.id.uuid()),
            Self::LlmEnd(l) => (Kind::LlmEnd, l.id.uuid()),
            Self::LlmResolution(l) => (Kind::LlmResolution, l.id.uuid()),
            Self::ScriptStart(l) => (Kind::ScriptStart, l.id.uuid()),
            Self::CallIntent(l) => (Kind::CallIntent, l.id.uuid()),
            Self::CallCompletion(l) => (Kind::CallCompletion, l.id.uuid()),
            Self::CallResolution(l) => (Kind::CallResolution, l.id.uuid()),
            Self::ScriptJournal(l) => (Kind::ScriptJournal, l.id.uuid()),
            Self::ScriptEnd(l) => (Kind::ScriptEnd, l.id.uuid()),
            Self::ScriptResolution(l) => (Kind::ScriptResolution, l.id.uuid()),
            Self::AdminEvent(l) => (Kind::AdminEvent, l.id.uuid()),
        };
        let sequence = match self {
            Self::ScriptJournal(l) => u32::try_from(l.sequence).unwrap_or(0),
            _ => 0,
        };
        Place { kind, id, sequence }
    }

    /// How people name the row.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::LlmRequest(l) => l.id.to_string(),
            Self::LlmEnd(l) => format!("{} (end)", l.id),
            Self::LlmResolution(l) => format!("{} (resolution)", l.id),
            Self::ScriptStart(l) => format!("{} (start)", l.id),
            Self::CallIntent(l) => format!("{} (intent)", l.id),
            Self::CallCompletion(l) => format!("{} (completion)", l.id),
            Self::CallResolution(l) => format!("{} (resolution)", l.id),
            Self::ScriptJournal(l) => format!("{} (journal, call {})", l.id, l.sequence),
            Self::ScriptEnd(l) => format!("{} (end)", l.id),
            Self::ScriptResolution(l) => format!("{} (resolution)", l.id),
            Self::AdminEvent(l) => l.id.to_string(),
        }
    }

    /// The payloads that the line commits to.
    #[must_use]
    pub fn commitments(&self) -> Vec<(Part, Commitment)> {
        let all: [(Part, Option<Commitment>); 3] = match self {
            Self::ScriptStart(l) => return vec![(Part::Source, l.source)],
            Self::CallIntent(l) => return vec![(Part::Arguments, l.arguments)],
            Self::ScriptJournal(l) => return vec![(Part::Journal, l.entry)],
            Self::CallCompletion(l) | Self::CallResolution(l) => {
                return l.result.map(|c| (Part::Result, c)).into_iter().collect();
            }
            Self::ScriptEnd(l) | Self::ScriptResolution(l) => {
                [(Part::RunResult, l.result), (Part::RunLogs, l.logs), (Part::RunError, l.error)]
            }
            Self::LlmRequest(l) => return l.forward.iter().map(|forward| (Part::Prompt, forward.prompt)).collect(),
            Self::LlmEnd(l) | Self::LlmResolution(l) => return l.answer.map(|c| (Part::Answer, c)).into_iter().collect(),
            Self::AdminEvent(_) => return Vec::new(),
        };
        all.into_iter().filter_map(|(part, commitment)| Some((part, commitment?))).collect()
    }
}

/// Read a line; `None` unless it is in canonical form, byte by byte.
#[must_use]
pub fn parse(bytes: &[u8]) -> Option<Line<'_>> {
    let line: Line<'_> = serde_json::from_slice(bytes).ok()?;
    (line.bytes() == bytes).then_some(line)
}

/// The text of an admin event's detail.
#[must_use]
pub fn canonical(detail: &serde_json::Value) -> String {
    // Fails for numbers that are not finite, which a JSON value does not hold.
    serde_json_canonicalizer::to_string(detail).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> Line<'static> {
        let at = DateTime::from_timestamp_micros(1_700_000_000_123_456).unwrap();
        Line::CallCompletion(CallEnd {
            tenant_id: TenantId::from_uuid(Uuid::from_u128(1)),
            id: CallId::from_uuid(Uuid::from_u128(2)),
            at,
            outcome: "ok".into(),
            error: Some("żó\"ł\n".into()),
            latency_us: Some(5),
            amount_picos: -7,
            result: Some(Commitment { sha256: Hash([3; 32]), kept: Some(Kept::Redacted(Hash([4; 32]))) }),
        })
    }

    #[test]
    fn a_line_is_what_it_was_and_has_one_spelling() {
        let bytes = line().bytes();
        assert_eq!(
            String::from_utf8(bytes.clone()).unwrap(),
            r#"{"type":"call_completion","tenant_id":"ten_00000000000000000000000001","id":"call_00000000000000000000000002","at":"2023-11-14T22:13:20.123456Z","outcome":"ok","error":"żó\"ł\n","latency_us":5,"amount_picos":-7,"result":{"sha256":"0303030303030303030303030303030303030303030303030303030303030303","kept":{"redacted":"0404040404040404040404040404040404040404040404040404040404040404"}}}"#,
            "this is what signatures cover: it may never change"
        );
        assert_eq!(parse(&bytes), Some(line()));
        let text = String::from_utf8(bytes).unwrap();
        for other in [
            text.replace("\"ok\"", "\"\\u006fk\""),
            text.replace(":5,", ":5.0,"),
            text.replace(",\"outcome\"", ", \"outcome\""),
            text.replace("\"latency_us\":5,", "\"latency_us\":5,\"more\":1,"),
            text.replace(".123456Z", ".123456000Z"),
            text.replace(".123456Z", ".1234567Z"),
            text.replace(".123456Z", ".123456+00:00"),
            text.replace("\"latency_us\":5,\"amount_picos\":-7", "\"amount_picos\":-7,\"latency_us\":5"),
        ] {
            assert_ne!(other, text);
            assert_eq!(parse(other.as_bytes()), None, "{other}");
        }
    }

    /// What was signed before there were these fields can be read as it is, and is written so where there is no price.
    #[test]
    fn a_beginning_of_before_has_the_spelling_of_before() {
        let old = r#"{"type":"call_intent","tenant_id":"ten_00000000000000000000000001","id":"call_00000000000000000000000002","at":"2023-11-14T22:13:20.123456Z","llm_request_id":"req_00000000000000000000000003","origin":"minted","script_run_id":null,"sequence":null,"key_id":"vk_00000000000000000000000004","team_id":null,"upstream_id":null,"upstream_name":null,"tool_id":null,"tool_name":"t","definition_sha256":null,"decision":"permitted","reason":null,"price_id":null,"quoted_picos":7,"currency":"USD","worker_id":"wkr_00000000000000000000000005","arguments":{"sha256":"0303030303030303030303030303030303030303030303030303030303030303"},"outcome":null,"error":null,"latency_us":null,"amount_picos":null}"#;
        let Some(Line::CallIntent(line)) = parse(old.as_bytes()) else { panic!("it cannot be read") };
        assert_eq!((line.unit.as_deref(), line.unit_picos, line.tier, line.call_number), (None, None, None, None));
        let new = CallIntent { unit: Some("kb".into()), unit_picos: Some(3), tier: Some(2), call_number: Some(1_001), ..line };
        let bytes = Line::CallIntent(new.clone()).bytes();
        let start = old.strip_suffix('}').unwrap();
        let wanted = format!(r#"{start},"unit":"kb","unit_picos":3,"tier":2,"call_number":1001}}"#);
        assert_eq!(String::from_utf8(bytes.clone()).unwrap(), wanted);
        assert_eq!(parse(&bytes), Some(Line::CallIntent(new)));
    }

    #[test]
    fn a_part_is_kept_under_its_number() {
        let codes: Vec<u8> = (0..=u8::MAX).filter_map(Part::from_code).map(Part::code).collect();
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn a_payload_is_held_by_its_salt_and_bytes() {
        let whole = Commitment::to(b"salt", b"body");
        assert!(whole.holds(b"salt", b"body") && !whole.holds(b"sal", b"tbodx") && !whole.holds(b"salt", b"other"));
        let redacted = Commitment { kept: Some(Kept::Redacted(Hash::of(&[b"salt", b"[x]"]))), ..whole };
        assert!(redacted.holds(b"salt", b"[x]") && !redacted.holds(b"salt", b"body"));
        assert!(!Commitment { kept: Some(Kept::Omitted), ..whole }.holds(b"salt", b"body"));
    }
}
