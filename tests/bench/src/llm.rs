//! What the LLM door costs a request: a fake provider called directly and through a worker, with the audit trail relaxed and strict, answers
//! at once and streams, in short rounds that take turns; what one commit costs in the same rounds; and what a stream that is open holds of the
//! worker's memory.

mod commits;
mod held;
pub mod provider;
mod stage;

use std::{collections::HashMap, path::PathBuf, time::Duration};

use anyhow::{Result, ensure};
use clap::Args;

use crate::{
    dice::{to_f64, to_usize},
    load::{Round, WARM_UP, median},
    table::{Table, count, line, machine, note},
};
use held::Held;
use provider::PIECES;
use stage::{Lane, PROMPT, Shape, Stage, Way};

/// What the gateway may add to a request, its commit aside, in microseconds.
const TARGET_US: f64 = 150.0;
/// At this many callers nobody waits for anybody else.
const ALONE: usize = 1;
/// What a stream may hold of the worker's memory, in KiB, at [`TARGET_STREAMS`].
const TARGET_KIB: f64 = 20.0;
const TARGET_STREAMS: usize = 256;

#[derive(Debug, Args)]
pub struct Llm {
    /// Length of one round, in seconds
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Rounds of each way at each number of callers; their median is shown
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 64])]
    callers: Vec<usize>,
    /// Streams that are open at once while memory is looked at
    #[arg(long, value_delimiter = ',', default_values_t = [TARGET_STREAMS, 1024])]
    streams: Vec<usize>,
    /// A folder on the disk that is to be measured [default: that of temporary files]
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// All rounds of one lane, or of commits alone, at one number of callers.
#[derive(Debug, Default)]
struct Measured {
    rounds: Vec<Round>,
    /// CPU time of everything while the rounds ran, in microseconds: callers, worker, Postgres, provider.
    cpu_us: [f64; 4],
}

#[derive(Debug, Default)]
struct Results {
    lanes: HashMap<(usize, Way, Shape), Measured>,
    /// One commit, by callers.
    commits: HashMap<usize, Measured>,
}

pub async fn run(args: Llm) -> Result<()> {
    ensure!(args.rounds > 0 && args.seconds > 0.0, "nothing to measure");
    line("# What the LLM door costs a request\n");
    let stage = Stage::start(args.dir.clone()).await?;
    machine(&stage.postgres_version);
    let results = measure(&stage, &args).await?;
    added(&stage, &args, &results);
    cpu_table(&stage, &args, &results);
    stage.recorded(&results.answered()).await?;
    let mut held = Vec::new();
    for &streams in &args.streams {
        note(format_args!("{streams} streams held open"));
        held.push(held::measure(&stage, streams).await?);
    }
    memory(&held);
    let idle = held::idle(&stage, TARGET_STREAMS).await?;
    line(format_args!(
        "An idle connection of a caller, on which a stream has ended, holds {idle:.1} KiB; HTTP/1.1 to a provider takes about as much once more.\n"
    ));
    targets(&results, &held);
    stage.stop().await
}

