//! An MCP server that remembers what it was asked, byte by byte, and answers what a test tells it to.
//!
//! It runs on a thread and a runtime of its own, so it outlives whichever Tollgate calls it, and a test's runtime that is busy
//! does not slow it down. It speaks Streamable HTTP without sessions' memory, so any process may call it; the older era unless
//! started as [`Recorder::modern`].
//!
//! Tools: `echo` (answers its arguments), `slow` (`ms`), `fail` (an error of the tool), `broken` (a JSON-RPC error), `big` (`bytes`, and as a `stream`), `odd`
//! (answers what no typed model would let through, see [`ODD`]), `progress` (`steps`), `count` (how often it was called).

use std::{
    collections::{BTreeMap, HashMap},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{
        IntoResponse, Response,
        sse::{Event, Sse},
    },
    routing::get,
};
use futures::StreamExt;
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use tokio::sync::{broadcast, oneshot};

/// The answer of `odd`: fields nobody specified, numbers in unusual spellings, every kind of content.
pub const ODD: &str = r#"{ "content":[{"type":"text","text":"caf\u00e9 \ud83d\ude00","annotations":{"audience":["user"],"priority":0.90,"x-own":[1.0,1e2]}}, {"type":"image","data":"aGVsbG8=","mimeType":"image/png","_meta":{"k":"v"}}, {"type":"audio","data":"aGk=","mimeType":"audio/wav"}, {"type":"resource_link","uri":"file:///a/b.txt","name":"b.txt","title":"B","size":12345678901234567890,"icons":[{"src":"data:,x"}]}, {"type":"resource","resource":{"uri":"mem://1","mimeType":"text/plain","text":"inner","_meta":{"deep":{"er":null}}}}, {"type":"x-future","payload":{"z":1,"a":2}}],"structuredContent":{"z":1,"a":1.0,"big":123456789012345678901234567890,"neg":-0.0,"exp":1E+2,"nested":{"b":[],"a":{}}},"_meta":{"example.com/trace":"abc","n":1.50},"isError":false,"xUnknown":{"keep":["me",1.10]}}"#;

/// One `tools/call` as it arrived.
#[derive(Debug, Clone)]
pub struct Received {
    /// Of the JSON-RPC request.
    pub id: Value,
    pub tool: String,
    /// The exact text of `arguments`.
    pub arguments: String,
    pub meta: Value,
    pub headers: HeaderMap,
    /// The whole body.
    pub body: String,
    pub at: Instant,
}

impl Received {
    pub fn args(&self) -> Value {
        serde_json::from_str(&self.arguments).expect("JSON")
    }
}

#[derive(Debug)]
struct Memory {
    calls: Vec<Received>,
    /// Everything else: method and headers.
    others: Vec<(String, HeaderMap)>,
    cancelled: Vec<Value>,
    tools: Vec<Value>,
    answers: HashMap<String, String>,
    /// Tools whose calls are received and not answered.
    held: Vec<String>,
}

#[derive(Debug)]
struct Shared {
    memory: Mutex<Memory>,
    /// Calls of `slow` that run at this moment, and the most there ever were.
    running: AtomicUsize,
    most: AtomicUsize,
    /// Calls are received and answered only once this is false.
    held: AtomicBool,
    news: broadcast::Sender<String>,
    modern: bool,
}

#[derive(Debug)]
pub struct Recorder {
    shared: Arc<Shared>,
    address: SocketAddr,
    stop: Mutex<Option<oneshot::Sender<()>>>,
}

impl Recorder {
    /// Serve on a free port.
    pub fn start() -> Self {
        Self::of(false)
    }

    /// One that speaks 2026-07-28 alone.
    pub fn modern() -> Self {
        Self::of(true)
    }

