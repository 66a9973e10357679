//! The scripted agents: what a sensible model does with a task, in each way in which a gateway can offer it its tools.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{
    prompt::{Chat, Counter, Turn, openai_tools},
    stage::Client,
    tasks::{Call, Need, Task, Turns, text},
};

const SYSTEM: &str = "You are the assistant of Northwind. Do what the user asks with the tools you have, and do not guess what you can \
look up. When you are done, answer with the JSON that the user asks for and nothing else. Today is Friday, 2026-11-20.";
/// Turns after which a plan is broken.
const MAX_TURNS: usize = 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Every definition in every prompt, one turn for each step.
    Classic,
    /// All stub files in the first prompt, then one script.
    Naive,
    /// List the files, read those that are needed, one script.
    Files,
    /// Search for each thing that is needed, one script.
    Search,
    /// Search, then a script for each step that hands back all it gets: a model that knows nothing of what the tools answer.
    Stepwise,
}

pub const WAYS: [Way; 5] = [Way::Classic, Way::Naive, Way::Files, Way::Search, Way::Stepwise];

/// A key of one round, and what its prompts begin with.
pub struct Desk<'a> {
    counter: &'a Counter,
    client: Client,
    way: Way,
    system: usize,
    tools: usize,
    /// What each tool adds to that.
    pub each: Vec<(String, usize)>,
}

#[derive(Debug)]
pub struct Outcome {
    pub turns: Vec<Turn>,
    pub answer: Value,
    pub correct: bool,
    /// For each search, at which place it found the tool that was meant, the first being 0.
    pub places: Vec<Option<usize>>,
    /// Needs whose tool no search of the task found: they were looked up in the files.
    pub missed: Vec<&'static str>,
    /// What went wrong, for whoever looks into it.
    pub trouble: Option<String>,
}

impl Way {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Classic => "classic",
            Self::Naive => "Code Mode, all files in the prompt",
            Self::Files => "Code Mode, reading files",
            Self::Search => "Code Mode, searching",
            Self::Stepwise => "Code Mode, searching, step by step",
        }
    }

    /// Whether the targets are for this way.
    pub const fn is_measured(self) -> bool {
        matches!(self, Self::Files | Self::Search)
    }
}

impl<'a> Desk<'a> {
    pub async fn new(counter: &'a Counter, client: Client, way: Way) -> Result<Self> {
        let listed = client.tools().await?;
        let one = |tool: &Value| (text(&tool["name"]).to_owned(), counter.count(&openai_tools(std::slice::from_ref(tool))));
        let (tools, each) = (openai_tools(&listed), listed.iter().map(one).collect());
        let mut system = SYSTEM.to_owned();
        if way == Way::Naive {
            system += &every_file(&client).await?;
        }
        Ok(Self { counter, client, way, system: counter.count(&system), tools: counter.count(&tools), each })
    }

    pub async fn run(&self, task: &Task) -> Result<Outcome> {
        let mut chat = Chat::new(self.counter, self.system, self.tools, &task.ask);
        let (mut places, mut missed) = (Vec::new(), Vec::new());
        match self.way {
            Way::Classic | Way::Naive => {}
            Way::Files => self.read(&task.needs, &mut chat).await?,
            Way::Search | Way::Stepwise => {
                places = self.search(&task.needs, &mut chat, &mut missed).await?;
                if !missed.is_empty() {
                    self.read(&missed, &mut chat).await?;
                }
            }
        }
        let answer = match self.way {
            Way::Classic | Way::Stepwise => self.step_by_step(task, &mut chat).await?,
            Way::Naive | Way::Files | Way::Search => self.script(&task.script, &mut chat).await?,
        };
        let (answer, trouble) = match answer {
            Ok(answer) => (answer, None),
            Err(trouble) => (Value::Null, Some(trouble)),
        };
        chat.ends(&answer);
        let missed = missed.iter().map(|need| need.words).collect();
        Ok(Outcome { turns: chat.turns, correct: answer == task.answer, answer, places, missed, trouble })
    }

