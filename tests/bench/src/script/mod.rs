//! What a script costs: through the whole gateway, and beside it in the same run through the engine alone, without gateway and
//! sandbox. The engine's workspace cannot be linked here, so that is a program of its own.

mod stage;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use futures::{StreamExt, stream};
use serde::Deserialize;

use crate::{
    dice::to_f64,
    load::median,
    table::{Table, count, line, machine, note},
};
use stage::{Client, Stage};

const EMPTY: &str = "result = 1";
/// Calls of a script; the program beside this one makes as many.
const CALLS: usize = 20;
const NESTED: &str = "for i in range(20): bench.echo(n=i)\nresult = 1";
const WAITING: &str = "a = bench.wait()\nresult = 1";
const HELD: &str = "bench.ask()\nresult = 1";
/// What a waiting run may hold of the gateway's memory.
const TARGET_KIB: f64 = 10.0;

#[derive(Debug, Args)]
pub struct Script {
    /// Runs of the empty script, one after the other
    #[arg(long, default_value_t = 300)]
    empty: usize,
    /// Runs of the script that makes 20 calls, one after the other
    #[arg(long, default_value_t = 20)]
    nested: usize,
    /// Runs at once, each with one call of a tool that takes 50 ms
    #[arg(long, default_value_t = 1000)]
    at_once: usize,
    /// Runs that wait for people, by which memory is divided
    #[arg(long, default_value_t = 2000)]
    waiting: usize,
    /// The engine without its sandbox [default: tollgate-inprocess beside this program]
    #[arg(long)]
    baseline: Option<PathBuf>,
}

/// What the program beside this one has measured.
#[derive(Debug, Deserialize)]
struct Alone {
    empty_us: f64,
    nested_us: f64,
    runs_per_second: f64,
}

pub async fn run(args: Script) -> Result<()> {
    ensure!(args.empty > 0 && args.nested > 0 && args.at_once > 0 && args.waiting > 0, "nothing to measure");
    let program = args.baseline.clone().map_or_else(|| crate::process::beside("tollgate-inprocess"), Ok)?;
    line("# What a script costs\n");
    machine("of the product's own");
    note("the engine alone");
    let alone =
        tokio::process::Command::new(&program).output().await.with_context(|| format!("cannot run {}", program.display()))?;
    let alone: Alone = serde_json::from_slice(&alone.stdout).context("the engine alone has not said what it measured")?;

    let stage = Stage::start(args.waiting).await?;
    note("empty scripts");
    let empty = each(&stage.client, EMPTY, args.empty).await?;
    note("scripts of 20 calls");
    let nested = (each(&stage.client, NESTED, args.nested).await? - empty) / to_f64(CALLS);
    // Before the peak: what an allocator keeps of that would hide what these take.
    note(format_args!("{} runs that wait for people", args.waiting));
    let waiting_kib = waiting(&stage, args.waiting).await?;
    note(format_args!("{} runs at once", args.at_once));
    let (rate, busy_kib) = at_once(&stage, args.at_once).await?;

    let mut table = Table::new(&["", "gateway", "engine alone", "ratio"]);
    let mut row = |what: &str, ours: f64, theirs: f64| {
        let cell = |number: f64| format!("{number:.0}");
        table.row(vec![what.to_owned(), cell(ours), cell(theirs), format!("{:.2}", ours / theirs)]);
    };
    row("µs of an empty script (median)", empty, alone.empty_us);
    row("µs of a nested call", nested, alone.nested_us);
    row(&format!("scripts/s, {} at once, each with a tool of 50 ms", count(args.at_once)), rate, alone.runs_per_second);
    table.print();
    let verdict = if waiting_kib <= TARGET_KIB { "met" } else { "missed" };
    line(format_args!(
        "- memory of the gateway for each of {} runs that wait for people: {waiting_kib:.1} KiB (target: at most {TARGET_KIB:.0} KiB, {verdict})",
        count(args.waiting)
    ));
    line(format_args!(
        "- memory of the gateway at its peak for each of {} runs under way, their connections included: {busy_kib:.0} KiB",
        count(args.at_once)
    ));
    line(
        "\nGateway: an MCP call over the loopback, its rows durable, a sandbox process; each nested call is an MCP call to an upstream on \
         the loopback, and a commit. Engine alone: the same steps on threads of one program, answers at hand. Nothing here is asserted.",
    );
    stage.stop().await
}

/// The median of so many, in microseconds.
async fn each(client: &Client, code: &str, times: usize) -> Result<f64> {
    client.done(code).await?;
    let mut took = Vec::with_capacity(times);
    for _ in 0..times {
        let started = Instant::now();
        client.done(code).await?;
        took.push(started.elapsed().as_secs_f64() * 1e6);
    }
    Ok(median(took))
}

/// Scripts a second, and the memory of each at the peak.
async fn at_once(stage: &Stage, runs: usize) -> Result<(f64, f64)> {
    let before = stage.resident_kib()?;
    stage.reset_peak()?;
    let started = Instant::now();
    let all = stream::iter(0..runs).map(|_| stage.client.done_in_turn(WAITING)).buffer_unordered(runs);
    let ended: Vec<Result<()>> = all.collect().await;
    let took = started.elapsed();
    ended.into_iter().collect::<Result<Vec<()>>>()?;
    let grown = stage.peak_kib()?.saturating_sub(before);
    Ok((to_f64(runs) / took.as_secs_f64(), to_f64(grown) / to_f64(runs)))
}

/// What each run that waits adds to the gateway's memory.
async fn waiting(stage: &Stage, runs: usize) -> Result<f64> {
    // What the first ones need for good (connections, caches, the allocator's pages) is not what a run needs.
    stage.held(HELD, runs / 4).await?;
    let before = settled(stage).await?;
    stage.held(HELD, runs).await?;
    let after = settled(stage).await?;
    // The allocator may have given something back meanwhile.
    Ok((to_f64(after) - to_f64(before)) / to_f64(runs))
}

async fn settled(stage: &Stage) -> Result<usize> {
    tokio::time::sleep(Duration::from_secs(3)).await;
    stage.resident_kib()
}
