use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tollgate_domain::TenantId;
use tollgate_store::{
    StoreError,
    calls::CallFilter,
    export::Rows,
    follow::{self, Follow, Start, Told, Wanted, What},
    requests::LlmRequest,
};
use utoipa::IntoParams;

use super::{
    cursor,
    formats::{Encoder, Format, Record, Unwritable},
};
use crate::{
    admin_events::AdminEvent,
    ctx::Ctx,
    page::Query,
    problem::{Answer, Kind, Problem},
};

/// Streams of one tenant in one process.
const SEATS: usize = 16;
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// How often a stream does what.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Looks for new seals.
    pub poll: Duration,
    /// Says that it is still there.
    pub beat: Duration,
    /// Asks whether the bearer still holds.
    pub recheck: Duration,
    /// A reader that takes nothing for this long is cut.
    pub stall: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            poll: Duration::from_millis(500),
            beat: Duration::from_secs(15),
            recheck: Duration::from_secs(30),
            stall: Duration::from_secs(60),
        }
    }
}

/// The streams that this process serves.
#[derive(Debug, Default)]
pub struct Streams {
    pub pace: Pace,
    open: Mutex<HashMap<TenantId, usize>>,
}

impl Streams {
    #[must_use]
    pub fn new(pace: Pace) -> Self {
        Self { pace, ..Self::default() }
    }
}

/// One stream's place; free again when it is dropped.
struct Seat {
    streams: Arc<Streams>,
    tenant: TenantId,
}

impl Seat {
    fn take(streams: &Arc<Streams>, tenant: TenantId) -> Option<Self> {
        let mut open = streams.open.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = open.entry(tenant).or_default();
        if *taken >= SEATS {
            return None;
        }
        *taken += 1;
        Some(Self { streams: Arc::clone(streams), tenant })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut open = self.streams.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(taken) = open.get_mut(&self.tenant) {
            *taken -= 1;
            if *taken == 0 {
                open.remove(&self.tenant);
            }
        }
    }
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct StreamQuery {
    /// What follows this cursor, or `start`; what happens from now on when left out. The header `Last-Event-ID` comes first.
    pub cursor: Option<String>,
    /// `tool_calls` (when left out), `llm_requests`, or `all`; admin events come with each. A cursor is of the same rows, or of `all`.
    #[serde(default)]
    #[param(value_type = Option<String>)]
    pub rows: Rows,
}

/// Follow what happens, as server-sent events.
///
/// `event: tool_call` carries a closed call as a line of the NDJSON export does, `event: admin_event` an admin event as the list
/// shows it, `event: llm_request` a closed request to a model, all within about a second and in the order of the log. `id` is the cursor behind it: a client that comes again with
/// it as `Last-Event-ID`, or as `cursor` of any export, gets exactly the rest. A call that was given up as `unknown` and whose
/// answer came after all comes again. A stream ends when its bearer no longer holds, when the server stops, and when nothing is
/// read for a minute; a comment every 15 seconds says that it has not.
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}/audit/stream", params(StreamQuery),
    responses((status = 200, description = "Events.", content_type = "text/event-stream", body = String),
        (status = 410, description = "The rows that follow this cursor are no longer there."),
        (status = 429, description = "The tenant has 16 streams open.")))]
pub async fn handle(ctx: Ctx, Query(asked): Query<StreamQuery>) -> Answer {
    let start = match last_event_id(&ctx.headers)?.or(asked.cursor.as_deref()) {
        None => Start::Head,
        Some(text) => cursor::open(&ctx.app.secrets, ctx.tenant, (&CallFilter::default(), asked.rows), text)?,
    };
    let seat = Seat::take(&ctx.app.streams, ctx.tenant).ok_or_else(|| {
        Problem::because(Kind::TooMany, format!("The tenant has {SEATS} streams open here. Close one, or share one."))
    })?;
    let wanted = Wanted { events: true, rows: asked.rows, ..Wanted::default() };
    let rows = follow::open(&ctx.app.store, ctx.tenant, wanted, start).await?;
    let mut change = ctx.app.store.change(ctx.tenant, ctx.actor(), ctx.now).await?;
    change.event("audit.stream", &ctx.tenant, json!({"position": rows.position(), "rows": asked.rows})).await?;
    change.commit_quietly().await?;

    let lines = Format::Ndjson.encoder(ctx.tenant)?;
    let requests = LlmRequest::encoder(Format::Ndjson, ctx.tenant)?;
    let (out, frames) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut tail = Tail { ctx, out, lines, requests, kind: asked.rows, rows };
        if let Err(end) = tail.run().await {
            tracing::debug!(reason = %end, "a stream has ended");
        }
        drop(seat);
    });
    Ok(answer(frames))
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let Some(value) = headers.get(LAST_EVENT_ID) else { return Ok(None) };
    // An empty one says that there was none.
    let text = value.to_str().map_err(|_| Problem::new(Kind::BadCursor))?;
    Ok(Some(text).filter(|text| !text.is_empty()))
}

