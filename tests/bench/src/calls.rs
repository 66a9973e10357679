//! What the audit trail costs a call: the same worker program strict, relaxed and without a trail, through the whole
//! gateway, in short rounds that take turns, so that whatever disturbs the machine disturbs all of them alike.

mod lanes;

use std::{collections::HashMap, io::Write, time::Duration};

use anyhow::{Result, ensure};
use clap::Args;

use crate::{
    dice::{to_f64, to_usize},
    load::{Round, WARM_UP, median},
    process,
    table::{Table, count, line, machine, mib, note},
    worker::HAS_BASELINE,
};
use lanes::{Kind, Lane, Stage};

/// At this many callers the targets are set.
const TARGET_CALLERS: usize = 64;
/// The share of the unaudited rate that is asked for.
const TARGETS: [(Kind, f64); 2] = [(Kind::Strict, 0.40), (Kind::Relaxed, 0.70)];

#[derive(Debug, Args)]
pub struct Calls {
    /// Length of one round, in seconds
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Rounds of each mode at each number of callers; their median is shown
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 64, 256])]
    callers: Vec<usize>,
    /// A folder on the disk that is to be measured [default: that of temporary files]
    #[arg(long)]
    dir: Option<std::path::PathBuf>,
}

/// All rounds of one lane at one number of callers.
#[derive(Debug, Default)]
struct Measured {
    rounds: Vec<Round>,
    /// CPU time of everything while the rounds ran, in microseconds: callers, worker, Postgres, upstream.
    cpu_us: [f64; 4],
}

type Results = HashMap<(usize, Kind), Measured>;

pub async fn run(args: Calls) -> Result<()> {
    ensure!(args.rounds > 0 && args.seconds > 0.0 && !args.callers.is_empty(), "nothing to measure");
    line("# What the audit trail costs a call\n");
    let stage = Stage::start(args.dir.clone()).await?;
    machine(&stage.postgres_version);
    line(format_args!("One durable write of 8 KiB to the database's disk: {:.0} us (median of 200).\n", sync_cost(stage.dir())?));
    if !HAS_BASELINE {
        line("No unaudited baseline: this program was built without it. Use `make bench-audit`.\n");
    }
    if !stage.has_durability {
        line(
            "No durability levels in this build: GET /audit/settings answers 404, every tenant is strict, relaxed is left out.\n",
        );
    }
    let results = measure(&stage, &args).await?;
    rates(&stage, &args, &results);
    cpu_table(&stage, &args, &results);
    targets(&results);
    recorded(&stage, &results).await?;
    if let Some((rows, bytes, took)) = stage.bundle().await? {
        let rate = to_usize(to_f64(usize::try_from(rows)?) / took);
        line(format_args!(
            "\nThe strict tenant's log as a bundle: {} rows with their payloads in {took:.1} s, {} rows/s, {} MiB.\n",
            count(rows),
            count(rate),
            mib(bytes)
        ));
    }
    stage.stop().await
}

async fn measure(stage: &Stage, args: &Calls) -> Result<Results> {
    let (mut results, length) = (Results::new(), Duration::from_secs_f64(args.seconds));
    for &callers in &args.callers {
        for round in 0..args.rounds {
            note(format_args!("{callers} callers, round {} of {}", round + 1, args.rounds));
            // Nobody always comes after the same one.
            for turn in 0..stage.lanes.len() {
                let lane = &stage.lanes[(turn + round) % stage.lanes.len()];
                let before = stage.cpu(lane);
                let measured = lane.target.round(callers, length).await?;
                let after = stage.cpu(lane);
                let into = results.entry((callers, lane.kind)).or_default();
                for (sum, (after, before)) in into.cpu_us.iter_mut().zip(after.into_iter().zip(before)) {
                    *sum += after.saturating_sub(before).as_secs_f64() * 1e6;
                }
                into.rounds.push(measured);
            }
        }
    }
    Ok(results)
}

impl Measured {
    fn rate(&self) -> f64 {
        median(self.rounds.iter().map(|round| round.per_second))
    }

    fn p50(&self) -> f64 {
        median(self.rounds.iter().map(|round| round.p50_us))
    }

    fn p99(&self) -> f64 {
        median(self.rounds.iter().map(|round| round.p99_us))
    }

    fn answered(&self) -> usize {
        self.rounds.iter().map(|round| round.answered).sum()
    }

    fn failed(&self) -> usize {
        self.rounds.iter().map(|round| round.failed).sum()
    }
}