    /// One turn of calls that do not depend on one another; their texts, in order.
    async fn turn(&self, chat: &mut Chat<'_>, calls: Vec<(String, Value)>) -> Result<Vec<(String, bool)>> {
        chat.calls(&calls);
        let mut texts = Vec::new();
        for (name, arguments) in calls {
            let (text, is_error) = self.client.call(&name, &arguments).await?;
            chat.hears(&text);
            texts.push((text, is_error));
        }
        Ok(texts)
    }

    async fn step_by_step(&self, task: &Task, chat: &mut Chat<'_>) -> Result<Result<Value, String>> {
        let mut turns = Turns::default();
        for _ in 0..MAX_TURNS {
            let asked = match turns.run(&task.plan) {
                Ok(answer) => return Ok(Ok(answer)),
                Err(asked) if asked.is_empty() => return Ok(Err("the plan found nothing to go on with".to_owned())),
                Err(asked) => asked,
            };
            let answers = if self.way == Way::Classic {
                self.as_calls(asked, chat).await?
            } else {
                let one = asked.len() == 1;
                let all = self.script(&as_script(&asked), chat).await?;
                all.map(|all| if one { vec![all] } else { all.as_array().cloned().unwrap_or_default() })
            };
            match answers {
                Ok(answers) => turns.answers.extend(answers),
                Err(trouble) => return Ok(Err(trouble)),
            }
        }
        Ok(Err(format!("no end after {MAX_TURNS} turns")))
    }

    async fn as_calls(&self, asked: Vec<Call>, chat: &mut Chat<'_>) -> Result<Result<Vec<Value>, String>> {
        let calls = asked.into_iter().map(|call| (format!("{}__{}", call.server, call.tool), call.arguments)).collect();
        let texts = self.turn(chat, calls).await?;
        let value = |(text, is_error): (String, bool)| match is_error {
            true => Err(text),
            false => Ok(serde_json::from_str(&text).unwrap_or(Value::String(text))),
        };
        Ok(texts.into_iter().map(value).collect())
    }

    async fn script(&self, code: &str, chat: &mut Chat<'_>) -> Result<Result<Value, String>> {
        let calls = vec![("executeToolCode".to_owned(), json!({"code": code}))];
        let (text, is_error) = self.turn(chat, calls).await?.pop().context("an answer")?;
        if is_error {
            return Ok(Err(text));
        }
        let mut answer: Value = serde_json::from_str(&text).with_context(|| format!("executeToolCode answered {text}"))?;
        Ok(Ok(answer["result"].take()))
    }

    /// List the files, read those of the servers that are needed, and of one that is too long the lines that are needed.
    async fn read(&self, needs: &[Need], chat: &mut Chat<'_>) -> Result<()> {
        self.turn(chat, vec![("listToolFiles".to_owned(), json!({}))]).await?;
        let mut servers: Vec<&str> = Vec::new();
        for need in needs {
            if !servers.contains(&need.server) {
                servers.push(need.server);
            }
        }
        let file = |server: &str| format!("servers/{server}.pyi");
        let reads = servers.iter().map(|server| ("readToolFile".to_owned(), json!({"fileName": file(server)}))).collect();
        let texts = self.turn(chat, reads).await?;
        let mut lines = Vec::new();
        for need in needs {
            let whole = servers.iter().position(|s| *s == need.server).and_then(|at| texts.get(at)).map_or("", |(text, _)| text);
            if let Some(line) = outlined(whole, need) {
                let read = json!({"fileName": file(need.server), "startLine": line, "endLine": line});
                lines.push(("readToolFile".to_owned(), read));
            }
        }
        lines.dedup();
        if !lines.is_empty() {
            self.turn(chat, lines).await?;
        }
        Ok(())
    }

    /// One search for each thing that is needed, all in one turn: where each found the tool, and what none of them found.
    async fn search(&self, needs: &[Need], chat: &mut Chat<'_>, missed: &mut Vec<Need>) -> Result<Vec<Option<usize>>> {
        let searches = needs.iter().map(|need| ("searchTools".to_owned(), json!({"query": need.words}))).collect();
        let texts = self.turn(chat, searches).await?;
        let signature = |need: &Need| format!("{}.{}(", need.server, identifier(need.tool));
        let place = |text: &str, need: &Need| {
            let is_hit = |line: &&str| line.split_once('(').is_some_and(|(name, _)| name.contains('.') && !name.contains(' '));
            text.lines().filter(is_hit).position(|line| line.starts_with(&signature(need)))
        };
        missed.extend(needs.iter().filter(|need| texts.iter().all(|(text, _)| place(text, need).is_none())));
        Ok(needs.iter().zip(&texts).map(|(need, (text, _))| place(text, need)).collect())
    }
}

