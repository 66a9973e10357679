//! The methods of the protocol, translated. What may be seen or called is decided elsewhere.

use std::sync::Arc;

use axum::http::HeaderMap;
use serde_json::{Map, Value, json, value::RawValue};
use tokio_util::sync::CancellationToken;
use tollgate_codemode::meta_tools_in;
use tollgate_domain::{LlmRequestId, Origin, policy::Reason, tool::Exposure};
use tollgate_store::audit::{AuditError, NewRequest};

use super::{
    era::{self, Era},
    message::{Request, RpcError},
    tasks,
};
use crate::{
    call::{self, Ask, Asked, Parent, Reached},
    caller::Caller,
    gate::Gate,
    meta::{self, MetaTool},
    rates::Told,
    upstream::{Answer, Progress},
    verbatim::Members,
};

/// How a client names the parent of a call, beside the header of [`PARENT_HEADER`].
const PARENT_META: &str = "tollgate/llm_request_id";
pub const PARENT_HEADER: &str = "x-tollgate-request-id";
/// Belongs to the connection between the client and this server, not to the tool.
const OWN_META: [&str; 2] = ["progressToken", PARENT_META];

/// A request in its surroundings.
#[derive(Debug)]
pub struct Turn {
    pub gate: Gate,
    pub caller: Caller,
    pub era: Era,
    pub request: Request,
    /// The parent as the client names it.
    pub parent: Option<String>,
    /// The id of the request as the answer will name it, should it have to be minted.
    pub minted: LlmRequestId,
    pub progress: Option<Progress>,
    /// For the answer's headers.
    pub told: Told,
    pub cancel: CancellationToken,
}

#[derive(Debug)]
pub enum Failure {
    Rpc(RpcError),
    /// The audit trail or the database is away.
    Unavailable,
}

impl From<RpcError> for Failure {
    fn from(error: RpcError) -> Self {
        Self::Rpc(error)
    }
}

impl From<AuditError> for Failure {
    fn from(_: AuditError) -> Self {
        Self::Unavailable
    }
}

/// An answer: the text of `result`, and the LLM request under which it is recorded.
pub type Answered = (Result<String, Failure>, LlmRequestId);

impl Turn {
    /// Answer the request.
    pub async fn answer(self) -> Answered {
        match self.request.method.as_str() {
            "tools/call" => self.call().await,
            "initialize" if self.era == Era::Legacy => self.plain(Self::initialize).await,
            "ping" if self.era == Era::Legacy => self.plain(|_| Ok("{}".to_owned())).await,
            "server/discover" if self.era == Era::Modern => self.plain(Self::discover).await,
            "tools/list" => self.plain(Self::list).await,
            method if self.era == Era::Modern && tasks::METHODS.contains(&method) => self.task().await,
            other => {
                let error = RpcError::new(RpcError::METHOD_NOT_FOUND, format!("Method not found: {}", clip(other)));
                (Err(error.into()), self.minted)
            }
        }
    }

    /// A request that calls nothing: its row is the request's own.
    async fn plain(self, answer: impl FnOnce(&Self) -> Result<String, Failure>) -> Answered {
        let id = self.minted;
        let parent = self.mint().await;
        if self.gate.audit.before(parent.take_carry()).await.is_err() {
            return (Err(Failure::Unavailable), id);
        }
        (answer(&self), id)
    }

    async fn task(self) -> Answered {
        let id = self.minted;
        if self.gate.audit.before(self.mint().await.take_carry()).await.is_err() {
            return (Err(Failure::Unavailable), id);
        }
        (tasks::answer(&self.gate, &self.caller, &self.request).await.map(|task| task.to_string()), id)
    }

    fn initialize(&self) -> Result<String, Failure> {
        let asked = self.request.params.all.get("protocolVersion").and_then(Value::as_str).unwrap_or(era::OLDEST);
        let version = era::LEGACY.into_iter().find(|known| *known == asked).unwrap_or(era::LEGACY[0]);
        let result = json!({
            "protocolVersion": version,
            "capabilities": capabilities(),
            "serverInfo": server_info(),
            "instructions": instructions(&self.caller),
        });
        Ok(result.to_string())
    }

