//! `/v1/...`: the LLM door, in the dialects of OpenAI and Anthropic. Translates, decides nothing.

mod agent;
mod answering;
mod bound;
mod chat;
mod dialect;
pub mod durable;
mod execute;
mod listen;
mod messages;
mod model;
pub mod offer;
pub mod provider;
mod replay;
mod request;
mod responses;
mod sigv4;
mod sse;
mod stream;
mod streamed;
pub mod take_up;
mod translate;
mod wire;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tollgate_domain::{
    LlmRequestId, Origin,
    llm::{AgentMode, Mode, names},
    policy::Reason,
};
use tollgate_store::audit::{AuditError, NewRequest};

use crate::{
    call::Parent,
    caller::{Caller, Refused},
    gate::Gate,
    guard,
    mcp::{PARENT_HEADER, tell_limits},
    rates::Told,
};
use agent::{Done, Session};
use dialect::{Dialect, ToolUse};
use durable::{Driving, RESUME};
use execute::{Executed, execute};
use offer::Offer;
use request::Refusal;
use take_up::{How, TakenUp, set_streaming};

const REQUEST_ID: HeaderName = HeaderName::from_static(PARENT_HEADER);
/// `agent` or `manual`, where the key leaves it to the request.
const MODE: HeaderName = HeaderName::from_static("x-tollgate-mode");
/// Turns at most, where the request wants fewer than its key may have.
const TURNS: HeaderName = HeaderName::from_static("x-tollgate-max-turns");
/// `none`: offer the model nothing of the key's.
const TOOLS: HeaderName = HeaderName::from_static("x-tollgate-tools");
/// What the strictest provider takes.
const MAX_TOOLS: usize = 128;
/// How long a client may take to send a body.
const BODY_WITHIN: Duration = Duration::from_secs(60);
const EVENTS: &str = "text/event-stream; charset=utf-8";
/// Pieces of an answer that wait for a caller who reads slowly: each is all that came from the provider at once.
const AHEAD: usize = 16;

#[derive(Debug, Clone)]
struct Door {
    gate: Arc<Gate>,
    listener: SocketAddr,
}

/// The routes of the LLM door. `listener` is the address on which they are served.
pub fn routes(gate: Gate, listener: SocketAddr) -> Router {
    let mut router = Router::new()
        .route("/v1/models", get(models))
        // A model's name may have slashes in it.
        .route("/v1/models/{*model}", get(model_named))
        .route("/v1/mcp/tool/execute", post(execute_tool));
    for dialect in Dialect::ALL {
        let handler = move |State(door): State<Arc<Door>>, headers: HeaderMap, body: Body| async move {
            door.ask(dialect, headers, body).await.unwrap_or_else(|refusal| refused(dialect, &refusal))
        };
        router = router.route(dialect.route(), post(handler));
    }
    router.with_state(Arc::new(Door { gate: Arc::new(gate), listener }))
}

impl Door {
    async fn admit(&self, headers: &HeaderMap) -> Result<Caller, Refusal> {
        let refuse = |status, code, message: &str| Refusal::new(status, code, message);
        if let Err(why) = guard::check(headers, &self.gate.config.gateway, self.listener) {
            return Err(refuse(StatusCode::FORBIDDEN, "forbidden", why));
        }
        let Gate { directory, secrets, clock, .. } = &*self.gate;
        Caller::identify(directory, &secrets.pepper, headers, None, clock.now()).await.map_err(|refused| {
            metrics::counter!("tollgate_refused_callers_total").increment(1);
            match refused {
                Refused::Unauthorized | Refused::UnknownGroup => {
                    let message = "A valid virtual key is needed: send it as `Authorization: Bearer tg_live_...` or `x-api-key`";
                    refuse(StatusCode::UNAUTHORIZED, "invalid_api_key", message)
                }
                Refused::Unavailable => AuditError::Unavailable.into(),
            }
        })
    }

