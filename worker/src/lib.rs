//! The model door: MCP and the endpoints of language models, for the holders of virtual keys.

mod approve;
mod call;
mod caller;
mod combine;
mod gate;
mod guard;
mod learn;
mod limits;
mod llm;
mod mcp;
mod meta;
mod price;
mod quota;
pub mod rates;
mod resume;
mod sandbox;
mod scope;
mod script;
mod slots;
pub mod spend;
mod upstream;
mod verbatim;

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::net::TcpListener;
use tollgate_boot::{
    Config, Health, Shutdown,
    serve::{ServeLimits, serve as serve_router},
};
use tollgate_domain::{Secrets, WorkerId, clock::SharedClock, ids};
use tollgate_store::{
    Store,
    audit::{AuditWriter, QueueLimits},
    costs::rollup,
    counters::Counters,
    retention, sealer, search, workers,
};

use gate::{Gate, InFlight};

const HEARTBEAT: Duration = Duration::from_secs(2);
const SWEEP: Duration = Duration::from_secs(3);
const STALE: Duration = Duration::from_secs(10);
const HOUSEKEEPING: Duration = Duration::from_secs(3600);
/// A new tenant's reports are sums over its rows until it is looked at.
const ROLL: Duration = Duration::from_secs(10);
/// Nothing is indexed before it is minutes old: looking more often would find nothing.
const INDEX: Duration = Duration::from_secs(10);
/// Blocks that one round of the index builds: a few seconds' work.
const INDEX_BLOCKS: usize = 32;

/// What a worker is made of.
#[derive(Debug)]
pub struct WorkerParts {
    pub store: Store,
    pub config: Arc<Config>,
    pub secrets: Secrets,
    pub clock: SharedClock,
    /// Where rate limits are counted.
    pub counters: Counters,
    pub listener: TcpListener,
    pub shutdown: Shutdown,
    pub health: Health,
    /// The `tollgate-sandbox` program.
    pub sandbox_path: PathBuf,
}

/// Serve until the end is asked for; then let calls in flight finish, and leave the register of workers.
///
/// # Errors
/// When the worker cannot start: no database, or no sandbox.
pub async fn serve(parts: WorkerParts) -> anyhow::Result<()> {
    serve_with(parts, |store, config| AuditWriter::start(store, queue_limits(config))).await
}

/// [`serve`], recording nothing: the baseline of the benchmark.
///
/// # Errors
/// As [`serve`].
#[cfg(feature = "unaudited")]
pub async fn serve_unaudited(parts: WorkerParts) -> anyhow::Result<()> {
    serve_with(parts, |_, config| AuditWriter::unrecorded(queue_limits(config))).await
}

fn queue_limits(config: &Config) -> QueueLimits {
    QueueLimits { entries: config.limits.audit_queue, bytes: config.limits.audit_queue_bytes }
}

