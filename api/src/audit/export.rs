use std::io;

use axum::{
    body::Body,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use futures::{Stream, stream};
use serde::Deserialize;
use serde_json::{json, value::RawValue};
use tokio::sync::mpsc;
use tollgate_domain::{KeyId, Outcome, TeamId, ToolId, UpstreamId};
use tollgate_store::{
    calls::{self, CallFilter},
    export::{self, Chunk},
};
use utoipa::IntoParams;

use super::csv::Rows;
use crate::{
    check::Checks,
    ctx::Ctx,
    page::Query,
    problem::{Answer, Kind, Problem},
    tool_calls::ToolCall,
};

/// Chunks between the database and the client. Each holds about 256 KiB, or one call that is larger: this bounds the
/// memory of an export, however long it is.
const CHUNKS: usize = 2;

const FORMATS: &str = "This release writes \"ndjson\" and \"csv\".";

/// In the order of the file.
const COLUMNS: [&str; 25] = [
    "id",
    "llm_request_id",
    "script_run_id",
    "sequence",
    "origin",
    "key_id",
    "team_id",
    "upstream_id",
    "upstream_name",
    "tool_id",
    "tool_name",
    "definition_sha256",
    "decision",
    "reason",
    "outcome",
    "arguments",
    "result",
    "error",
    "opened_at",
    "closed_at",
    "latency_us",
    "price_id",
    "amount",
    "currency",
    "tenant_id",
];

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ExportQuery {
    /// Calls opened at this time or later; from the first one when left out.
    pub from: Option<DateTime<Utc>>,
    /// Calls opened before this time; up to the last one when left out.
    pub to: Option<DateTime<Utc>>,
    /// `ndjson` (when left out) or `csv`.
    pub format: Option<String>,
    #[param(value_type = Option<String>)]
    pub key_id: Option<KeyId>,
    #[param(value_type = Option<String>)]
    pub team_id: Option<TeamId>,
    #[param(value_type = Option<String>)]
    pub tool_id: Option<ToolId>,
    #[param(value_type = Option<String>)]
    pub upstream_id: Option<UpstreamId>,
    /// `ok`, `tool_error`, `upstream_error`, `timeout`, `cancelled`, `denied`, `held` or `unknown`.
    #[param(value_type = Option<String>)]
    pub outcome: Option<Outcome>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Ndjson,
    Csv,
}

impl Format {
    const fn name(self) -> &'static str {
        match self {
            Self::Ndjson => "ndjson",
            Self::Csv => "csv",
        }
    }

    const fn content_type(self) -> &'static str {
        match self {
            Self::Ndjson => "application/x-ndjson",
            Self::Csv => "text/csv; charset=utf-8; header=present",
        }
    }
}

/// Export the tool calls, oldest first, with arguments and results.
///
/// The rows are those of one moment, the start of the export, and have the fields of a tool call and the tenant's id. NDJSON
/// holds arguments and results as they were; in CSV they are JSON text, and a cell that a spreadsheet would run as a formula
/// begins with an apostrophe. An export that cannot be finished is broken off, never ended: a transfer that ends in order is
/// whole. It leaves an admin event.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant_id}/audit/export", params(ExportQuery),
    responses((status = 200, description = "The rows.", content((String = "application/x-ndjson"), (String = "text/csv"))))
)]
pub async fn handle(ctx: Ctx, Query(asked): Query<ExportQuery>) -> Answer {
    let format = match asked.format.as_deref() {
        None | Some("ndjson") => Format::Ndjson,
        Some("csv") => Format::Csv,
        Some(_) => return Err(Problem::because(Kind::UnsupportedFormat, FORMATS).into()),
    };
    let mut checks = Checks::default();
    checks.require(asked.from.zip(asked.to).is_none_or(|(from, to)| from <= to), "?from", "use a time before `to`");
    checks.done()?;
    let ExportQuery { from, to, key_id, team_id, tool_id, upstream_id, outcome, .. } = asked;
    let detail = json!({
        "format": format.name(), "from": from, "to": to, "key_id": key_id, "team_id": team_id, "tool_id": tool_id,
        "upstream_id": upstream_id, "outcome": outcome,
    });
    let filter = CallFilter { from, to, key_id, team_id, tool_id, upstream_id, outcome, ..CallFilter::default() };

    let change = ctx.app.store.change(ctx.tenant, ctx.actor(), ctx.now).await?;
    export::announce(change, &ctx.tenant, detail).await?;
    let export = export::open(&ctx.app.store, ctx.tenant, filter).await?;
    let (out, chunks) = mpsc::channel(CHUNKS);
    tokio::spawn(export.run(out));
    let body = Body::from_stream(encoded(chunks, format, ctx.tenant.to_string())?);
    Ok(answer(&ctx, format, body))
}

