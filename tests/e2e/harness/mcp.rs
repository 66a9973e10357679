//! A client of the model door that sends exactly what it is told to, in either era of the protocol.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use futures::StreamExt;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};

use super::http_client;

pub const LEGACY: &str = "2025-11-25";
pub const MODERN: &str = "2026-07-28";

#[derive(Debug, Clone)]
pub struct Mcp {
    http: reqwest::Client,
    pub url: String,
    /// Sent with every request, beside what belongs to the era.
    headers: Vec<(String, String)>,
    /// Of the protocol; `None` sends no version header.
    version: Option<String>,
    tasks: bool,
    next_id: Arc<AtomicU64>,
}

/// One answer.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    /// The body as it came.
    pub text: String,
    /// Messages that came before the answer, on a stream.
    pub events: Vec<Value>,
    /// The text of the JSON-RPC message that is the answer; empty where there was none.
    pub message_text: String,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }

    /// `x-tollgate-request-id`.
    #[track_caller]
    pub fn request_id(&self) -> String {
        self.header("x-tollgate-request-id").unwrap_or_else(|| panic!("no request id: {self:?}")).to_owned()
    }

    #[track_caller]
    pub fn message(&self) -> Value {
        serde_json::from_str(&self.message_text).unwrap_or_else(|error| panic!("{error}: {} {}", self.status, self.text))
    }

    #[track_caller]
    pub fn result(&self) -> Value {
        let mut message = self.message();
        assert!(message.get("error").is_none() && message.get("result").is_some(), "no result: {} {message}", self.status);
        message["result"].take()
    }

    /// The exact JSON of `result`.
    #[track_caller]
    pub fn result_text(&self) -> String {
        #[derive(serde::Deserialize)]
        struct Message<'a> {
            #[serde(borrow)]
            result: &'a serde_json::value::RawValue,
        }
        let message: Message<'_> =
            serde_json::from_str(&self.message_text).unwrap_or_else(|error| panic!("{error}: {} {}", self.status, self.text));
        message.result.get().to_owned()
    }

    #[track_caller]
    pub fn error(&self) -> Value {
        let mut message = self.message();
        assert!(message.get("error").is_some(), "no error: {} {message}", self.status);
        message["error"].take()
    }

    /// `structuredContent` of a tool's answer that must not be an error.
    #[track_caller]
    pub fn structured(&self) -> Value {
        let mut result = self.result();
        assert_ne!(result["isError"], true, "{result}");
        result["structuredContent"].take()
    }

    /// The first text of a tool's answer.
    #[track_caller]
    pub fn content_text(&self) -> String {
        let result = self.result();
        result["content"][0]["text"].as_str().unwrap_or_else(|| panic!("no text in {result}")).to_owned()
    }
}

/// Messages as they come on a stream that stays open.
pub struct Stream {
    pub status: u16,
    pub headers: HeaderMap,
    bytes: futures::stream::BoxStream<'static, reqwest::Result<bytes::Bytes>>,
    buffer: String,
}

impl Stream {
    /// The next message; `None` when the stream has ended.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            while let Some(end) = self.buffer.find("\n\n") {
                let event: String = self.buffer.drain(..end + 2).collect();
                if let Some(data) = data_of(&event) {
                    return Some(serde_json::from_str(&data).unwrap_or_else(|error| panic!("{error} in {data}")));
                }
            }
            let chunk = self.bytes.next().await?.ok()?;
            self.buffer.push_str(std::str::from_utf8(&chunk).expect("UTF-8").replace("\r\n", "\n").as_str());
        }
    }

    /// The next message within a time that no slow machine needs.
    pub async fn soon(&mut self) -> Value {
        let next = tokio::time::timeout(std::time::Duration::from_secs(10), self.next()).await;
        next.expect("a message within 10 s").expect("a message before the stream ends")
    }
}

fn data_of(event: &str) -> Option<String> {
    let lines: Vec<&str> =
        event.lines().filter_map(|line| line.strip_prefix("data:")).map(|data| data.strip_prefix(' ').unwrap_or(data)).collect();
    let data = lines.join("\n");
    (!data.is_empty()).then_some(data)
}

impl Mcp {
    /// With a virtual key as a bearer, in the older era, on `/mcp`.
    pub fn new(gateway_url: &str, secret: &str) -> Self {
        Self::keyless(gateway_url).header("authorization", &format!("Bearer {secret}"))
    }

    pub fn keyless(gateway_url: &str) -> Self {
        Self {
            http: http_client(),
            url: format!("{gateway_url}/mcp"),
            headers: Vec::new(),
            version: Some(LEGACY.to_owned()),
            tasks: false,
            next_id: Arc::default(),
        }
    }

    /// On `/mcp/{slug}`.
    #[must_use]
    pub fn at(&self, slug: &str) -> Self {
        Self { url: format!("{}/{slug}", self.url), ..self.clone() }
    }

    #[must_use]
    pub fn header(&self, name: &str, value: &str) -> Self {
        let mut other = self.clone();
        other.headers.push((name.to_owned(), value.to_owned()));
        other
    }

    #[must_use]
    pub fn version(&self, version: Option<&str>) -> Self {
        Self { version: version.map(str::to_owned), ..self.clone() }
    }

    /// The newer era: every request says in `_meta` and in headers what it is.
    #[must_use]
    pub fn modern(&self) -> Self {
        self.version(Some(MODERN))
    }

    /// The newer era, by a client that knows tasks.
    #[must_use]
    pub fn with_tasks(&self) -> Self {
        Self { tasks: true, ..self.modern() }
    }

