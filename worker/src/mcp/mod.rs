//! `/mcp` and `/mcp/{tool_group_slug}`: Streamable HTTP, both eras. Translates, decides nothing.

mod era;
mod message;
mod methods;
mod session;
mod stream;
mod tasks;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{OriginalUri, Path, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use futures::future::join_all;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};
use tollgate_domain::LlmRequestId;

use crate::{
    caller::{Caller, Refused},
    gate::Gate,
    guard,
    rates::{Standing, Told},
};
use era::Era;
use message::{Body as Messages, Message, Request, RpcError};
pub use methods::PARENT_HEADER;
use methods::{Answered, Failure, Turn};
use session::{Cancellable, SessionId};

const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
const RATE_LIMIT: [HeaderName; 3] = [
    HeaderName::from_static("ratelimit-limit"),
    HeaderName::from_static("ratelimit-remaining"),
    HeaderName::from_static("ratelimit-reset"),
];
const REQUEST_ID: HeaderName = HeaderName::from_static(PARENT_HEADER);

#[derive(Debug, Clone)]
struct Door {
    gate: Gate,
    listener: SocketAddr,
    cancellable: Cancellable,
}

/// The routes of the model door. `listener` is the address on which they are served.
pub fn routes(gate: Gate, listener: SocketAddr) -> Router {
    let door = Door { gate, listener, cancellable: Cancellable::default() };
    let whole = post(post_all).get(get_all).delete(no_delete);
    let group = post(post_group).get(get_group).delete(no_delete);
    Router::new().route("/mcp", whole).route("/mcp/{group}", group).with_state(Arc::new(door))
}

/// How long a client may take to send a body.
const BODY_WITHIN: Duration = Duration::from_secs(30);

async fn post_all(State(door): State<Arc<Door>>, headers: HeaderMap, uri: OriginalUri, body: Body) -> Response {
    door.post(None, uri.path(), &headers, body).await
}

async fn post_group(
    State(door): State<Arc<Door>>,
    Path(group): Path<String>,
    headers: HeaderMap,
    uri: OriginalUri,
    body: Body,
) -> Response {
    door.post(Some(&group), uri.path(), &headers, body).await
}

async fn get_all(State(door): State<Arc<Door>>, headers: HeaderMap, uri: OriginalUri) -> Response {
    door.get(None, uri.path(), headers).await
}

async fn get_group(State(door): State<Arc<Door>>, Path(group): Path<String>, headers: HeaderMap, uri: OriginalUri) -> Response {
    door.get(Some(group), uri.path(), headers).await
}

/// Sessions hold nothing that could be deleted; the protocol lets a server say so.
async fn no_delete() -> Response {
    (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, "GET, POST")]).into_response()
}