fn rates(stage: &Stage, args: &Calls, results: &Results) {
    line(format_args!(
        "Calls per second and latency through the whole gateway (arguments 500 B, results 2 KB); {} rounds of {} s each, the modes \
         taking turns, medians of rounds. `added` is what comes on top of calling the upstream directly with as many callers.\n",
        args.rounds, args.seconds
    ));
    let columns = ["callers", "mode", "calls/s", "of unaudited", "p50 us", "p99 us", "added p50 us", "added p99 us", "failed"];
    let mut table = Table::new(&columns);
    for &callers in &args.callers {
        let direct = results.get(&(callers, Kind::Direct));
        let unaudited = results.get(&(callers, Kind::Unaudited)).map(Measured::rate).filter(|rate| *rate > 0.0);
        for Lane { kind, .. } in &stage.lanes {
            let Some(measured) = results.get(&(callers, *kind)) else { continue };
            let added = |of: fn(&Measured) -> f64| match direct.filter(|_| *kind != Kind::Direct) {
                Some(direct) => format!("{:.0}", of(measured) - of(direct)),
                None => String::new(),
            };
            let share =
                unaudited.filter(|_| *kind != Kind::Direct).map(|rate| format!("{:.0} %", measured.rate() / rate * 100.0));
            table.row(vec![
                callers.to_string(),
                kind.name().to_owned(),
                count(to_usize(measured.rate())),
                share.unwrap_or_default(),
                format!("{:.0}", measured.p50()),
                format!("{:.0}", measured.p99()),
                added(Measured::p50),
                added(Measured::p99),
                count(measured.failed()),
            ]);
        }
    }
    table.print();
}

/// Says what bounds a rate: where all cores are busy, it is the CPU, and here is whose.
fn cpu_table(stage: &Stage, args: &Calls, results: &Results) {
    line("CPU time per call, in microseconds, and the cores that were busy (everything runs on the same machine).\n");
    let columns = ["callers", "mode", "callers' own", "worker", "Postgres", "upstream", "sum", "cores busy"];
    let mut table = Table::new(&columns);
    for &callers in &args.callers {
        for Lane { kind, .. } in &stage.lanes {
            let Some(measured) = results.get(&(callers, *kind)).filter(|m| m.answered() > 0) else { continue };
            let calls = to_f64(measured.answered());
            let sum: f64 = measured.cpu_us.iter().sum();
            let wall = to_f64(measured.rounds.len()) * (args.seconds + WARM_UP.as_secs_f64()) * 1e6;
            let mut cells = vec![callers.to_string(), kind.name().to_owned()];
            cells.extend(measured.cpu_us.iter().map(|us| format!("{:.0}", us / calls)));
            cells.extend([format!("{:.0}", sum / calls), format!("{:.2}", sum / wall)]);
            table.row(cells);
        }
    }
    table.print();
}

fn targets(results: &Results) {
    let rate = |kind| results.get(&(TARGET_CALLERS, kind)).map(Measured::rate).filter(|rate| *rate > 0.0);
    for (kind, target) in TARGETS {
        let (Some(own), Some(unaudited)) = (rate(kind), rate(Kind::Unaudited)) else { continue };
        let share = own / unaudited;
        let verdict = if share >= target { "met" } else { "NOT met" };
        line(format_args!(
            "- {} at {TARGET_CALLERS} callers: {:.0} % of the unaudited rate, target {:.0} %: {verdict}",
            kind.name(),
            share * 100.0,
            target * 100.0,
        ));
    }
    line("");
}

/// The numbers mean something only if the rows are there: every answered call of a mode that records, and none of the other.
async fn recorded(stage: &Stage, results: &Results) -> Result<()> {
    for lane in stage.lanes.iter().filter(|lane| lane.kind != Kind::Direct) {
        let answered: usize = results.iter().filter(|((_, kind), _)| *kind == lane.kind).map(|(_, m)| m.answered()).sum();
        let rows = stage.recorded(lane).await?;
        let name = lane.kind.name();
        line(format_args!(
            "- {name}: {} calls answered, {} rows, of these {} without a completion",
            count(answered),
            count(rows.calls),
            count(rows.open)
        ));
        if lane.kind == Kind::Unaudited {
            ensure!(rows.calls == 0, "the unaudited worker has recorded {} calls", rows.calls);
        } else {
            ensure!(rows.calls >= answered && rows.open == 0, "{name}: answered calls are missing in the trail");
        }
    }
    line("");
    Ok(())
}

/// What a commit waits for on this disk, in microseconds.
fn sync_cost(dir: &std::path::Path) -> Result<f64> {
    let mut file = tempfile::tempfile_in(dir)?;
    let mut times = Vec::new();
    for _ in 0..200 {
        file.write_all(&[7; 8192])?;
        let begun = std::time::Instant::now();
        file.sync_data()?;
        times.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    Ok(median(times))
}

impl Stage {
    /// Callers (this process), worker, Postgres, upstream.
    fn cpu(&self, lane: &Lane) -> [Duration; 4] {
        let worker = lane.worker.as_ref().map_or(Duration::ZERO, |worker| process::cpu(worker.pid(), false));
        let own = process::cpu(std::process::id(), false);
        [own, worker, process::cpu(self.postgres_pid, true), process::cpu(self.upstream.pid(), false)]
    }
}
