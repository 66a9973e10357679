//! What a prompt costs: the same tasks over the same servers, with all tools in every prompt and with Code Mode, through a real
//! gateway and a real sandbox. Tokens are counted, answers are checked against the world that the servers tell of.

mod agent;
mod answers;
mod catalog;
mod explain;
mod prompt;
mod report;
mod stage;
mod tasks;
mod upstream;
mod world;

use std::sync::Arc;

use anyhow::{Result, ensure};
use clap::Args;

use crate::table::note;
use agent::{Desk, WAYS, Way};
use catalog::Round;
use prompt::Counter;
use report::Measured;
use stage::Stage;
use tasks::Task;
use world::World;

#[derive(Debug, Args)]
pub struct Tokens {
    /// Rounds to run
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 3])]
    rounds: Vec<u8>,
    /// Run this many tasks only [default: all]
    #[arg(long)]
    tasks: Option<usize>,
    /// Run the tasks of this kind only, and say of each turn what its prompt is made of
    #[arg(long)]
    explain: Option<String>,
    /// Print one JSON document instead of tables
    #[arg(long)]
    json: bool,
}

pub async fn run(args: Tokens) -> Result<()> {
    let world = Arc::new(World::new());
    let (tasks, counter) = (tasks::all(&world), Counter::new()?);
    let stage = Stage::start(&world).await?;
    let mut measured = Vec::new();
    for round in catalog::ROUNDS.into_iter().filter(|round| args.rounds.contains(&round.number)) {
        let of: Vec<&Task> = tasks.iter().filter(|task| args.wants(task) && is_possible(task, &stage, round)).collect();
        let of: Vec<&Task> = of.into_iter().take(args.tasks.unwrap_or(usize::MAX)).collect();
        ensure!(!of.is_empty(), "no task of that kind in round {}", round.number);
        for way in WAYS {
            note(format_args!("round {}, {}: {} tasks", round.number, way.name(), of.len()));
            let client = if way == Way::Classic { stage.classic(round) } else { stage.code(round) };
            let desk = Desk::new(&counter, client, way).await?;
            if args.explain.is_some() && !args.json {
                explain::tools(round, way, &desk.each);
            }
            let mut all = Measured::new(round, way);
            for task in &of {
                let outcome = desk.run(task).await?;
                if args.explain.is_some() && !args.json {
                    explain::turns(round, way, task, &outcome);
                }
                if let Some(trouble) = &outcome.trouble {
                    note(format_args!("{} {} failed: {trouble}", way.name(), task.name));
                }
                all.add(&outcome);
            }
            measured.push(all);
        }
    }
    stage.stop().await?;
    if args.json {
        report::json(&measured)
    } else {
        report::tables(&measured)
    }
    let wrong: usize = measured.iter().map(Measured::wrong).sum();
    ensure!(wrong == 0, "{wrong} answers are wrong: the numbers mean nothing");
    Ok(())
}

impl Tokens {
    fn wants(&self, task: &Task) -> bool {
        self.explain.as_ref().is_none_or(|kind| kind == task.name)
    }
}

/// Whether the round has all servers that the task needs.
fn is_possible(task: &Task, stage: &Stage, round: Round) -> bool {
    let has = |name: &str| stage.servers.iter().any(|server| server.name == name && server.round <= round.number);
    task.needs.iter().all(|need| has(need.server))
}