    fn is_modern(&self) -> bool {
        self.version.as_deref() == Some(MODERN)
    }

    /// A request body with the next id, with what its era asks for.
    pub fn body(&self, method: &str, params: Value) -> Value {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed) + 1;
        let mut body = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        if self.is_modern() {
            let meta = &mut body["params"]["_meta"];
            meta["io.modelcontextprotocol/protocolVersion"] = MODERN.into();
            meta["io.modelcontextprotocol/clientCapabilities"] =
                if self.tasks { json!({"extensions": {"io.modelcontextprotocol/tasks": {}}}) } else { json!({}) };
            meta["io.modelcontextprotocol/clientInfo"] = json!({"name": "tollgate-tests", "version": "1"});
        }
        body
    }

    fn prepare(&self, body: &Value) -> reqwest::RequestBuilder {
        let mut request = self.prepare_raw();
        if self.is_modern() {
            request = request.header("mcp-method", body["method"].as_str().unwrap_or_default());
            let named = match body["method"].as_str() {
                Some("tools/call") => body["params"]["name"].as_str(),
                Some(method) if method.starts_with("tasks/") => body["params"]["taskId"].as_str(),
                _ => None,
            };
            if let Some(name) = named {
                request = request.header("mcp-name", name);
            }
        }
        request.body(body.to_string())
    }

    fn prepare_raw(&self) -> reqwest::RequestBuilder {
        let mut request = self
            .http
            .post(&self.url)
            .header("content-type", "application/json")
            .header("accept", "application/json, text/event-stream");
        if let Some(version) = &self.version {
            request = request.header("mcp-protocol-version", version);
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        request
    }

    /// Exactly this body, with the client's headers.
    pub async fn raw(&self, body: impl Into<reqwest::Body>) -> Reply {
        let request = self.prepare_raw().body(body);
        read(request.send().await.expect("an answer")).await.expect("a whole answer")
    }

    /// One request; the error is that of a connection that failed.
    pub async fn try_request(&self, method: &str, params: Value) -> reqwest::Result<Reply> {
        let body = self.body(method, params);
        read(self.prepare(&body).send().await?).await
    }

    pub async fn request(&self, method: &str, params: Value) -> Reply {
        self.try_request(method, params).await.unwrap_or_else(|error| panic!("{method}: {error:?}"))
    }

    pub async fn notify(&self, method: &str, params: Value) -> Reply {
        self.raw(json!({"jsonrpc": "2.0", "method": method, "params": params}).to_string()).await
    }

    pub async fn call(&self, tool: &str, arguments: Value) -> Reply {
        self.request("tools/call", json!({"name": tool, "arguments": arguments})).await
    }

    pub async fn try_call(&self, tool: &str, arguments: Value) -> reqwest::Result<Reply> {
        self.try_request("tools/call", json!({"name": tool, "arguments": arguments})).await
    }

    /// The definitions that the key sees.
    pub async fn tools(&self) -> Vec<Value> {
        self.request("tools/list", json!({})).await.result()["tools"].as_array().expect("tools").clone()
    }

    /// Their names, in alphabetical order.
    pub async fn tool_names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.tools().await.iter().map(|t| t["name"].as_str().expect("name").to_owned()).collect();
        names.sort();
        names
    }

    /// Run a script that must end well; the whole structured answer.
    pub async fn script(&self, code: &str) -> Value {
        self.call("executeToolCode", json!({"code": code})).await.structured()
    }

    /// Shake hands in the older era and stay in that session.
    pub async fn initialize(&self, version: &str) -> (Self, Value) {
        let params =
            json!({"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "tollgate-tests", "version": "1"}});
        let reply = self.version(None).request("initialize", params).await;
        let result = reply.result();
        let agreed = result["protocolVersion"].as_str().expect("a version").to_owned();
        let mut mcp = self.version(Some(&agreed));
        if let Some(session) = reply.header("mcp-session-id") {
            mcp = mcp.header("mcp-session-id", session);
        }
        let ready = mcp.notify("notifications/initialized", json!({})).await;
        assert_eq!(ready.status, 202, "{}", ready.text);
        (mcp, result)
    }

    /// A request whose answer is read as it comes.
    pub async fn stream(&self, method: &str, params: Value) -> Stream {
        let body = self.body(method, params);
        open(self.prepare(&body)).await
    }

    /// The older era's stream of news.
    pub async fn listen(&self) -> Stream {
        let mut request = self.http.get(&self.url).header("accept", "text/event-stream");
        if let Some(version) = &self.version {
            request = request.header("mcp-protocol-version", version);
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        open(request).await
    }
}

async fn open(request: reqwest::RequestBuilder) -> Stream {
    let response = request.send().await.expect("an answer");
    Stream {
        status: response.status().as_u16(),
        headers: response.headers().clone(),
        bytes: response.bytes_stream().boxed(),
        buffer: String::new(),
    }
}

async fn read(response: reqwest::Response) -> reqwest::Result<Reply> {
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let text = response.text().await?;
    let streams = headers.get("content-type").and_then(|v| v.to_str().ok()).is_some_and(|v| v.starts_with("text/event-stream"));
    let (events, message_text) = if streams {
        let mut all: Vec<String> = text.replace("\r\n", "\n").split("\n\n").filter_map(data_of).collect();
        let last = all.pop().unwrap_or_default();
        (all.iter().map(|event| serde_json::from_str(event).expect("JSON")).collect(), last)
    } else {
        (Vec::new(), text.clone())
    };
    Ok(Reply { status, headers, text, events, message_text })
}