    /// The body, read only for someone who may ask.
    async fn body(&self, body: Body) -> Result<Map<String, Value>, Refusal> {
        let refuse = |status, code, message: &str| Refusal::new(status, code, message);
        let limit = self.gate.config.limits.llm_body_bytes;
        let bytes = match tokio::time::timeout(BODY_WITHIN, axum::body::to_bytes(body, limit)).await {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(_)) => {
                return Err(refuse(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", "The body is over the size limit"));
            }
            Err(_) => return Err(refuse(StatusCode::REQUEST_TIMEOUT, "timeout", "The body did not come in time")),
        };
        serde_json::from_slice(&bytes)
            .map_err(|error| refuse(StatusCode::BAD_REQUEST, "invalid_json", &format!("The body is not a JSON object: {error}")))
    }

    async fn ask(self: &Arc<Self>, dialect: Dialect, headers: HeaderMap, body: Body) -> Result<Response, Refusal> {
        let caller = self.admit(&headers).await?;
        let body = self.body(body).await?;
        let told = Told::default();
        if let Some(root) = text(&headers, &RESUME) {
            return self.resume(dialect, caller, root, body).await;
        }
        let root = LlmRequestId::mint(self.gate.clock.now());
        let session = self.session(dialect, caller, &headers, body, told.clone(), root).await?;
        let span = tracing::info_span!(
            "llm",
            otel.name = %format_args!("chat {}", clip(&session.model)),
            otel.kind = "server",
            gen_ai.operation.name = if dialect == Dialect::Embeddings { "embeddings" } else { "chat" },
            gen_ai.request.model = %clip(&session.model),
            tollgate.tenant = %session.caller.tenant(),
            tollgate.key = %session.caller.key,
            tollgate.request = %root,
        );
        tollgate_boot::telemetry::extract_parent(&span, &headers);
        drop(headers);
        // On a task of its own: a client that goes away does not leave a request half recorded.
        let streaming = session.streaming;
        // A stream hears by itself that its reader has gone.
        let _gone = (!streaming).then(|| session.gone.clone().drop_guard());
        let task = async move { if streaming { streamed(session).await } else { whole(session).await } };
        let task = self.gate.shutdown.spawn(tracing::Instrument::instrument(task, span));
        let answer = task.await.unwrap_or_else(|_| Err(broken()));
        let mut answer = answer.unwrap_or_else(|refusal| refused(dialect, &refusal));
        if let Ok(value) = HeaderValue::from_str(&root.to_string()) {
            answer.headers_mut().insert(REQUEST_ID, value);
        }
        tell_limits(&mut answer, told.get());
        Ok(answer)
    }

    /// The answer of a loop that had to wait for people.
    async fn resume(
        self: &Arc<Self>,
        dialect: Dialect,
        caller: Caller,
        root: &str,
        mut body: Map<String, Value>,
    ) -> Result<Response, Refusal> {
        let Ok(root) = root.parse::<LlmRequestId>() else {
            let told = "x-tollgate-resume takes the request id of an agent loop, as its answer has named it";
            return Err(Refusal::new(StatusCode::BAD_REQUEST, "invalid_request", told));
        };
        let streaming = body.get("stream").and_then(Value::as_bool).unwrap_or(false);
        let own_usage = set_streaming(dialect, &mut body, streaming);
        let (told, left) = (Told::default(), CancellationToken::new());
        let _left = left.clone().drop_guard();
        // A stream hears by itself that its reader has gone.
        let gone = if streaming { CancellationToken::new() } else { left.clone() };
        let how = How { streaming, own_usage, told: told.clone(), gone };
        let gate = Arc::clone(&self.gate);
        // In the register before anything is taken: a worker that ends with nothing open is forgotten.
        let guard = gate.in_flight.enter(tollgate_domain::ids::mint(gate.clock.now()));
        let task = self.gate.shutdown.spawn(async move {
            let _guard = guard;
            let standing = match listen::listen(&gate, &caller, (root, dialect), &left).await? {
                Ok((claim, standing)) => {
                    let driving = Driving::new(&gate, claim, &standing);
                    match take_up::take_up(&gate, caller.clone(), driving, (root, standing), how).await? {
                        TakenUp::Goes(session) if streaming => return streamed(*session).await,
                        TakenUp::Goes(session) => return whole(*session).await,
                        TakenUp::Waits => listen::standing(&gate, &caller, root).await?,
                    }
                }
                Err(standing) => standing,
            };
            let answer = listen::recorded(&gate, &caller, root, &standing).await?;
            Ok(if streaming {
                let events = replay::events(dialect, &answer, own_usage).concat();
                ([(header::CONTENT_TYPE, EVENTS)], events).into_response()
            } else {
                json_answer(StatusCode::OK, &answer)
            })
        });
        let mut answer = task.await.unwrap_or_else(|_| Err(broken())).unwrap_or_else(|refusal| refused(dialect, &refusal));
        if let Ok(value) = HeaderValue::from_str(&root.to_string()) {
            answer.headers_mut().insert(REQUEST_ID, value);
        }
        tell_limits(&mut answer, told.get());
        Ok(answer)
    }

    async fn session(
        &self,
        dialect: Dialect,
        caller: Caller,
        headers: &HeaderMap,
        mut body: Map<String, Value>,
        told: Told,
        root: LlmRequestId,
    ) -> Result<Session, Refusal> {
        let bad = |message: &str| Refusal::new(StatusCode::BAD_REQUEST, "invalid_request", message);
        let Some(model) = body.get("model").and_then(Value::as_str).map(str::to_owned) else {
            return Err(bad("\"model\" is missing: a string that names the model"));
        };
        let streaming = dialect != Dialect::Embeddings && body.get("stream").and_then(Value::as_bool).unwrap_or(false);
        if let Some(name) = dialect.odd_number(&body) {
            return Err(bad(&format!("\"{name}\" is a whole number of at least 0, or left out")));
        }
        if body.get("background").is_some_and(|value| *value == true) {
            return Err(bad("\"background\" is not served: what such a response comes to would be read past the gateway"));
        }
        let (mode, turns) = mode(&caller, dialect, headers).map_err(bad)?;
        if mode == Mode::Agent && body.get("n").and_then(Value::as_u64).is_some_and(|n| n > 1) {
            return Err(bad("agent mode follows one answer: leave \"n\" out"));
        }
        let own_tools = dialect.own_tools(&body).len();
        let offers = dialect.has_tools() && text(headers, &TOOLS) != Some("none");
        let offer = if offers { Offer::of(&caller, &dialect.own_tools(&body)) } else { Offer::default() };
        let tools = offer.tools();
        if tools.len() > MAX_TOOLS {
            return Err(bad(&format!(
                "this key sees {} tools, more than a model takes ({MAX_TOOLS}): narrow its tool groups, expose upstreams as \"code\", or send \
                 x-tollgate-tools: none",
                tools.len()
            )));
        }
        dialect.offer(&mut body, &tools);
        let own_usage = if streaming { set_streaming(dialect, &mut body, true) } else { true };
        let client =
            headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok()).map(|text| text.chars().take(200).collect());
        let client = match client {
            Some(client) => Some(caller.config().trail.words(client).await),
            None => None,
        };
        // The others have served, and nobody behind this can print them.
        let headers = provider::passed(headers);
        let (gate, gone) = (Arc::clone(&self.gate), CancellationToken::new());
        Ok(Session {
            gate,
            caller,
            dialect,
            model,
            streaming,
            mode,
            turns,
            offer,
            own_tools,
            own_usage,
            client,
            headers,
            told,
            root,
            body,
            gone,
            driving: None,
            done: Done::default(),
        })
    }

