//! What it costs to ask a budget, and to be counted under a rate limit: many callers, one budget, one limit. The baseline is what one would
//! write first: a row that every call locks.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use futures::future::try_join_all;
use sqlx::{Connection, PgConnection, PgPool, postgres::PgPoolOptions};
use tollgate_domain::{
    Budget, BudgetId, CallId, Clock, KeyId, Picos, RateLimitId, SystemClock, TenantId, TimeZone, ToolId, UpstreamId, WorkerId,
    budget::{BudgetScope, Enforcement, Period, Spender},
    rate::{Measure, Per, RateLimit},
};
use tollgate_evidence::sign::{KeyRing, Signer};
use tollgate_store::{Actor, Store, budgets, counters::Counters, rates};
use tollgate_worker::{
    rates::{Rates, Slow, Told},
    spend::Wallets,
};

use crate::{
    dice::to_f64,
    load::quantile,
    process::Process,
    table::{Table, count, line, machine, note},
};

/// What a call may cost.
const AMOUNT: i64 = 1_000_000;
const LIMIT: i64 = 9_000_000_000_000_000_000;
/// As a worker has them.
const CONNECTIONS: u32 = 20;
const WARM_UP: Duration = Duration::from_millis(700);

#[derive(Debug, Args)]
pub struct Spend {
    /// Postgres as a superuser, with an empty database: `tests/with-postgres.sh` brings one
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    database_url: String,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Callers at once
    #[arg(long, default_value_t = 64)]
    callers: usize,
}

/// Where everything happens.
struct Stage {
    store: Store,
    pool: PgPool,
    tenant: TenantId,
    length: Duration,
    callers: usize,
}

struct Measured {
    per_second: f64,
    p50_us: f64,
    p99_us: f64,
    /// All that were answered, those of the warm-up too.
    done: usize,
}

pub async fn run(args: Spend) -> Result<()> {
    ensure!(args.seconds > 0 && args.callers > 0, "nothing to measure");
    let mut connection = PgConnection::connect(&args.database_url).await.context("cannot connect to the database")?;
    let version: String = sqlx::query_scalar("SHOW server_version").fetch_one(&mut connection).await?;
    let fsync: String = sqlx::query_scalar("SHOW fsync").fetch_one(&mut connection).await?;
    tollgate_store::migrate(&args.database_url).await?;
    line("# What it costs to ask a budget\n");
    machine(&version);
    line(format_args!("{} callers, one budget, {CONNECTIONS} connections, fsync {fsync}\n", args.callers));
    let stage = Stage::set(&args, &mut connection).await?;
    let redis = Redis::start().await?;

    let row = stage.locked_row().await?;
    let mut table = Table::new(&["reservations", "a second", "p50 us", "p99 us", "x the locked row"]);
    let mut tell = |what: &str, measured: &Measured| {
        table.row(vec![
            what.to_owned(),
            count(to_u64(measured.per_second)),
            format!("{:.1}", measured.p50_us),
            format!("{:.1}", measured.p99_us),
            format!("{:.1}", measured.per_second / row.per_second),
        ]);
    };
    tell("leases in memory over Postgres", &stage.wallets(false).await?);
    tell("exact: no more than those need who wait", &stage.wallets(true).await?);
    tell("a script in Redis per call", &stage.in_redis(&redis).await?);
    tell("a locked row in Postgres per call", &row);
    for counters in
        [Counters::postgres(stage.store.clone()), Counters::redis(&redis.url)?, Counters::memory(Arc::new(SystemClock))]
    {
        let name = counters.name();
        tell(&format!("rate limit, counted in {name}"), &stage.limit(counters).await?);
    }
    table.print();
    line("Targets: leases 100 x, exact 5 x.");
    Ok(())
}

impl Stage {
    async fn set(args: &Spend, connection: &mut PgConnection) -> Result<Self> {
        let keys = Arc::new(KeyRing::new(Signer::from_seed(&[1; 32])?, []));
        let store = tollgate_store::connect(&args.database_url, CONNECTIONS, keys).await?;
        let tenant = TenantId::mint(SystemClock.now());
        let insert = "INSERT INTO tenants (tenant_id, name, slug, currency, created_at, updated_at) VALUES ($1, 'b', $2, 'USD', now(), now())";
        sqlx::query(insert).bind(tenant.uuid()).bind(tenant.to_string()).execute(&mut *connection).await?;
        sqlx::query("CREATE TABLE locked_row (spent bigint NOT NULL)").execute(&mut *connection).await?;
        sqlx::query("INSERT INTO locked_row VALUES (0)").execute(&mut *connection).await?;
        let pool = PgPoolOptions::new().max_connections(CONNECTIONS).connect(&args.database_url).await?;
        Ok(Self { store, pool, tenant, length: Duration::from_secs(args.seconds), callers: args.callers })
    }

