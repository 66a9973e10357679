//! Rows per second of each export format, against what Postgres itself sends of the same rows, and the memory it takes.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use sqlx::PgConnection;
use tollgate_domain::ids;
use uuid::Uuid;

use super::{Bench, at};
use crate::{
    dice::{to_f64, to_usize},
    load::median,
    table::{Table, count, line, mib, note},
};

/// A bundle is made of sealed rows, which these are not: see the calls.
const FORMATS: [&str; 4] = ["ndjson", "csv", "parquet", "ocsf"];
/// NDJSON is to reach this share of COPY.
const TARGET: f64 = 0.40;
const BASES: [&str; 2] = [JOIN, FLAT];
const JOIN: &str = "COPY of the join";
const FLAT: &str = "COPY of a flat table";
/// How far memory may grow from an export to one of four times its size before it is called so, in MiB.
const NOISE_MIB: u64 = 16;

/// Calls of one tenant in a stretch of time.
#[derive(Debug, Clone, Copy)]
struct Window {
    from: DateTime<Utc>,
    to: DateTime<Utc>,
    calls: usize,
}

/// What one transfer was like.
#[derive(Debug, Clone, Copy)]
struct Transfer {
    took: Duration,
    bytes: usize,
    lines: usize,
    peak_mib: u64,
}

/// The runs over the small window, then the one over the large one.
#[derive(Debug, Default)]
struct Way {
    name: &'static str,
    small: Vec<Transfer>,
    large: Option<Transfer>,
    refused: Option<String>,
}

pub async fn run(bench: &Bench, connection: &mut PgConnection, rows: usize) -> Result<()> {
    line("## Exports\n");
    let (small, large) = windows(bench, connection, rows).await?;
    flatten(bench, connection, small).await?;
    // Whoever comes first would read from disk what the others find in memory.
    export(bench, "ndjson", large).await?.ok();
    let idle = bench.api.resident_mib()?;
    let mut ways: Vec<Way> = BASES.into_iter().chain(FORMATS).map(|name| Way { name, ..Way::default() }).collect();
    for round in 0..bench.rounds {
        note(format_args!("exports, round {} of {}", round + 1, bench.rounds));
        for way in &mut ways {
            way.run(bench, connection, small, false).await?;
        }
    }
    for way in &mut ways {
        note(format_args!("{} of {} calls", way.name, count(large.calls)));
        way.run(bench, connection, large, true).await?;
    }
    print(&ways, (small, large), idle, bench.rounds);
    Ok(())
}

impl Way {
    async fn run(&mut self, bench: &Bench, connection: &mut PgConnection, window: Window, is_large: bool) -> Result<()> {
        if self.refused.is_some() {
            return Ok(());
        }
        let transfer = match self.name {
            JOIN => copy(connection, &join(bench.largest(), window)).await?,
            // Holds the small window alone.
            FLAT if is_large => return Ok(()),
            FLAT => copy(connection, "COPY bench_flat TO STDOUT").await?,
            format => match export(bench, format, window).await? {
                Ok(transfer) => transfer,
                Err(why) => {
                    self.refused = Some(why);
                    return Ok(());
                }
            },
        };
        let header = usize::from(self.name == "csv");
        if matches!(self.name, JOIN | FLAT | "ndjson" | "csv" | "ocsf") {
            ensure!(transfer.lines == window.calls + header, "{}: {} lines, {} calls", self.name, transfer.lines, window.calls);
        }
        if is_large {
            self.large = Some(transfer);
        } else {
            self.small.push(transfer);
        }
        Ok(())
    }

    fn rate(&self, calls: usize) -> f64 {
        median(self.small.iter().map(|transfer| to_f64(calls) / transfer.took.as_secs_f64()))
    }

    fn peak(&self) -> u64 {
        self.small.iter().map(|transfer| transfer.peak_mib).max().unwrap_or(0)
    }
}