    /// The parent of a call that names none.
    fn minted(&self, caller: &Caller) -> Parent {
        let now = self.gate.clock.now();
        Parent::new(NewRequest {
            tenant: caller.tenant(),
            id: LlmRequestId::mint(now),
            key: caller.key,
            team: caller.team,
            origin: Origin::Minted,
            method: "/v1/mcp/tool/execute",
            model: None,
            client: None,
            at: now,
            prompt_tokens_avoided: None,
            forward: None,
        })
    }
}

fn broken() -> Refusal {
    let told = "The gateway failed on this request; it is not your fault";
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", told)
}

async fn whole(session: Session) -> Result<Response, Refusal> {
    Ok(bytes_answer(session.answer().await?))
}

async fn streamed(session: Session) -> Result<Response, Refusal> {
    let shutdown = session.gate.shutdown.clone();
    let started = session.start().await?;
    if !started.is_stream() {
        return Ok(bytes_answer(Box::pin(started.whole()).await?));
    }
    let (out, pieces) = mpsc::channel(AHEAD);
    shutdown.spawn(tracing::Instrument::in_current_span(Box::new(started).run(out)));
    let pieces = futures::StreamExt::map(tokio_stream::wrappers::ReceiverStream::new(pieces), Ok::<_, std::convert::Infallible>);
    let headers = [
        (header::CONTENT_TYPE, EVENTS),
        (header::CACHE_CONTROL, "no-cache"),
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    Ok((headers, Body::from_stream(pieces)).into_response())
}

/// Who makes the tool calls, and for how many turns.
fn mode(caller: &Caller, dialect: Dialect, headers: &HeaderMap) -> Result<(Mode, u32), &'static str> {
    let (allowed, most) = caller.config().keys.get(&caller.key).map_or((AgentMode::Off, 1), |key| key.agent);
    let asked = match text(headers, &MODE) {
        None => None,
        Some("agent") => Some(Mode::Agent),
        Some("manual") => Some(Mode::Manual),
        Some(_) => return Err("x-tollgate-mode is \"agent\" or \"manual\""),
    };
    let mode = match (allowed, asked) {
        (AgentMode::Off, Some(Mode::Agent)) => return Err("this key may not use agent mode: an admin can allow it"),
        (AgentMode::Off, _) | (_, Some(Mode::Manual)) | (AgentMode::OnRequest, None) => Mode::Manual,
        (_, Some(Mode::Agent)) | (AgentMode::Always, None) => Mode::Agent,
    };
    let turns = match text(headers, &TURNS).map(str::parse::<u32>) {
        None => most,
        Some(Ok(turns)) if turns > 0 => turns.min(most),
        Some(_) => return Err("x-tollgate-max-turns is a number of at least 1"),
    };
    Ok((if dialect.has_tools() { mode } else { Mode::Manual }, turns))
}

