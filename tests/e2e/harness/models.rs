//! A provider of language models on the wire, in the dialects of OpenAI and Anthropic and those of `models_native.rs`, that does what its
//! models' names say.
//!
//! `echo` repeats the last user message. `tools` makes the tool calls that the last user message names (one a line: `NAME {json}`), and once it
//! has their results says `done: ` and these. `slow-<ms>` streams a word each so often; `cut` breaks off after two words; `mute` says two
//! words and nothing more; `busy` answers 429 twice and then as `echo`; `down` answers 503, `missing` 404; `shut` answers 401 with the key in its
//! words; `garbage` answers what is no JSON; `silent` never begins; `broken` answers 200 with an error, and the key in it.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::{Arc, Mutex, MutexGuard},
    thread,
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use futures::stream;
use serde_json::{Value, json};
use tokio::sync::oneshot;

/// What stands in every answer's headers and must reach nobody.
pub const LEAK: &str = "canary-of-a-providers-header";

/// One request as it arrived.
#[derive(Debug, Clone)]
pub struct Asked {
    pub path: &'static str,
    pub model: String,
    pub headers: HeaderMap,
    pub body: Value,
}

#[derive(Debug, Default)]
pub struct Memory {
    asked: Vec<Asked>,
    /// Streams whose reader went away before their end.
    abandoned: usize,
}

#[derive(Debug)]
pub struct Models {
    memory: Arc<Mutex<Memory>>,
    address: SocketAddr,
    stop: Mutex<Option<oneshot::Sender<()>>>,
}

pub type Shared = Arc<Mutex<Memory>>;

impl Models {
    /// Serve on a free port.
    pub fn start() -> Self {
        let memory = Shared::default();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        listener.set_nonblocking(true).expect("a listener");
        let address = listener.local_addr().expect("an address");
        let (stop, stopped) = oneshot::channel();
        let router = Router::new()
            .route("/v1/chat/completions", post(chat))
            .route("/v1/responses", post(responses))
            .route("/v1/messages", post(messages))
            .route("/v1/embeddings", post(embeddings))
            .merge(super::models_native::routes())
            .with_state(Arc::clone(&memory));
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
                let serving = axum::serve(listener, router);
                tokio::select! { served = serving => served.expect("it serves"), _ = stopped => {} }
            });
        });
        Self { memory, address, stop: Mutex::new(Some(stop)) }
    }

    pub fn base(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Where the other two kinds are asked.
    pub fn root(&self) -> String {
        format!("http://{}", self.address)
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().expect("the memory")
    }

    /// All requests so far, in the order of their arrival.
    pub fn asked(&self) -> Vec<Asked> {
        self.memory().asked.clone()
    }

    pub fn abandoned(&self) -> usize {
        self.memory().abandoned
    }
}

impl Drop for Models {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.lock().expect("the stop").take() {
            let _ = stop.send(());
        }
    }
}

pub fn note(memory: &Shared, (path, model): (&'static str, &str), headers: &HeaderMap, body: &Value) -> usize {
    let mut memory = memory.lock().expect("the memory");
    memory.asked.push(Asked { path, model: model.to_owned(), headers: headers.clone(), body: body.clone() });
    memory.asked.iter().filter(|asked| asked.model == model).count()
}

/// What a model does before it says anything.
async fn mood(model: &str, times: usize, headers: &HeaderMap, stream: bool) -> Option<Response> {
    let error = |status: StatusCode, message: &str| {
        let body = json!({"error": {"message": message, "type": "x"}}).to_string();
        (status, [(header::CONTENT_TYPE, "application/json"), (header::SERVER, LEAK)], body).into_response()
    };
    match model {
        "busy" if times <= 2 => {
            let mut answer = error(StatusCode::TOO_MANY_REQUESTS, "too many");
            answer.headers_mut().insert(header::RETRY_AFTER, "0".parse().expect("a header"));
            Some(answer)
        }
        "down" => Some(error(StatusCode::SERVICE_UNAVAILABLE, "overloaded")),
        "missing" => Some(error(StatusCode::NOT_FOUND, "there is no such model")),
        "shut" => {
            let key = headers.get(header::AUTHORIZATION).or_else(|| headers.get("x-api-key")).and_then(|v| v.to_str().ok());
            Some(error(StatusCode::UNAUTHORIZED, &format!("Incorrect API key provided: {}", key.unwrap_or_default())))
        }
        "wrong" => Some(error(StatusCode::BAD_REQUEST, &format!("temperature is too high for {}", credential(headers)))),
        "broken" => {
            let error =
                json!({"error": {"message": format!("out of memory for {}", credential(headers)), "code": 500}}).to_string();
            let (kind, body) = if stream {
                ("text/event-stream", format!("data: {error}\n\ndata: [DONE]\n\n"))
            } else {
                ("application/json", error)
            };
            Some((StatusCode::OK, [(header::CONTENT_TYPE, kind)], body).into_response())
        }
        "garbage" => Some((StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], "<html>").into_response()),
        "silent" => {
            tokio::time::sleep(Duration::from_secs(600)).await;
            None
        }
        _ => None,
    }
}

