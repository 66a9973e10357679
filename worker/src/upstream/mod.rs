//! MCP clients: one supervised link per upstream and worker, shared by all calls.

mod connect;
mod http;
mod link;
mod progress;
mod raw;
mod stdio;

use std::{
    collections::HashMap,
    sync::{Arc, RwLock},
    time::Duration,
};

use rmcp::{
    ServiceError,
    model::{CallToolRequest, CallToolRequestParams, ClientRequest, ErrorData, ProgressToken, RequestMetaObject},
    service::PeerRequestOptions,
    transport::streamable_http_client::StreamableHttpError,
};
use serde_json::{Map, Value, json, value::RawValue};
use tokio_util::sync::CancellationToken;
use tollgate_boot::{Config, Shutdown};
use tollgate_domain::{Outcome, TenantId, UpstreamId, Vault, WorkerId, clock::SharedClock, policy::Permit, policy::Reason};
use tollgate_store::{Store, sync};

pub use http::{client as http_client, may_connect};
use link::Link;
pub use progress::Progress;

use crate::scope::Directory;

/// What every link needs.
#[derive(Debug, Clone)]
pub struct Tools {
    pub store: Store,
    pub config: Arc<Config>,
    pub vault: Vault,
    pub clock: SharedClock,
    pub worker: WorkerId,
}

/// All links of this worker. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Upstreams {
    links: Arc<RwLock<Links>>,
    /// One pool of connections for all upstreams.
    client: reqwest::Client,
    tools: Tools,
}

type Links = HashMap<(TenantId, UpstreamId), Arc<Link>>;

/// What to ask of a tool.
#[derive(Debug)]
pub struct Dispatch {
    pub arguments: Map<String, Value>,
    /// The same as they were written.
    pub text: String,
    /// The caller's `_meta`, without what belongs to its own connection.
    pub meta: Map<String, Value>,
    pub progress: Option<Progress>,
    pub cancel: CancellationToken,
}

/// How a dispatched call ended.
#[derive(Debug)]
pub struct Ended {
    /// Whether the upstream was asked; what it was not asked for costs nothing.
    pub sent: bool,
    pub outcome: Outcome,
    pub answer: Answer,
}

#[derive(Debug)]
pub enum Answer {
    /// The upstream's `CallToolResult`, byte by byte.
    Result(Box<RawValue>),
    /// The upstream's JSON-RPC error.
    Error(ErrorData),
    /// No answer of the upstream's; a sentence of ours.
    None(String),
}

impl Upstreams {
    /// Follow the directory: links come and go with the configuration.
    ///
    /// # Errors
    /// When the HTTP client cannot be built.
    pub fn start(tools: Tools, directory: &Directory, shutdown: &Shutdown) -> anyhow::Result<Self> {
        let client = http::client(tools.config.upstream.allows_private_networks())?;
        let all = Self { links: Arc::default(), client, tools };
        all.reconcile(directory);
        shutdown.spawn(all.clone().follow(directory.clone(), shutdown.clone()));
        Ok(all)
    }