    fn of(modern: bool) -> Self {
        let (news, _) = broadcast::channel(64);
        let memory = Memory {
            calls: vec![],
            others: vec![],
            cancelled: vec![],
            tools: default_tools(),
            answers: HashMap::new(),
            held: vec![],
        };
        let shared = Shared {
            memory: Mutex::new(memory),
            running: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            held: AtomicBool::new(false),
            news,
            modern,
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("an address");
        let recorder = Self { shared: Arc::new(shared), address, stop: Mutex::default() };
        recorder.serve(listener);
        recorder
    }

    pub fn url(&self) -> String {
        format!("http://{}/mcp", self.address)
    }

    /// As a transport of an upstream.
    pub fn transport(&self) -> Value {
        json!({"type": "http", "url": self.url()})
    }

    /// All calls so far, in the order of their arrival.
    pub fn calls(&self) -> Vec<Received> {
        self.memory().calls.clone()
    }

    /// Calls whose arguments have `"tag": tag`.
    pub fn tagged(&self, tag: &str) -> Vec<Received> {
        self.calls().into_iter().filter(|call| call.args()["tag"] == tag).collect()
    }

    /// How often each tag came.
    pub fn tags(&self) -> BTreeMap<String, usize> {
        let mut tags = BTreeMap::new();
        for call in self.calls() {
            if let Some(tag) = call.args()["tag"].as_str() {
                *tags.entry(tag.to_owned()).or_default() += 1;
            }
        }
        tags
    }

    /// Headers of everything that came, calls or not.
    pub fn headers(&self) -> Vec<HeaderMap> {
        let memory = self.memory();
        memory.calls.iter().map(|call| &call.headers).chain(memory.others.iter().map(|(_, headers)| headers)).cloned().collect()
    }

    /// Methods of requests and notifications that were no calls.
    pub fn methods(&self) -> Vec<String> {
        self.memory().others.iter().map(|(method, _)| method.clone()).collect()
    }

    /// Request ids that were cancelled.
    pub fn cancelled(&self) -> Vec<Value> {
        self.memory().cancelled.clone()
    }

    /// How many calls of `slow` ran at the same time at most.
    pub fn most_at_once(&self) -> usize {
        self.shared.most.load(Ordering::SeqCst)
    }

    /// Receive calls but answer none until [`Self::release`].
    pub fn hold(&self) {
        self.shared.held.store(true, Ordering::SeqCst);
    }

    /// [`Self::hold`], for these tools alone.
    pub fn hold_tools(&self, tools: &[&str]) {
        self.memory().held = tools.iter().map(|&tool| tool.to_owned()).collect();
    }

    pub fn release(&self) {
        self.memory().held.clear();
        self.shared.held.store(false, Ordering::SeqCst);
    }

    pub fn definitions(&self) -> Vec<Value> {
        self.memory().tools.clone()
    }

    /// Change what `tools/list` answers. Nobody is told; see [`Self::announce`].
    pub fn change(&self, edit: impl FnOnce(&mut Vec<Value>)) {
        edit(&mut self.memory().tools);
    }

    /// Change one definition.
    pub fn change_tool(&self, name: &str, edit: impl FnOnce(&mut Value)) {
        self.change(|tools| edit(tools.iter_mut().find(|tool| tool["name"] == name).expect("the tool")));
    }

    /// Send `notifications/tools/list_changed` to everybody who listens.
    pub fn announce(&self) {
        drop(self.shared.news.send(json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}).to_string()));
    }

    /// Let `tool` answer exactly this text as `result`.
    pub fn answer(&self, tool: &str, result: &str) {
        self.memory().answers.insert(tool.to_owned(), result.to_owned());
    }

    /// Close the port and every connection; what was recorded stays.
    pub fn stop(&self) {
        if let Some(stop) = self.stop.lock().expect("lock").take() {
            drop(stop);
        }
        // Gone when nobody can connect any more.
        let end = Instant::now() + Duration::from_secs(5);
        while std::net::TcpStream::connect(self.address).is_ok() && Instant::now() < end {
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Serve again on the same port.
    pub fn resume(&self) {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            match TcpListener::bind(self.address) {
                Ok(listener) => return self.serve(listener),
                Err(error) => assert!(Instant::now() < end, "{} cannot be bound again: {error}", self.address),
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.shared.memory.lock().expect("lock")
    }

    fn serve(&self, listener: TcpListener) {
        let (stop, stopped) = oneshot::channel::<()>();
        *self.stop.lock().expect("lock") = Some(stop);
        let router = Router::new()
            .route("/mcp", get(listen).post(post).delete(async || StatusCode::OK))
            .layer(axum::extract::DefaultBodyLimit::max(64 << 20))
            .with_state(Arc::clone(&self.shared));
        listener.set_nonblocking(true).expect("a socket");
        thread::Builder::new()
            .name("recorder".to_owned())
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
                runtime.block_on(async move {
                    let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
                    tokio::select! {
                        served = axum::serve(listener, router) => served.expect("served"),
                        _ = stopped => {}
                    }
                });
                // Cuts what is still open.
                runtime.shutdown_background();
            })
            .expect("a thread");
    }
}