/// The secret by which a request came in.
pub fn credential(headers: &HeaderMap) -> String {
    let found =
        ["x-api-key", "x-goog-api-key", "x-amz-security-token", "authorization"].iter().find_map(|name| headers.get(*name));
    found.and_then(|value| value.to_str().ok()).map(|value| value.replace("Bearer ", "")).unwrap_or_default()
}

/// What a model says, or the tools that it wants.
pub enum Says {
    Text(String),
    Calls(Vec<(String, String)>),
}

pub fn says(model: &str, last_user: &str, results: &[String]) -> Says {
    let wanted: Vec<(String, String)> = last_user
        .lines()
        .filter_map(|line| line.split_once(" {").map(|(name, rest)| (name.trim().to_owned(), format!("{{{rest}"))))
        .collect();
    match model {
        "tools" if results.is_empty() && !wanted.is_empty() => Says::Calls(wanted),
        "loop" => Says::Calls(wanted),
        "tools" => Says::Text(format!("done: {}", results.join(" | "))),
        _ => Says::Text(last_user.to_owned()),
    }
}

fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join(" "),
        _ => String::new(),
    }
}

fn pause(model: &str) -> Duration {
    Duration::from_millis(model.strip_prefix("slow-").and_then(|ms| ms.parse().ok()).unwrap_or(0))
}

/// Send events one by one, and remember whether somebody read to the end.
fn events(memory: Shared, model: &str, frames: Vec<String>) -> Response {
    pieces(memory, model, "text/event-stream", frames.into_iter().map(Bytes::from).collect())
}

/// The same, whatever its framing is.
pub fn pieces(memory: Shared, model: &str, kind: &'static str, frames: Vec<Bytes>) -> Response {
    struct Watch(Shared, bool);
    impl Drop for Watch {
        fn drop(&mut self) {
            if !self.1 {
                self.0.lock().expect("the memory").abandoned += 1;
            }
        }
    }
    let (pause, cut, mute) = (pause(model), model == "cut", model == "mute");
    let state = (frames.into_iter().enumerate(), Watch(memory, false));
    let stream = stream::unfold(state, move |(mut frames, mut watch)| async move {
        let Some((at, frame)) = frames.next() else {
            watch.1 = true;
            drop(watch);
            return None;
        };
        if cut && at == 3 {
            return Some((Err(std::io::Error::other("cut")), (frames, watch)));
        }
        if mute && at == 3 {
            tokio::time::sleep(Duration::from_secs(600)).await;
        }
        tokio::time::sleep(pause).await;
        Some((Ok(frame), (frames, watch)))
    });
    ([(header::CONTENT_TYPE, kind), (header::SERVER, LEAK)], Body::from_stream(stream)).into_response()
}

pub fn words(text: &str) -> Vec<String> {
    text.split_inclusive(' ').map(str::to_owned).collect()
}

pub fn whole(answer: &Value) -> Response {
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::SERVER, LEAK)];
    (headers, answer.to_string()).into_response()
}

/// Tokens as this provider counts them: words.
pub fn tokens(text: &str) -> usize {
    text.split_whitespace().count()
}