    async fn follow(self, directory: Directory, shutdown: Shutdown) {
        let mut changes = directory.changes();
        let mut asks = tokio::time::interval(Duration::from_millis(250));
        asks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                // Links stay until the calls under way have ended; see `stop`.
                () = shutdown.requested() => return,
                changed = changes.changed() => match changed {
                    Ok(()) => self.reconcile(&directory),
                    Err(_) => break,
                },
                _ = asks.tick() => self.take_sync_requests().await,
            }
        }
    }

    /// Let go of all upstreams.
    pub fn stop(&self) {
        let links: Vec<_> = self.links.write().unwrap_or_else(std::sync::PoisonError::into_inner).drain().collect();
        links.into_iter().for_each(|(_, link)| link.stop());
    }

    /// Start links for upstreams that are new or edited, stop those of upstreams that are gone.
    fn reconcile(&self, directory: &Directory) {
        let mut links = self.links.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut wanted = HashMap::new();
        for tenant in directory.tenants() {
            for upstream in tenant.config.upstreams.values() {
                wanted.insert((tenant.config.tenant, upstream.upstream.id), upstream.clone());
            }
        }
        links.retain(|id, link| {
            let keep = wanted.get(id).is_some_and(|upstream| upstream.version == link.version);
            if !keep {
                link.stop();
            }
            keep
        });
        for (id, upstream) in wanted {
            links.entry(id).or_insert_with(|| Link::start(id.0, upstream, self.tools.clone(), self.client.clone()));
        }
    }

    async fn take_sync_requests(&self) {
        let Ok(requests) = sync::open_requests(&self.tools.store).await else { return };
        for request in requests {
            if let Some(link) = self.link(request.tenant, request.upstream_id) {
                link.ask_sync(request.sync_id);
            }
        }
    }

    fn link(&self, tenant: TenantId, upstream: UpstreamId) -> Option<Arc<Link>> {
        self.links.read().unwrap_or_else(std::sync::PoisonError::into_inner).get(&(tenant, upstream)).cloned()
    }

    /// Make the call that `permit` permits. The permit is consumed: one call, once.
    pub async fn call(&self, tenant: TenantId, permit: Permit, ask: Dispatch) -> Ended {
        let tool = permit.tool();
        // What exactly is wrong is the operator's business: it names addresses and programs.
        let away = |what: &str, why: &str| {
            tracing::info!(%tenant, upstream = tool.upstream.name, why, "a call found its upstream away");
            Ended {
                sent: false,
                outcome: Outcome::UpstreamError,
                answer: Answer::None(format!("The server \"{}\" cannot be reached at present: {what}", tool.upstream.name)),
            }
        };
        let Some(link) = self.link(tenant, tool.upstream.id) else { return away("it is being connected", "no link") };
        let connection = match link.connection() {
            Ok(connection) => connection,
            Err(why) => return away("it is not connected", &why),
        };
        // The definition that was decided upon must still be the one that the upstream serves.
        if connection.live.get(&tool.name) != Some(&tool.definition_sha256) {
            link.ask_resync();
            return Ended {
                sent: false,
                outcome: Outcome::Denied,
                answer: Answer::None(Reason::DefinitionChanged.told().to_owned()),
            };
        }

        if ask.cancel.is_cancelled() {
            let text = "The call was cancelled before it was made".to_owned();
            return Ended { sent: false, outcome: Outcome::Cancelled, answer: Answer::None(text) };
        }

        let mut params = CallToolRequestParams::new(tool.name.clone());
        params.arguments = Some(ask.arguments);
        let mut options = PeerRequestOptions::no_options();
        let mut meta = ask.meta;
        meta.insert(raw::ARGUMENTS.to_owned(), ask.text.into());
        options.meta = Some(RequestMetaObject::from(meta));
        let request = ClientRequest::CallToolRequest(CallToolRequest::new(params));
        // Held until the token is known.
        let mut routes = connection.connection.listener.progress.lock().await;
        let mut handle = match connection.connection.peer().send_cancellable_request(request, options).await {
            Ok(handle) => handle,
            Err(error) => return away("the call could not be sent", &error.to_string()),
        };
        let route = ask.progress.map(|to| {
            routes.insert(handle.progress_token.clone(), to);
            Route { token: handle.progress_token.clone(), routes: connection.connection.listener.progress.clone() }
        });
        drop(routes);

        let timeout = tool.upstream.timeout;
        let ended = tokio::select! {
            answer = &mut handle.rx => match answer {
                Ok(Ok(result)) => finished(result),
                Ok(Err(ServiceError::McpError(error))) => Ended { sent: true, outcome: Outcome::UpstreamError, answer: Answer::Error(error) },
                Ok(Err(error)) if never_sent(&error) => away("it does not accept connections", &error.to_string()),
                Ok(Err(error)) => lost(away("the call failed on its way; the server may still act on it", &error.to_string())),
                Err(_) => lost(away("the connection was lost during the call", "the connection was lost during the call")),
            },
            () = tokio::time::sleep(timeout) => {
                // Told on a task of its own: an upstream that does not listen must not hold the answer back.
                tokio::spawn(handle.cancel(Some("the gateway's timeout".to_owned())));
                let text = format!("The call took longer than {} and was given up; the server may still act on it", seconds(timeout));
                Ended { sent: true, outcome: Outcome::Timeout, answer: Answer::None(text) }
            }
            () = ask.cancel.cancelled() => {
                tokio::spawn(handle.cancel(Some("cancelled by the client".to_owned())));
                Ended { sent: true, outcome: Outcome::Cancelled, answer: Answer::None("The call was cancelled".to_owned()) }
            }
        };
        if let Some(route) = route {
            route.close().await;
        }
        ended
    }
}

/// Whether no connection was made, so that the upstream cannot have heard of the call.
fn never_sent(error: &ServiceError) -> bool {
    let ServiceError::TransportSend(error) = error else { return false };
    matches!(error.error.downcast_ref(), Some(StreamableHttpError::<reqwest::Error>::Client(error)) if error.is_connect())
}

/// The call had been sent: what became of it nobody can say.
fn lost(ended: Ended) -> Ended {
    Ended { sent: true, outcome: Outcome::Unknown, ..ended }
}

fn seconds(d: Duration) -> String {
    if d.subsec_millis() == 0 { format!("{} s", d.as_secs()) } else { format!("{} ms", d.as_millis()) }
}

fn finished(result: rmcp::model::ServerResult) -> Ended {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Shape {
        is_error: Option<bool>,
        result_type: Option<String>,
    }
    let malformed = |why: &str| Ended {
        sent: true,
        outcome: Outcome::UpstreamError,
        answer: Answer::None(format!("The server's answer {why}")),
    };
    let Some(text) = raw::open(result) else { return malformed("is not an object") };
    let Ok(shape) = serde_json::from_str::<Shape>(text.get()) else { return malformed("is not a tool result") };
    if shape.result_type.is_some_and(|kind| kind != "complete") {
        return malformed("asks for more input, which this gateway does not pass on");
    }
    let outcome = if shape.is_error == Some(true) { Outcome::ToolError } else { Outcome::Ok };
    Ended { sent: true, outcome, answer: Answer::Result(text) }
}

struct Route {
    token: ProgressToken,
    routes: progress::Routes,
}

impl Route {
    async fn close(self) {
        self.routes.lock().await.remove(&self.token);
    }
}

/// A tool result of our own making, in the shape of the protocol.
#[must_use]
pub fn error_result(text: &str) -> Box<RawValue> {
    let result = json!({"content": [{"type": "text", "text": text}], "isError": true});
    serde_json::value::to_raw_value(&result).unwrap_or_else(|_| RawValue::NULL.to_owned())
}