fn clip(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(128).collect()
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).map(|value| value.to_str().unwrap_or_default().trim())
}

const ONE_CALL: &str = "Send one tool call as the model's answer has it: {\"id\", \"function\": {\"name\", \"arguments\"}} of a chat completion, a \
\"tool_use\" block of a message, or a \"function_call\" item of a response";

/// One tool call of a model's answer, in the form in which the answer has it; what it came to, in the form in which the model reads it.
async fn execute_tool(State(door): State<Arc<Door>>, headers: HeaderMap, body: Body) -> Response {
    let told = Told::default();
    let mut answer = match run_tool(&door, &headers, body, &told).await {
        Ok(answer) => answer,
        Err(refusal) => refused(Dialect::Chat, &refusal),
    };
    tell_limits(&mut answer, told.get());
    answer
}

async fn run_tool(door: &Arc<Door>, headers: &HeaderMap, body: Body, told: &Told) -> Result<Response, Refusal> {
    let caller = door.admit(headers).await?;
    let body = Value::Object(door.body(body).await?);
    let Some((dialect, wanted)) = tool_use(&body) else {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "invalid_request", ONE_CALL));
    };
    let gate = Arc::clone(&door.gate);
    let parent = match text(headers, &REQUEST_ID) {
        None => Some(door.minted(&caller)),
        Some(name) => Parent::named(&gate, &caller, name).await?,
    };
    let Some(parent) = parent else {
        // A call under a foreign parent is not made, and is a row all the same.
        execute::refuse(&gate, &caller, &door.minted(&caller), wanted, Reason::UnknownParent).await?;
        return Err(Refusal::new(StatusCode::NOT_FOUND, "unknown_parent", Reason::UnknownParent.told()));
    };
    let parent = Parent { told: told.clone(), ..parent };
    let id = parent.request;
    parent.by_hand(&gate, &caller, &wanted.name).await?;
    let cancel = CancellationToken::new();
    // Whoever goes away does not leave a call half recorded.
    let task = door.gate.shutdown.spawn(async move {
        let offer = Offer::of(&caller, &[]);
        execute(&gate, &caller, &parent, &offer, wanted, cancel).await
    });
    let executed = task.await.unwrap_or(Err(AuditError::Unavailable))?;
    let mut answer = json_answer(StatusCode::OK, &shown(dialect, &executed, id));
    if let Ok(value) = HeaderValue::from_str(&id.to_string()) {
        answer.headers_mut().insert(REQUEST_ID, value);
    }
    Ok(answer)
}

