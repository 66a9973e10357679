//! Scope snapshots: what every key may see, in memory, never older than the lease.
//!
//! A change is heard by NOTIFY and found by a polled revision behind it. Whoever asks while the last confirmation is older
//! than the lease waits for a fresh one, and is refused when Postgres does not give it: a worker that is cut off serves nobody.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, OnceLock, RwLock},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};
use tollgate_codemode::{Binding, Languages, Library, ServerDef, ToolDef};
use tollgate_domain::{
    KeyId, TenantId, ToolGroupId,
    scope::Scope,
    tool::{self, Exposure},
};
use tollgate_store::{
    Store, StoreError, StoreResult,
    snapshot::{self, TenantConfig},
};

use crate::llm::offer::Catalog;

/// How long what was confirmed may be relied on.
const LEASE: Duration = Duration::from_secs(1);
/// A poll behind the notices; well below the lease, so that a healthy worker never waits.
const POLL: Duration = Duration::from_millis(250);
/// How long the database may take; a connection into nothing must not hold the keeper.
const CATCH_UP: Duration = Duration::from_secs(10);
/// How long a caller waits for a confirmation when there is none in time.
const PATIENCE: Duration = Duration::from_secs(2);

/// One tenant at one revision. Scopes are resolved once per set of groups and live as long as the revision does, so that no
/// cached scope outlives a change.
#[derive(Debug)]
pub struct TenantView {
    pub config: TenantConfig,
    scopes: RwLock<HashMap<Groups, Arc<KeyScope>>>,
}

/// All groups of a key, the one to which its route narrows it, and the languages of its scripts.
type Groups = (Vec<ToolGroupId>, Option<ToolGroupId>, Languages);

/// A scope with what is derived from it.
#[derive(Debug)]
pub struct KeyScope {
    pub scope: Scope,
    /// The virtual files of what is exposed in Code Mode.
    pub library: Library,
    /// What the definitions of what is exposed in Code Mode would take in a prompt.
    code_bytes: usize,
    /// What models are offered of it through the LLM door, once one has asked.
    pub catalog: OnceLock<Arc<Catalog>>,
}

impl KeyScope {
    /// About how many tokens a prompt is shorter by, which offers the tools of Code Mode and not those behind them. Four bytes of JSON
    /// make a token, more or less, whichever the model; and only what prompts are made of counts: name, description, input schema.
    #[must_use]
    pub fn prompt_tokens_avoided(&self, meta_tools: &[Value]) -> i64 {
        let offered: usize = meta_tools.iter().map(|tool| prompt_bytes(tool, "")).sum();
        i64::try_from(self.code_bytes.saturating_sub(offered) / 4).unwrap_or(i64::MAX)
    }
}

/// What a definition takes in a prompt, under the server's name.
fn prompt_bytes(definition: &Value, server: &str) -> usize {
    let field = |name: &str| definition.get(name).map_or(0, |value| format!("\"{name}\":{value},").len());
    ["name", "description", "inputSchema"].map(field).iter().sum::<usize>() + server.len() + "__{}".len()
}

impl TenantView {
    fn new(config: TenantConfig) -> Self {
        Self { config, scopes: RwLock::default() }
    }

    /// What a key with these groups sees, on the route of one of them or of all. Groups that do not exist grant nothing.
    #[must_use]
    pub fn scope(&self, groups: &[ToolGroupId], only: Option<ToolGroupId>, languages: Languages) -> Arc<KeyScope> {
        let mut groups: Groups = (groups.to_vec(), only, languages);
        groups.0.sort_unstable();
        if let Some(found) = self.scopes.read().unwrap_or_else(std::sync::PoisonError::into_inner).get(&groups) {
            return Arc::clone(found);
        }
        let all: Vec<_> = groups.0.iter().filter_map(|id| self.config.groups.get(id)).collect();
        let members: Vec<_> = all.iter().copied().filter(|group| only.is_none_or(|only| group.id == only)).collect();
        let scope = Scope::narrowed(&self.config.tools, &members, &all);
        let library = Library::offering(languages, server_defs(&scope));
        let code = scope.exposed(Exposure::Code).map(|scoped| prompt_bytes(&scoped.tool.definition, &scoped.tool.upstream.name));
        let code_bytes = code.sum();
        let fresh = Arc::new(KeyScope { scope, library, code_bytes, catalog: OnceLock::new() });
        let mut scopes = self.scopes.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        Arc::clone(scopes.entry(groups).or_insert(fresh))
    }
}