/// From the middle of the time, so many calls and four times as many; fewer where there are not enough.
async fn windows(bench: &Bench, connection: &mut PgConnection, rows: usize) -> Result<(Window, Window)> {
    let (tenant, from) = (bench.largest(), bench.from + (bench.to - bench.from) / 2);
    let floor = ids::floor(from);
    let there: i64 =
        sqlx::query_scalar("SELECT count(*) FROM tool_call_events WHERE tenant_id = $1 AND call_id >= $2 AND kind = 0")
            .bind(tenant)
            .bind(floor)
            .fetch_one(&mut *connection)
            .await?;
    let most = usize::try_from(there)? / 5;
    let rows = rows.min(most).max(1);
    let mut found = Vec::new();
    for rows in [rows, rows * 4] {
        let to: DateTime<Utc> = sqlx::query_scalar(
            "SELECT at FROM tool_call_events WHERE tenant_id = $1 AND call_id >= $2 AND kind = 0 ORDER BY call_id OFFSET $3 LIMIT 1",
        )
        .bind(tenant)
        .bind(floor)
        .bind(i64::try_from(rows)?)
        .fetch_one(&mut *connection)
        .await?;
        let calls: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM tool_call_events WHERE tenant_id = $1 AND call_id >= $2 AND call_id < $3 AND kind = 0",
        )
        .bind(tenant)
        .bind(floor)
        .bind(ids::floor(to))
        .fetch_one(&mut *connection)
        .await?;
        found.push(Window { from, to, calls: usize::try_from(calls)? });
    }
    Ok((found[0], found[1]))
}

/// What an export reads, as one statement with the best plan that Postgres has for it: ranges on every part, so that it may
/// join them in the order of their keys. (UUIDs print hex and dashes alone.)
fn join(tenant: Uuid, window: Window) -> String {
    format!("COPY ({}) TO STDOUT", select(tenant, window))
}

fn select(tenant: Uuid, window: Window) -> String {
    let (from, to) = (ids::floor(window.from), ids::floor(window.to));
    let part = |table: &str, kind: i16| {
        format!(
            "(SELECT * FROM {table} WHERE tenant_id = '{tenant}' AND call_id >= '{from}' AND call_id < '{to}' AND kind = {kind})"
        )
    };
    format!(
        "SELECT i.tenant_id, i.call_id, i.llm_request_id, i.origin, i.script_run_id, i.sequence, i.key_id, i.team_id, i.upstream_id,
                i.upstream_name, i.tool_id, i.tool_name, i.definition_sha256, i.decision, i.reason, i.price_id, i.currency,
                i.arguments_sha256, i.at AS opened_at, COALESCE(c.at, r.at) AS closed_at,
                COALESCE(c.outcome, r.outcome, i.outcome) AS outcome, COALESCE(c.error, r.error, i.error) AS error,
                COALESCE(c.latency_us, r.latency_us, i.latency_us) AS latency_us,
                COALESCE(c.amount_picos, r.amount_picos, i.amount_picos) AS amount_picos, c.result_sha256,
                a.body AS arguments, b.body AS result
         FROM {} i LEFT JOIN {} c USING (call_id) LEFT JOIN {} r USING (call_id) LEFT JOIN {} a USING (call_id)
              LEFT JOIN {} b USING (call_id)",
        part("tool_call_events", 0),
        part("tool_call_events", 1),
        part("tool_call_events", 2),
        part("tool_call_payloads", 0),
        part("tool_call_payloads", 1),
    )
}

/// The same rows as they would lie in one table: no joins, no order, the fastest that there could be.
async fn flatten(bench: &Bench, connection: &mut PgConnection, window: Window) -> Result<()> {
    let statement = format!("CREATE UNLOGGED TABLE bench_flat AS {}", select(bench.largest(), window));
    sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&mut *connection).await?;
    Ok(())
}

