//! The meta-tools: how a model reads its stubs and runs a script.

use serde::Deserialize;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tollgate_store::audit::AuditError;

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
        MetaTool::GetToolDocs => {
            parse(arguments).and_then(|GetToolDocs { server, tool }| library.docs(&server, &tool).map_err(|e| e.to_string()))
        }
        MetaTool::ExecuteToolCode => match parse(arguments) {
            Ok(ExecuteToolCode { code: Some(code), language, resume: None }) => {
                match caller.languages.choose(language.as_deref()) {
                    Ok(language) => return script::run(gate, caller, parent, (language, code), cancel).await.map(told),
                    Err(refused) => Err(refused),
                }
            }
            Ok(ExecuteToolCode { code: None, resume: Some(run), .. }) => {
                return resumed(gate, caller, parent, &run, cancel).await;
            }
            Ok(_) => Err("Give either code, a script to run, or resume, the script_run_id of an earlier run".to_owned()),
            Err(error) => Err(error),
        },
    };
    gate.audit.before(parent.take_carry()).await?;
    Ok(match read {
        Ok(text) => json!({"content": [{"type": "text", "text": text}]}),
        Err(text) => error(&text),
    })
}

fn error(text: &str) -> Value {
    json!({"content": [{"type": "text", "text": text}], "isError": true})
}

fn told(answer: RunAnswer) -> Value {
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
    Ok(found.map_or_else(|| error("Unknown run: resume takes the script_run_id of a run that this key has made"), told))
}

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
}