async fn chat(State(memory): State<Shared>, headers: HeaderMap, body: Bytes) -> Response {
    let body: Value = serde_json::from_slice(&body).expect("JSON");
    let model = body["model"].as_str().expect("a model").to_owned();
    let times = note(&memory, ("chat", &model), &headers, &body);
    if let Some(answer) = mood(&model, times, &headers, body["stream"] == true).await {
        return answer;
    }
    let said = body["messages"].as_array().expect("messages");
    let last = said.iter().rev().find(|m| m["role"] == "user").map(|m| text_of(&m["content"])).unwrap_or_default();
    let results: Vec<String> = said.iter().filter(|m| m["role"] == "tool").map(|m| text_of(&m["content"])).collect();
    let input: usize = said.iter().map(|m| tokens(&text_of(&m["content"]))).sum();
    let (message, finish) = match says(&model, &last, &results) {
        Says::Text(text) => (json!({"role": "assistant", "content": text}), "stop"),
        Says::Calls(calls) => {
            let calls: Vec<Value> = calls
                .into_iter()
                .enumerate()
                .map(|(n, (name, arguments))| json!({"id": format!("call_{times}_{n}"), "type": "function", "function": {"name": name, "arguments": arguments}}))
                .collect();
            (json!({"role": "assistant", "content": null, "tool_calls": calls}), "tool_calls")
        }
    };
    let output = tokens(message["content"].as_str().unwrap_or("a b"));
    let mut usage = json!({"prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output,
        "prompt_tokens_details": {"cached_tokens": 1}});
    if model == "boastful" {
        usage["prompt_tokens"] = json!(u64::MAX);
    }
    if body["stream"] != true {
        return whole(
            &json!({"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": model, "system_fingerprint": "fp",
            "choices": [{"index": 0, "message": message, "finish_reason": finish, "logprobs": null}], "usage": usage}),
        );
    }
    let chunk = |delta: Value, finish: Value| {
        let chunk = json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": model,
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]});
        format!("data: {chunk}\n\n")
    };
    let mut frames = vec![chunk(json!({"role": "assistant", "content": ""}), Value::Null)];
    match message["tool_calls"].as_array() {
        Some(calls) => {
            for (at, call) in calls.iter().enumerate() {
                let (name, arguments) = (&call["function"]["name"], call["function"]["arguments"].as_str().expect("text"));
                let head =
                    json!({"index": at, "id": call["id"], "type": "function", "function": {"name": name, "arguments": ""}});
                frames.push(chunk(json!({"tool_calls": [head]}), Value::Null));
                let (first, second) = arguments.split_at(arguments.len() / 2);
                for piece in [first, second] {
                    frames.push(chunk(json!({"tool_calls": [{"index": at, "function": {"arguments": piece}}]}), Value::Null));
                }
            }
        }
        None => {
            let text = message["content"].as_str().unwrap_or_default();
            frames.extend(words(text).into_iter().map(|word| chunk(json!({"content": word}), Value::Null)));
        }
    }
    frames.push(chunk(json!({}), finish.into()));
    if body["stream_options"]["include_usage"] == true {
        let last = json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": model, "choices": [], "usage": usage});
        frames.push(format!("data: {last}\n\n"));
    }
    frames.push("data: [DONE]\n\n".to_owned());
    events(memory, &model, frames)
}

async fn messages(State(memory): State<Shared>, headers: HeaderMap, body: Bytes) -> Response {
    let body: Value = serde_json::from_slice(&body).expect("JSON");
    let model = body["model"].as_str().expect("a model").to_owned();
    let times = note(&memory, ("messages", &model), &headers, &body);
    if let Some(answer) = mood(&model, times, &headers, body["stream"] == true).await {
        return answer;
    }
    let said = body["messages"].as_array().expect("messages");
    let of_user: Vec<&Value> = said.iter().filter(|m| m["role"] == "user").collect();
    let is_result = |m: &&Value| m["content"][0]["type"] == "tool_result";
    let last = of_user.iter().rev().find(|m| !is_result(m)).map(|m| text_of(&m["content"])).unwrap_or_default();
    let results: Vec<String> = of_user
        .iter()
        .filter(|m| is_result(m))
        .flat_map(|m| m["content"].as_array().expect("blocks").iter().map(|b| text_of(&b["content"])).collect::<Vec<_>>())
        .collect();
    let (content, stop) = match says(&model, &last, &results) {
        Says::Text(text) => (vec![json!({"type": "text", "text": text})], "end_turn"),
        Says::Calls(calls) => {
            let blocks = calls.into_iter().enumerate().map(|(n, (name, arguments))| {
                let input: Value = serde_json::from_str(&arguments).expect("JSON");
                json!({"type": "tool_use", "id": format!("toolu_{times}_{n}"), "name": name, "input": input})
            });
            (std::iter::once(json!({"type": "text", "text": "Let me see."})).chain(blocks).collect(), "tool_use")
        }
    };
    let input = tokens(&last);
    let usage =
        json!({"input_tokens": input, "output_tokens": 5, "cache_read_input_tokens": 2, "cache_creation_input_tokens": 0});
    let mut message = json!({"id": "msg_1", "type": "message", "role": "assistant", "model": model, "content": content, "stop_reason": stop,
        "stop_sequence": null, "usage": usage});
    if body["stream"] != true {
        return whole(&message);
    }
    let frame = |event: Value| format!("event: {}\ndata: {event}\n\n", event["type"].as_str().expect("a type"));
    (message["content"], message["stop_reason"], message["usage"]["output_tokens"]) = (json!([]), Value::Null, json!(1));
    let mut frames = vec![frame(json!({"type": "message_start", "message": message})), frame(json!({"type": "ping"}))];
    for (index, block) in content.into_iter().enumerate() {
        let (start, deltas): (Value, Vec<Value>) = if block["type"] == "text" {
            let text = block["text"].as_str().expect("text");
            let deltas = words(text).into_iter().map(|word| json!({"type": "text_delta", "text": word})).collect();
            (json!({"type": "text", "text": ""}), deltas)
        } else {
            let json = block["input"].to_string();
            let (a, b) = json.split_at(json.len() / 2);
            let deltas = [a, b].map(|piece| json!({"type": "input_json_delta", "partial_json": piece})).to_vec();
            (json!({"type": "tool_use", "id": block["id"], "name": block["name"], "input": {}}), deltas)
        };
        frames.push(frame(json!({"type": "content_block_start", "index": index, "content_block": start})));
        frames.extend(
            deltas.into_iter().map(|delta| frame(json!({"type": "content_block_delta", "index": index, "delta": delta}))),
        );
        frames.push(frame(json!({"type": "content_block_stop", "index": index})));
    }
    frames.push(frame(
        json!({"type": "message_delta", "delta": {"stop_reason": stop, "stop_sequence": null}, "usage": {"output_tokens": 5}}),
    ));
    frames.push(frame(json!({"type": "message_stop"})));
    events(memory, &model, frames)
}

