//! The meta-tools: how a model reads its stubs and runs a script.

use serde::Deserialize;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tollgate_codemode::{excerpt, seen::Seen};
use tollgate_store::{StoreError, audit::AuditError, calls::Form, shapes, waiting};

use crate::{
    call::Parent,
    caller::Caller,
    gate::Gate,
    resume,
    script::{self, RunAnswer},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetaTool {
    ListToolFiles,
    SearchTools,
    ReadToolFile,
    GetToolDocs,
    ExecuteToolCode,
    ReadResult,
}

impl MetaTool {
    /// The meta-tool of this name; only a caller who reaches something in Code Mode has any.
    #[must_use]
    pub fn find(caller: &Caller, name: &str) -> Option<Self> {
        let found = match name {
            "listToolFiles" => Self::ListToolFiles,
            "searchTools" => Self::SearchTools,
            "readToolFile" => Self::ReadToolFile,
            "getToolDocs" => Self::GetToolDocs,
            "executeToolCode" => Self::ExecuteToolCode,
            "readResult" => Self::ReadResult,
            _ => return None,
        };
        caller.scope().has_code().then_some(found)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SearchTools {
    query: String,
    limit: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ReadToolFile {
    file_name: String,
    start_line: Option<u32>,
    end_line: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GetToolDocs {
    server: String,
    tool: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExecuteToolCode {
    code: Option<String>,
    /// What `code` is written in; the key's first where it is not said.
    language: Option<String>,
    /// An earlier run, for what has become of it.
    resume: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReadResult {
    run: String,
    path: Option<String>,
    range: Option<String>,
}

/// Answer a meta-tool with a `CallToolResult`.
///
/// # Errors
/// When a script's rows cannot be written.
pub async fn answer(
    gate: &Gate,
    caller: &Caller,
    parent: &Parent,
    tool: MetaTool,
    arguments: &str,
    cancel: CancellationToken,
) -> Result<Value, AuditError> {
    let library = &caller.visible().library;
    let read = match tool {
        MetaTool::ListToolFiles => parse::<Nothing>(arguments).map(|Nothing {}| library.list_files()),
        MetaTool::SearchTools => parse(arguments).map(|SearchTools { query, limit }| library.search(&query, limit)),
        MetaTool::ReadToolFile => parse(arguments).and_then(|ReadToolFile { file_name, start_line, end_line }| {
            library.read_file(&file_name, start_line, end_line).map_err(|e| e.to_string())
        }),
        MetaTool::GetToolDocs => match parse(arguments) {
            Ok(asked) => docs(gate, caller, &asked).await,
            Err(error) => Err(error),
        },
        MetaTool::ExecuteToolCode => match parse(arguments) {
            Ok(ExecuteToolCode { code: Some(code), language, resume: None }) => {
                match caller.languages.choose(language.as_deref()) {
                    Ok(language) => {
                        let answer = script::run(gate, caller, parent, (language, code), cancel).await?;
                        return Ok(result(gate, caller, answer));
                    }
                    Err(refused) => Err(refused),
                }
            }
            Ok(ExecuteToolCode { code: None, resume: Some(run), .. }) => {
                return resumed(gate, caller, parent, &run, cancel).await;
            }
            Ok(_) => Err("Give either code, a script to run, or resume, the script_run_id of an earlier run".to_owned()),
            Err(error) => Err(error),
        },
        MetaTool::ReadResult => match parse(arguments) {
            Ok(asked) => read_result(gate, caller, asked).await?,
            Err(error) => Err(error),
        },
    };
    gate.audit.before(parent.take_carry()).await?;
    Ok(match read {
        Ok(text) => json!({"content": [{"type": "text", "text": text}]}),
        Err(text) => error(&text),
    })
}

/// All about one tool. What its results have looked like is told where it can be had: the rest does not wait for it.
async fn docs(gate: &Gate, caller: &Caller, GetToolDocs { server, tool }: &GetToolDocs) -> Result<String, String> {
    let library = &caller.visible().library;
    let id = library.tool_id(server, tool).map_err(|e| e.to_string())?.parse().ok();
    let seen = match id.and_then(|id| caller.scope().by_id(id)).map(|scoped| &scoped.tool) {
        Some(tool) => shapes::get(&gate.store, caller.tenant(), tool.id, tool.definition_sha256).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "what results look like cannot be read");
            None
        }),
        None => None,
    };
    let seen: Option<Seen> = seen.and_then(|text| serde_json::from_str(&text).ok());
    library.docs_seen(server, tool, seen.as_ref()).map_err(|e| e.to_string())
}

fn error(text: &str) -> Value {
    json!({"content": [{"type": "text", "text": text}], "isError": true})
}

/// What a client is told of a run that stands as `answer` says.
pub fn result(gate: &Gate, caller: &Caller, answer: RunAnswer) -> Value {
    let answer = short(answer, script::limits(gate, caller).answer_chars);
    let text = shown(&answer.value);
    json!({"content": [{"type": "text", "text": text}], "structuredContent": answer.value, "isError": answer.failed})
}

/// What has become of an earlier run. One of another key looks like none.
async fn resumed(
    gate: &Gate,
    caller: &Caller,
    parent: &Parent,
    run: &str,
    cancel: CancellationToken,
) -> Result<Value, AuditError> {
    gate.audit.before(parent.take_carry()).await?;
    let found = match run.parse() {
        Ok(run) => resume::answer(gate, caller, run, &cancel).await?,
        Err(_) => None,
    };
    Ok(found.map_or_else(
        || error("Unknown run: resume takes the script_run_id of a run that this key has made"),
        |run| result(gate, caller, run),
    ))
}

/// The answer with no more of result, logs and error than `chars` each, and a message that says how to read on.
fn short(mut answer: RunAnswer, chars: usize) -> RunAnswer {
    let (result, cuts) = excerpt::excerpt(&answer.value["result"], chars);
    if !cuts.is_empty() {
        let run = answer.value["script_run_id"].as_str().filter(|_| answer.kept);
        let message = excerpt::told(&cuts, run);
        answer.value["result"] = result;
        answer.value["message"] = message.into();
    }
    let (mut logs, cuts) = excerpt::excerpt(&answer.value["logs"], chars);
    if let (Some(cut), Some(lines)) = (cuts.last(), logs.as_array_mut()) {
        lines.push(format!("... cut after {} of {} lines: print less, or set `result`", cut.to, cut.of).into());
        answer.value["logs"] = logs;
    }
    if let Some(error) = answer.value.get_mut("error") {
        *error = excerpt::excerpt(error, chars).0;
    }
    answer
}

/// A part of what an earlier run has left in `result`, from the trail. A run of another key, one that has gone with its month, and none
/// at all look alike.
async fn read_result(gate: &Gate, caller: &Caller, asked: ReadResult) -> Result<Result<String, String>, AuditError> {
    let Ok(run) = asked.run.parse() else { return Ok(Err(NO_RUN.to_owned())) };
    let found = match waiting::result_of(&gate.store, caller.tenant(), caller.key, run).await {
        Ok(found) => found,
        Err(StoreError::NotFound) => return Ok(Err(NO_RUN.to_owned())),
        Err(_) => return Err(AuditError::Unavailable),
    };
    let value = match (found.state.as_str(), &found.text, found.form) {
        ("failed", ..) => return Ok(Err("The run failed and has no result.".to_owned())),
        ("done", _, Some(Form::Omitted | Form::Erased)) => return Ok(Err(NOT_KEPT.to_owned())),
        ("done", Some(text), _) => serde_json::from_str(text).map_err(|_| AuditError::Unavailable)?,
        _ => return Ok(Err("The run has not ended. Call executeToolCode with resume set to its script_run_id.".to_owned())),
    };
    let (path, range) = (asked.path.unwrap_or_default(), asked.range);
    let read = excerpt::read(&value, &path, range.as_deref(), script::limits(gate, caller).answer_chars);
    Ok(read.map(|text| match found.form {
        Some(_) => format!("{text}\n# {REDACTED}"),
        None => text,
    }))
}

const NO_RUN: &str = "Unknown run: it takes the script_run_id of a run that this key has made";
const NOT_KEPT: &str = "The result of this run is not kept. Run the script again and return less.";
const REDACTED: &str = "Parts are [redacted]: this is the copy that the audit trail keeps.";

/// What a model reads of a run. It stands in every later prompt, so what only programs use is left to the structured content: empty
/// logs, and the calls of a run that came to its end. Of any other it matters what has happened already.
fn shown(answer: &Value) -> String {
    let done = answer["state"] == "done";
    let is_shown = |name: &str, value: &Value| match name {
        "calls" => !done,
        "logs" => value.as_array().is_none_or(|lines| !lines.is_empty()),
        _ => true,
    };
    let fields = answer.as_object().into_iter().flatten().filter(|(name, value)| is_shown(name, value));
    Value::Object(fields.map(|(name, value)| (name.clone(), value.clone())).collect()).to_string()
}

fn parse<'a, T: Deserialize<'a>>(arguments: &'a str) -> Result<T, String> {
    serde_json::from_str(arguments).map_err(|e| format!("The arguments do not fit: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_reads_of_a_run_what_it_needs() {
        let calls = json!([{"call_id": "call_1", "tool": "crm.pay", "outcome": "ok"}]);
        let run = |state: &str, logs: Value| json!({"script_run_id": "run_1", "state": state, "result": 7, "logs": logs, "calls": calls});
        assert_eq!(shown(&run("done", json!([]))), r#"{"script_run_id":"run_1","state":"done","result":7}"#);
        assert_eq!(shown(&run("done", json!(["a"]))), r#"{"script_run_id":"run_1","state":"done","result":7,"logs":["a"]}"#);
        for state in ["failed", "waiting_approval"] {
            let read: Value = serde_json::from_str(&shown(&run(state, json!([])))).unwrap();
            assert_eq!((&read["calls"], read.get("logs")), (&calls, None), "what has been done must not be done twice");
        }
    }

    #[test]
    fn what_is_too_long_for_an_answer_is_cut_and_says_how_to_read_on() {
        let rows: Vec<Value> = (0..100).map(|i| json!({"id": i})).collect();
        let value =
            json!({"script_run_id": "run_1", "state": "done", "result": rows, "logs": vec!["0123456789"; 40], "calls": []});
        let cut = short(RunAnswer { value: value.clone(), failed: false, kept: true }, 200).value;
        let n = cut["result"].as_array().map_or(0, Vec::len);
        assert!(n > 10 && cut["result"].to_string().len() <= 200, "{cut}");
        let on = format!(r#"Read on with readResult {{"run": "run_1", "range": "{n}:"}}"#);
        assert!(cut["message"].as_str().is_some_and(|message| message.contains(&on)), "{cut}");
        let lines = cut["logs"].as_array().map(Vec::as_slice).unwrap_or_default();
        assert!(
            lines.last().is_some_and(|line| *line == "... cut after 15 of 40 lines: print less, or set `result`"),
            "{lines:?}"
        );
        // Where nothing is kept, nobody is sent there; what fits stays as it is.
        let lost = short(RunAnswer { value: value.clone(), failed: false, kept: false }, 200).value;
        assert!(lost["message"].as_str().is_some_and(|message| !message.contains("readResult")), "{lost}");
        assert_eq!(short(RunAnswer { value: value.clone(), failed: false, kept: true }, 10_000).value, value);
    }
}