async fn copy(connection: &mut PgConnection, statement: &str) -> Result<Transfer> {
    let begun = Instant::now();
    let mut rows = connection.copy_out_raw(statement).await?;
    let (mut bytes, mut lines) = (0, 0);
    // A message is a row.
    while let Some(row) = rows.try_next().await? {
        bytes += row.len();
        lines += 1;
    }
    Ok(Transfer { took: begun.elapsed(), bytes, lines, peak_mib: 0 })
}

/// One export, read to its end and thrown away; or why it is refused.
async fn export(bench: &Bench, format: &str, window: Window) -> Result<Result<Transfer, String>> {
    let path = bench.path(&format!("audit/export?format={format}&from={}&to={}", at(window.from), at(window.to)));
    bench.api.reset_peak()?;
    let begun = Instant::now();
    let answer = bench.admin.open(&path).await?;
    if !answer.status().is_success() {
        return Ok(Err(format!("refused: {}", answer.status())));
    }
    let (mut body, mut bytes, mut lines) = (answer.bytes_stream(), 0, 0);
    while let Some(piece) = body.try_next().await.with_context(|| format!("the export as {format} broke off"))? {
        bytes += piece.len();
        lines += piece.iter().filter(|byte| **byte == b'\n').count();
    }
    Ok(Ok(Transfer { took: begun.elapsed(), bytes, lines, peak_mib: bench.api.peak_mib()? }))
}

fn print(ways: &[Way], (small, large): (Window, Window), idle: u64, rounds: usize) {
    line(format_args!(
        "{} calls of one tenant with arguments and results through the API, {rounds} rounds taking turns with COPY, medians; then {} \
         calls once. The API holds {idle} MiB before.\n",
        count(small.calls),
        count(large.calls)
    ));
    let base = |name| ways.iter().find(|way| way.name == name).map(|way| way.rate(small.calls)).filter(|rate| *rate > 0.0);
    let columns =
        ["way", "rows/s", "of the join", "of the flat table", "MiB/s", "peak MiB", "rows/s of 4 times", "peak MiB of 4 times"];
    let mut table = Table::new(&columns);
    for way in ways {
        if let Some(why) = &way.refused {
            table.row([way.name, why, "", "", "", "", "", ""].map(str::to_owned).into());
            continue;
        }
        let rate = way.rate(small.calls);
        let share = |name| base(name).map_or_else(String::new, |base| format!("{:.0} %", rate / base * 100.0));
        let speed = median(way.small.iter().map(|t| to_f64(t.bytes) / t.took.as_secs_f64()));
        let is_export = !BASES.contains(&way.name);
        let peak = |peak: u64| if is_export { peak.to_string() } else { String::new() };
        table.row(vec![
            way.name.to_owned(),
            count(to_usize(rate)),
            share(JOIN),
            share(FLAT),
            mib(to_usize(speed)),
            peak(way.peak()),
            way.large.map_or_else(String::new, |t| count(to_usize(to_f64(large.calls) / t.took.as_secs_f64()))),
            way.large.map_or_else(String::new, |t| peak(t.peak_mib)),
        ]);
    }
    table.print();
    verdicts(ways, small, base(JOIN));
}

fn verdicts(ways: &[Way], small: Window, base: Option<f64>) {
    for way in ways.iter().filter(|way| way.refused.is_none()) {
        if let (Some(base), "ndjson") = (base, way.name) {
            let share = way.rate(small.calls) / base;
            let verdict = if share >= TARGET { "met" } else { "NOT met" };
            line(format_args!("- ndjson: {:.0} % of COPY, target {:.0} %: {verdict}", share * 100.0, TARGET * 100.0));
        }
        if let (Some(large), false) = (way.large, BASES.contains(&way.name)) {
            let (before, after) = (way.peak(), large.peak_mib);
            let verdict = if after > before + NOISE_MIB { "it GROWS" } else { "flat" };
            line(format_args!("- {}: memory from {before} to {after} MiB with four times the calls: {verdict}", way.name));
        }
    }
    line("");
}
