//! Tool calls that a model asks for: each goes down the one path of all calls, under the request that asked for it.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;
use tollgate_domain::{CallId, Outcome, ScriptRunId, policy::Reason};
use tollgate_store::{approvals::hold::Waiting, audit::AuditError};

use super::{
    dialect::{ToolResult, ToolUse},
    offer::{Behind, Offer},
};
use crate::{
    call::{self, Ask, Asked, Parent, Reached},
    caller::Caller,
    gate::Gate,
    meta,
};

/// What a model's tool call came to.
#[derive(Debug)]
pub struct Executed {
    pub result: ToolResult,
    /// Its row; a meta-tool has none of its own.
    pub call: Option<CallId>,
    pub outcome: Option<Outcome>,
    /// People have to decide first.
    pub waiting: Option<Waiting>,
    /// The run of a script that it was.
    pub run: Option<Ran>,
}

/// A run that a model has asked for.
#[derive(Debug, Clone)]
pub struct Ran {
    pub id: ScriptRunId,
    /// It waits for people: for which approvals, as clients are told.
    pub waiting: Option<Value>,
}

impl Executed {
    /// For the caller: what was done, without what it said.
    #[must_use]
    pub fn told(&self) -> Value {
        let mut told = json!({"tool_call_id": self.result.id, "name": self.result.name, "failed": self.result.failed});
        if let Some(call) = self.call {
            told["call_id"] = json!(call);
        }
        if let Some(outcome) = self.outcome {
            told["outcome"] = json!(outcome);
        }
        if let Some(waiting) = &self.waiting {
            told["approval_id"] = json!(waiting.approval);
            told["expires_at"] = json!(waiting.expires_at);
        }
        if let Some(run) = &self.run {
            told["script_run_id"] = json!(run.id);
            if let Some(approvals) = &run.waiting {
                told["approvals"] = approvals.clone();
            }
        }
        told
    }

    /// People have to decide before there is a result.
    #[must_use]
    pub fn waits(&self) -> bool {
        self.waiting.is_some() || self.run.as_ref().is_some_and(|run| run.waiting.is_some())
    }

    /// What a meta-tool has answered.
    #[must_use]
    pub fn meta((id, name): (String, String), answer: &Value) -> Self {
        let failed = answer["isError"] == true;
        let result = ToolResult { id, name, text: text_of(answer), failed };
        Self { result, call: None, outcome: None, waiting: None, run: Ran::of(answer) }
    }
}

impl Ran {
    fn of(answer: &Value) -> Option<Self> {
        let run = &answer["structuredContent"];
        let id = run["script_run_id"].as_str()?.parse().ok()?;
        Some(Self { id, waiting: (run["state"] == "waiting_approval").then(|| run["approvals"].clone()) })
    }
}

/// Make one tool call of a model. A name that is not offered is refused, and a row like any other call.
///
/// # Errors
/// When its row cannot be written: the tool was not called, or its result is withheld.
pub async fn execute(
    gate: &Gate,
    caller: &Caller,
    parent: &Parent,
    offer: &Offer,
    wanted: ToolUse,
    cancel: CancellationToken,
) -> Result<Executed, AuditError> {
    let ToolUse { id, name, arguments } = wanted;
    let tool = match offer.behind(&name) {
        Some(Behind::Meta(tool)) => {
            let answer = meta::answer(gate, caller, parent, tool, &arguments, cancel).await?;
            return Ok(Executed::meta((id, name), &answer));
        }
        Some(Behind::Tool(tool)) => Asked::ById(tool),
        None => Asked::ByName(name.clone()),
    };
    let reply = call::call(gate, caller, parent, ask(tool, arguments, cancel)).await?;
    let result = serde_json::from_str(call::result_of(&reply).get()).unwrap_or_default();
    let waiting = match &reply.answer {
        Reached::Refused(refusal) => refusal.waiting,
        Reached::Answer(_) => None,
    };
    let failed = reply.outcome != Outcome::Ok;
    let result = ToolResult { id, name, text: text_of(&result), failed };
    Ok(Executed { result, call: Some(reply.id), outcome: Some(reply.outcome), waiting, run: None })
}

/// The row of a tool call that is not made, whatever it asks for.
///
/// # Errors
/// When it cannot be written.
pub async fn refuse(gate: &Gate, caller: &Caller, parent: &Parent, wanted: ToolUse, reason: Reason) -> Result<(), AuditError> {
    let ask = ask(Asked::ByName(wanted.name), wanted.arguments, CancellationToken::new());
    call::refuse(gate, caller, parent, ask, reason).await.map(drop)
}

fn ask(tool: Asked, arguments: String, cancel: CancellationToken) -> Ask {
    let arguments = Arc::from(arguments.into_bytes());
    Ask { tool, arguments, meta: Map::new(), progress: None, cancel, pending: None, can_wait: false, may_call: None }
}

/// What a model reads of a tool's result: its texts, and what is structured where no text says the same; else all of it.
pub fn text_of(result: &Value) -> String {
    let blocks = result["content"].as_array().map(Vec::as_slice).unwrap_or_default();
    let texts: Vec<&str> = blocks.iter().filter_map(|block| block["text"].as_str()).collect();
    let structured = Some(&result["structuredContent"]).filter(|structured| !structured.is_null());
    let said =
        |structured: &Value| texts.iter().any(|text| serde_json::from_str::<Value>(text).is_ok_and(|said| said == *structured));
    let structured = structured.filter(|structured| !said(structured)).map(Value::to_string);
    if texts.len() == blocks.len() {
        let parts: Vec<&str> = texts.into_iter().chain(structured.as_deref()).collect();
        return parts.join("\n");
    }
    structured.unwrap_or_else(|| result["content"].to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_reads_texts_else_what_is_structured_else_all() {
        let text = json!({"type": "text", "text": "a"});
        let image = json!({"type": "image", "data": "AA"});
        let b = json!({"type": "text", "text": "b"});
        assert_eq!(text_of(&json!({"content": [text, b], "structuredContent": {"x": 1}})), "a\nb\n{\"x\":1}");
        let same = json!({"type": "text", "text": "{ \"x\": 1 }"});
        assert_eq!(text_of(&json!({"content": [same], "structuredContent": {"x": 1}})), "{ \"x\": 1 }");
        assert_eq!(text_of(&json!({"content": [], "structuredContent": {"x": 1}})), r#"{"x":1}"#);
        assert_eq!(text_of(&json!({"content": [text, image]})), r#"[{"type":"text","text":"a"},{"type":"image","data":"AA"}]"#);
        assert_eq!(text_of(&json!({"content": []})), "");
    }
}
