//! The supervision of one upstream: connect, discover, watch, reconnect.

use std::{collections::HashMap, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use serde_json::json;
use tokio::sync::{Notify, mpsc};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tollgate_domain::{
    SyncRequestId, TenantId,
    tool::{DefinitionHash, UpstreamState},
};
use tollgate_store::{
    snapshot::UpstreamConfig,
    sync,
    tools::{Discovery, record_discovery},
};

use super::{
    Tools,
    connect::{Connection, Unwell, connect, discover},
};

const HEALTH_EVERY: Duration = Duration::from_secs(10);
/// So many checks in a row without an answer, and the connection is given up.
const HEALTH_MISSES: u32 = 3;
const HEALTH_WITHIN: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A connection that held this long was a good one: its loss starts the pauses anew.
const GOOD_CONNECTION: Duration = Duration::from_secs(60);

/// A connection with the definitions that it served when last asked.
pub struct Live {
    pub connection: Arc<Connection>,
    pub live: HashMap<String, DefinitionHash>,
}

enum Now {
    Connected(Arc<Live>),
    Away(String),
}

pub struct Link {
    pub version: i32,
    now: Arc<ArcSwap<Now>>,
    asks: mpsc::Sender<SyncRequestId>,
    resync: Arc<Notify>,
    stop: CancellationToken,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("version", &self.version).finish_non_exhaustive()
    }
}

impl Link {
    /// Start supervising on a task of its own.
    pub fn start(tenant: TenantId, upstream: UpstreamConfig, tools: Tools, client: reqwest::Client) -> Arc<Self> {
        let (asks, asked) = mpsc::channel(16);
        let link = Arc::new(Self {
            version: upstream.version,
            now: Arc::new(ArcSwap::from_pointee(Now::Away("it is being connected".to_owned()))),
            asks,
            resync: Arc::default(),
            stop: CancellationToken::new(),
        });
        let supervisor = Supervisor {
            tenant,
            upstream,
            tools,
            client,
            now: Arc::clone(&link.now),
            resync: Arc::clone(&link.resync),
            asked,
            stop: link.stop.clone(),
        };
        tokio::spawn(supervisor.run());
        link
    }

    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// # Errors
    /// Why there is none.
    pub fn connection(&self) -> Result<Arc<Live>, String> {
        match &**self.now.load() {
            Now::Connected(live) => Ok(Arc::clone(live)),
            Now::Away(why) => Err(why.clone()),
        }
    }

    /// Synchronise and answer an admin's request. A queue that is full holds this request already: it is asked again.
    pub fn ask_sync(&self, request: SyncRequestId) {
        let _ = self.asks.try_send(request);
    }

    pub fn ask_resync(&self) {
        self.resync.notify_one();
    }
}

struct Supervisor {
    tenant: TenantId,
    upstream: UpstreamConfig,
    tools: Tools,
    client: reqwest::Client,
    now: Arc<ArcSwap<Now>>,
    resync: Arc<Notify>,
    asked: mpsc::Receiver<SyncRequestId>,
    stop: CancellationToken,
}