fn shown(dialect: Dialect, executed: &Executed, request: LlmRequestId) -> Value {
    let mut result = dialect.result(&executed.result);
    let mut told = executed.told();
    told["llm_request_id"] = json!(request);
    result["tollgate"] = told;
    result
}

fn tool_use(body: &Value) -> Option<(Dialect, ToolUse)> {
    let body = body.get("tool_call").unwrap_or(body);
    if let Some(wanted) = chat::tool_use(body) {
        return Some((Dialect::Chat, wanted));
    }
    if let Some(wanted) = messages::tool_use(body) {
        return Some((Dialect::Messages, wanted));
    }
    responses::tool_use(body).map(|wanted| (Dialect::Responses, wanted))
}

/// The models that the key may ask for by name, as both OpenAI's and Anthropic's clients read them.
async fn models(State(door): State<Arc<Door>>, headers: HeaderMap) -> Response {
    let caller = match door.admit(&headers).await {
        Ok(caller) => caller,
        Err(refusal) => return refused(Dialect::Chat, &refusal),
    };
    let config = caller.config();
    let routes = config.routes.iter().map(|route| (route.name.clone(), "tollgate".to_owned()));
    let served = config.providers.iter().flat_map(|provider| {
        let named = provider.models.iter().filter(|model| !model.ends_with('*'));
        named.flat_map(|model| [model.clone(), format!("{}/{model}", provider.name)].map(|id| (id, provider.name.clone())))
    });
    let allowed = config.keys.get(&caller.key).and_then(|key| key.models.as_deref());
    let mut all: Vec<(String, String)> =
        routes.chain(served).filter(|(id, _)| allowed.is_none_or(|allowed| names(allowed, id))).collect();
    all.sort();
    all.dedup_by(|a, b| a.0 == b.0);
    let shown: Vec<Value> = all.iter().map(|(id, owner)| shown_model(id, owner)).collect();
    let (first, last) = (all.first().map(|(id, _)| id), all.last().map(|(id, _)| id));
    json_answer(StatusCode::OK, &json!({"object": "list", "data": shown, "has_more": false, "first_id": first, "last_id": last}))
}

/// One model: whatever a request for it would be sent to somebody.
async fn model_named(State(door): State<Arc<Door>>, Path(model): Path<String>, headers: HeaderMap) -> Response {
    // Anthropic's clients ask the same route, and say so.
    let dialect = if headers.contains_key("anthropic-version") { Dialect::Messages } else { Dialect::Chat };
    let caller = match door.admit(&headers).await {
        Ok(caller) => caller,
        Err(refusal) => return refused(dialect, &refusal),
    };
    match model::candidates(&caller, dialect, &model) {
        Ok(found) => {
            let owner = found.first().map_or("tollgate", |candidate| candidate.provider.name.as_str());
            json_answer(StatusCode::OK, &shown_model(&model, owner))
        }
        Err((reason, _)) => {
            let refusal = Refusal::new(StatusCode::NOT_FOUND, "model_not_found", reason.told());
            refused(dialect, &refusal)
        }
    }
}

fn shown_model(id: &str, owner: &str) -> Value {
    json!({"id": id, "object": "model", "type": "model", "display_name": id, "created": 0, "created_at": "1970-01-01T00:00:00Z", "owned_by": owner})
}

fn bytes_answer(bytes: bytes::Bytes) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], bytes).into_response()
}

fn json_answer(status: StatusCode, answer: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], answer.to_string()).into_response()
}

fn refused(dialect: Dialect, refusal: &Refusal) -> Response {
    let mut answer = json_answer(refusal.status, &refusal.body(dialect));
    if refusal.is_final() {
        // Official clients send again what failed, unless they are told not to: what was done would be done twice.
        answer.headers_mut().insert(HeaderName::from_static("x-should-retry"), HeaderValue::from_static("false"));
    }
    if let Some(after) = refusal.retry_after {
        let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
        answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
    }
    if refusal.status == StatusCode::UNAUTHORIZED {
        answer.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"tollgate\""));
    }
    answer
}
