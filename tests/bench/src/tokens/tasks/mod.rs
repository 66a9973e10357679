//! The tasks: what a user asks, what a model would do about it call by call, the script it would write instead, and the
//! answer that is right.

mod chat;
mod code;
mod finance;
mod logs;
mod sales;

use serde_json::Value;

use super::world::World;

/// Tasks of one kind differ in whom they are about.
const OF_EACH_KIND: usize = 3;

pub struct Task {
    pub name: &'static str,
    pub ask: String,
    /// What has to be found out about tools, in the words of the task.
    pub needs: Vec<Need>,
    pub script: String,
    pub plan: Plan,
    /// Computed from the world.
    pub answer: Value,
}

#[derive(Debug, Clone, Copy)]
pub struct Need {
    pub words: &'static str,
    pub server: &'static str,
    pub tool: &'static str,
}

/// What a model that calls tools one after the other does: a function of the answers so far, run from the top after each turn.
pub type Plan = Box<dyn Fn(&mut Turns) -> Option<Value> + Send + Sync>;
type Kind = fn(&World, usize) -> Task;

#[derive(Debug, Clone)]
pub struct Call {
    pub server: &'static str,
    pub tool: &'static str,
    pub arguments: Value,
}

/// The answers that a plan has got, and what it asks for next.
#[derive(Debug, Default)]
pub struct Turns {
    pub answers: Vec<Value>,
    next: usize,
    asked: Vec<Call>,
}

const KINDS: [Kind; 28] = [
    finance::address,
    finance::owed,
    finance::payments,
    finance::reminder,
    finance::credit,
    finance::compare,
    finance::overdue,
    finance::thread,
    code::state,
    code::triage,
    code::close,
    code::size,
    code::ready,
    code::ask_assignee,
    code::red_pulls,
    logs::workload,
    logs::failing,
    logs::incident,
    logs::complaint,
    chat::local_time,
    chat::last_word,
    chat::meeting,
    sales::stage,
    sales::account,
    sales::proposal,
    sales::failed_jobs,
    sales::report_jobs,
    sales::ticket_jobs,
];

/// All tasks, one of each kind after the other.
pub fn all(world: &World) -> Vec<Task> {
    (0..OF_EACH_KIND).flat_map(|nth| KINDS.iter().map(move |kind| kind(world, nth))).collect()
}

impl Turns {
    /// The first calls that are not answered yet, or what the plan makes of all answers.
    ///
    /// # Errors
    /// The calls that it wants answered next.
    pub fn run(&mut self, plan: &Plan) -> Result<Value, Vec<Call>> {
        self.next = 0;
        plan(self).ok_or_else(|| std::mem::take(&mut self.asked))
    }

    fn call(&mut self, server: &'static str, tool: &'static str, arguments: Value) -> Option<Value> {
        self.all(vec![Call { server, tool, arguments }])?.pop()
    }

    /// Several calls in one turn: they do not depend on one another.
    fn all(&mut self, calls: Vec<Call>) -> Option<Vec<Value>> {
        let end = self.next + calls.len();
        let Some(known) = self.answers.get(self.next..end) else {
            self.asked = calls;
            return None;
        };
        self.next = end;
        Some(known.to_vec())
    }
}

fn call(server: &'static str, tool: &'static str, arguments: Value) -> Call {
    Call { server, tool, arguments }
}

fn needs(of: &[(&'static str, &'static str, &'static str)]) -> Vec<Need> {
    of.iter().map(|&(words, server, tool)| Need { words, server, tool }).collect()
}

/// A template with `$name` for what differs between tasks of a kind.
fn script(template: &str, names: &[(&str, &str)]) -> String {
    names.iter().fold(template.trim_start().to_owned(), |text, (name, value)| text.replace(&format!("${name}"), value))
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn sum(of: &[Value], key: &str) -> u64 {
    of.iter().map(|item| number(&item[key])).sum()
}

fn with<'a>(of: &'a Value, key: &str, value: &str) -> &'a Value {
    items(of).iter().find(|item| item[key] == value).unwrap_or(&Value::Null)
}

/// The first of those with the least of `by`.
fn least<'a, T, K: Ord>(of: impl IntoIterator<Item = &'a T>, by: impl Fn(&'a T) -> K) -> Option<&'a T> {
    of.into_iter().min_by_key(|item| by(item))
}