async fn measure(stage: &Stage, args: &Llm) -> Result<Results> {
    let (mut results, length) = (Results::default(), Duration::from_secs_f64(args.seconds));
    for &callers in &args.callers {
        for round in 0..args.rounds {
            note(format_args!("{callers} callers, round {} of {}", round + 1, args.rounds));
            let commits = stage.commits.round(callers, length).await?;
            results.commits.entry(callers).or_default().rounds.push(commits);
            // Nobody always comes after the same one.
            for turn in 0..stage.lanes.len() {
                let lane = &stage.lanes[(turn + round) % stage.lanes.len()];
                let before = stage.cpu();
                let measured = lane.target.round(callers, length).await?;
                let after = stage.cpu();
                let into = results.lanes.entry((callers, lane.way, lane.shape)).or_default();
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
    fn median(&self, of: fn(&Round) -> f64) -> f64 {
        median(self.rounds.iter().map(of))
    }

    fn answered(&self) -> usize {
        self.rounds.iter().map(|round| round.answered).sum()
    }

    fn failed(&self) -> usize {
        self.rounds.iter().map(|round| round.failed).sum()
    }

    /// What comes on top of the baseline in the same round.
    fn above(&self, baseline: &Self, of: fn(&Round) -> f64) -> f64 {
        median(self.rounds.iter().zip(&baseline.rounds).map(|(own, baseline)| of(own) - of(baseline)))
    }
}

impl Results {
    /// Requests that were answered through the gateway, by way.
    fn answered(&self) -> HashMap<Way, usize> {
        let mut all = HashMap::new();
        for ((_, way, _), measured) in &self.lanes {
            *all.entry(*way).or_default() += measured.answered();
        }
        all
    }

    /// What a way adds to the baseline of the same answers, beyond so many commits, in microseconds.
    fn beyond(&self, callers: usize, (way, shape): (Way, Shape), commits: f64, of: fn(&Round) -> f64) -> Option<f64> {
        let (own, direct) = (self.lanes.get(&(callers, way, shape))?, self.lanes.get(&(callers, Way::Direct, shape))?);
        let commit = self.commits.get(&callers)?.median(|round| round.p50_us);
        Some(commits.mul_add(-commit, own.above(direct, of)))
    }
}

fn added(stage: &Stage, args: &Llm, results: &Results) {
    line(format_args!(
        "Requests and answers of {PROMPT} bytes, streams in {PIECES} pieces; {} rounds of {} s each, all ways taking turns, medians of rounds. \
         `added` is what comes on top of calling the provider directly in the same round with as many callers; `first` is the first piece of an \
         answer. `one commit` is one row through the same writer and Postgres, with as many callers and nothing else going on; a request waits for \
         one where the trail is relaxed, and for two where it is strict.\n",
        args.rounds, args.seconds
    ));
    let columns = [
        "callers",
        "answers",
        "way",
        "requests/s",
        "p50 us",
        "p99 us",
        "added p50 us",
        "added p99 us",
        "added first p50 us",
        "one commit p50 us",
        "added p50 less its commits",
        "failed",
    ];
    let mut table = Table::new(&columns);
    for &callers in &args.callers {
        for Lane { way, shape, .. } in &stage.lanes {
            let Some(measured) = results.lanes.get(&(callers, *way, *shape)) else { continue };
            let beyond = |commits, of| match results.beyond(callers, (*way, *shape), commits, of) {
                Some(us) if *way != Way::Direct => format!("{us:.0}"),
                _ => String::new(),
            };
            let commit = results.commits.get(&callers).filter(|_| *way != Way::Direct);
            table.row(vec![
                callers.to_string(),
                shape.name().to_owned(),
                way.name().to_owned(),
                count(to_usize(measured.median(|round| round.per_second))),
                format!("{:.0}", measured.median(|round| round.p50_us)),
                format!("{:.0}", measured.median(|round| round.p99_us)),
                beyond(0.0, |round| round.p50_us),
                beyond(0.0, |round| round.p99_us),
                beyond(0.0, |round| round.first_p50_us),
                commit.map(|commit| format!("{:.0}", commit.median(|round| round.p50_us))).unwrap_or_default(),
                beyond(way.commits(), |round| round.p50_us),
                count(measured.failed()),
            ]);
        }
    }
    table.print();
}

/// Says what bounds a rate: where all cores are busy, it is the CPU, and here is whose.
fn cpu_table(stage: &Stage, args: &Llm, results: &Results) {
    line(
        "CPU time per request, in microseconds, the cores that were busy (everything runs on the same machine), and what a core does in a \
         second: one of the worker's, and one of all that work for it, callers and provider included.\n",
    );
    let columns = [
        "callers",
        "answers",
        "way",
        "callers' own",
        "worker",
        "Postgres",
        "provider",
        "sum",
        "cores busy",
        "requests/s per worker core",
        "requests/s per core",
    ];
    let mut table = Table::new(&columns);
    for &callers in &args.callers {
        for Lane { way, shape, .. } in &stage.lanes {
            let Some(measured) = results.lanes.get(&(callers, *way, *shape)).filter(|m| m.answered() > 0) else { continue };
            let requests = to_f64(measured.answered());
            let sum: f64 = measured.cpu_us.iter().sum();
            let wall = to_f64(measured.rounds.len()) * (args.seconds + WARM_UP.as_secs_f64()) * 1e6;
            let a_second = |us: f64| if us > 0.0 { count(to_usize(requests / us * 1e6)) } else { String::new() };
            let mut cells = vec![callers.to_string(), shape.name().to_owned(), way.name().to_owned()];
            cells.extend(measured.cpu_us.iter().map(|us| format!("{:.0}", us / requests)));
            let worker = if *way == Way::Direct { 0.0 } else { measured.cpu_us[1] };
            cells.extend([format!("{:.0}", sum / requests), format!("{:.2}", sum / wall), a_second(worker), a_second(sum)]);
            table.row(cells);
        }
    }
    table.print();
}

fn memory(held: &[Held]) {
    line(
        "Memory of a worker of its own while streams are open, each with a connection of its caller and one to the provider, and a piece every \
         half second; `before` is after a few requests and streams that have ended. Nothing is subtracted but `before`.\n",
    );
    let columns = ["streams", "before KiB", "open KiB", "KiB per stream", "after they ended KiB"];
    let mut table = Table::new(&columns);
    for one in held {
        let cells = [to_f64(one.streams), one.before, one.open];
        let mut cells: Vec<String> = cells.into_iter().map(|number| count(to_usize(number))).collect();
        cells.extend([format!("{:.1}", one.each()), count(to_usize(one.after))]);
        table.row(cells);
    }
    table.print();
}

fn targets(results: &Results, held: &[Held]) {
    let verdict = |met| if met { "met" } else { "NOT met" };
    for way in [Way::Relaxed, Way::Strict] {
        for shape in [Shape::Whole, Shape::Streamed] {
            let Some(us) = results.beyond(ALONE, (way, shape), way.commits(), |round| round.p50_us) else { continue };
            let commits = if way == Way::Strict { "its two commits" } else { "its commit" };
            line(format_args!(
                "- {}, {}, {ALONE} caller: p50 of {us:.0} us beyond {commits}, target {TARGET_US:.0} us: {}",
                way.name(),
                shape.name(),
                verdict(us <= TARGET_US)
            ));
        }
    }
    for one in held.iter().filter(|one| one.streams == TARGET_STREAMS) {
        let each = one.each();
        line(format_args!(
            "- memory at {} streams: {each:.1} KiB each, target {TARGET_KIB:.0} KiB: {}",
            one.streams,
            verdict(each <= TARGET_KIB)
        ));
    }
    line("");
}
