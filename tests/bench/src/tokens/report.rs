//! The tables, and what one has to know to read them.

use serde_json::{Value, json};

use super::{
    agent::{Outcome, Way},
    catalog::Round,
    prompt::Turn,
};
use crate::{
    dice::to_f64,
    table::{Table, count, line},
};

/// All tasks of a round, done in one way.
#[derive(Debug)]
pub struct Measured {
    round: Round,
    way: Way,
    tasks: usize,
    correct: usize,
    turns: usize,
    input: Turn,
    /// Of the searches: all, and those whose tool came first, among the first four, at all.
    searches: [usize; 4],
    missed: usize,
}

impl Measured {
    pub fn new(round: Round, way: Way) -> Self {
        Self { round, way, tasks: 0, correct: 0, turns: 0, input: Turn::default(), searches: [0; 4], missed: 0 }
    }

    pub fn add(&mut self, outcome: &Outcome) {
        self.tasks += 1;
        self.correct += usize::from(outcome.correct);
        self.turns += outcome.turns.len();
        self.missed += outcome.missed.len();
        for place in &outcome.places {
            let counts = [true, place == &Some(0), place.is_some_and(|at| at < 4), place.is_some()];
            self.searches.iter_mut().zip(counts).for_each(|(sum, counts)| *sum += usize::from(counts));
        }
        for turn in &outcome.turns {
            self.input.system += turn.system;
            self.input.tools += turn.tools;
            self.input.task += turn.task;
            self.input.said += turn.said;
            self.input.results += turn.results;
            self.input.output += turn.output;
        }
    }

    pub const fn wrong(&self) -> usize {
        self.tasks - self.correct
    }

    /// In percent of the classic way: -80 where a fifth is left.
    fn against(&self, classic: &Self) -> f64 {
        (to_f64(self.input.input()) / to_f64(classic.input.input()) - 1.0) * 100.0
    }
}

fn classic<'a>(all: &'a [Measured], of: &Measured) -> Option<&'a Measured> {
    all.iter().find(|other| other.way == Way::Classic && other.round.number == of.round.number)
}

pub fn tables(all: &[Measured]) {
    line("# What a prompt costs\n");
    let mut columns = vec!["way", "input tokens", "against classic", "system", "tools", "task", "said before", "results before"];
    columns.extend(["output tokens", "turns/task", "correct"]);
    let mut verdicts = Vec::new();
    for classic in all.iter().filter(|measured| measured.way == Way::Classic) {
        let Round { number, tools, servers, published, target } = classic.round;
        line(format_args!("## Round {number}: {tools} tools of {servers} servers, {} tasks\n", classic.tasks));
        let mut table = Table::new(&columns);
        for measured in all.iter().filter(|measured| measured.round.number == number) {
            let change = measured.against(classic);
            table.row(row(measured, change));
            if measured.way.is_measured() {
                let verdict = if change <= target { "met" } else { "NOT met" };
                verdicts.push(format!(
                    "- {tools} tools, {}: {change:.1} %, published {published:.1} %, target {target:.0} %: {verdict}",
                    measured.way.name()
                ));
            }
        }
        table.print();
    }
    verdicts.iter().for_each(line);
    for searched in all.iter().filter(|measured| measured.way == Way::Search) {
        let [all, first, four, found] = searched.searches;
        line(format_args!(
            "- {} tools: of {all} searches {first} found the tool that was meant in the first place, {four} among the first four, {found} \
             at all; {} tools were looked up in files",
            searched.round.tools, searched.missed
        ));
    }
    line(HOW);
}

fn row(measured: &Measured, change: f64) -> Vec<String> {
    let Turn { system, tools, task, said, results, output } = measured.input;
    let change = if measured.way == Way::Classic { String::new() } else { format!("{change:.1} %") };
    let mut cells = vec![measured.way.name().to_owned(), count(measured.input.input()), change];
    cells.extend([system, tools, task, said, results, output].map(count));
    cells.push(format!("{:.1}", to_f64(measured.turns) / to_f64(measured.tasks)));
    cells.push(format!("{} of {}", measured.correct, measured.tasks));
    cells
}

const HOW: &str = "
How prompts are composed. Each turn's prompt is the system text, all tools that the gateway lists for the key, the task, and everything that \
was said and answered before; input tokens are the sum over all turns, without any discount for cached prefixes. Tools count as the JSON of \
an OpenAI-compatible request (name, description, parameters); texts, arguments and scripts as they are, and 4 tokens for the frame of each. Of a \
tool's result counts the text, which clients hand to the model; `structuredContent` repeats it for programs. Ids minted by the gateway count \
as if always the same. Vocabulary: o200k.

The agents are scripts, not models: they make no mistakes and know what fields the services' answers have, as models know public APIs. \
Classic makes calls that do not depend on one another in one turn. Reading: list the files, read those of the servers needed (of a long one \
the outline, then the lines), one script. Searching: one search for each thing needed, in one turn, in words of the task; what is not found \
is looked up in the files. Step by step: as searching, but a script for each step that hands back all that its calls answer: what Code Mode \
costs a model that knows nothing of the answers and combines nothing. All files: the stubs of all servers stand in the system text. A script is written once and runs in the sandbox; every answer is \
compared with one computed from the data behind the servers. Published figures are Bifrost's own, with other tools and tasks; \"pass\" \
there means that HTTP said 200.";

pub fn json(all: &[Measured]) {
    let one = |measured: &Measured| -> Value {
        let Turn { system, tools, task, said, results, output } = measured.input;
        let change = classic(all, measured).map(|classic| (measured.against(classic) * 10.0).round() / 10.0);
        json!({
            "round": measured.round.number, "tools": measured.round.tools, "servers": measured.round.servers,
            "way": format!("{:?}", measured.way).to_lowercase(), "tasks": measured.tasks, "correct": measured.correct,
            "turns": measured.turns, "input_tokens": measured.input.input(), "output_tokens": output,
            "parts": {"system": system, "tools": tools, "task": task, "said": said, "results": results},
            "against_classic_percent": change, "published_percent": measured.round.published,
            "target_percent": measured.round.target, "searches": measured.searches[0], "found": measured.searches[3], "looked_up": measured.missed,
        })
    };
    line(Value::Array(all.iter().map(one).collect()));
}