    fn discover(&self) -> Result<String, Failure> {
        let result = json!({
            "resultType": "complete",
            "supportedVersions": era::supported(),
            "capabilities": {"tools": {"listChanged": true}, "extensions": {tasks::EXTENSION: {}}},
            "instructions": instructions(&self.caller),
            "ttlMs": 0,
            "cacheScope": "private",
            "_meta": {"io.modelcontextprotocol/serverInfo": server_info()},
        });
        Ok(result.to_string())
    }

    fn list(&self) -> Result<String, Failure> {
        if self.request.params.all.get("cursor").is_some_and(|cursor| !cursor.is_null()) {
            return Err(RpcError::new(RpcError::INVALID_PARAMS, "Invalid cursor: the list is one page").into());
        }
        let mut tools: Vec<Value> = if self.caller.scope().has_code() {
            meta_tools_in(self.caller.languages, self.caller.visible().library.is_large())
        } else {
            Vec::new()
        };
        for scoped in self.caller.scope().exposed(Exposure::Classic) {
            let mut definition = Value::clone(&scoped.tool.definition);
            definition["name"] = scoped.tool.classic_name().into();
            tools.push(definition);
        }
        let mut result = json!({"tools": tools});
        if self.era == Era::Modern {
            result["resultType"] = "complete".into();
            result["ttlMs"] = 0.into();
            result["cacheScope"] = "private".into();
        }
        Ok(result.to_string())
    }

    async fn call(self) -> Answered {
        let parent = match self.parent().await {
            Ok(parent) => Parent { told: self.told.clone(), ..parent },
            Err(failure) => return (Err(failure), self.minted),
        };
        let id = parent.request;
        (self.call_under(parent).await, id)
    }

    async fn call_under(self, parent: Parent) -> Result<String, Failure> {
        let Some(name) = self.request.params.name.clone() else {
            return Err(RpcError::new(RpcError::INVALID_PARAMS, "Invalid params: \"name\" is missing").into());
        };
        parent.by_hand(&self.gate, &self.caller, &name).await?;
        let arguments = self.request.params.arguments.as_deref().map_or("{}", RawValue::get);
        if let Some(tool) = MetaTool::find(&self.caller, &name) {
            let result = meta::answer(&self.gate, &self.caller, &parent, tool, arguments, self.cancel).await?;
            if self.era == Era::Modern
                && tasks::declared(&self.request)
                && let Some(task) = tasks::created(&result)
            {
                return Ok(task.to_string());
            }
            return Ok(for_era(self.era, &result.to_string()));
        }
        let mut meta = self.request.params.meta.clone();
        meta.retain(|key, _| !OWN_META.contains(&key.as_str()) && !key.starts_with("io.modelcontextprotocol/"));
        let ask = Ask {
            tool: Asked::ByName(name.clone()),
            arguments: Arc::from(arguments.as_bytes()),
            meta,
            progress: self.progress,
            cancel: self.cancel,
            pending: None,
            can_wait: false,
            may_call: None,
        };
        let reply = call::call(&self.gate, &self.caller, &parent, ask).await?;
        match &reply.answer {
            Reached::Refused(refusal) => match refusal.reason {
                Reason::UnknownTool | Reason::NotInScope | Reason::Quarantined => {
                    Err(RpcError::new(RpcError::INVALID_PARAMS, format!("{}: {}", refusal.told(), clip(&name))).into())
                }
                Reason::BadArguments | Reason::CodeModeOnly => {
                    Err(RpcError::new(RpcError::INVALID_PARAMS, refusal.told()).into())
                }
                _ => Ok(for_era(self.era, call::result_of(&reply).get())),
            },
            // The upstream's own words, unchanged.
            Reached::Answer(Answer::Error(error)) => {
                Err(RpcError { code: error.code.0, message: error.message.to_string(), data: error.data.clone() }.into())
            }
            _ => Ok(for_era(self.era, call::result_of(&reply).get())),
        }
    }

    /// The parent that the client names, if it is one of this key's; else a new one.
    async fn parent(&self) -> Result<Parent, Failure> {
        let Some(named) = self.parent.clone() else { return Ok(self.mint().await) };
        match Parent::named(&self.gate, &self.caller, &named).await? {
            Some(parent) => Ok(parent),
            None => Err(self.refuse_parent().await),
        }
    }

