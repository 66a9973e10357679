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
            Ok(ExecuteToolCode { code: Some(code), resume: None }) => return execute(gate, caller, parent, code, cancel).await,
            Ok(ExecuteToolCode { code: None, resume: Some(run) }) => return resumed(gate, caller, parent, &run, cancel).await,
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
    let text = answer.value.to_string();
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

async fn execute(
    gate: &Gate,
    caller: &Caller,
    parent: &Parent,
    code: String,
    cancel: CancellationToken,
) -> Result<Value, AuditError> {
    script::run(gate, caller, parent, code, cancel).await.map(told)
}

fn parse<'a, T: Deserialize<'a>>(arguments: &'a str) -> Result<T, String> {
    serde_json::from_str(arguments).map_err(|e| format!("The arguments do not fit: {e}"))
}
