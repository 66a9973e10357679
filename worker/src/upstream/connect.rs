//! One connection to an upstream, in whichever era of the protocol it speaks.

use std::{collections::HashMap, sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue};
use rmcp::{
    ClientHandler, RoleClient,
    model::{
        ClientConfig, ClientRequest, Implementation, ListToolsRequest, PaginatedRequestParams, PingRequest, ProtocolVersion,
    },
    service::{ClientLifecycleMode, NotificationContext, Peer, RunningService, serve_client_with_lifecycle},
    transport::{StreamableHttpClientTransport, Transport, streamable_http_client::StreamableHttpClientTransportConfig},
};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use tokio::sync::Notify;
use tollgate_boot::Config;
use tollgate_domain::{
    Vault,
    tool::{DefinitionHash, is_tool_name},
};
use tollgate_store::{snapshot::UpstreamConfig, tools::Discovered, upstreams::headers_purpose};

use super::{
    http::{RawHttp, may_connect},
    progress::{InOrder, Routes},
    raw,
    stdio::ProgramTransport,
};

/// Programs such as `npx` may fetch themselves at their first start.
const PROGRAM_START: Duration = Duration::from_secs(60);
const HTTP_START: Duration = Duration::from_secs(10);
/// The probe for the newer era; a server that does not know it is asked the old way.
const DISCOVER: Duration = Duration::from_secs(3);
const LIST: Duration = Duration::from_secs(30);
/// More than the largest server known has, by an order of magnitude.
const MAX_TOOLS: usize = 10_000;
const MAX_PAGES: usize = 1_000;
const MAX_LIST_BYTES: usize = 32 << 20;
const MAX_DEFINITION_BYTES: usize = 512 << 10;

/// Receives what upstreams send on their own account.
#[derive(Debug, Clone, Default)]
pub struct Listener {
    pub progress: Routes,
    pub list_changed: Arc<Notify>,
}

impl ClientHandler for Listener {
    async fn on_tool_list_changed(&self, _: NotificationContext<RoleClient>) {
        self.list_changed.notify_one();
    }

    fn get_info(&self) -> ClientConfig {
        let mut info = ClientConfig::default();
        info.client_info = Implementation::new("tollgate", env!("CARGO_PKG_VERSION"));
        info.protocol_version = ProtocolVersion::V_2025_11_25;
        info
    }
}

pub struct Connection {
    pub service: RunningService<RoleClient, Listener>,
    pub listener: Listener,
}

impl Connection {
    #[must_use]
    pub fn peer(&self) -> &Peer<RoleClient> {
        self.service.peer()
    }

    /// Whether the peer speaks a revision without sessions and pings.
    #[must_use]
    pub fn is_modern(&self) -> bool {
        self.peer().peer_info().is_some_and(|info| !info.protocol_version.has_initialize())
    }

    /// Name, version and protocol of the peer, for people.
    #[must_use]
    pub fn server(&self) -> Option<Value> {
        let info = self.peer().peer_info()?;
        let server = serde_json::to_value(&*info).ok()?;
        Some(
            json!({"name": server["serverInfo"]["name"], "version": server["serverInfo"]["version"], "protocol": info.protocol_version}),
        )
    }

    /// Whether the peer still answers.
    ///
    /// # Errors
    /// [`Unwell`], with a sentence for an admin.
    pub async fn check(&self, within: Duration) -> Result<(), Unwell> {
        let request = if self.is_modern() {
            ClientRequest::ListToolsRequest(ListToolsRequest::default())
        } else {
            ClientRequest::PingRequest(PingRequest::default())
        };
        match tokio::time::timeout(within, self.peer().send_request(request)).await {
            Ok(Ok(_)) => Ok(()),
            // An answer of any kind is a sign of life.
            Ok(Err(rmcp::ServiceError::McpError(_))) => Ok(()),
            Ok(Err(error)) => Err(Unwell::Broken(error.to_string())),
            Err(_) => Err(Unwell::Silent(format!("no answer to a health check within {} s", within.as_secs()))),
        }
    }
}

/// What a health check found.
#[derive(Debug)]
pub enum Unwell {
    Broken(String),
    /// It did not answer in time: a server that works on a call may have no ear for a ping.
    Silent(String),
}

/// Connect as the configuration says.
///
/// # Errors
/// A sentence for an admin; it holds no credential.
pub async fn connect(
    upstream: &UpstreamConfig,
    config: &Config,
    client: &reqwest::Client,
    vault: &Vault,
) -> Result<Connection, String> {
    let transport = &upstream.transport;
    let text = |name: &str| transport[name].as_str().unwrap_or_default();
    match text("type") {
        "stdio" => {
            let name = text("program");
            let program = config.program(name).ok_or_else(|| {
                format!(
                    "the operator's configuration of this worker lists no program \"{name}\"; add a [[program]] to tollgate.toml"
                )
            })?;
            let start = || {
                ProgramTransport::start(program, config.limits.tool_result_bytes)
                    .map_err(|e| format!("cannot start {}: {e}", program.command.display()))
            };
            // Most programs speak the older era, and one that speaks only the newer says so at once.
            let old = serve(start()?, ClientLifecycleMode::Initialize, PROGRAM_START).await;
            match old {
                Ok(connection) => Ok(connection),
                Err(first) => serve(start()?, newest(), DISCOVER).await.map_err(|_| first),
            }
        }
        "http" => {
            let url: reqwest::Url = text("url").parse().map_err(|e| format!("the URL cannot be read: {e}"))?;
            if !may_connect(&url, config.upstream.allows_private_networks()) {
                return Err(
                    "the address lies in a private network, which this deployment does not allow for upstreams".to_owned()
                );
            }
            let headers = headers(upstream, vault)?;
            let start = || {
                let mut settings = StreamableHttpClientTransportConfig::with_uri(url.as_str());
                settings.custom_headers = headers.clone();
                settings.max_concurrent_requests = 1024;
                StreamableHttpClientTransport::with_client(
                    RawHttp::new(client.clone(), config.limits.tool_result_bytes),
                    settings,
                )
            };
            match serve(start(), newest(), DISCOVER).await {
                Ok(connection) => Ok(connection),
                Err(_) => serve(start(), ClientLifecycleMode::Initialize, HTTP_START).await,
            }
        }
        other => Err(format!("unknown transport {other:?}")),
    }
}