    /// Let all callers do the same again and again.
    async fn measure<F>(&self, what: &str, once: impl Fn() -> F + Send + Sync + 'static) -> Result<Measured>
    where
        F: Future<Output = Result<()>> + Send,
    {
        note(what);
        let begin = Instant::now() + WARM_UP;
        let end = begin + self.length;
        let (once, done) = (Arc::new(once), Arc::new(AtomicUsize::new(0)));
        let callers = (0..self.callers).map(|_| {
            let (once, done) = (Arc::clone(&once), Arc::clone(&done));
            tokio::spawn(async move {
                let mut nanos: Vec<u64> = Vec::new();
                loop {
                    let asked = Instant::now();
                    if asked >= end {
                        return anyhow::Ok(nanos);
                    }
                    once().await?;
                    done.fetch_add(1, Ordering::Relaxed);
                    if asked >= begin {
                        nanos.push(u64::try_from(asked.elapsed().as_nanos())?);
                    }
                    // A call that has reserved goes on to its upstream: the others have their turn.
                    tokio::task::yield_now().await;
                }
            })
        });
        let mut nanos = Vec::new();
        for caller in try_join_all(callers).await? {
            nanos.extend(caller?);
        }
        nanos.sort_unstable();
        Ok(Measured {
            per_second: to_f64(nanos.len()) / self.length.as_secs_f64(),
            p50_us: quantile(&nanos, 0.5) / 1000.0,
            p99_us: quantile(&nanos, 0.99) / 1000.0,
            done: done.load(Ordering::Relaxed),
        })
    }

    async fn locked_row(&self) -> Result<Measured> {
        let pool = self.pool.clone();
        let reserve = "UPDATE locked_row SET spent = spent + $1 WHERE spent + $1 <= $2 RETURNING spent";
        let once = move || {
            let pool = pool.clone();
            async move {
                let spent: Option<i64> = sqlx::query_scalar(reserve).bind(AMOUNT).bind(LIMIT).fetch_optional(&pool).await?;
                spent.map(drop).context("the row has no more")
            }
        };
        let measured = self.measure("a locked row", once).await?;
        let spent: i64 = sqlx::query_scalar("SELECT spent FROM locked_row").fetch_one(&self.pool).await?;
        ensure!(i128::from(spent) == drawn(&measured), "the row says {spent}");
        Ok(measured)
    }

    /// The product's own: reserve, and say that the row is written.
    async fn wallets(&self, exact: bool) -> Result<Measured> {
        let (budget, clock) = (self.budget().await?, Arc::new(SystemClock));
        let make = if exact { Wallets::exact } else { Wallets::new };
        let wallets = make(self.store.clone(), WorkerId::mint(SystemClock.now()), clock);
        let keeping = tokio::spawn(wallets.clone().keep());
        let (budgets, spender, tenant) = (Arc::new([budget.clone()]), spender(), self.tenant);
        let once = {
            let wallets = wallets.clone();
            move || {
                let (wallets, budgets) = (wallets.clone(), Arc::clone(&budgets));
                async move {
                    let now = SystemClock.now();
                    let call = (CallId::mint(now).uuid(), now);
                    let of = (tenant, TimeZone::UTC, budgets.as_slice());
                    wallets.reserve(of, call, &spender, Picos(AMOUNT)).await?.written();
                    Ok(())
                }
            }
        };
        let measured = self.measure(if exact { "exact leases" } else { "leases" }, once).await?;
        keeping.abort();
        wallets.close().await;
        let granted = "SELECT sum(granted)::text FROM budget_windows WHERE budget_id = $1";
        let granted: String = sqlx::query_scalar(granted).bind(budget.id.uuid()).fetch_one(&self.pool).await?;
        ensure!(granted.parse() == Ok(drawn(&measured)), "the budget says {granted}, calls drew {}", drawn(&measured));
        Ok(measured)
    }

    async fn in_redis(&self, redis: &Redis) -> Result<Measured> {
        let script = "local left = tonumber(redis.call('GET', KEYS[1]) or ARGV[2])
            if left < tonumber(ARGV[1]) then return -1 end
            redis.call('SET', KEYS[1], string.format('%.0f', left - ARGV[1]))
            return 1";
        let script = Arc::new(redis::Script::new(script));
        let connection = redis::Client::open(redis.url.as_str())?.get_multiplexed_async_connection().await?;
        let once = move || {
            let (script, mut connection) = (Arc::clone(&script), connection.clone());
            async move {
                let mut call = script.key("bench:budget");
                let answer: i64 = call.arg(1).arg(1_i64 << 52).invoke_async(&mut connection).await?;
                ensure!(answer == 1, "the budget is spent");
                Ok(())
            }
        };
        self.measure("a script in Redis", once).await
    }

    async fn limit(&self, counters: Counters) -> Result<Measured> {
        let scope = BudgetScope::default();
        let measure = Measure::Calls(Per::Second);
        let id = RateLimitId::mint(SystemClock.now());
        // More than anyone can call: every call is let through.
        let limit = RateLimit { id, name: "bench".to_owned(), scope, max: measure.most(), measure, version: 1 };
        let mut change = self.store.change(self.tenant, Actor::system("bench"), SystemClock.now()).await?;
        rates::create(&mut change, &limit, 100).await?;
        change.commit().await?;
        let name = format!("a limit counted in {}", counters.name());
        let rates = Rates::new(counters, WorkerId::mint(SystemClock.now()));
        let (limits, spender, tenant) = (Arc::new([limit]), spender(), self.tenant);
        let once = move || {
            let (rates, limits) = (rates.clone(), Arc::clone(&limits));
            async move {
                match rates.enter(tenant, limits.as_slice(), &spender, &Told::default()).await {
                    // In memory a machine may be faster than the limit: that is counted as well.
                    Ok(_) | Err(Slow::Limited { .. }) => Ok(()),
                    Err(error) => Err(error.into()),
                }
            }
        };
        self.measure(&name, once).await
    }

    async fn budget(&self) -> Result<Budget> {
        let budget = Budget {
            id: BudgetId::mint(SystemClock.now()),
            name: "bench".to_owned(),
            scope: BudgetScope::default(),
            limit: Picos(LIMIT),
            period: Period::Total,
            rolling_days: None,
            enforcement: Enforcement::Hard,
            thresholds: Vec::new(),
        };
        let mut change = self.store.change(self.tenant, Actor::system("bench"), SystemClock.now()).await?;
        budgets::create(&mut change, &budget, 100).await?;
        change.commit().await?;
        Ok(budget)
    }
}

/// What all answered calls have drawn.
fn drawn(measured: &Measured) -> i128 {
    i128::try_from(measured.done).unwrap_or(i128::MAX) * i128::from(AMOUNT)
}

fn spender() -> Spender {
    let now = SystemClock.now();
    Spender { team: None, key: KeyId::mint(now), upstream: Some(UpstreamId::mint(now)), tool: Some(ToolId::mint(now)) }
}

fn to_u64(number: f64) -> u64 {
    crate::dice::to_usize(number).try_into().unwrap_or(u64::MAX)
}

/// A private one, which ends with the measurement.
struct Redis {
    url: String,
    _process: Process,
    _dir: tempfile::TempDir,
}

impl Redis {
    async fn start() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let socket = dir.path().join("s");
        let text = |path: &std::path::Path| path.display().to_string();
        let args = [
            "--port",
            "0",
            "--loglevel",
            "warning",
            "--save",
            "",
            "--appendonly",
            "no",
            "--unixsocket",
            &text(&socket),
            "--dir",
            &text(dir.path()),
        ];
        let mut process = Process::start("redis-server", &PathBuf::from("redis-server"), &args, &[])
            .context("no Redis: `deploy/deps.sh redis` installs one")?;
        process.until(async || std::os::unix::net::UnixStream::connect(&socket).ok()).await?;
        Ok(Self { url: format!("redis+unix://{}", text(&socket)), _process: process, _dir: dir })
    }
}
