//! `tollgate api` and `tollgate worker`: one door per process, against a database somebody else runs.

use std::sync::Arc;

use anyhow::{Context, Result};
use tollgate_boot::{Health, Shutdown, Telemetry, serve::bind};

use crate::{args, parts, parts::Shared, sandbox};

pub async fn api(args: args::Api) -> Result<()> {
    let (shared, telemetry) = prepare(&args.server, "tollgate-api").await?;
    let listener = bind(&args.listen, "listen").await?;
    tracing::info!(address = %listener.local_addr()?, "admin API is listening");
    let door = parts::api(shared.clone(), listener, Health::new(telemetry.metrics()));
    run(shared, telemetry, door).await
}

pub async fn worker(args: args::Worker) -> Result<()> {
    let sandbox = sandbox::find(args.sandbox.sandbox)?;
    let (shared, telemetry) = prepare(&args.server, "tollgate-worker").await?;
    let listener = bind(&args.listen, "listen").await?;
    tracing::info!(address = %listener.local_addr()?, "worker is listening");
    let door = parts::worker(shared.clone(), listener, Health::new(telemetry.metrics()), sandbox);
    run(shared, telemetry, door).await
}

/// What can be wrong with the settings is found before the database is touched.
async fn prepare(args: &args::Server, service: &'static str) -> Result<(Shared, Telemetry)> {
    let config = args.config.load()?;
    let secrets = parts::all_secrets(args.secret.load()?, &config).await?;
    let url = args.database.require()?;
    let keys = parts::key_ring(&config, &secrets)?;
    let telemetry = Telemetry::start(&config.telemetry, service)?;
    let shutdown = Shutdown::new();
    shutdown.on_signals().context("cannot listen for signals")?;
    let store = parts::connect(&url, config.limits.database_connections, keys).await?;
    let counters = parts::counters(&config, args.redis.url(), &store, false)?;
    Ok((Shared::new(store, Arc::new(config), secrets, counters, shutdown), telemetry))
}

async fn run(shared: Shared, telemetry: Telemetry, door: parts::Serving) -> Result<()> {
    let upkeep = tokio::spawn(telemetry.metrics().upkeep());
    let outcome = door.await;
    shared.shutdown.trigger("the server has ended");
    shared.shutdown.drain(shared.config.limits.drain()).await;
    upkeep.abort();
    // The exporter blocks while it sends what is left.
    tokio::task::spawn_blocking(move || drop(telemetry)).await?;
    outcome
}