impl Door {
    async fn admit(&self, group: Option<&str>, headers: &HeaderMap) -> Result<Caller, Response> {
        if let Err(why) = guard::check(headers, &self.gate.config.gateway, self.listener) {
            return Err(plain(StatusCode::FORBIDDEN, RpcError::INVALID_REQUEST, why));
        }
        let Gate { directory, secrets, clock, .. } = &self.gate;
        Caller::identify(directory, &secrets.pepper, headers, group, clock.now()).await.map_err(|refused| {
            metrics::counter!("tollgate_refused_callers_total").increment(1);
            match refused {
                Refused::Unauthorized => {
                    let mut answer = plain(
                        StatusCode::UNAUTHORIZED,
                        RpcError::INVALID_REQUEST,
                        "A valid virtual key is needed: send it as `Authorization: Bearer tg_live_...`",
                    );
                    answer.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"tollgate\""));
                    answer
                }
                Refused::UnknownGroup => {
                    plain(StatusCode::NOT_FOUND, RpcError::INVALID_REQUEST, "This key has no such tool group")
                }
                Refused::Unavailable => unavailable(None),
            }
        })
    }

    async fn post(self: &Arc<Self>, group: Option<&str>, route: &str, headers: &HeaderMap, body: Body) -> Response {
        let caller = match self.admit(group, headers).await {
            Ok(caller) => caller,
            Err(refused) => return refused,
        };
        // Read only for someone who may ask: a stranger does not make us hold megabytes.
        let limit = self.gate.config.limits.request_body_bytes;
        let body = match tokio::time::timeout(BODY_WITHIN, axum::body::to_bytes(body, limit)).await {
            Ok(Ok(body)) => body,
            Ok(Err(_)) => {
                return plain(StatusCode::PAYLOAD_TOO_LARGE, RpcError::INVALID_REQUEST, "The body is over the size limit");
            }
            Err(_) => return plain(StatusCode::REQUEST_TIMEOUT, RpcError::INVALID_REQUEST, "The body did not come in time"),
        };
        let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        if !kind.to_ascii_lowercase().starts_with("application/json") {
            return plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, RpcError::INVALID_REQUEST, "Send `Content-Type: application/json`");
        }
        let session = match self.session(&caller, route, headers) {
            Ok(session) => session,
            Err(refused) => return refused,
        };
        match message::read(&body) {
            Err(error) => json_answer(StatusCode::BAD_REQUEST, error.answer(None)),
            Ok(Messages::One(Message::Request(request))) => self.request(caller, session, route, headers, request).await,
            Ok(Messages::One(Message::Notification { method, params })) => {
                self.notified(session, &method, &params);
                StatusCode::ACCEPTED.into_response()
            }
            Ok(Messages::One(Message::Response)) => StatusCode::ACCEPTED.into_response(),
            Ok(Messages::Batch(messages)) => self.batch(caller, session, headers, messages).await,
        }
    }

    /// The session that the client names; one of another key's, or made up, is none.
    fn session(&self, caller: &Caller, route: &str, headers: &HeaderMap) -> Result<Option<SessionId>, Response> {
        let Some(sealed) = headers.get(&SESSION) else { return Ok(None) };
        let sealed = sealed.to_str().unwrap_or_default();
        match session::open(&self.gate.secrets.sealer, sealed, caller.tenant(), caller.key, route) {
            Some(session) => Ok(Some(session)),
            None => Err(plain(StatusCode::NOT_FOUND, RpcError::INVALID_REQUEST, "No such session; initialize a new one")),
        }
    }

    fn notified(&self, session: Option<SessionId>, method: &str, params: &serde_json::Map<String, Value>) {
        if let ("notifications/cancelled", Some(session), Some(id)) = (method, session, params.get("requestId")) {
            self.cancellable.cancel(session, &id.to_string());
        }
    }

    async fn request(
        self: &Arc<Self>,
        caller: Caller,
        session: Option<SessionId>,
        route: &str,
        headers: &HeaderMap,
        request: Request,
    ) -> Response {
        let era = match era::of(&request, headers) {
            Ok(era) => era,
            Err(error) => return json_answer(StatusCode::BAD_REQUEST, error.answer(Some(&request.id))),
        };
        let initializes = request.method == "initialize";
        if era == Era::Modern && request.method == "subscriptions/listen" {
            return self.listen(caller, headers, route, &request);
        }
        let streams = accepts(headers, "text/event-stream");
        let token = request.params.meta.get("progressToken").filter(|_| streams && request.method == "tools/call").cloned();
        let (progress, receive) = token.is_some().then(|| mpsc::channel(64)).unzip();
        let new_session = initializes.then(|| {
            let id = tollgate_domain::ids::mint(self.gate.clock.now());
            session::mint(&self.gate.secrets.sealer, id, caller.tenant(), caller.key, route)
        });
        let named = methods::named_parent(&request, headers);
        let answering = self.begin(caller, session, headers, request, era, progress);
        let mut answer = match (token, receive) {
            (Some(token), Some(receive)) => {
                // A parent that is not this key's is refused within the stream, under the same id.
                let named = named.and_then(|named| named.parse().ok());
                let id = named.unwrap_or(answering.minted);
                let text = async move { answering.text().await.1 };
                let mut answer = stream::events(stream::with_progress(receive, token, text)).into_response();
                mark(&mut answer, id);
                answer
            }
            _ => {
                let told = answering.told.clone();
                let (status, text, id) = answering.finish().await;
                let mut answer = json_answer(status, text);
                mark(&mut answer, id);
                tell_limits(&mut answer, told.get());
                if status == StatusCode::SERVICE_UNAVAILABLE {
                    answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
                }
                answer
            }
        };
        if let Some(value) = new_session.and_then(|sealed| HeaderValue::from_str(&sealed).ok()) {
            answer.headers_mut().insert(SESSION, value);
        }
        answer
    }

    /// Start to answer on a task of its own: a client that goes away does not leave a call half recorded.
    fn begin(
        &self,
        caller: Caller,
        session: Option<SessionId>,
        headers: &HeaderMap,
        request: Request,
        era: Era,
        progress: Option<crate::upstream::Progress>,
    ) -> Answering {
        let cancel = CancellationToken::new();
        let registered = session.map(|session| self.cancellable.enter(session, request.id.get(), cancel.clone()));
        // In the newer era the end of the connection is how a client cancels.
        let guard = (era == Era::Modern).then(|| cancel.clone().drop_guard());
        let minted = LlmRequestId::mint(self.gate.clock.now());
        let id = request.id.clone();
        let parent = methods::named_parent(&request, headers);
        let span = tracing::info_span!(
            "mcp",
            otel.name = %request.method,
            otel.kind = "server",
            mcp.method.name = %request.method,
            tollgate.tenant = %caller.tenant(),
            tollgate.key = %caller.key,
            tollgate.request = %minted,
        );
        tollgate_boot::telemetry::extract_parent(&span, headers);
        let told = Told::default();
        let turn = Turn { gate: self.gate.clone(), caller, era, request, parent, minted, progress, told: told.clone(), cancel };
        let task = self.gate.shutdown.spawn(tracing::Instrument::instrument(
            async move {
                let answered = Box::pin(turn.answer()).await;
                drop(registered);
                answered
            },
            span,
        ));
        Answering { task, id, era, minted, guard, told }
    }

    async fn batch(
        self: &Arc<Self>,
        caller: Caller,
        session: Option<SessionId>,
        headers: &HeaderMap,
        messages: Vec<Message>,
    ) -> Response {
        // Batches belong to the oldest revision alone.
        if headers.get("mcp-protocol-version").is_some_and(|version| version != era::OLDEST) {
            let error = RpcError::new(RpcError::INVALID_REQUEST, "Batches were removed from the protocol after 2025-03-26");
            return json_answer(StatusCode::BAD_REQUEST, error.answer(None));
        }
        let mut answering = Vec::new();
        for message in messages {
            match message {
                Message::Request(request) => {
                    let begun = self.begin(caller.clone(), session, headers, request, Era::Legacy, None);
                    answering.push(async move { begun.text().await.1 });
                }
                Message::Notification { method, params } => self.notified(session, &method, &params),
                Message::Response => {}
            }
        }
        if answering.is_empty() {
            return StatusCode::ACCEPTED.into_response();
        }
        let answers = join_all(answering).await;
        json_answer(StatusCode::OK, format!("[{}]", answers.join(",")))
    }

    /// The older era's stream of news.
    async fn get(self: &Arc<Self>, group: Option<String>, route: &str, headers: HeaderMap) -> Response {
        let caller = match self.admit(group.as_deref(), &headers).await {
            Ok(caller) => caller,
            Err(refused) => return refused,
        };
        if !accepts(&headers, "text/event-stream") {
            return plain(StatusCode::NOT_ACCEPTABLE, RpcError::INVALID_REQUEST, "Send `Accept: text/event-stream`");
        }
        if let Err(refused) = self.session(&caller, route, &headers) {
            return refused;
        }
        let changed = json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}).to_string();
        stream::events(self.news(caller, group, headers, changed)).into_response()
    }

    /// The newer era's stream of news: an acknowledgement, then what was asked for.
    fn listen(self: &Arc<Self>, caller: Caller, headers: &HeaderMap, route: &str, request: &Request) -> Response {
        let wants = request.params.all.get("notifications").and_then(|n| n.get("toolsListChanged")) == Some(&Value::Bool(true));
        let id: Value = serde_json::from_str(request.id.get()).unwrap_or_default();
        let meta = json!({"io.modelcontextprotocol/subscriptionId": id});
        let accepted = if wants { json!({"toolsListChanged": true}) } else { json!({}) };
        let first = json!({"jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged",
            "params": {"notifications": accepted, "_meta": meta}});
        let changed =
            json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed", "params": {"_meta": meta}}).to_string();
        let group = route.strip_prefix("/mcp/").map(str::to_owned);
        let news =
            futures::StreamExt::filter(self.news(caller, group, headers.clone(), changed), move |_| std::future::ready(wants));
        let first = futures::stream::once(std::future::ready(first.to_string()));
        stream::events(futures::StreamExt::chain(first, news)).into_response()
    }

    /// `line`, each time that what the key sees has changed; ends when the key does.
    fn news(
        self: &Arc<Self>,
        caller: Caller,
        group: Option<String>,
        headers: HeaderMap,
        line: String,
    ) -> impl futures::Stream<Item = String> + Send + 'static {
        let door = Arc::clone(self);
        let (to, lines) = mpsc::channel(8);
        tokio::spawn(async move {
            let mut changes = door.gate.directory.changes();
            let mut seen = stream::fingerprint(&caller);
            loop {
                tokio::select! {
                    changed = changes.changed() => if changed.is_err() { return },
                    () = to.closed() => return,
                    () = door.gate.shutdown.requested() => return,
                }
                let Ok(caller) = door.admit(group.as_deref(), &headers).await else { return };
                let sees = stream::fingerprint(&caller);
                if sees != seen {
                    seen = sees;
                    // A client that does not read is told once; more would say the same.
                    drop(to.try_send(line.clone()));
                }
            }
        });
        tokio_stream::wrappers::ReceiverStream::new(lines)
    }
}

