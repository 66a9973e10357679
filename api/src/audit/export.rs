use std::{io, sync::Arc};

use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tollgate_domain::{KeyId, Outcome, TeamId, ToolId, UpstreamId};
use tollgate_store::{
    calls::{CallFilter, ToolCall},
    export::{self, Rows},
    follow::{self, Wanted},
    requests::LlmRequest,
};
use utoipa::IntoParams;

use super::{
    bundle, cursor,
    formats::{self, Format, Record},
};
use crate::{
    check::Checks,
    ctx::Ctx,
    page::Query,
    problem::{Answer, Kind, Problem},
};

/// Chunks between the database and the client. Each holds about 256 KiB, or one call that is larger: this bounds the
/// memory of an export, however long it is.
const CHUNKS: usize = 2;
const NEXT_CURSOR: HeaderName = HeaderName::from_static("x-tollgate-next-cursor");

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ExportQuery {
    /// Calls opened at this time or later; from the first one when left out.
    pub from: Option<DateTime<Utc>>,
    /// Calls opened before this time; up to the last one when left out.
    pub to: Option<DateTime<Utc>>,
    /// `ndjson` (when left out), `csv`, `parquet`, `ocsf`, or `bundle`: whole seals made in the time range, with their proofs.
    pub format: Option<String>,
    /// `tool_calls` (when left out) or `llm_requests`: requests to models, as `GET /llm-requests` shows them, in all formats but `ocsf`.
    #[serde(default)]
    #[param(value_type = Option<String>)]
    pub rows: Rows,
    /// `start`, or `x-tollgate-next-cursor` of the export before, or the `id` of a stream's event; not together with `from` or `to`.
    pub cursor: Option<String>,
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

/// Export the tool calls, oldest first, with arguments and results; or the requests to models.
///
/// The rows are those of one moment, the start of the export, and have the fields of a tool call and the tenant's id. NDJSON
/// holds arguments and results as they were; in CSV they are JSON text, and a cell that a spreadsheet would run as a formula
/// begins with an apostrophe. Parquet has typed columns (times in microseconds, the amount as a decimal), compressed with zstd.
/// OCSF is one API Activity event (class 6003, schema 1.9.0) a line; what has no place in it is under `unmapped`. A bundle is a
/// tar archive (zstd) that `tollgate verify` checks without network or database. An export that
/// cannot be finished is broken off, never ended: a transfer that ends in order is whole. It leaves an admin event.
///
/// With `cursor` it is what was closed since: each call whose end (its completion, its resolution, or its refusal) was sealed
/// after the cursor, once, in the order of the log. The header `x-tollgate-next-cursor` is where the next export begins, and
/// belongs to what was kept only when the transfer has ended in order. Nothing is missed however many calls run meanwhile, and
/// cursors do not expire. A call that was given up as `unknown` and whose answer came after all comes again; the later row holds.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant_id}/audit/export", params(ExportQuery),
    responses((status = 200, description = "The rows.", content(
        (String = "application/x-ndjson"), (String = "text/csv"), (String = "application/vnd.apache.parquet"),
        (String = "application/zstd")),
        headers(("x-tollgate-next-cursor" = String, description = "With `cursor`: where the next export begins."))),
        (status = 410, description = "The rows that follow this cursor are no longer there."))
)]
pub async fn handle(ctx: Ctx, Query(asked): Query<ExportQuery>) -> Answer {
    if asked.format.as_deref() == Some(bundle::NAME) {
        return bundle::answer(&ctx, &asked).await;
    }
    let format = Format::parse(asked.format.as_deref())?;
    let mut checks = Checks::default();
    checks.require(asked.from.zip(asked.to).is_none_or(|(from, to)| from <= to), "?from", "use a time before `to`");
    let both = asked.cursor.is_some() && (asked.from.is_some() || asked.to.is_some());
    checks.require(!both, "?cursor", "use either a cursor or a window of time");
    let of_tools = asked.tool_id.is_some() || asked.upstream_id.is_some();
    formats::check_rows(&mut checks, (asked.rows, "?rows"), Some(format), of_tools);
    checks.done()?;
    match asked.rows {
        Rows::LlmRequests => export::<LlmRequest>(ctx, format, asked).await,
        Rows::ToolCalls | Rows::All => export::<ToolCall>(ctx, format, asked).await,
    }
}