fn answer(ctx: &Ctx, format: Format, body: Body) -> Response {
    let name = format!("tool-calls-{}-{}.{}", ctx.tenant, ctx.now.format("%Y%m%dT%H%M%SZ"), format.name());
    let mut answer = body.into_response();
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
    if let Ok(value) = HeaderValue::try_from(format!("attachment; filename=\"{name}\"")) {
        headers.insert(header::CONTENT_DISPOSITION, value);
    }
    answer
}

/// Where a stream of chunks stands.
enum Place {
    Next(mpsc::Receiver<Chunk>),
    Over,
}

/// The bytes of the file. It ends only after the store has said that everything was sent; whatever else ends the chunks is
/// an error of the body, which breaks the transfer.
fn encoded(
    chunks: mpsc::Receiver<Chunk>,
    format: Format,
    tenant: String,
) -> Result<impl Stream<Item = io::Result<Bytes>>, Problem> {
    let header = match format {
        Format::Ndjson => Bytes::new(),
        Format::Csv => Bytes::from(Rows::new(&COLUMNS)?.finish()?),
    };
    let rows = stream::unfold(Place::Next(chunks), move |place| {
        let tenant = tenant.clone();
        async move {
            let Place::Next(mut chunks) = place else { return None };
            let broken = |why: &str| {
                tracing::error!(error = why, "an export was broken off");
                Some((Err(io::Error::other("the export was broken off")), Place::Over))
            };
            match chunks.recv().await {
                None => broken("its reader in the store ended early, or the client took nothing for too long"),
                Some(Err(error)) => broken(&error.to_string()),
                Some(Ok(calls)) if calls.is_empty() => None,
                Some(Ok(calls)) => match encode(calls, format, &tenant) {
                    Ok(bytes) => Some((Ok(bytes), Place::Next(chunks))),
                    Err(_) => broken("a row could not be written"),
                },
            }
        }
    });
    Ok(futures::StreamExt::chain(stream::iter([Ok(header)]), rows))
}

fn encode(calls: Vec<calls::ToolCall>, format: Format, tenant: &str) -> Result<Bytes, Problem> {
    match format {
        Format::Csv => {
            let mut rows = Rows::more();
            for call in calls {
                rows.push(cells(ToolCall::from(call), tenant))?;
            }
            Ok(Bytes::from(rows.finish()?))
        }
        Format::Ndjson => {
            let mut lines = Vec::new();
            for call in calls {
                let start = lines.len();
                let line = Line { call: ToolCall::from(call), tenant_id: tenant };
                serde_json::to_writer(&mut lines, &line).map_err(|e| Problem::internal(&e))?;
                // Line breaks are left only between the tokens of verbatim JSON; here a line break ends the row.
                lines[start..].iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
                lines.push(b'\n');
            }
            Ok(Bytes::from(lines))
        }
    }
}

#[derive(serde::Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    call: ToolCall,
    tenant_id: &'a str,
}

