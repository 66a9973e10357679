//! Rows as sinks get them: byte by byte what the exports write of a call, and what the API shows of an admin event.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::Serialize;
use tollgate_domain::{Outcome, TenantId};
use tollgate_store::{calls::ToolCall, events, followers::Row};

use crate::{
    admin_events::AdminEvent,
    audit::formats::{Format, Unwritable},
};

/// Severities of RFC 5424.
const WARNING: u8 = 4;
const NOTICE: u8 = 5;
const INFORMATIONAL: u8 = 6;

/// One row, written.
#[derive(Debug)]
pub struct Message {
    pub position: u64,
    /// `tool_call` or `admin_event`.
    pub kind: &'static str,
    pub id: String,
    /// What ties it to other rows.
    pub request: Option<String>,
    pub severity: u8,
    pub at: DateTime<Utc>,
    /// JSON without line breaks.
    pub body: Bytes,
}

#[derive(Serialize)]
struct Event {
    #[serde(flatten)]
    event: AdminEvent,
    tenant_id: TenantId,
}

/// Write a row. A call that takes more than `largest` bytes goes without its arguments and result, and says so where its
/// format can.
///
/// # Errors
/// When a row does not fit its format: a defect of ours.
pub fn message(
    tenant: TenantId,
    (position, row): (u64, Row),
    format: Format,
    largest: Option<usize>,
) -> Result<Message, Unwritable> {
    match row {
        Row::Call(call) => tool_call(tenant, position, *call, format, largest),
        Row::Event(event) => admin_event(tenant, position, event),
    }
}

fn tool_call(
    tenant: TenantId,
    position: u64,
    call: ToolCall,
    format: Format,
    largest: Option<usize>,
) -> Result<Message, Unwritable> {
    let severity = match call.outcome {
        Some(Outcome::Denied) => WARNING,
        Some(outcome) if outcome.is_error() => NOTICE,
        _ => INFORMATIONAL,
    };
    let (id, request) = (call.id.to_string(), Some(call.llm_request_id.to_string()));
    let at = call.closed_at.unwrap_or(call.opened_at);
    let slim = largest.map(|largest| (largest, ToolCall { arguments: None, result: None, truncated: true, ..call.clone() }));
    let mut body = line(tenant, call, format)?;
    if let Some((_, slim)) = slim.filter(|(largest, _)| body.len() > *largest) {
        body = line(tenant, slim, format)?;
    }
    Ok(Message { position, kind: "tool_call", id, request, severity, at, body })
}

fn line(tenant: TenantId, call: ToolCall, format: Format) -> Result<Bytes, Unwritable> {
    let mut line = format.encoder(tenant)?.push(vec![call])?;
    line.truncate(line.trim_ascii_end().len());
    Ok(line)
}

fn admin_event(tenant: TenantId, position: u64, event: events::AdminEvent) -> Result<Message, Unwritable> {
    let severity = if event.action == "access.denied" { WARNING } else { NOTICE };
    let event = AdminEvent::from(event);
    let (id, request, at) = (event.id.to_string(), event.request_id.clone(), event.at);
    let body = serde_json::to_vec(&Event { event, tenant_id: tenant })?.into();
    Ok(Message { position, kind: "admin_event", id, request, severity, at, body })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::formats::fixtures::{full, tenant, written};

    #[test]
    fn a_call_is_written_as_the_exports_write_it() {
        for format in [Format::Ndjson, Format::Ocsf] {
            let row = || (7, Row::Call(Box::new(full(1))));
            let sent = message(tenant(), row(), format, None).unwrap();
            assert_eq!([&sent.body[..], b"\n"].concat(), written(format, vec![vec![full(1)]]));
            assert_eq!((sent.position, sent.kind, sent.severity), (7, "tool_call", NOTICE));
            assert_eq!(message(tenant(), row(), format, Some(1 << 16)).unwrap().body, sent.body, "it fits");
            let slim = message(tenant(), row(), format, Some(100)).unwrap().body;
            assert!(slim.len() < sent.body.len() && !slim.windows(7).any(|w| w == b"isError"));
            serde_json::from_slice::<serde_json::Value>(&slim).unwrap();
        }
    }
}