#[derive(Deserialize)]
struct Message<'a> {
    id: Option<Value>,
    method: Option<String>,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
}

#[derive(Deserialize, Default)]
struct Params<'a> {
    name: Option<String>,
    #[serde(borrow)]
    arguments: Option<&'a RawValue>,
    #[serde(rename = "_meta", default)]
    meta: Value,
    #[serde(rename = "requestId", default)]
    request_id: Value,
    #[serde(rename = "protocolVersion", default)]
    version: Value,
}

async fn post(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: String) -> Response {
    let Ok(message) = serde_json::from_str::<Message<'_>>(&body) else { return StatusCode::BAD_REQUEST.into_response() };
    let params: Params<'_> = message.params.and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default();
    let method = message.method.unwrap_or_default();
    let Some(id) = message.id else {
        let mut memory = shared.memory.lock().expect("lock");
        if method == "notifications/cancelled" {
            memory.cancelled.push(params.request_id);
        }
        memory.others.push((method, headers));
        return StatusCode::ACCEPTED.into_response();
    };
    if method == "tools/call" {
        let call = Received {
            id,
            tool: params.name.unwrap_or_default(),
            arguments: params.arguments.map_or("{}", RawValue::get).to_owned(),
            meta: params.meta,
            headers,
            body: body.clone(),
            at: Instant::now(),
        };
        shared.memory.lock().expect("lock").calls.push(call.clone());
        return call_tool(&shared, call).await;
    }
    shared.memory.lock().expect("lock").others.push((method.clone(), headers));
    match method.as_str() {
        "server/discover" if shared.modern => {
            let result = json!({
                "resultType": "complete",
                "supportedVersions": ["2026-07-28"],
                "capabilities": {"tools": {}},
                "ttlMs": 0,
                "cacheScope": "private",
                "_meta": {"io.modelcontextprotocol/serverInfo": {"name": "recorder", "version": "1.0.0"}},
            });
            result_of(&id, &result.to_string())
        }
        "initialize" if !shared.modern => {
            let version = params.version.as_str().unwrap_or("2025-11-25");
            let result = json!({
                "protocolVersion": version,
                "capabilities": {"tools": {"listChanged": true}},
                "serverInfo": {"name": "recorder", "version": "1.0.0"},
            });
            let mut answer = result_of(&id, &result.to_string());
            answer.headers_mut().insert("mcp-session-id", "recorder".parse().expect("a value"));
            answer
        }
        "ping" => result_of(&id, "{}"),
        "tools/list" => {
            let tools = shared.memory.lock().expect("lock").tools.clone();
            let result = json!({"resultType": "complete", "tools": tools, "ttlMs": 0, "cacheScope": "private"});
            result_of(&id, &(if shared.modern { result } else { json!({"tools": tools}) }).to_string())
        }
        _ => error_of(&id, -32601, "Method not found"),
    }
}

/// The stream of news of the older era.
async fn listen(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    shared.memory.lock().expect("lock").others.push(("GET".to_owned(), headers));
    let news = shared.news.subscribe();
    let events = futures::stream::unfold(news, async |mut news| {
        let line = news.recv().await.ok()?;
        Some((Ok::<_, std::convert::Infallible>(Event::default().data(line)), news))
    });
    Sse::new(events).keep_alive(axum::response::sse::KeepAlive::default()).into_response()
}