impl Supervisor {
    async fn run(mut self) {
        let stop = self.stop.clone();
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.keep_connected() => {}
        }
        // Calls under way keep the connection until they end.
        self.now.store(Arc::new(Now::Away("it was removed or changed".to_owned())));
    }

    async fn keep_connected(&mut self) {
        let mut pause = FIRST_PAUSE;
        loop {
            self.report(UpstreamState::Connecting, None, None).await;
            let connecting = connect(&self.upstream, &self.tools.config, &self.client, &self.tools.vault).await;
            let started = tokio::time::Instant::now();
            let (state, why) = match connecting {
                Err(why) => (UpstreamState::Error, why),
                Ok(connection) => (UpstreamState::Disconnected, self.watch(Arc::new(connection)).await),
            };
            tracing::warn!(tenant = %self.tenant, upstream = self.upstream.upstream.name, why, "an upstream is away");
            metrics::counter!("tollgate_upstream_disconnects_total").increment(1);
            self.now.store(Arc::new(Now::Away(why.clone())));
            self.report(state, Some(&why), None).await;
            if started.elapsed() > GOOD_CONNECTION {
                pause = FIRST_PAUSE;
            }
            self.answer_while_away(pause, &why).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Wait before the next try; an admin who asks for a synchronisation meanwhile hears why there is none, and hurries it.
    async fn answer_while_away(&mut self, pause: Duration, why: &str) {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            Some(request) = self.asked.recv() => self.answer(request, Err(why.to_owned())).await,
        }
    }

    /// Watch a connection until it is lost; says why it was.
    async fn watch(&mut self, connection: Arc<Connection>) -> String {
        if let Err(why) = self.synchronise(&connection).await {
            return why;
        }
        let server = connection.server();
        self.report(UpstreamState::Connected, None, server.clone()).await;
        tracing::info!(tenant = %self.tenant, upstream = self.upstream.upstream.name, "an upstream is connected");
        let mut health = tokio::time::interval_at(tokio::time::Instant::now() + HEALTH_EVERY, HEALTH_EVERY);
        let mut renew =
            tokio::time::interval_at(tokio::time::Instant::now() + self.upstream.sync_interval, self.upstream.sync_interval);
        let _news = AbortOnDropHandle::new(tokio::spawn(listen(Arc::clone(&connection))));
        let mut missed = 0;
        loop {
            let result = tokio::select! {
                _ = health.tick() => {
                    if connection.peer().is_transport_closed() {
                        break "the connection was closed".to_owned();
                    }
                    match connection.check(HEALTH_WITHIN).await {
                        Ok(()) => {
                            missed = 0;
                            self.report(UpstreamState::Connected, None, server.clone()).await;
                            Ok(())
                        }
                        Err(Unwell::Silent(why)) if missed + 1 < HEALTH_MISSES => {
                            missed += 1;
                            self.report(UpstreamState::Connected, Some(&why), server.clone()).await;
                            Ok(())
                        }
                        Err(Unwell::Silent(why) | Unwell::Broken(why)) => Err(why),
                    }
                }
                _ = renew.tick() => self.synchronise(&connection).await.map(drop),
                () = connection.listener.list_changed.notified() => self.synchronise(&connection).await.map(drop),
                () = self.resync.notified() => self.synchronise(&connection).await.map(drop),
                Some(request) = self.asked.recv() => {
                    let result = self.synchronise(&connection).await;
                    let lost = result.as_ref().err().cloned();
                    self.answer(request, result).await;
                    lost.map_or(Ok(()), Err)
                }
                () = closed(&connection) => Err("the connection was closed".to_owned()),
            };
            if let Err(why) = result {
                break why;
            }
        }
    }

    /// Ask for the tools and write down what changed. While the database is away, that is tried again: the upstream is not to
    /// blame, and its connection and state are kept.
    async fn synchronise(&self, connection: &Arc<Connection>) -> Result<Discovery, String> {
        let found = discover(connection).await?;
        let live = found.iter().map(|tool| (tool.name.clone(), tool.sha256)).collect();
        // First what is served, then what is known: a call between the two finds a definition that is not the approved one.
        self.now.store(Arc::new(Now::Connected(Arc::new(Live { connection: Arc::clone(connection), live }))));
        let upstream = self.upstream.upstream.id;
        loop {
            match record_discovery(&self.tools.store, self.tenant, upstream, found.clone(), self.tools.clock.now()).await {
                Ok(discovery) => return Ok(discovery),
                Err(error) if error.is_transient() => {
                    tracing::warn!(%error, upstream = self.upstream.upstream.name, "discovered tools cannot be stored yet");
                    tokio::time::sleep(FIRST_PAUSE).await;
                }
                Err(error) => return Err(format!("the discovered tools cannot be stored: {error}")),
            }
        }
    }

    async fn answer(&self, request: SyncRequestId, result: Result<Discovery, String>) {
        let answer = match result {
            Ok(d) => json!({"added": d.added, "changed": d.changed, "removed": d.removed}),
            Err(why) => json!({"error": why}),
        };
        if let Err(error) = sync::answer(&self.tools.store, self.tenant, request, answer, self.tools.clock.now()).await {
            tracing::warn!(%error, "the answer to a sync request cannot be stored");
        }
    }

    async fn report(&self, state: UpstreamState, error: Option<&str>, server: Option<serde_json::Value>) {
        let Tools { store, worker, clock, .. } = &self.tools;
        let id = self.upstream.upstream.id;
        if let Err(error) = sync::record_status(store, self.tenant, id, *worker, state, error, server, clock.now()).await {
            tracing::warn!(%error, "the state of an upstream cannot be stored");
        }
    }
}

/// Peers of the newer era tell of changes on a stream that has to be asked for.
async fn listen(connection: Arc<Connection>) {
    if !connection.is_modern() {
        return;
    }
    let filter = rmcp::model::SubscriptionFilter::builder().tools_list_changed().build();
    let mut pause = FIRST_PAUSE;
    loop {
        match connection.peer().listen(filter.clone()).await {
            Ok(mut subscription) => {
                pause = FIRST_PAUSE;
                while let Ok(Some(_)) = subscription.next().await {
                    connection.listener.list_changed.notify_one();
                }
            }
            // A server without this has only the interval.
            Err(rmcp::ServiceError::McpError(error)) if error.code == rmcp::model::ErrorCode::METHOD_NOT_FOUND => return,
            Err(_) => pause = (pause * 2).min(LONGEST_PAUSE),
        }
        tokio::time::sleep(pause).await;
    }
}

async fn closed(connection: &Connection) {
    let mut poll = tokio::time::interval(Duration::from_millis(200));
    loop {
        poll.tick().await;
        if connection.service.is_closed() || connection.peer().is_transport_closed() {
            return;
        }
    }
}
