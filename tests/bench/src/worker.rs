//! The worker of the gateway, run from the library so that all modes share one program: what differs between them is the
//! audit writer (here) and the tenant's durability (a setting).

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context, Result};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use clap::Args;
use tokio::net::TcpListener;
use tollgate_boot::{Config, Health, Shutdown, Telemetry};
use tollgate_domain::{Secrets, SystemClock};
use tollgate_evidence::sign::{KeyRing, Signer};
use tollgate_store::counters::Counters;
use tollgate_worker::WorkerParts;

#[derive(Debug, Args)]
pub struct Worker {
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    database_url: String,
    /// The installation's secret, in base64
    #[arg(long, env = "TOLLGATE_SECRET", hide_env_values = true)]
    secret: String,
    #[arg(long)]
    sandbox: PathBuf,
    /// Acknowledge audit entries without writing them
    #[arg(long)]
    unaudited: bool,
}

/// Serve on a free port of the loopback, which is the first line of the output.
pub async fn run(args: Worker) -> Result<()> {
    let mut config = Config::default();
    config.upstream.allow_private_networks = Some(true);
    config.telemetry.log = "warn".to_owned();
    let telemetry = Telemetry::start(&config.telemetry, "tollgate-bench")?;
    let upkeep = tokio::spawn(telemetry.metrics().upkeep());
    let secret = BASE64.decode(args.secret.trim()).ok().and_then(|bytes| bytes.try_into().ok());
    let shutdown = Shutdown::new();
    shutdown.on_signals().context("cannot listen for signals")?;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    crate::process::announce(listener.local_addr()?)?;
    let secrets = Secrets::from_bytes(secret.context("the secret is not 32 bytes in base64")?);
    let keys = Arc::new(KeyRing::new(Signer::from_seed(&secrets.signing_seed)?, []));
    let store = tollgate_store::connect(&args.database_url, config.limits.database_connections, keys).await?;
    let parts = WorkerParts {
        counters: Counters::postgres(store.clone()),
        store,
        config: Arc::new(config),
        secrets,
        clock: Arc::new(SystemClock),
        listener,
        shutdown: shutdown.clone(),
        health: Health::new(telemetry.metrics()),
        sandbox_path: args.sandbox,
    };
    let outcome = if args.unaudited { Box::pin(unaudited(parts)).await } else { Box::pin(tollgate_worker::serve(parts)).await };
    shutdown.trigger("the worker has ended");
    upkeep.abort();
    outcome
}

#[cfg(feature = "unaudited")]
async fn unaudited(parts: WorkerParts) -> Result<()> {
    tollgate_worker::serve_unaudited(parts).await
}

/// Compiled with the rest of the workspace, this program cannot do without the trail either.
#[cfg(not(feature = "unaudited"))]
async fn unaudited(_: WorkerParts) -> Result<()> {
    anyhow::bail!("built without the baseline: use `make bench-audit`, which builds with `--features tollgate-bench/unaudited`")
}

/// Whether this build has the baseline.
pub const HAS_BASELINE: bool = cfg!(feature = "unaudited");