/// A script that makes these calls and hands back what they answer.
fn as_script(calls: &[Call]) -> String {
    let one = |call: &Call| {
        let arguments = call.arguments.as_object().into_iter().flatten();
        let arguments: Vec<String> = arguments.map(|(name, value)| format!("{name}={}", python(value))).collect();
        format!("{}.{}({})", call.server, identifier(call.tool), arguments.join(", "))
    };
    match calls {
        [call] => format!("result = {}\n", one(call)),
        _ => format!("result = [\n{}]\n", calls.iter().map(|call| format!("    {},\n", one(call))).collect::<String>()),
    }
}

/// A value as Python writes it.
fn python(value: &Value) -> String {
    match value {
        Value::Null => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::Array(items) => format!("[{}]", items.iter().map(python).collect::<Vec<_>>().join(", ")),
        Value::Object(fields) => {
            let fields: Vec<String> = fields.iter().map(|(key, value)| format!("{}: {}", json!(key), python(value))).collect();
            format!("{{{}}}", fields.join(", "))
        }
        Value::Number(_) | Value::String(_) => value.to_string(),
    }
}

/// As stubs spell the name.
fn identifier(tool: &str) -> String {
    tool.replace('-', "_")
}

/// The line of the tool in the outline of a long file; nothing where the file was answered whole.
fn outlined(text: &str, need: &Need) -> Option<u64> {
    let name = identifier(need.tool);
    text.lines().find_map(|line| {
        let (number, rest) = line.strip_prefix("# ")?.split_once(' ')?;
        (rest.split(' ').next() == Some(&name)).then(|| number.parse().ok()).flatten()
    })
}

/// All stub files, each read to its end.
async fn every_file(client: &Client) -> Result<String> {
    let (list, _) = client.call("listToolFiles", &json!({})).await?;
    let mut all = String::new();
    for path in list.lines().filter_map(|line| line.split_whitespace().next()) {
        let mut start = 1;
        loop {
            let (text, is_error) = client.call("readToolFile", &json!({"fileName": path, "startLine": start})).await?;
            anyhow::ensure!(!is_error, "{path}: {text}");
            let (part, next) = match text.rsplit_once("# cut here; continue with startLine=") {
                Some((part, next)) => (part, next.trim().parse().ok()),
                None => (text.as_str(), None),
            };
            all.push_str(part);
            match next {
                Some(next) => start = next,
                None => break,
            }
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_written_as_python() {
        let call = |arguments| Call { server: "xero", tool: "list-invoices", arguments };
        let one = call(json!({"page": 1, "contactIds": ["a\"b"], "deep": {"yes": true, "no": null}}));
        let written = "result = xero.list_invoices(page=1, contactIds=[\"a\\\"b\"], deep={\"yes\": True, \"no\": None})\n";
        assert_eq!(as_script(std::slice::from_ref(&one)), written);
        let two = as_script(&[call(json!({})), call(json!({"page": 2}))]);
        assert_eq!(two, "result = [\n    xero.list_invoices(),\n    xero.list_invoices(page=2),\n]\n");
    }

    #[test]
    fn the_line_of_a_tool_is_found_in_an_outline_and_not_in_a_file() {
        let need = |tool| Need { words: "", server: "gitlab", tool };
        let outline = "# 203 lines, too long for one answer.\n# 4 list-x\n# 17 list_pipelines List pipelines\n# 18 list_pipeline_jobs List\n";
        assert_eq!(outlined(outline, &need("list_pipeline_jobs")), Some(18));
        assert_eq!(outlined(outline, &need("list-pipelines")), Some(17));
        assert_eq!(outlined("def list_pipelines(project_id: str): ...  # List\n", &need("list_pipelines")), None);
    }
}
