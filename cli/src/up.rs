//! `tollgate up`: everything on one machine, in order, and down again in the opposite order.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, anyhow, bail};
use tokio::{net::TcpListener, task::JoinSet, time::timeout};
use tollgate_boot::{Config, Health, Shutdown, Telemetry, serve::bind};

use crate::{
    args::{Seed, Up},
    data_dir::DataDir,
    parts::{self, Admitted, Shared},
    postgres::{Event, Postgres},
    progress::{Step, say},
    ready::{self, Ready},
    sandbox,
    secrets::InstallationSecrets,
    seed,
};

const READY_LIMIT: Duration = Duration::from_secs(60);

/// Everything that has been decided and acquired before the first process starts.
struct Plan {
    config: Config,
    seed: Seed,
    dir: DataDir,
    api: Door,
    gateway: Door,
    sandbox: std::path::PathBuf,
    redis: Option<String>,
    shutdown: Shutdown,
}

struct Door {
    listener: TcpListener,
    url: String,
    health: Health,
}

pub async fn run(args: Up) -> Result<()> {
    let mut config = args.config.load()?;
    config.upstream.allow_private_networks.get_or_insert(true);
    if args.seed == Seed::Demo {
        seed::register_programs(&mut config)?;
    }
    let telemetry = Telemetry::start(&config.telemetry, "tollgate")?;
    let upkeep = tokio::spawn(telemetry.metrics().upkeep());
    let shutdown = Shutdown::new();
    shutdown.on_signals().context("cannot listen for signals")?;
    // What is most likely to be in the way comes first: a taken port or directory costs no start of a database.
    let plan = Plan {
        sandbox: sandbox::find(args.sandbox.sandbox.clone())?,
        api: Door::open(&args.api, "api", &telemetry).await?,
        gateway: Door::open(&args.gateway, "gateway", &telemetry).await?,
        dir: DataDir::open(&args.data_dir)?,
        seed: args.seed,
        redis: args.redis.url().map(str::to_owned),
        shutdown,
        config,
    };
    // Left by a process that was killed; whoever waits for the file must not take it for ours.
    plan.dir.remove(ready::FILE)?;
    say(format_args!("tollgate {} starts in {}", env!("CARGO_PKG_VERSION"), plan.dir.path().display()));
    let outcome = with_database(plan, args.database.url().map(str::to_owned)).await;
    upkeep.abort();
    tokio::task::spawn_blocking(move || drop(telemetry)).await?;
    outcome
}

impl Door {
    async fn open(address: &str, flag: &'static str, telemetry: &Telemetry) -> Result<Self> {
        let listener = bind(address, flag).await?;
        let url = ready::url(listener.local_addr()?);
        Ok(Self { listener, url, health: Health::new(telemetry.metrics()) })
    }
}

/// The database is up before and down after everything else. The data directory's lock is held to the very end.
async fn with_database(plan: Plan, given: Option<String>) -> Result<()> {
    if let Some(url) = given {
        return serve(plan, &url).await.1;
    }
    let on_event = report_to(vec![plan.api.health.clone(), plan.gateway.health.clone()], plan.shutdown.clone());
    let (postgres, plan) = tokio::task::spawn_blocking(move || {
        let started = Postgres::start(&plan.dir, on_event);
        (started, plan)
    })
    .await?;
    let postgres = postgres?;
    let url = postgres.url().to_owned();
    let (dir, outcome) = serve(plan, &url).await;
    let step = Step::begin("Postgres");
    tokio::task::spawn_blocking(move || postgres.stop()).await?;
    step.done("stopped");
    drop(dir);
    outcome
}

/// Readiness follows the database; a database that stays down ends the process, so that its supervisor sees it.
fn report_to(doors: Vec<Health>, shutdown: Shutdown) -> impl Fn(Event) + Send + 'static {
    let tell = move |reason: Option<&str>| {
        for door in &doors {
            match reason {
                Some(reason) => door.not_ready("postgres", reason),
                None => door.ready("postgres"),
            }
        }
    };
    move |event| match event {
        Event::Died(reason) => {
            tracing::error!(reason, "Postgres died; starting it again");
            tell(Some(&reason));
        }
        Event::Back => {
            tracing::info!("Postgres is back");
            tell(None);
        }
        Event::GaveUp(reason) => {
            tracing::error!(reason, "Postgres does not stay up");
            tell(Some(&reason));
            shutdown.trigger("Postgres does not stay up");
        }
    }
}