/// A request that is being answered.
struct Answering {
    task: tokio::task::JoinHandle<Answered>,
    id: Box<serde_json::value::RawValue>,
    era: Era,
    minted: LlmRequestId,
    guard: Option<DropGuard>,
    told: Told,
}

impl Answering {
    async fn finish(self) -> (StatusCode, String, LlmRequestId) {
        let Self { task, id, era, minted, guard, .. } = self;
        let (result, request) = task.await.unwrap_or_else(|_| {
            (
                Err(Failure::Rpc(RpcError::new(RpcError::INTERNAL, "The gateway failed on this request; it is not your fault"))),
                minted,
            )
        });
        drop(guard.map(DropGuard::disarm));
        let (status, text) = match result {
            Ok(result) => (StatusCode::OK, format!(r#"{{"jsonrpc":"2.0","id":{},"result":{result}}}"#, id.get())),
            Err(Failure::Rpc(error)) => {
                let status = match error.code {
                    RpcError::METHOD_NOT_FOUND if era == Era::Modern => StatusCode::NOT_FOUND,
                    _ => StatusCode::OK,
                };
                (status, error.answer(Some(&id)))
            }
            Err(Failure::Unavailable) => (StatusCode::SERVICE_UNAVAILABLE, out_of_order().answer(Some(&id))),
        };
        (status, text, request)
    }

    async fn text(self) -> (LlmRequestId, String) {
        let (_, text, id) = self.finish().await;
        (id, text)
    }
}

fn out_of_order() -> RpcError {
    RpcError::new(
        RpcError::INTERNAL,
        "The gateway cannot write its audit trail or confirm its configuration at present, so it makes no calls; try again in a moment",
    )
}

fn unavailable(id: Option<&serde_json::value::RawValue>) -> Response {
    let mut answer = json_answer(StatusCode::SERVICE_UNAVAILABLE, out_of_order().answer(id));
    answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    answer
}

fn accepts(headers: &HeaderMap, kind: &str) -> bool {
    headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok()).any(|v| v.contains(kind))
}

fn mark(answer: &mut Response, id: LlmRequestId) {
    if let Ok(value) = HeaderValue::from_str(&id.to_string()) {
        answer.headers_mut().insert(REQUEST_ID, value);
    }
}

/// How the limit stands that is nearest to its end, in the headers that clients look for. Seconds, rounded up.
pub fn tell_limits(answer: &mut Response, standing: Option<Standing>) {
    let Some(Standing { limit, remaining, reset, retry_after }) = standing else { return };
    let seconds = |time: Duration| time.as_secs() + u64::from(time.subsec_nanos() > 0);
    let headers = answer.headers_mut();
    headers.insert(RATE_LIMIT[0].clone(), HeaderValue::from(limit));
    headers.insert(RATE_LIMIT[1].clone(), HeaderValue::from(remaining));
    headers.insert(RATE_LIMIT[2].clone(), HeaderValue::from(seconds(reset)));
    if let Some(after) = retry_after {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds(after).max(1)));
    }
}

fn plain(status: StatusCode, code: i32, message: &str) -> Response {
    json_answer(status, RpcError::new(code, message).answer(None))
}

fn json_answer(status: StatusCode, text: String) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], text).into_response()
}
