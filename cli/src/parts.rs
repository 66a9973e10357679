//! The seam between this binary and the parts it starts: every call into `api`, `worker` and `store` stands here.

use std::{fmt, future::Future, path::PathBuf, pin::Pin, sync::Arc};

use anyhow::{Context, Result, bail};
use tokio::net::TcpListener;
use tollgate_api::ApiParts;
use tollgate_boot::{
    Config, Health, Shutdown,
    config::CountersIn,
    kms::{self, KmsCommand},
};
use tollgate_domain::{Clock, DataKey, Secret, SecretKind, Secrets, SystemClock, clock::SharedClock, ids};
use tollgate_evidence::sign::{KeyRing, Signer};
use tollgate_store::{Store, auth, counters::Counters};
use tollgate_worker::WorkerParts;

/// What both doors are built from. Cheap to clone.
#[derive(Clone)]
pub struct Shared {
    pub store: Store,
    pub config: Arc<Config>,
    pub secrets: Secrets,
    pub clock: SharedClock,
    pub counters: Counters,
    pub shutdown: Shutdown,
}

impl Shared {
    pub fn new(store: Store, config: Arc<Config>, secrets: Secrets, counters: Counters, shutdown: Shutdown) -> Self {
        Self { store, config, secrets, clock: Arc::new(SystemClock), counters, shutdown }
    }
}

/// A door at work. Boxed: both are large, and they are moved into tasks.
pub type Serving = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// Serves until the end is asked for and what was in flight is done.
pub fn api(shared: Shared, listener: TcpListener, health: Health) -> Serving {
    let Shared { store, config, secrets, clock, counters, shutdown } = shared;
    let parts = ApiParts { store, config, secrets, clock, counters, listener, shutdown, health };
    Box::pin(async { tollgate_api::serve(parts).await.context("the admin API failed") })
}

/// Serves until the end is asked for and what was in flight is done.
pub fn worker(shared: Shared, listener: TcpListener, health: Health, sandbox_path: PathBuf) -> Serving {
    let Shared { store, config, secrets, clock, counters, shutdown } = shared;
    let parts = WorkerParts { store, config, secrets, clock, counters, listener, shutdown, health, sandbox_path };
    Box::pin(async { tollgate_worker::serve(parts).await.context("the worker failed") })
}

/// Answers what was done, for people.
pub async fn migrate(url: &str) -> Result<impl fmt::Display + use<>> {
    let report = tollgate_store::migrate(url).await?;
    Ok(match report.applied.as_slice() {
        [] => "the schema is up to date".to_owned(),
        [.., last] => format!("{} applied, schema is at {last}", report.applied.len()),
    })
}

pub async fn connect(url: &str, max_connections: u32, keys: KeyRing) -> Result<Store> {
    tollgate_store::connect(url, max_connections, Arc::new(keys)).await.context("cannot connect to the database")
}

/// Where rate limits are counted. `alone`: this process is all there is of the installation.
pub fn counters(config: &Config, redis: Option<&str>, store: &Store, alone: bool) -> Result<Counters> {
    let counters = match (config.limits.counters, redis) {
        (Some(CountersIn::Memory), _) if alone => Counters::memory(Arc::new(SystemClock)),
        (Some(CountersIn::Memory), _) => {
            bail!("limits.counters = \"memory\" is for `tollgate up` alone: processes that share a database must count together")
        }
        (Some(CountersIn::Redis), None) => bail!("limits.counters = \"redis\": which Redis? Set REDIS_URL or --redis-url"),
        (None | Some(CountersIn::Redis), Some(url)) => Counters::redis(url).context("REDIS_URL cannot be used")?,
        (None, None) | (Some(CountersIn::Postgres), _) => Counters::postgres(store.clone()),
    };
    tracing::info!(kept_in = counters.name(), "rate limits are counted");
    Ok(counters)
}

/// The keys of the audit trail: the configured ones, or one made from the server's secret.
pub fn key_ring(config: &Config, secrets: &Secrets) -> Result<KeyRing> {
    let read = |path: &PathBuf| {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read audit.signing_keys: {}", path.display()))?;
        Signer::from_text(&text).with_context(|| format!("audit.signing_keys: {}", path.display()))
    };
    let mut keys = config.audit.signing_keys.iter().map(read).collect::<Result<Vec<_>>>()?;
    let derived = Signer::from_seed(&secrets.signing_seed)?;
    if keys.is_empty() {
        return Ok(KeyRing::new(derived, []));
    }
    let signer = keys.remove(0);
    // What was signed before a key was configured stays proved.
    let others = keys.iter().map(|key| key.public().clone()).chain([derived.public().clone()]);
    Ok(KeyRing::new(signer, others))
}

/// For what touches nothing that rests sealed.
pub fn secrets(secret: [u8; 32]) -> Secrets {
    Secrets::from_bytes(secret)
}

/// With the keys of `[[secrets.key]]`, which may take a question to a key management service.
pub async fn all_secrets(secret: [u8; 32], config: &Config) -> Result<Secrets> {
    let keys = kms::load(&config.secrets, &KmsCommand::new(&config.secrets)).await.map_err(anyhow::Error::msg)?;
    let keys = keys.iter().map(|(name, key)| DataKey::new(name, key)).collect();
    Ok(secrets(secret).with_keys(keys))
}

pub fn new_admin_token() -> String {
    Secret::generate(SecretKind::Platform, ids::mint(SystemClock.now())).reveal().to_owned()
}

/// Whether a platform token opens the admin API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admitted {
    Yes,
    Revoked,
}

/// Makes the database know a platform token. Doing it again changes nothing, and brings no revoked one back.
pub async fn admit_admin(store: &Store, secrets: &Secrets, token: &str) -> Result<Admitted> {
    let token = Secret::parse(token).filter(|secret| secret.kind() == SecretKind::Platform);
    let token = token.context("the stored admin token is damaged")?;
    let id = token.id().into();
    let known = auth::platform_token(store, id).await.context("cannot look up the admin token")?;
    if let Some(row) = known {
        return Ok(if row.revoked_at.is_some() { Admitted::Revoked } else { Admitted::Yes });
    }
    let hash = token.hash(&secrets.pepper);
    auth::put_platform_token(store, id, &hash, SystemClock.now()).await.context("cannot store the admin token")?;
    Ok(Admitted::Yes)
}

pub fn openapi_json() -> String {
    tollgate_api::openapi_json()
}