async fn export<R: Record>(ctx: Ctx, format: Format, asked: ExportQuery) -> Answer {
    let ExportQuery { from, to, key_id, team_id, tool_id, upstream_id, outcome, cursor: text, rows: kind, .. } = asked;
    let filter = CallFilter { from, to, key_id, team_id, tool_id, upstream_id, outcome, ..CallFilter::default() };
    let start = text.as_deref().map(|text| cursor::open(&ctx.app.secrets, ctx.tenant, (&filter, kind), text)).transpose()?;
    let detail = json!({
        "format": format.name(), "from": from, "to": to, "key_id": key_id, "team_id": team_id, "tool_id": tool_id,
        "upstream_id": upstream_id, "outcome": outcome, "rows": kind, "by_cursor": start.is_some(),
    });
    let encoder = R::encoder(format, ctx.tenant)?;

    let (out, chunks) = mpsc::channel(CHUNKS);
    let (store, tenant) = (&ctx.app.store, ctx.tenant);
    let change = store.change(tenant, ctx.actor(), ctx.now).await?;
    let next = if let Some(start) = start {
        let rows = follow::open(store, tenant, Wanted { calls: filter.clone(), rows: kind, events: false }, start).await?;
        export::announce(change, &tenant, detail).await?;
        let next = cursor::seal(&ctx.app.secrets, tenant, (&filter, kind), rows.end());
        tokio::spawn(rows.run::<R>(out));
        Some(next)
    } else {
        // It holds a connection and a snapshot for as long as its reader takes.
        let seat = seat(&ctx)?;
        export::announce(change, &tenant, detail).await?;
        let export = export::open_as::<R>(store, tenant, filter).await?;
        tokio::spawn(async move {
            export.run(out).await;
            drop(seat);
        });
        None
    };
    // The client is told nothing but that its transfer broke; the reason is ours to know.
    let body = Body::from_stream(formats::file(chunks, encoder).map_err(|error| {
        tracing::error!(%error, "an export was broken off");
        io::Error::other("the export was broken off")
    }));
    let mut answer = answer(&ctx, (kind.as_str().replace('_', "-").as_str(), format.extension(), format.content_type()), body);
    if let Some(next) = next.and_then(|next| HeaderValue::try_from(next).ok()) {
        answer.headers_mut().insert(NEXT_CURSOR, next);
    }
    Ok(answer)
}

/// A place among the downloads that hold a connection: they leave most of the pool to everybody else.
///
/// # Errors
/// 429 when all are taken.
pub(super) fn seat(ctx: &Ctx) -> Result<OwnedSemaphorePermit, Problem> {
    let taken = "As many exports run here as may at once. Try again in a moment, use `cursor`, or an export job.";
    Arc::clone(&ctx.app.downloads).try_acquire_owned().map_err(|_| Problem::because(Kind::TooMany, taken))
}

/// A file to be saved, under a name that says what, whose and when.
pub(super) fn answer(ctx: &Ctx, (what, extension, content_type): (&str, &str, &'static str), body: Body) -> Response {
    let name = format!("{what}-{}-{}.{extension}", ctx.tenant, ctx.now.format("%Y%m%dT%H%M%SZ"));
    let mut answer = body.into_response();
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    if let Ok(value) = HeaderValue::try_from(format!("attachment; filename=\"{name}\"")) {
        headers.insert(header::CONTENT_DISPOSITION, value);
    }
    answer
}