/// The Code Mode half of a scope, as the stub library takes it. Tools come ordered by upstream.
fn server_defs(scope: &Scope) -> Vec<ServerDef> {
    let mut servers: Vec<ServerDef> = Vec::new();
    let mut place = HashMap::new();
    for scoped in scope.exposed(Exposure::Code) {
        let upstream = &scoped.tool.upstream;
        let at = *place.entry(upstream.id).or_insert_with(|| {
            let binding = match upstream.binding {
                tool::Binding::Server => Binding::Server,
                tool::Binding::Tool => Binding::Tool,
            };
            servers.push(ServerDef {
                name: upstream.name.clone(),
                description: upstream.description.clone(),
                binding,
                tools: Vec::new(),
            });
            servers.len() - 1
        });
        servers[at].tools.push(ToolDef {
            tool_id: scoped.tool.id.to_string(),
            name: scoped.tool.name.clone(),
            definition: Arc::clone(&scoped.tool.definition),
        });
    }
    servers.sort_by(|a, b| a.name.cmp(&b.name));
    servers
}

/// Everything at one revision.
#[derive(Debug, Default)]
struct Everything {
    revision: i64,
    tenants: HashMap<TenantId, Arc<TenantView>>,
    keys: HashMap<KeyId, TenantId>,
}

#[derive(Debug)]
struct Confirmed {
    at: Instant,
}

/// The worker cannot vouch for what it knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the configuration cannot be confirmed with the database")]
pub struct Stale;

/// The directory of all tenants and keys. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Directory {
    now: Arc<ArcSwap<Everything>>,
    confirmed: Arc<ArcSwap<Confirmed>>,
    refresh: mpsc::Sender<oneshot::Sender<bool>>,
    changed: watch::Receiver<i64>,
}

impl Directory {
    /// Read everything once, then keep it fresh on a task of its own until every handle is gone.
    ///
    /// # Errors
    /// When the first read fails.
    pub async fn start(store: Store) -> StoreResult<Self> {
        let (refresh, asks) = mpsc::channel(1024);
        let (tell, changed) = watch::channel(0);
        let now = Arc::new(ArcSwap::from_pointee(Everything::default()));
        let confirmed = Arc::new(ArcSwap::from_pointee(Confirmed { at: Instant::now() }));
        let mut keeper = Keeper { store, now: Arc::clone(&now), confirmed: Arc::clone(&confirmed), tell, broken: HashSet::new() };
        keeper.catch_up().await?;
        tokio::spawn(keeper.run(asks));
        Ok(Self { now, confirmed, refresh, changed })
    }

    /// The tenant and view of a key. An id that is not known may belong to a key made a moment ago elsewhere: the database is
    /// asked once before it is refused.
    ///
    /// # Errors
    /// [`Stale`] when the database cannot be asked.
    pub async fn of_key(&self, key: KeyId) -> Result<Option<Arc<TenantView>>, Stale> {
        self.confirm().await?;
        if let Some(view) = self.look_up(key) {
            return Ok(Some(view));
        }
        self.of_key_now(key).await
    }

    /// [`Self::of_key`] as the database has it now.
    ///
    /// # Errors
    /// [`Stale`] when the database cannot be asked.
    pub async fn of_key_now(&self, key: KeyId) -> Result<Option<Arc<TenantView>>, Stale> {
        self.ask().await?;
        Ok(self.look_up(key))
    }

    fn look_up(&self, key: KeyId) -> Option<Arc<TenantView>> {
        let now = self.now.load();
        now.tenants.get(now.keys.get(&key)?).cloned()
    }

    /// All tenants at this moment, confirmed or not: for what is kept open, not for what is let in.
    #[must_use]
    pub fn tenants(&self) -> Vec<Arc<TenantView>> {
        self.now.load().tenants.values().cloned().collect()
    }