fn newest() -> ClientLifecycleMode {
    ClientLifecycleMode::Discover { preferred_versions: vec![ProtocolVersion::V_2026_07_28] }
}

async fn serve<T>(transport: T, era: ClientLifecycleMode, within: Duration) -> Result<Connection, String>
where
    T: Transport<RoleClient> + 'static,
{
    let listener = Listener::default();
    let transport = InOrder::new(transport, listener.progress.clone());
    let service = tokio::time::timeout(within, serve_client_with_lifecycle(listener.clone(), transport, era))
        .await
        .map_err(|_| format!("no answer to the handshake within {} s", within.as_secs()))?
        .map_err(|e| format!("the handshake failed: {e}"))?;
    Ok(Connection { service, listener })
}

/// What the admin API seals the header values of an upstream for.
fn headers(upstream: &UpstreamConfig, vault: &Vault) -> Result<HashMap<HeaderName, HeaderValue>, String> {
    let Some(sealed) = &upstream.sealed_headers else { return Ok(HashMap::new()) };
    let unreadable = || "its stored headers cannot be read".to_owned();
    let plain = vault
        .open(&headers_purpose(upstream.upstream.id), sealed)
        .map_err(|error| format!("its stored headers cannot be opened: {error}"))?;
    let headers: HashMap<String, String> = serde_json::from_slice(&plain).map_err(|_| unreadable())?;
    headers
        .into_iter()
        .map(|(name, value)| {
            let mut value = HeaderValue::from_str(&value).map_err(|_| unreadable())?;
            value.set_sensitive(true);
            Ok((name.parse().map_err(|_| unreadable())?, value))
        })
        .collect()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ToolPage {
    tools: Vec<Box<RawValue>>,
    next_cursor: Option<String>,
}

/// All tools that the upstream lists, exactly as it wrote them.
///
/// # Errors
/// A sentence for an admin, when the list cannot be read in full or is beyond all bounds.
pub async fn discover(connection: &Connection) -> Result<Vec<Discovered>, String> {
    let mut found: Vec<Discovered> = Vec::new();
    let (mut cursor, mut bytes, mut pages) = (None, 0, 0);
    loop {
        let params = Some(PaginatedRequestParams::default().with_cursor(cursor));
        let request = ListToolsRequest { params, ..ListToolsRequest::default() };
        let answer = connection.peer().send_request(ClientRequest::ListToolsRequest(request));
        let answer = tokio::time::timeout(LIST, answer)
            .await
            .map_err(|_| format!("no answer to tools/list within {} s", LIST.as_secs()))?
            .map_err(|e| format!("tools/list failed: {e}"))?;
        let text = raw::open(answer).ok_or("the answer to tools/list is not an object")?;
        bytes += text.get().len();
        let page: ToolPage =
            serde_json::from_str(text.get()).map_err(|e| format!("the answer to tools/list is malformed: {e}"))?;
        for definition in page.tools {
            take(definition.get(), &mut found);
        }
        if found.len() > MAX_TOOLS || bytes > MAX_LIST_BYTES {
            return Err(format!("it lists more than {MAX_TOOLS} tools or {MAX_LIST_BYTES} bytes of them"));
        }
        pages += 1;
        if pages > MAX_PAGES {
            return Err("its list of tools does not end".to_owned());
        }
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    refuse_doubles(&mut found);
    Ok(found)
}

/// Take one definition; one that no model should see is left out, and the log says why.
fn take(text: &str, found: &mut Vec<Discovered>) {
    let Ok(definition) = serde_json::from_str::<Value>(text) else { return };
    let name = definition["name"].as_str().unwrap_or_default();
    if !is_tool_name(name) || text.len() > MAX_DEFINITION_BYTES {
        tracing::warn!(name = %name.escape_debug(), bytes = text.len(), "a tool is left out: its name or size is not acceptable");
        return;
    }
    if let Ok(sha256) = DefinitionHash::of(&definition) {
        found.push(Discovered { name: name.to_owned(), definition_text: text.to_owned(), sha256 });
    }
}

/// Two tools under one name: neither can be told from the other, so neither is taken.
fn refuse_doubles(found: &mut Vec<Discovered>) {
    let mut seen: HashMap<String, usize> = HashMap::new();
    for tool in found.iter() {
        *seen.entry(tool.name.clone()).or_default() += 1;
    }
    found.retain(|tool| {
        let single = seen.get(&tool.name) == Some(&1);
        if !single {
            tracing::warn!(name = tool.name, "a tool is left out: the upstream lists its name more than once");
        }
        single
    });
}