    /// A call under a foreign parent is not made, and is a row all the same.
    async fn refuse_parent(&self) -> Failure {
        let name = self.request.params.name.clone().unwrap_or_default();
        let arguments = self.request.params.arguments.as_deref().map_or("{}", RawValue::get);
        let ask = Ask {
            tool: Asked::ByName(name),
            arguments: Arc::from(arguments.as_bytes()),
            meta: Map::new(),
            progress: None,
            cancel: CancellationToken::new(),
            pending: None,
            can_wait: false,
            may_call: None,
        };
        match call::refuse(&self.gate, &self.caller, &self.mint().await, ask, Reason::UnknownParent).await {
            Ok(_) => RpcError::new(RpcError::INVALID_PARAMS, Reason::UnknownParent.told()).into(),
            Err(error) => error.into(),
        }
    }

    async fn mint(&self) -> Parent {
        let client = match era::client(&self.request) {
            Some(client) => Some(self.caller.config().trail.words(client).await),
            None => None,
        };
        Parent::new(NewRequest {
            tenant: self.caller.tenant(),
            id: self.minted,
            key: self.caller.key,
            team: self.caller.team,
            origin: Origin::Minted,
            method: known_method(&self.request.method),
            model: None,
            client,
            prompt_tokens_avoided: self.prompt_tokens_avoided(),
            at: self.gate.clock.now(),
            forward: None,
        })
    }

    /// What the prompt behind this request did not have to carry, where it uses a tool of Code Mode.
    fn prompt_tokens_avoided(&self) -> Option<i64> {
        let name = self.request.params.name.as_deref().filter(|_| self.request.method == "tools/call")?;
        MetaTool::find(&self.caller, name)?;
        let visible = self.caller.visible();
        Some(visible.prompt_tokens_avoided(&meta_tools_in(self.caller.languages, visible.library.is_large())))
    }
}

/// The parent that a client names, in the body or in a header; what is there and is no text names nobody's.
#[must_use]
pub fn named_parent(request: &Request, headers: &HeaderMap) -> Option<String> {
    match request.params.meta.get(PARENT_META) {
        Some(named) => Some(named.as_str().unwrap_or_default().to_owned()),
        None => headers.get(PARENT_HEADER).map(|value| value.to_str().unwrap_or_default().to_owned()),
    }
}

fn known_method(method: &str) -> &'static str {
    ["initialize", "ping", "server/discover", "tools/list", "tools/call"]
        .into_iter()
        .chain(tasks::METHODS)
        .find(|known| *known == method)
        .unwrap_or("other")
}

fn capabilities() -> Value {
    json!({"tools": {"listChanged": true}})
}

fn server_info() -> Value {
    json!({"name": "tollgate", "title": "Tollgate", "version": env!("CARGO_PKG_VERSION")})
}

fn instructions(caller: &Caller) -> &'static str {
    if caller.scope().has_code() {
        "Call listToolFiles to see which servers there are, readToolFile for the signatures you need, then do the whole task in one executeToolCode script."
    } else {
        "Tools are named server__tool."
    }
}

/// A tool result as the client's era writes it: the newer one marks every result with its type, the older knows no such field.
fn for_era(era: Era, result: &str) -> String {
    let Ok(mut members) = Members::read(result) else { return result.to_owned() };
    match (era, members.get("resultType").is_some()) {
        (Era::Modern, false) => {
            // Spliced, not reprinted: the rest stays as the upstream wrote it.
            let rest = result.trim_start().strip_prefix('{').unwrap_or_default();
            let comma = if rest.trim_start().starts_with('}') { "" } else { "," };
            format!(r#"{{"resultType":"complete"{comma}{rest}"#)
        }
        (Era::Legacy, true) => {
            members.remove("resultType");
            members.to_string()
        }
        _ => result.to_owned(),
    }
}

fn clip(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(128).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_pass_unchanged_but_for_the_mark_of_their_era() {
        let odd = r#"{ "content": [],"x":1.0,"y":1e2 }"#;
        assert_eq!(for_era(Era::Legacy, odd), odd);
        assert_eq!(for_era(Era::Modern, odd), r#"{"resultType":"complete", "content": [],"x":1.0,"y":1e2 }"#);
        assert_eq!(for_era(Era::Modern, "{}"), r#"{"resultType":"complete"}"#);
        let marked = r#"{"resultType":"complete","x":1.10,"content":[],"y":1E+2,"z":12345678901234567890123}"#;
        assert_eq!(for_era(Era::Legacy, marked), r#"{"x":1.10,"content":[],"y":1E+2,"z":12345678901234567890123}"#);
    }
}