    /// Ticks at every change.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<i64> {
        self.changed.clone()
    }

    async fn confirm(&self) -> Result<(), Stale> {
        if self.confirmed.load().at.elapsed() < LEASE {
            return Ok(());
        }
        self.ask().await
    }

    /// Have the keeper look at the database now.
    async fn ask(&self) -> Result<(), Stale> {
        let (done, answer) = oneshot::channel();
        self.refresh.try_send(done).map_err(|_| Stale)?;
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(true)) => Ok(()),
            _ => Err(Stale),
        }
    }
}

struct Keeper {
    store: Store,
    now: Arc<ArcSwap<Everything>>,
    confirmed: Arc<ArcSwap<Confirmed>>,
    tell: watch::Sender<i64>,
    /// Tenants whose rows could not be read; they serve nobody and are tried again.
    broken: HashSet<TenantId>,
}

impl Keeper {
    async fn run(mut self, mut asks: mpsc::Receiver<oneshot::Sender<bool>>) {
        let mut listener = None;
        let mut poll = tokio::time::interval(POLL);
        poll.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            if listener.is_none() {
                listener = snapshot::listen(&self.store).await.ok();
            }
            let mut waiting = Vec::new();
            tokio::select! {
                _ = poll.tick() => {}
                asked = asks.recv() => match asked {
                    Some(done) => waiting.push(done),
                    None => return,
                },
                heard = hear(&mut listener) => if !heard {
                    // The connection was lost, and with it perhaps notices; the poll below reads what they would have said.
                    listener = None;
                },
            }
            // One look serves all who asked before it began.
            while let Ok(done) = asks.try_recv() {
                waiting.push(done);
            }
            let fresh = match tokio::time::timeout(CATCH_UP, self.catch_up()).await {
                Ok(Ok(())) => true,
                Ok(Err(error)) => {
                    tracing::warn!(%error, "the configuration could not be confirmed");
                    false
                }
                Err(_) => {
                    tracing::warn!("the configuration could not be confirmed: the database does not answer");
                    false
                }
            };
            for done in waiting {
                let _ = done.send(fresh);
            }
        }
    }

    async fn catch_up(&mut self) -> StoreResult<()> {
        let asked_at = Instant::now();
        let before = self.now.load_full();
        let changes = snapshot::changes(&self.store, before.revision).await?;
        if changes.revision != before.revision || !self.broken.is_empty() {
            let mut next = Everything { revision: changes.revision, tenants: before.tenants.clone(), keys: HashMap::new() };
            let again = std::mem::take(&mut self.broken).into_iter().map(|tenant| (tenant, true));
            let again: Vec<_> = again.collect();
            for &(tenant, serves) in changes.tenants.iter().chain(&again) {
                if let Err(error) = self.reload(&mut next, tenant, serves).await {
                    self.broken.extend(again.iter().map(|(tenant, _)| *tenant));
                    return Err(error);
                }
            }
            let keys = next.tenants.values().flat_map(|view| view.config.keys.keys().map(|&key| (key, view.config.tenant)));
            next.keys = keys.collect();
            self.now.store(Arc::new(next));
            self.tell.send_replace(changes.revision);
        }
        // As of when the question was asked: what was committed after that is not in the answer.
        self.confirmed.store(Arc::new(Confirmed { at: asked_at }));
        Ok(())
    }

    async fn reload(&mut self, next: &mut Everything, tenant: TenantId, serves: bool) -> StoreResult<()> {
        let before = next.tenants.remove(&tenant);
        if !serves {
            return Ok(());
        }
        match snapshot::reload_tenant(&self.store, tenant, before.as_ref().map(|view| &view.config)).await {
            Ok(config) => drop(next.tenants.insert(tenant, Arc::new(TenantView::new(config)))),
            Err(StoreError::NotFound) => {}
            Err(error) if error.is_transient() => return Err(error),
            Err(error) => {
                tracing::error!(%tenant, %error, "a tenant's configuration cannot be read; it is not served");
                self.broken.insert(tenant);
            }
        }
        Ok(())
    }
}

/// Wait for a notice; false when the connection is lost. Without a listener, wait for ever: the poll goes on.
async fn hear(listener: &mut Option<snapshot::PgListener>) -> bool {
    match listener {
        Some(listener) => matches!(listener.try_recv().await, Ok(Some(_))),
        None => std::future::pending().await,
    }
}
