//! What a model is sent, turn by turn, counted in tokens of the vocabulary o200k.

use anyhow::Result;
use serde::Serialize;
use serde_json::{Value, json};
use tiktoken_rs::CoreBPE;

/// What a message costs beside its text: its role and its ends.
const MESSAGE: usize = 4;
/// How Tollgate's ids look after their prefix.
const ID_LENGTH: usize = 26;

pub struct Counter(CoreBPE);

/// One turn: what the prompt holds, by part, and what the model says to it.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Turn {
    pub system: usize,
    pub tools: usize,
    /// The user's task.
    pub task: usize,
    /// What the model has said so far: calls and scripts.
    pub said: usize,
    /// What the tools have answered so far.
    pub results: usize,
    pub output: usize,
}

/// One conversation, from the task to the answer.
pub struct Chat<'a> {
    counter: &'a Counter,
    now: Turn,
    pub turns: Vec<Turn>,
}

impl Counter {
    pub fn new() -> Result<Self> {
        Ok(Self(tiktoken_rs::o200k_base()?))
    }

    pub fn count(&self, text: &str) -> usize {
        self.0.encode_ordinary(text).len()
    }
}

impl Turn {
    pub const fn input(&self) -> usize {
        self.system + self.tools + self.task + self.said + self.results
    }
}

impl<'a> Chat<'a> {
    /// `system` and `tools` are tokens: they are the same for many conversations.
    pub fn new(counter: &'a Counter, system: usize, tools: usize, task: &str) -> Self {
        let task = counter.count(task) + MESSAGE;
        Self { counter, now: Turn { system: system + MESSAGE, tools, task, ..Turn::default() }, turns: Vec::new() }
    }

    /// The model makes these calls, name and arguments.
    pub fn calls(&mut self, calls: &[(String, Value)]) {
        let one = |(name, arguments): &(String, Value)| {
            // Arguments are JSON in JSON on the wire and plain in the prompt: what is counted is the text of a script, not its escapes.
            let text = match arguments.get("code").and_then(Value::as_str) {
                Some(code) => self.counter.count(code) + self.counter.count(&json!({"code": ""}).to_string()),
                None => self.counter.count(&arguments.to_string()),
            };
            text + self.counter.count(name) + MESSAGE
        };
        let output = calls.iter().map(one).sum();
        self.turn(output);
    }

    /// A tool answers.
    pub fn hears(&mut self, text: &str) {
        self.now.results += self.counter.count(&with_fixed_ids(text)) + MESSAGE;
    }

    /// The model ends the conversation.
    pub fn ends(&mut self, answer: &Value) {
        let output = self.counter.count(&answer.to_string()) + MESSAGE;
        self.turn(output);
    }

    fn turn(&mut self, output: usize) {
        self.turns.push(Turn { output, ..self.now });
        self.now.said += output;
    }
}

/// As a request to an OpenAI-compatible endpoint carries them: name, description, parameters. Annotations, output schemas and titles
/// stay with the client.
pub fn openai_tools(listed: &[Value]) -> String {
    let tool = |tool: &Value| {
        let parameters = &tool["inputSchema"];
        let function = json!({"name": tool["name"], "description": tool["description"], "parameters": parameters});
        json!({"type": "function", "function": function})
    };
    listed.iter().map(tool).collect::<Value>().to_string()
}

/// Ids are minted anew in each run, and one takes a token more than another: each counts as if it were this one.
fn with_fixed_ids(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = ["run_", "call_"].iter().filter_map(|prefix| rest.find(prefix).map(|at| at + prefix.len())).min() {
        let (before, after) = rest.split_at(at);
        out.push_str(before);
        let id = after.bytes().take_while(|b| b.is_ascii_lowercase() || b.is_ascii_digit()).count();
        let known = if id == ID_LENGTH { "01k9d3v5q8w2x7m4n6r0t1y5z3" } else { after.get(..id).unwrap_or_default() };
        out.push_str(known);
        rest = after.get(id..).unwrap_or_default();
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_count_alike_and_other_words_stay() {
        let one = with_fixed_ids("run_01kaaaaaaaaaaaaaaaaaaaaaaa, call_01kbbbbbbbbbbbbbbbbbbbbbbb; dry_run_of call_me");
        let other = with_fixed_ids("run_01kzzzzzzzzzzzzzzzzzzzzzzz, call_01kyyyyyyyyyyyyyyyyyyyyyyy; dry_run_of call_me");
        assert_eq!(one, other);
        assert!(one.ends_with("; dry_run_of call_me"), "{one}");
    }

    #[test]
    fn each_turn_carries_all_that_was_said_before() {
        let counter = Counter::new().unwrap();
        let mut chat = Chat::new(&counter, 100, 1000, "Which one?");
        chat.calls(&[("find".to_owned(), json!({"name": "x"}))]);
        chat.hears("[1, 2, 3]");
        chat.ends(&json!({"answer": 1}));
        let [first, second] = chat.turns[..] else { panic!("{:?}", chat.turns) };
        assert_eq!((first.said, first.results), (0, 0));
        assert_eq!((second.said, second.tools, second.system), (first.output, 1000, first.system));
        assert_eq!(second.input(), first.input() + first.output + second.results);
        assert!(second.results > MESSAGE);
    }
}