async fn serve_with(parts: WorkerParts, writer: fn(&Store, &Config) -> AuditWriter) -> anyhow::Result<()> {
    let WorkerParts { store, config, secrets, clock, counters, listener, shutdown, health, sandbox_path } = parts;
    health.expect("worker");
    let worker = WorkerId::mint(clock.now());
    let in_flight = InFlight::default();
    if let Err(error) = workers::housekeeping(&store, clock.now()).await {
        // Rows of a month without a partition go to the default one; that is no reason not to serve.
        tracing::warn!(%error, "housekeeping failed; it is tried again");
    }
    let pulse = gate::Pulse::new();
    workers::heartbeat(&store, worker, in_flight.oldest(clock.now())).await?;
    let sandbox = sandbox::SandboxPool::start(&sandbox_path, &config.limits.script).await?;
    let directory = scope::Directory::start(store.clone()).await?;
    let tools = upstream::Tools {
        store: store.clone(),
        config: Arc::clone(&config),
        vault: secrets.vault.clone(),
        clock: Arc::clone(&clock),
        worker,
    };
    let upstreams = upstream::Upstreams::start(tools, &directory, &shutdown)?;
    let audit = writer(&store, &config);
    let wallets = spend::Wallets::new(store.clone(), worker, Arc::clone(&clock));
    let vault = secrets.vault.clone();
    let rates = rates::Rates::new(counters, worker);
    let gate = Gate {
        store: store.clone(),
        config: Arc::clone(&config),
        secrets,
        clock: Arc::clone(&clock),
        worker,
        directory,
        audit,
        wallets: wallets.clone(),
        rates: rates.clone(),
        prices: price::Prices::new(store.clone(), config.limits.tool_result_bytes),
        upstreams: upstreams.clone(),
        providers: llm::provider::Providers::new(vault, config.upstream.allows_private_networks(), clock.clone())?,
        sandbox,
        learner: learn::Learner::start(store.clone(), Arc::clone(&clock), &shutdown),
        in_flight: in_flight.clone(),
        loops: llm::durable::Loops::default(),
        pulse,
        resumes: Arc::new(tokio::sync::Semaphore::new(resume::AT_ONCE)),
        shutdown: shutdown.clone(),
    };
    let beats = tokio::spawn(beat(gate.clone(), health.clone()));
    shutdown.spawn(sweep(gate.clone(), shutdown.clone()));
    shutdown.spawn(resume::rounds(gate.clone(), shutdown.clone()));
    shutdown.spawn(seal(gate.clone(), shutdown.clone()));
    shutdown.spawn(index(gate.clone(), shutdown.clone()));
    shutdown.spawn(retire(gate.clone(), shutdown.clone()));
    shutdown.spawn(roll(gate.clone(), shutdown.clone()));
    // Until the last call has ended: a lease that is not renewed is taken for a dead worker's.
    let keeping = tokio::spawn({
        let (wallets, rates) = (wallets.clone(), rates.clone());
        async move { tokio::join!(wallets.keep(), rates.keep()) }
    });

    let address = listener.local_addr()?;
    let router = mcp::routes(gate.clone(), address)
        .merge(quota::routes(gate.clone(), address))
        .merge(llm::routes(gate, address))
        .merge(health.router());
    health.ready("worker");
    tracing::info!(%worker, %address, "the worker serves");
    serve_router(listener, router, ServeLimits::from(&config.limits), &shutdown).await;

    // Calls go on as tasks of their own after their connection has gone; each ends within its timeout.
    let until = tokio::time::Instant::now() + config.limits.drain();
    while in_flight.count() > 0 && tokio::time::Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    upstreams.stop();
    keeping.abort();
    wallets.close().await;
    rates.close().await;
    beats.abort();
    if in_flight.count() == 0 {
        workers::retire(&store, worker).await?;
    }
    Ok(())
}

/// Give what has been written its place in the log. Every worker tries; one at a time does it.
async fn seal(gate: Gate, shutdown: Shutdown) {
    let mut published = false;
    let mut rounds = tokio::time::interval(Duration::from_millis(gate.config.audit.seal_milliseconds));
    rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.requested() => return,
            _ = rounds.tick() => {}
        }
        if !published {
            published = sealer::publish_keys(&gate.store, gate.clock.now()).await.is_ok();
        }
        match sealer::round(&gate.store, gate.clock.now()).await {
            Ok(round) => {
                metrics::counter!("tollgate_audit_sealed_entries_total").increment(u64::try_from(round.entries).unwrap_or(0));
                for anomaly in &round.anomalies {
                    metrics::counter!("tollgate_audit_anomalies_total").increment(1);
                    tracing::error!(anomaly, "rows of the audit trail were changed on their way into the log");
                }
                if round.more {
                    rounds.reset_immediately();
                }
            }
            Err(error) => tracing::warn!(%error, "nothing was sealed; it is tried again"),
        }
    }
}

/// Drop the months that no tenant's retention covers any more. Every worker tries; one at a time does it.
async fn retire(gate: Gate, shutdown: Shutdown) {
    let mut rounds = tokio::time::interval(HOUSEKEEPING);
    loop {
        tokio::select! {
            () = shutdown.requested() => return,
            _ = rounds.tick() => {}
        }
        // Broken off, it leaves everything as it was.
        let done = tokio::select! {
            () = shutdown.requested() => return,
            done = retention::run(&gate.store, gate.clock.now()) => done,
        };
        match done {
            Ok(retired) => {
                for gone in retired {
                    tracing::info!(tenant = %gone.tenant, month = %gone.month, "a month of a tenant's audit trail was dropped");
                }
            }
            Err(error) => tracing::warn!(%error, "a month that has had its time was not dropped; it is tried again in an hour"),
        }
    }
}