/// In the order of [`COLUMNS`].
fn cells(call: ToolCall, tenant: &str) -> [String; COLUMNS.len()] {
    fn text<T: ToString>(value: Option<T>) -> String {
        value.map(|v| v.to_string()).unwrap_or_default()
    }
    let json = |value: Option<Box<RawValue>>| value.map(|v| v.get().to_owned()).unwrap_or_default();
    let time = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::AutoSi, true);
    [
        call.id.to_string(),
        call.llm_request_id.to_string(),
        text(call.script_run_id),
        text(call.sequence),
        call.origin.to_string(),
        call.key_id.to_string(),
        text(call.team_id),
        text(call.upstream_id),
        text(call.upstream_name),
        text(call.tool_id),
        call.tool_name,
        text(call.definition_sha256),
        call.decision.to_string(),
        text(call.reason),
        text(call.outcome),
        json(call.arguments),
        json(call.result),
        text(call.error),
        time(call.opened_at),
        text(call.closed_at.map(time)),
        text(call.latency_us),
        text(call.price_id),
        text(call.amount),
        text(call.currency),
        tenant.to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt;
    use tollgate_domain::{CallId, Decision, LlmRequestId, Origin, Picos};

    fn call(arguments: &str, tool_name: &str) -> calls::ToolCall {
        let at = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        calls::ToolCall {
            id: CallId::mint(at),
            llm_request_id: LlmRequestId::mint(at),
            script_run_id: None,
            sequence: None,
            origin: Origin::Minted,
            key_id: KeyId::mint(at),
            team_id: None,
            upstream_id: None,
            upstream_name: None,
            tool_id: None,
            tool_name: tool_name.to_owned(),
            definition_sha256: None,
            decision: Decision::Permitted,
            reason: None,
            outcome: Some(Outcome::Ok),
            arguments: Some(arguments.to_owned()),
            result: None,
            truncated: false,
            error: None,
            opened_at: at,
            closed_at: Some(at),
            latency_us: Some(5),
            price_id: None,
            amount: Some(Picos(2_000_000_000)),
            currency: None,
        }
    }

    async fn collect(chunks: Vec<Chunk>, format: Format) -> Result<String, io::Error> {
        let (out, rest) = mpsc::channel(chunks.len().max(1));
        for chunk in chunks {
            out.send(chunk).await.unwrap();
        }
        drop(out);
        let parts: Vec<io::Result<Bytes>> = encoded(rest, format, "ten_1".into()).unwrap().collect().await;
        let bytes: Vec<u8> = parts.into_iter().collect::<io::Result<Vec<Bytes>>>()?.concat();
        Ok(String::from_utf8(bytes).unwrap())
    }

    #[tokio::test]
    async fn verbatim_json_stays_on_its_line() {
        let written = "{\n  \"b\": 1.0,\r\n  \"a\": \"x\\ny\", \"b\": 2 }";
        let file = collect(vec![Ok(vec![call(written, "t"), call("{}", "u")]), Ok(vec![])], Format::Ndjson).await.unwrap();
        let lines: Vec<&str> = file.lines().collect();
        assert_eq!(lines.len(), 2);
        assert!(lines[0].contains(r#""arguments":{   "b": 1.0,    "a": "x\ny", "b": 2 }"#), "{}", lines[0]);
        assert!(lines.iter().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()));
    }

    #[tokio::test]
    async fn both_formats_have_the_same_fields() {
        let all = || vec![Ok(vec![call("{}", "t")]), Ok(vec![])];
        let line: serde_json::Value = serde_json::from_str(&collect(all(), Format::Ndjson).await.unwrap()).unwrap();
        let fields: Vec<&str> = line.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(fields, COLUMNS);
        let file = collect(all(), Format::Csv).await.unwrap();
        let mut reader = csv::Reader::from_reader(file.as_bytes());
        assert_eq!(reader.headers().unwrap().iter().collect::<Vec<_>>(), COLUMNS);
        assert_eq!(&reader.records().next().unwrap().unwrap()[22], "0.002");
    }

    #[tokio::test]
    async fn t54_a_tools_name_is_no_formula() {
        let file = collect(vec![Ok(vec![call("-1", "=cmd|' /C calc'!A0")]), Ok(vec![])], Format::Csv).await.unwrap();
        let mut reader = csv::Reader::from_reader(file.as_bytes());
        let row = reader.records().next().unwrap().unwrap();
        assert_eq!((&row[10], &row[15]), ("'=cmd|' /C calc'!A0", "'-1"));
    }

    #[tokio::test]
    async fn an_export_that_is_not_whole_does_not_end_in_order() {
        for chunks in [vec![], vec![Ok(vec![call("{}", "t")])], vec![Err(tollgate_store::StoreError::NotFound)]] {
            assert!(collect(chunks, Format::Ndjson).await.is_err());
        }
        assert_eq!(collect(vec![Ok(vec![])], Format::Ndjson).await.unwrap(), "", "nothing to export is whole");
    }
}