async fn responses(State(memory): State<Shared>, headers: HeaderMap, body: Bytes) -> Response {
    let body: Value = serde_json::from_slice(&body).expect("JSON");
    let model = body["model"].as_str().expect("a model").to_owned();
    let times = note(&memory, ("responses", &model), &headers, &body);
    if let Some(answer) = mood(&model, times, &headers, body["stream"] == true).await {
        return answer;
    }
    let (last, results) = match &body["input"] {
        Value::String(text) => (text.clone(), Vec::new()),
        Value::Array(items) => (
            items.iter().rev().find(|m| m["role"] == "user").map(|m| text_of(&m["content"])).unwrap_or_default(),
            items.iter().filter(|m| m["type"] == "function_call_output").map(|m| text_of(&m["output"])).collect(),
        ),
        _ => (String::new(), Vec::new()),
    };
    let output: Vec<Value> = match says(&model, &last, &results) {
        Says::Text(text) => vec![json!({"type": "message", "id": "m1", "status": "completed", "role": "assistant",
            "content": [{"type": "output_text", "text": text, "annotations": []}]})],
        Says::Calls(calls) => calls
            .into_iter()
            .enumerate()
            .map(|(n, (name, arguments))| json!({"type": "function_call", "id": format!("fc_{n}"), "call_id": format!("call_{times}_{n}"), "name": name, "arguments": arguments, "status": "completed"}))
            .collect(),
    };
    let response = json!({"id": "resp_1", "object": "response", "created_at": 1, "status": "completed", "model": model, "output": output,
        "parallel_tool_calls": true, "tool_choice": "auto", "tools": [], "usage": {"input_tokens": 9, "output_tokens": 4, "total_tokens": 13,
        "input_tokens_details": {"cached_tokens": 3}, "output_tokens_details": {"reasoning_tokens": 2}}});
    if body["stream"] != true {
        return whole(&response);
    }
    let text = output[0]["content"][0]["text"].as_str().unwrap_or_default().to_owned();
    let frame = |event: Value| format!("event: {}\ndata: {event}\n\n", event["type"].as_str().expect("a type"));
    let mut begun = response.clone();
    (begun["status"], begun["output"], begun["usage"]) = (json!("in_progress"), json!([]), Value::Null);
    let mut sequence = 0..;
    let mut next = |mut event: Value| {
        event["sequence_number"] = sequence.next().expect("a number").into();
        frame(event)
    };
    let mut frames = vec![next(json!({"type": "response.created", "response": begun}))];
    for (at, item) in output.iter().enumerate() {
        frames.push(next(json!({"type": "response.output_item.added", "output_index": at, "item": item})));
        if item["type"] == "function_call" {
            frames.push(next(json!({"type": "response.function_call_arguments.done", "output_index": at, "item_id": item["id"], "arguments": item["arguments"]})));
        }
        let said = if item["type"] == "message" { words(&text) } else { Vec::new() };
        frames.extend(said.into_iter().map(|word| {
            next(json!({"type": "response.output_text.delta", "item_id": "m1", "output_index": at, "content_index": 0, "delta": word, "logprobs": []}))
        }));
        frames.push(next(json!({"type": "response.output_item.done", "output_index": at, "item": item})));
    }
    frames.push(next(json!({"type": "response.completed", "response": response})));
    events(memory, &model, frames)
}

async fn embeddings(State(memory): State<Shared>, headers: HeaderMap, body: Bytes) -> Response {
    let body: Value = serde_json::from_slice(&body).expect("JSON");
    note(&memory, ("embeddings", ""), &headers, &body);
    whole(
        &json!({"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": [0.5, -1.0]}], "model": body["model"],
        "usage": {"prompt_tokens": 3, "total_tokens": 3}}),
    )
}
