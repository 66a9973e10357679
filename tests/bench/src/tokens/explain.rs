//! Where the tokens of one task go.

use super::{
    agent::{Outcome, Way},
    catalog::Round,
    tasks::Task,
};
use crate::table::{Table, count, line};

/// As many tools are named; of more, those that cost most.
const SHOWN: usize = 8;

/// What the tools of a prompt cost, each.
pub fn tools(round: Round, way: Way, each: &[(String, usize)]) {
    let mut each: Vec<_> = each.iter().collect();
    each.sort_by_key(|(_, tokens)| std::cmp::Reverse(*tokens));
    let shown: Vec<String> = each.iter().take(SHOWN).map(|(name, tokens)| format!("{name} {}", count(*tokens))).collect();
    line(format_args!("Round {}, {}: {} tools, {}\n", round.number, way.name(), each.len(), shown.join(", ")));
}

pub fn turns(round: Round, way: Way, task: &Task, outcome: &Outcome) {
    line(format_args!("## Round {}, {}: {}\n\n{}\n", round.number, way.name(), task.name, task.ask));
    let mut table = Table::new(&["turn", "system", "tools", "task", "said before", "results before", "input", "output"]);
    for (at, turn) in outcome.turns.iter().enumerate() {
        let parts = [turn.system, turn.tools, turn.task, turn.said, turn.results, turn.input(), turn.output];
        table.row(std::iter::once((at + 1).to_string()).chain(parts.map(count)).collect());
    }
    table.print();
    let input: usize = outcome.turns.iter().map(super::prompt::Turn::input).sum();
    line(format_args!("Input in all: {}. Answer: {}, expected {}.", count(input), outcome.answer, task.answer));
    let places: Vec<String> = outcome.places.iter().map(|at| at.map_or("none".to_owned(), |at| (at + 1).to_string())).collect();
    if !places.is_empty() {
        line(format_args!("Places of the tools that were meant in what the searches found: {}.", places.join(", ")));
    }
    if !outcome.missed.is_empty() {
        line(format_args!("No search found what was meant by: {}.", outcome.missed.join("; ")));
    }
    line("");
}
