//! A trail of many generated rows, and how fast it is exported, summed up and searched.

mod copy;
mod costs;
mod exports;
mod load;
mod reads;
mod rows;
mod sizes;
mod world;

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, TimeDelta, Utc};
use clap::Args;
use sqlx::{Connection, PgConnection};
use tollgate_domain::{Clock, SystemClock};
use uuid::Uuid;

use crate::{
    admin::Admin,
    process::{Process, beside, free_address},
    table::{line, machine, note},
};
use world::World;

/// The installation's secret. Its database is thrown away.
const SECRET: &str = "YmVuY2htYXJrLWJlbmNobWFyay1iZW5jaG1hcmsuLi4=";
/// How far back the rows reach.
const DAYS: i64 = 60;

#[derive(Debug, Args)]
pub struct Trail {
    /// Postgres as a superuser, with an empty database: `tests/with-postgres.sh` brings one
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    database_url: String,
    /// Tool calls to generate; ten million take about 17 GB of disk, and 4 GB of log while they are loaded
    #[arg(long, default_value_t = 10_000_000)]
    rows: usize,
    /// Calls in one export; four times as many are exported as well, to see whether memory grows
    #[arg(long, default_value_t = 100_000)]
    export_rows: usize,
    /// Rounds of exports, and runs of each report and search
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

/// What the parts share.
pub struct Bench {
    pub database_url: String,
    pub api: Process,
    pub admin: Admin,
    pub world: Arc<World>,
    pub from: DateTime<Utc>,
    pub to: DateTime<Utc>,
    pub rounds: usize,
}

pub async fn run(args: Trail) -> Result<()> {
    ensure!(args.rows >= 1000 && args.rounds > 0 && args.export_rows > 0, "too small to measure: use --rows 1000 or more");
    let mut connection = PgConnection::connect(&args.database_url).await.context("cannot connect to the database")?;
    let version: String = sqlx::query_scalar("SHOW server_version").fetch_one(&mut connection).await?;
    tollgate_store::migrate(&args.database_url).await?;
    let (api, admin) = start_api(&args.database_url).await?;
    let to = SystemClock.now() - TimeDelta::minutes(1);
    let bench = Bench {
        database_url: args.database_url.clone(),
        world: Arc::new(World::make(&admin).await?),
        from: to - TimeDelta::days(DAYS),
        to,
        rounds: args.rounds,
        api,
        admin,
    };
    line("# Exports, reports and searches\n");
    machine(&version);
    let loaded = load::load(&bench, args.rows).await?;
    note("vacuum and analyze");
    // What autovacuum does by itself in the quiet of a night.
    sqlx::query("VACUUM (ANALYZE)").execute(&mut connection).await?;
    sqlx::query("CHECKPOINT").execute(&mut connection).await?;
    loaded.print();
    sizes::print(&mut connection).await?;
    exports::run(&bench, &mut connection, args.export_rows).await?;
    costs::run(&bench, &loaded).await?;
    reads::run(&bench, &loaded).await?;
    connection.close().await?;
    bench.api.stop().await
}

async fn start_api(database_url: &str) -> Result<(Process, Admin)> {
    let tollgate = beside("tollgate")?;
    let env = [("DATABASE_URL", database_url), ("TOLLGATE_SECRET", SECRET), ("TOLLGATE_LOG", "warn,sqlx=error")];
    let token = tokio::process::Command::new(&tollgate).arg("mint-admin").envs(env).output().await?;
    ensure!(token.status.success(), "no admin token: {}", String::from_utf8_lossy(&token.stderr));
    let token = String::from_utf8(token.stdout)?;
    let address = free_address()?;
    let mut api = Process::start("tollgate api", &tollgate, &["api", "--listen", &address.to_string()], &env)?;
    let admin = Admin::new(&format!("http://{address}"), token.trim())?;
    api.until(async || admin.ready().await).await?;
    Ok((api, admin))
}

impl Bench {
    /// `/v1/tenants/{the largest}/{rest}`
    pub fn path(&self, rest: &str) -> String {
        format!("/v1/tenants/{}/{rest}", self.world.largest().name)
    }

    pub fn largest(&self) -> Uuid {
        self.world.largest().id
    }
}

/// As the API takes it in a query.
pub fn at(time: DateTime<Utc>) -> String {
    time.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

pub fn seconds(time: Duration) -> String {
    format!("{:.3}", time.as_secs_f64())
}