/// From a database to two open doors, until the end is asked for. Hands the directory back with its lock.
async fn serve(plan: Plan, url: &str) -> (DataDir, Result<()>) {
    let Plan { config, seed, dir, api, gateway, sandbox, redis, shutdown } = plan;
    let limit = config.limits.drain();
    let (api_url, gateway_url) = (api.url.clone(), gateway.url.clone());
    let healths = [("admin API", api.health.clone()), ("gateway", gateway.health.clone())];
    let mut doors = JoinSet::new();
    let outcome = async {
        let mut secrets = InstallationSecrets::load_or_create(&dir)?;
        let shared = prepare(config, &mut secrets, &dir, (url, redis.as_deref()), shutdown.clone()).await?;
        doors.spawn(parts::api(shared.clone(), api.listener, api.health));
        doors.spawn(parts::worker(shared, gateway.listener, gateway.health, sandbox));
        await_ready(&healths, &mut doors, &shutdown).await?;
        let demo = match seed {
            Seed::Demo => Some(seed::plant(&api_url, &mut secrets, &dir).await.context("the demo could not be set up")?),
            Seed::None => None,
        };
        let admin_token = secrets.admin_token;
        let ready = Ready { api_url, gateway_url, admin_token, demo, pid: std::process::id() };
        ready.write(&dir)?;
        ready.print(&dir);
        tokio::select! {
            () = shutdown.requested() => Ok(()),
            ended = doors.join_next() => Err(early(ended)),
        }
    }
    .await;
    // Asked to stop while starting: what failed because of that is no failure.
    let outcome = if shutdown.is_requested() { Ok(()) } else { outcome };
    let outcome = outcome.and(dir.remove(ready::FILE));
    stop(doors, &shutdown, limit).await;
    (dir, outcome)
}

async fn prepare(
    config: Config,
    secrets: &mut InstallationSecrets,
    dir: &DataDir,
    (url, redis): (&str, Option<&str>),
    shutdown: Shutdown,
) -> Result<Shared> {
    let mut step = Step::begin("database");
    let report = step.watch(parts::migrate(url)).await?;
    let server_secrets = parts::all_secrets(secrets.bytes()?, &config).await?;
    let keys = parts::key_ring(&config, &server_secrets)?;
    let store = parts::connect(url, config.limits.database_connections, keys).await?;
    if parts::admit_admin(&store, &server_secrets, &secrets.admin_token).await? == Admitted::Revoked {
        // Somebody revoked it on purpose; whoever may read the data directory gets another one.
        secrets.admin_token = parts::new_admin_token();
        secrets.save(dir)?;
        parts::admit_admin(&store, &server_secrets, &secrets.admin_token).await?;
    }
    step.done(report);
    let counters = parts::counters(&config, redis, &store, true)?;
    Ok(Shared::new(store, Arc::new(config), server_secrets, counters, shutdown))
}

async fn await_ready(healths: &[(&str, Health)], doors: &mut JoinSet<Result<()>>, shutdown: &Shutdown) -> Result<()> {
    let mut step = Step::begin("admin API and gateway");
    let all_ready = async {
        while !healths.iter().all(|(_, health)| health.report().ready) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        ready = step.watch(timeout(READY_LIMIT, all_ready)) => {
            if ready.is_err() {
                bail!("not ready after {} s: {}", READY_LIMIT.as_secs(), missing(healths));
            }
        }
        ended = doors.join_next() => return Err(early(ended)),
        () = shutdown.requested() => bail!("stopped while starting"),
    }
    step.done("ready");
    Ok(())
}

fn missing(healths: &[(&str, Health)]) -> String {
    let mut parts = Vec::new();
    for (door, health) in healths {
        for (name, state) in health.report().components.into_iter().filter(|(_, state)| !state.ready) {
            parts.push(format!("{door}: {name} ({})", state.reason.unwrap_or_default()));
        }
    }
    parts.join(", ")
}

/// A door that ends although nobody asked it to is a failure even where it says that all is well.
fn early(ended: Option<Result<Result<()>, tokio::task::JoinError>>) -> anyhow::Error {
    match ended {
        Some(Ok(Err(error))) => error,
        Some(Err(panic)) => anyhow!("a server panicked: {panic}"),
        Some(Ok(Ok(()))) | None => anyhow!("a server ended unexpectedly"),
    }
}

/// Lets work in flight finish, within the limit, while the database is still there.
async fn stop(mut doors: JoinSet<Result<()>>, shutdown: &Shutdown, limit: Duration) {
    if doors.is_empty() {
        return;
    }
    let step = Step::begin("servers");
    shutdown.trigger("something failed");
    let ended = timeout(limit, async {
        while let Some(ended) = doors.join_next().await {
            if let Ok(Err(error)) = ended {
                tracing::error!("while stopping: {error:#}");
            }
        }
        shutdown.drain(limit).await
    });
    match ended.await {
        Ok(_) => step.done("stopped"),
        Err(_) => step.done("did not finish in time and were cut off"),
    }
}