fn answer(frames: mpsc::Receiver<Bytes>) -> Response {
    let mut answer = Body::from_stream(ReceiverStream::new(frames).map(Ok::<_, std::convert::Infallible>)).into_response();
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    // Proxies that collect an answer before they pass it on would hold it for ever.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    answer
}

/// One stream at work.
struct Tail {
    ctx: Ctx,
    /// One batch waits, one is being made: all that a slow reader costs.
    out: mpsc::Sender<Bytes>,
    lines: Box<dyn Encoder>,
    requests: Box<dyn Encoder<LlmRequest>>,
    kind: Rows,
    rows: Follow,
}

/// Why a stream ends. The client learns nothing but that it did, and comes again with its last id.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("its reader has gone, or takes nothing")]
    Reader,
    #[error("the server stops")]
    Stopping,
    #[error("its bearer no longer holds")]
    Bearer,
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("a row could not be written {0}")]
    Row(#[from] Unwritable),
}

impl Tail {
    async fn run(&mut self) -> Result<(), End> {
        let pace = self.ctx.app.streams.pace;
        let (mut said, mut checked) = (Instant::now(), Instant::now());
        self.send(Bytes::from_static(b"retry: 2000\n\n")).await?;
        loop {
            if checked.elapsed() >= pace.recheck {
                checked = Instant::now();
                if !self.ctx.still_admitted(self.ctx.app.clock.now()).await? {
                    return Err(End::Bearer);
                }
            }
            match self.rows.next().await? {
                Some(told) if told.is_empty() => {}
                Some(told) => {
                    let frames = self.frames(told)?;
                    self.send(frames).await?;
                    said = Instant::now();
                }
                None => self.wait(pace.poll).await?,
            }
            if said.elapsed() >= pace.beat {
                self.send(Bytes::from_static(b": \n\n")).await?;
                said = Instant::now();
            }
        }
    }

    /// Everything is told: look again in a moment.
    async fn wait(&mut self, poll: Duration) -> Result<(), End> {
        tokio::select! {
            () = self.ctx.app.shutdown.requested() => return Err(End::Stopping),
            () = self.out.closed() => return Err(End::Reader),
            () = tokio::time::sleep(poll) => {}
        }
        let (store, tenant) = (&self.ctx.app.store, self.ctx.tenant);
        let (from, end) = (self.rows.end(), follow::end(store, tenant).await?);
        if end > from {
            let wanted = Wanted { events: true, rows: self.kind, ..Wanted::default() };
            self.rows = follow::resume(store, tenant, wanted, from, end, false);
        }
        Ok(())
    }

    fn frames(&mut self, told: Vec<Told>) -> Result<Bytes, Unwritable> {
        let mut frames = Vec::new();
        for Told { next, what } in told {
            let id = cursor::seal(&self.ctx.app.secrets, self.ctx.tenant, (&CallFilter::default(), self.kind), next);
            let (name, line) = match what {
                What::Call(call) => ("tool_call", self.lines.push(vec![*call])?),
                What::Request(request) => ("llm_request", self.requests.push(vec![*request])?),
                What::Event(event) => ("admin_event", serde_json::to_vec(&AdminEvent::from(*event))?.into()),
            };
            frames.extend_from_slice(format!("id: {id}\nevent: {name}\ndata: ").as_bytes());
            frames.extend_from_slice(line.trim_ascii_end());
            frames.extend_from_slice(b"\n\n");
        }
        Ok(frames.into())
    }

    async fn send(&mut self, bytes: Bytes) -> Result<(), End> {
        tokio::select! {
            () = self.ctx.app.shutdown.requested() => Err(End::Stopping),
            sent = tokio::time::timeout(self.ctx.app.streams.pace.stall, self.out.send(bytes)) => match sent {
                Ok(Ok(())) => Ok(()),
                Ok(Err(_)) | Err(_) => Err(End::Reader),
            },
        }
    }
}
