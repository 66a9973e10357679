//! Rows into the partitioned tables, by binary COPY over three connections at once.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use chrono::{DateTime, Datelike, TimeDelta, Timelike, Utc, Weekday};
use sqlx::{Connection, PgConnection};
use tokio::sync::mpsc;

use super::{
    Bench, copy,
    rows::{EVENT_COLUMNS, PAYLOAD_COLUMNS, REQUEST_COLUMNS, Writer},
    world::{World, weight},
};
use crate::{
    dice::{to_f64, to_usize},
    table::{count, line, note},
};

/// Rows of a table are sent on in pieces of about this size.
const PIECE: usize = 1 << 20;
/// Pieces that wait for one table: this bounds the memory of the generator.
const WAITING: usize = 8;
const SAY_EVERY: Duration = Duration::from_secs(10);

/// What was generated, and words that a search may look for.
#[derive(Debug)]
pub struct Loaded {
    pub calls: usize,
    pub took: Duration,
    pub common: String,
    pub rare: String,
    pub needle: String,
}

pub async fn load(bench: &Bench, rows: usize) -> Result<Loaded> {
    let begun = Instant::now();
    note(format_args!("generating {} calls", count(rows)));
    prepare(bench).await?;
    let (tables, ends): (Vec<_>, Vec<_>) = [EVENT_COLUMNS, PAYLOAD_COLUMNS, REQUEST_COLUMNS]
        .into_iter()
        .map(|statement| {
            let (to, pieces) = mpsc::channel(WAITING);
            (to, tokio::spawn(fill(bench.database_url.clone(), statement, pieces)))
        })
        .unzip();
    let (world, from, to) = (Arc::clone(&bench.world), bench.from, bench.to);
    let made = tokio::task::spawn_blocking(move || generate(&world, (from, to), rows, &tables)).await?;
    // Why a table takes no more is told by the one that fills it.
    for end in ends {
        end.await??;
    }
    let writer = made.context("the rows were not all taken")?;
    Ok(Loaded {
        calls: writer.calls,
        took: begun.elapsed(),
        common: writer.vocabulary().common().to_owned(),
        rare: writer.vocabulary().rare().to_owned(),
        needle: writer.needle.unwrap_or_default(),
    })
}

/// Partitions of the months that will be filled; and checkpoints far apart, as long as nothing but loading goes on.
async fn prepare(bench: &Bench) -> Result<()> {
    let mut connection = PgConnection::connect(&bench.database_url).await?;
    sqlx::query("ALTER SYSTEM SET max_wal_size = '4GB'").execute(&mut connection).await?;
    sqlx::query("SELECT pg_reload_conf()").execute(&mut connection).await?;
    let mut month = bench.from;
    while month <= bench.to + TimeDelta::days(31) {
        sqlx::query("SELECT tollgate_ensure_partitions($1)").bind(month).execute(&mut connection).await?;
        month += TimeDelta::days(28);
    }
    Ok(connection.close().await?)
}

async fn fill(database_url: String, statement: &'static str, mut pieces: mpsc::Receiver<Vec<u8>>) -> Result<()> {
    let mut connection = PgConnection::connect(&database_url).await?;
    // Rows of the past would each leave a note for the indexer, who has not begun.
    sqlx::query("SET session_replication_role = replica").execute(&mut connection).await?;
    let mut copy = connection.copy_in_raw(statement).await?;
    copy.send(copy::Rows::header()).await?;
    while let Some(piece) = pieces.recv().await {
        copy.send(piece).await?;
    }
    copy.send(copy::Rows::trailer()).await?;
    copy.finish().await?;
    Ok(connection.close().await?)
}

/// None when a table takes no more.
fn generate(
    world: &World,
    (from, to): (DateTime<Utc>, DateTime<Utc>),
    rows: usize,
    tables: &[mpsc::Sender<Vec<u8>>],
) -> Option<Writer> {
    let mut writer = Writer::new(to);
    let hours: Vec<DateTime<Utc>> = (0..).map(|n| from + TimeDelta::hours(n)).take_while(|hour| *hour < to).collect();
    let all: f64 = hours.iter().map(busy).sum();
    let (mut up_to, mut said) = (0.0, Instant::now());
    for hour in &hours {
        up_to += busy(hour);
        let (begin, due) = (writer.calls, to_usize(to_f64(rows) * up_to / all));
        while writer.calls < due {
            let passed = to_f64(writer.calls - begin) / to_f64(due - begin);
            // Requests do not come in step: a few seconds of disorder.
            let jitter = writer.dice().unit() * 3.0;
            let at = *hour + TimeDelta::microseconds(crate::dice::to_i64((passed * 3596.0 + jitter) * 1e6));
            let tenant = world.draw(writer.dice());
            writer.request(&world.tenants[tenant], at.min(to));
            send(&mut writer, tables, PIECE)?;
        }
        if said.elapsed() > SAY_EVERY {
            said = Instant::now();
            note(format_args!("{} calls", count(writer.calls)));
        }
    }
    send(&mut writer, tables, 0)?;
    Some(writer)
}

fn busy(hour: &DateTime<Utc>) -> f64 {
    weight(hour.hour(), matches!(hour.weekday(), Weekday::Sat | Weekday::Sun))
}

/// Hand on what is larger than `size`.
fn send(writer: &mut Writer, tables: &[mpsc::Sender<Vec<u8>>], size: usize) -> Option<()> {
    for (rows, table) in [&mut writer.events, &mut writer.payloads, &mut writer.requests].into_iter().zip(tables) {
        if rows.len() > size {
            table.blocking_send(rows.take()).ok()?;
        }
    }
    Some(())
}

impl Loaded {
    pub fn print(&self) {
        let seconds = self.took.as_secs_f64();
        let rate = to_usize(to_f64(self.calls) / seconds);
        line(format_args!(
            "Generated {} calls of 60 days in {seconds:.0} s ({}/s): six tenants of which one makes 70 % of all, keys and tools by \
             Zipf's law, quiet nights and weekends, latencies log-normal, arguments of 200 and results of 500 bytes.\n",
            count(self.calls),
            count(rate),
        ));
    }
}
