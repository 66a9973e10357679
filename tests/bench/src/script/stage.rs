//! A gateway with one tenant, and an upstream whose tools answer at once, after 50 ms, or when people have said so.

use std::{fs::Permissions, net::SocketAddr, os::unix::fs::PermissionsExt, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use axum::{
    Router,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::post,
};
use bytes::Bytes;
use futures::{StreamExt, stream};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use tempfile::TempDir;
use tokio::net::TcpListener;

use crate::{
    admin::{Admin, text},
    process::{Process, tollgate_up},
    table::note,
    upstream::{discovery, not_found, result},
};

const VERSION: &str = "2026-07-28";
const TOOL: Duration = Duration::from_millis(50);
/// One key has so many calls waiting and no more, less some.
const HELD_BY_KEY: usize = 900;
/// Requests at once while runs that wait are made.
const ASKERS: usize = 16;

pub struct Stage {
    pub client: Client,
    /// Clients of keys whose calls of `ask` people confirm.
    guarded: Vec<Client>,
    up: Process,
    // Removed at the end, after the processes that use it.
    _dir: TempDir,
}

#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    url: String,
    key: String,
}

impl Stage {
    /// With room for so many runs that wait, and a quarter more.
    pub async fn start(waiting: usize) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("tg-bench.").permissions(Permissions::from_mode(0o711)).tempdir()?;
        let address = serve().await?;
        note(format_args!("starting a gateway in {}", dir.path().display()));
        let (up, ready) = tollgate_up(&dir.path().join("data")).await?;
        let admin = Admin::new(&text(&ready, "api_url")?, &text(&ready, "admin_token")?)?;
        let tenant = text(&admin.post("/v1/tenants", &json!({"name": "bench", "slug": "bench"})).await?, "id")?;
        let path = |rest: &str| format!("/v1/tenants/{tenant}/{rest}");
        let transport = json!({"type": "http", "url": format!("http://{address}/mcp")});
        let upstream = json!({"name": "bench", "transport": transport, "exposure": "code"});
        let upstream = text(&admin.post(&path("upstreams"), &upstream).await?, "id")?;
        let group = json!({
            "name": "all", "slug": "all", "members": [{"upstream_id": upstream, "tools": ["*"]}],
            "approval": [{"upstream_id": upstream, "tools": ["ask"], "confirmations": 1}],
        });
        let group = text(&admin.post(&path("tool-groups"), &group).await?, "id")?;
        let http = reqwest::Client::builder().no_proxy().tls_certs_only([]).timeout(Duration::from_secs(300)).build()?;
        let url = format!("{}/mcp", text(&ready, "gateway_url")?);
        let mut clients = Vec::new();
        for n in 0..=(waiting + waiting / 4).div_ceil(HELD_BY_KEY) {
            let key = admin.post(&path("keys"), &json!({"name": format!("key {n}"), "tool_group_ids": [group]})).await?;
            clients.push(Client { http: http.clone(), url: url.clone(), key: text(&key, "secret")? });
        }
        let client = clients.remove(0);
        Ok(Self { client, guarded: clients, up, _dir: dir })
    }

    /// Have so many runs wait for people, spread over the keys.
    pub async fn held(&self, code: &str, runs: usize) -> Result<()> {
        let keys = self.guarded.len();
        let one = async |n: usize| -> Result<()> {
            let client = self.guarded.get(n % keys).context("no key")?;
            loop {
                let answer = client.run(code).await?;
                match answer["state"].as_str() {
                    Some("waiting_approval") => return Ok(()),
                    _ if is_full(&answer) => tokio::time::sleep(TOOL).await,
                    _ => bail!("a run does not wait: {answer}"),
                }
            }
        };
        let all: Vec<Result<()>> = stream::iter(0..runs).map(one).buffer_unordered(ASKERS).collect().await;
        all.into_iter().collect()
    }

    pub fn resident_kib(&self) -> Result<usize> {
        Ok(usize::try_from(self.up.resident_kib()?)?)
    }

    pub fn peak_kib(&self) -> Result<usize> {
        Ok(usize::try_from(self.up.peak_kib()?)?)
    }

    pub fn reset_peak(&self) -> Result<()> {
        self.up.reset_peak()
    }

    pub async fn stop(self) -> Result<()> {
        self.up.stop().await
    }
}

/// No turn in a sandbox in time: the gateway says so, and the run is made again.
fn is_full(answer: &Value) -> bool {
    answer["error"]["message"].as_str().is_some_and(|why| why.starts_with("Too many scripts are running"))
}

impl Client {
    /// Run a script that must end well.
    pub async fn done(&self, code: &str) -> Result<()> {
        let answer = self.run(code).await?;
        ensure!(answer["state"] == "done", "{code:?} came to {answer}");
        Ok(())
    }

    /// [`Self::done`], as often as the gateway is full.
    pub async fn done_in_turn(&self, code: &str) -> Result<()> {
        loop {
            let answer = self.run(code).await?;
            if answer["state"] == "done" {
                return Ok(());
            }
            ensure!(is_full(&answer), "{code:?} came to {answer}");
        }
    }

    async fn run(&self, code: &str) -> Result<Value> {
        let meta = json!({
            "io.modelcontextprotocol/protocolVersion": VERSION, "io.modelcontextprotocol/clientCapabilities": {},
            "io.modelcontextprotocol/clientInfo": {"name": "tollgate-bench", "version": "1"},
        });
        let params = json!({"name": "executeToolCode", "arguments": {"code": code}, "_meta": meta});
        let request = self
            .http
            .post(&self.url)
            .bearer_auth(&self.key)
            .header("accept", "application/json, text/event-stream")
            .header("mcp-protocol-version", VERSION)
            .header("mcp-method", "tools/call")
            .header("mcp-name", "executeToolCode")
            .json(&json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}));
        let answer = request.send().await?;
        let (status, body) = (answer.status(), answer.text().await?);
        let answer: Value = serde_json::from_str(&body).with_context(|| format!("{status}: {body}"))?;
        let content = answer["result"]["structuredContent"].clone();
        ensure!(content.is_object(), "{status}: {body}");
        Ok(content)
    }
}

// ---------------------------------------------------------------- the upstream

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    method: &'a str,
    #[serde(default)]
    params: Value,
}

async fn serve() -> Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    let listener = axum::serve::ListenerExt::tap_io(listener, |stream| drop(stream.set_nodelay(true)));
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/mcp", post(answer))).await });
    Ok(address)
}

async fn answer(body: Bytes) -> Response {
    let Ok(Message { id, method, params }) = serde_json::from_slice(&body) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let Some(id) = id.map(RawValue::get) else { return StatusCode::ACCEPTED.into_response() };
    let value = match method {
        "tools/call" => {
            if params["name"] == "wait" {
                tokio::time::sleep(TOOL).await;
            }
            json!({"resultType": "complete", "content": [], "structuredContent": {"ok": true}, "isError": false})
        }
        "tools/list" => {
            let tool = |name: &str| json!({"name": name, "description": name, "inputSchema": {"type": "object"}});
            let tools = ["echo", "wait", "ask"].map(tool);
            json!({"resultType": "complete", "tools": tools, "ttlMs": 0, "cacheScope": "private"})
        }
        "ping" => json!({}),
        "server/discover" => discovery(),
        _ => return not_found(id),
    };
    result(id, value.to_string().as_bytes())
}