async fn call_tool(shared: &Arc<Shared>, call: Received) -> Response {
    while shared.held.load(Ordering::SeqCst) || shared.memory.lock().expect("lock").held.contains(&call.tool) {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let own = shared.memory.lock().expect("lock").answers.get(&call.tool).cloned();
    if let Some(result) = own {
        return result_of(&call.id, &result);
    }
    let args = call.args();
    match call.tool.as_str() {
        "echo" => result_of(
            &call.id,
            &format!(r#"{{"content":[{{"type":"text","text":"echo"}}],"structuredContent":{{"echo":{}}}}}"#, call.arguments),
        ),
        "slow" => {
            let _running = Running::enter(shared);
            tokio::time::sleep(Duration::from_millis(args["ms"].as_u64().unwrap_or(100))).await;
            result_of(&call.id, r#"{"content":[{"type":"text","text":"slept"}],"structuredContent":{"slept":true}}"#)
        }
        "fail" => result_of(&call.id, r#"{"content":[{"type":"text","text":"it failed on purpose"}],"isError":true}"#),
        "broken" => error_of(&call.id, -32050, "broken on purpose"),
        "big" => {
            let text = "x".repeat(usize::try_from(args["bytes"].as_u64().unwrap_or(1000)).expect("a size"));
            let result = format!(r#"{{"content":[{{"type":"text","text":"{text}"}}]}}"#);
            if args["stream"] == true {
                let message = format!(r#"{{"jsonrpc":"2.0","id":{},"result":{result}}}"#, call.id);
                return Sse::new(futures::stream::iter([Ok::<_, std::convert::Infallible>(Event::default().data(message))]))
                    .into_response();
            }
            result_of(&call.id, &result)
        }
        "odd" => result_of(&call.id, ODD),
        "count" => {
            let count = shared.memory.lock().expect("lock").calls.iter().filter(|c| c.tool == "count").count();
            result_of(&call.id, &json!({"content": [], "structuredContent": {"count": count}}).to_string())
        }
        "progress" => progress(&call, args["steps"].as_u64().unwrap_or(3)),
        _ => error_of(&call.id, -32602, "Unknown tool"),
    }
}

/// Also ends when the client goes away and the call's future is dropped.
struct Running(Arc<Shared>);

impl Running {
    fn enter(shared: &Arc<Shared>) -> Self {
        let now = shared.running.fetch_add(1, Ordering::SeqCst) + 1;
        shared.most.fetch_max(now, Ordering::SeqCst);
        Self(Arc::clone(shared))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

fn progress(call: &Received, steps: u64) -> Response {
    let token = call.meta["progressToken"].clone();
    let note = move |step: u64| {
        json!({"jsonrpc": "2.0", "method": "notifications/progress",
            "params": {"progressToken": token, "progress": step, "total": steps, "message": format!("step {step}")}})
        .to_string()
    };
    let result = format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{"content":[{{"type":"text","text":"done"}}]}}}}"#, call.id);
    let lines = (1..=steps).map(note).chain(std::iter::once(result)).collect::<Vec<_>>();
    let events = futures::stream::iter(lines).then(async |line| {
        tokio::time::sleep(Duration::from_millis(20)).await;
        Ok::<_, std::convert::Infallible>(Event::default().data(line))
    });
    Sse::new(events).into_response()
}

fn result_of(id: &Value, result: &str) -> Response {
    json_answer(format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#))
}

fn error_of(id: &Value, code: i32, message: &str) -> Response {
    json_answer(
        json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": message, "data": {"from": "recorder"}}})
            .to_string(),
    )
}

/// With a header that no client of a gateway should ever see.
fn json_answer(text: String) -> Response {
    ([("content-type", "application/json"), ("x-upstream-secret", "inner"), ("set-cookie", "upstream=1")], text).into_response()
}

fn default_tools() -> Vec<Value> {
    let tool = |name: &str, description: &str, properties: Value| {
        json!({
            "name": name,
            "title": name.to_uppercase(),
            "description": description,
            "inputSchema": {"type": "object", "properties": properties},
            "annotations": {"readOnlyHint": name != "fail", "x-own": 1.0},
            "_meta": {"recorder/kind": name},
            "xUnknown": {"kept": true},
        })
    };
    let tag = json!({"type": "string"});
    vec![
        tool("echo", "Answers its arguments.", json!({"tag": tag, "text": {"type": "string"}})),
        tool("slow", "Sleeps.", json!({"tag": tag, "ms": {"type": "integer"}})),
        tool("fail", "Fails.", json!({"tag": tag})),
        tool("broken", "Answers a JSON-RPC error.", json!({"tag": tag})),
        tool("big", "Answers much.", json!({"tag": tag, "bytes": {"type": "integer"}})),
        tool("odd", "Answers oddly.", json!({"tag": tag})),
        tool("progress", "Tells how far it is.", json!({"tag": tag, "steps": {"type": "integer"}})),
        tool("count", "Counts its calls.", json!({"tag": tag})),
    ]
}
