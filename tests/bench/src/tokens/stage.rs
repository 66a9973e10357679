//! The gateway that is asked: one tenant whose upstreams are exposed classically and one in Code Mode, and for each round a
//! key that reaches the round's servers.

use std::{fs::Permissions, net::SocketAddr, os::unix::fs::PermissionsExt, sync::Arc};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    catalog::{self, Round, Server},
    upstream,
    world::World,
};
use crate::{
    admin::{Admin, text},
    process::{Process, tollgate_up},
    table::note,
};

const VERSION: &str = "2026-07-28";

pub struct Stage {
    pub servers: Vec<Server>,
    classic: Vec<String>,
    code: Vec<String>,
    gateway_url: String,
    http: reqwest::Client,
    up: Process,
    // Removed at the end, after the processes that use it.
    _dir: TempDir,
}

/// An MCP client with a virtual key.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    url: String,
    key: String,
}

impl Stage {
    pub async fn start(world: &Arc<World>) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("tg-bench.").permissions(Permissions::from_mode(0o711)).tempdir()?;
        let servers = catalog::servers()?;
        let address = upstream::serve(servers.clone(), world.clone()).await?;
        note(format_args!("starting a gateway in {}", dir.path().display()));
        let (up, ready) = tollgate_up(&dir.path().join("data")).await?;
        let admin = Admin::new(&text(&ready, "api_url")?, &text(&ready, "admin_token")?)?;
        let classic = keys(&admin, &servers, address, "classic").await?;
        let code = keys(&admin, &servers, address, "code").await?;
        let gateway_url = text(&ready, "gateway_url")?;
        let http = reqwest::Client::builder().no_proxy().tls_certs_only([]).build()?;
        Ok(Self { servers, classic, code, gateway_url, http, up, _dir: dir })
    }

    pub fn classic(&self, round: Round) -> Client {
        self.client(&self.classic[usize::from(round.number) - 1])
    }

    pub fn code(&self, round: Round) -> Client {
        self.client(&self.code[usize::from(round.number) - 1])
    }

    fn client(&self, key: &str) -> Client {
        Client { http: self.http.clone(), url: format!("{}/mcp", self.gateway_url), key: key.to_owned() }
    }

    pub async fn stop(self) -> Result<()> {
        self.up.stop().await
    }
}

/// A tenant with all servers; the secrets of its keys, one for each round.
async fn keys(admin: &Admin, servers: &[Server], address: SocketAddr, exposure: &str) -> Result<Vec<String>> {
    let tenant = admin.post("/v1/tenants", &json!({"name": exposure, "slug": format!("bench-{exposure}")})).await?;
    let path = |rest: &str| format!("/v1/tenants/{}/{rest}", tenant["id"].as_str().unwrap_or_default());
    let mut members = Vec::new();
    for server in servers {
        let transport = json!({"type": "http", "url": format!("http://{address}/{}/mcp", server.name)});
        let new = json!({
            "name": server.name, "description": server.description, "transport": transport, "exposure": exposure,
        });
        let upstream = admin.post(&path("upstreams"), &new).await?;
        ensure!(upstream["state"] == "connected", "{} is not connected: {upstream}", server.name);
        members.push((server.round, json!({"upstream_id": upstream["id"], "tools": ["*"]})));
    }
    let mut keys = Vec::new();
    for round in catalog::ROUNDS {
        let of: Vec<&Value> = members.iter().filter(|(first, _)| *first <= round.number).map(|(_, member)| member).collect();
        let name = format!("round-{}", round.number);
        let group = admin.post(&path("tool-groups"), &json!({"name": name, "slug": name, "members": of})).await?;
        let key = admin.post(&path("keys"), &json!({"name": name, "tool_group_ids": [group["id"]]})).await?;
        keys.push(text(&key, "secret")?);
    }
    Ok(keys)
}

impl Client {
    /// What the gateway lists for this key.
    pub async fn tools(&self) -> Result<Vec<Value>> {
        let listed = self.ask("tools/list", None, json!({})).await?;
        Ok(listed["tools"].as_array().cloned().unwrap_or_default())
    }

    /// The text that a client hands on to its model, and whether it is an error. `structuredContent` says the same again and is for
    /// programs: no client puts both into a prompt.
    pub async fn call(&self, name: &str, arguments: &Value) -> Result<(String, bool)> {
        let result = self.ask("tools/call", Some(name), json!({"name": name, "arguments": arguments})).await?;
        let blocks = result["content"].as_array().with_context(|| format!("{name} answered {result}"))?;
        let texts: Vec<&str> = blocks.iter().filter_map(|block| block["text"].as_str()).collect();
        Ok((texts.join("\n"), result["isError"] == true))
    }

    async fn ask(&self, method: &str, name: Option<&str>, mut params: Value) -> Result<Value> {
        params["_meta"] = json!({
            "io.modelcontextprotocol/protocolVersion": VERSION, "io.modelcontextprotocol/clientCapabilities": {},
            "io.modelcontextprotocol/clientInfo": {"name": "tollgate-bench", "version": "1"},
        });
        let mut request = self
            .http
            .post(&self.url)
            .bearer_auth(&self.key)
            .header("accept", "application/json, text/event-stream")
            .header("mcp-protocol-version", VERSION)
            .header("mcp-method", method)
            .json(&json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}));
        if let Some(name) = name {
            request = request.header("mcp-name", name);
        }
        let answer = request.send().await?;
        let status = answer.status();
        let body = answer.text().await?;
        let Ok(Value::Object(mut answer)) = serde_json::from_str(&body) else { bail!("{method} answered {status}: {body}") };
        answer.remove("result").with_context(|| format!("{method} answered {status}: {body}"))
    }
}