/// Count what was there before anyone counted, and hold the rollups against the rows. Every worker tries; one at a time does it.
async fn roll(gate: Gate, shutdown: Shutdown) {
    let (mut builds, mut checks) = (tokio::time::interval(ROLL), tokio::time::interval(HOUSEKEEPING));
    builds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        // Broken off, either leaves everything right.
        let done = tokio::select! {
            () = shutdown.requested() => return,
            _ = builds.tick() => tokio::select! {
                () = shutdown.requested() => return,
                done = build_rollups(&gate) => done,
            },
            _ = checks.tick() => tokio::select! {
                () = shutdown.requested() => return,
                done = check_rollups(&gate) => done,
            },
        };
        if let Err(error) = done {
            tracing::warn!(%error, "the rollups of costs were not tended; it is tried again");
        }
    }
}

async fn build_rollups(gate: &Gate) -> tollgate_store::StoreResult<()> {
    for tenant in rollup::uncounted(&gate.store).await? {
        // One that cannot be counted does not keep the others from it.
        if let Err(error) = rollup::build(&gate.store, tenant).await {
            tracing::warn!(%tenant, %error, "the costs of a tenant were not counted; its reports read the rows");
        }
    }
    Ok(())
}

async fn check_rollups(gate: &Gate) -> tollgate_store::StoreResult<()> {
    for checked in rollup::check_round(&gate.store, gate.clock.now()).await? {
        metrics::counter!("tollgate_costs_checked_total").increment(1);
        if let Some(drift) = checked.drift {
            metrics::counter!("tollgate_costs_drift_total").increment(1);
            tracing::error!(tenant = %checked.tenant, from = %checked.from, to = %checked.to, sums = drift.sums, calls = drift.calls,
                "sums of a cost report were not what the rows say; they were made anew");
        }
    }
    Ok(())
}

/// Say that this worker lives, and what it may have left open should it die.
async fn beat(gate: Gate, health: Health) {
    let mut ticks = tokio::time::interval(HEARTBEAT);
    loop {
        ticks.tick().await;
        let sent = std::time::Instant::now();
        match workers::heartbeat(&gate.store, gate.worker, gate.in_flight.oldest(gate.clock.now())).await {
            Ok(anew) => {
                gate.pulse.beat(sent, anew);
                health.ready("database");
            }
            Err(error) => {
                tracing::warn!(%error, "no heartbeat: the database does not answer");
                health.not_ready("database", "the database does not answer");
            }
        }
    }
}

async fn sweep(gate: Gate, shutdown: Shutdown) {
    let Gate { store, clock, .. } = &gate;
    // The first look comes after every live worker has had time to say so: after an outage of the database they are all late.
    let mut sweeps = tokio::time::interval_at(tokio::time::Instant::now() + SWEEP, SWEEP);
    let mut housekeeping = tokio::time::interval(HOUSEKEEPING);
    loop {
        let result = tokio::select! {
            () = shutdown.requested() => return,
            _ = sweeps.tick() => match sweep_once(&gate).await {
                Ok(Some(swept)) => {
                    tracing::warn!(calls = swept.calls, requests = swept.requests, runs = swept.runs.len(), "a dead worker's calls were resolved, and its runs taken over");
                    // There may be more of it, and more dead workers: they do not wait for another tick each.
                    sweeps.reset_immediately();
                    Ok(())
                }
                Ok(None) => Ok(()),
                Err(error) => {
                    // The database was away, and with it everyone's heartbeat: they get time to come back before anyone is dead.
                    sweeps.reset_after(STALE);
                    Err(error)
                }
            },
            _ = housekeeping.tick() => workers::housekeeping(store, clock.now()).await,
        };
        if let Err(error) = result {
            tracing::warn!(%error, "housekeeping failed; it is tried again");
        }
    }
}

async fn sweep_once(gate: &Gate) -> tollgate_store::StoreResult<Option<workers::Swept>> {
    // In the register before anything is taken over; see `resume::rounds`.
    let _guard = gate.in_flight.enter(ids::mint(gate.clock.now()));
    workers::sweep(&gate.store, &gate.audit, gate.worker).await.inspect(|swept| {
        if let Some(swept) = swept {
            resume::take_up(gate, swept.runs.clone());
        }
    })
}

/// Keep up the index of calls, behind the calls. Only one worker does it at a time.
async fn index(gate: Gate, shutdown: Shutdown) {
    let Gate { store, clock, .. } = gate;
    let mut rounds = tokio::time::interval(INDEX);
    loop {
        tokio::select! {
            () = shutdown.requested() => return,
            _ = rounds.tick() => {}
        }
        match search::index_some(&store, clock.now(), INDEX_BLOCKS).await {
            Ok(indexed) if indexed.more => rounds.reset_immediately(),
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "calls cannot be indexed; it is tried again"),
        }
    }
}
