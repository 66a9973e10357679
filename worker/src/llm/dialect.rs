//! The dialects in which callers speak to models. Each is passed on as it came; what is read of a body or an answer is what has to be
//! recorded, and what is added are the tools of the key.

use axum::http::StatusCode;
use serde_json::{Map, Value, json};
use tollgate_domain::{llm::ProviderKind, llm_price::Usage};

use super::{chat, messages, responses};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/responses`
    Responses,
    /// `/v1/messages`
    Messages,
    /// `/v1/embeddings`
    Embeddings,
}

/// A tool of the key as a model is offered it.
#[derive(Debug, Clone)]
pub struct Offered {
    /// Letters, digits, `_` and `-`, at most 64: what all providers take.
    pub name: String,
    pub description: String,
    /// JSON Schema of an object.
    pub parameters: Value,
    /// About what all of it takes in a prompt.
    pub bytes: usize,
}

/// A tool call that a model asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolUse {
    /// By which its result is known.
    pub id: String,
    pub name: String,
    /// JSON text, as the model wrote it.
    pub arguments: String,
}

/// What a tool call came to, for the model to read.
#[derive(Debug, Clone)]
pub struct ToolResult {
    pub id: String,
    pub name: String,
    pub text: String,
    pub failed: bool,
}

/// What an answer says of itself.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Read {
    /// Nothing where the provider has not said.
    pub usage: Option<Usage>,
    /// Who has answered, in the provider's words.
    pub model: Option<String>,
    pub finish_reason: Option<String>,
    pub calls: Vec<ToolUse>,
}

/// What becomes of an event of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passage {
    /// It goes on at once.
    On,
    /// Part of a tool call: whether it goes on depends on whose tool it is.
    Tool,
    /// Of the end of the answer: it goes on once the answer's row is durable.
    End,
    /// Nobody but us has asked for it.
    Dropped,
}

impl Dialect {
    pub const ALL: [Self; 4] = [Self::Chat, Self::Responses, Self::Messages, Self::Embeddings];

    /// The route, and what the trail calls it.
    #[must_use]
    pub const fn route(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Responses => "/v1/responses",
            Self::Messages => "/v1/messages",
            Self::Embeddings => "/v1/embeddings",
        }
    }

    /// Whether a provider of this kind can be asked: some dialects are translated for those who speak otherwise.
    #[must_use]
    pub fn reaches(self, kind: ProviderKind) -> bool {
        matches!(self, Self::Chat | Self::Messages) || kind == self.kind()
    }

    /// What a provider speaks that it is not translated for.
    #[must_use]
    pub const fn kind(self) -> ProviderKind {
        match self {
            Self::Chat | Self::Responses | Self::Embeddings => ProviderKind::OpenAi,
            Self::Messages => ProviderKind::Anthropic,
        }
    }

    /// The path behind a provider's base URL.
    #[must_use]
    pub const fn path(self) -> &'static str {
        match self {
            Self::Chat => "chat/completions",
            Self::Responses => "responses",
            Self::Messages => "v1/messages",
            Self::Embeddings => "embeddings",
        }
    }

    /// Whether a model can be offered tools, and the gateway can go on with what it asks for.
    #[must_use]
    pub const fn has_tools(self) -> bool {
        !matches!(self, Self::Embeddings)
    }

    /// Tools that the caller brings along, by name.
    #[must_use]
    pub fn own_tools(self, body: &Map<String, Value>) -> Vec<&str> {
        let tools = body.get("tools").and_then(Value::as_array).into_iter().flatten();
        let name = |tool: &'_ Value| match self {
            Self::Chat => tool["function"]["name"].as_str().map(str::len),
            _ => tool["name"].as_str().map(str::len),
        };
        // The borrow is of the body, not of the closure.
        tools
            .filter(|tool| name(tool).is_some())
            .filter_map(|tool| match self {
                Self::Chat => tool["function"]["name"].as_str(),
                _ => tool["name"].as_str(),
            })
            .collect()
    }

    /// Add tools behind the caller's own.
    pub fn offer(self, body: &mut Map<String, Value>, tools: &[&Offered]) {
        if tools.is_empty() || !self.has_tools() {
            return;
        }
        let tools = tools.iter().map(|tool| match self {
            Self::Chat => chat::tool(tool),
            Self::Messages => messages::tool(tool),
            Self::Responses | Self::Embeddings => responses::tool(tool),
        });
        match body.entry("tools").or_insert_with(|| json!([])) {
            Value::Array(all) => all.extend(tools),
            // The provider says what is wrong with it.
            _ => {}
        }
    }

    /// Tokens of the answer at most, as the caller says; times the answers that were asked for.
    #[must_use]
    pub fn max_output(self, body: &Map<String, Value>) -> Option<u64> {
        let number = |name| body.get(name).and_then(Value::as_u64);
        match self {
            Self::Chat => {
                // A server heeds one of them, and nobody knows which.
                let most = number("max_completion_tokens").max(number("max_tokens"))?;
                Some(most.saturating_mul(number("n").unwrap_or(1).max(1)))
            }
            Self::Responses => number("max_output_tokens"),
            Self::Messages => number("max_tokens"),
            Self::Embeddings => Some(0),
        }
    }

    /// Numbers that bound what a request costs, and are none: a provider might read them all the same.
    #[must_use]
    pub fn odd_number(self, body: &Map<String, Value>) -> Option<&'static str> {
        let names = ["max_completion_tokens", "max_tokens", "max_output_tokens", "n", "best_of"];
        names.into_iter().find(|name| body.get(*name).is_some_and(|value| !value.is_null() && value.as_u64().is_none()))
    }

    /// Have the provider stop after so many tokens. `base` is its address: OpenAI itself knows the newer name alone, others the older one.
    pub fn limit_output(self, body: &mut Map<String, Value>, tokens: u64, base: &str) {
        let openai = base.contains(".openai.com") || base.contains(".azure.com");
        let name = match self {
            Self::Chat if openai => "max_completion_tokens",
            Self::Chat | Self::Messages => "max_tokens",
            Self::Responses => "max_output_tokens",
            Self::Embeddings => return,
        };
        body.insert(name.to_owned(), tokens.into());
    }

    /// Why nobody can say before what a request may cost: it runs tools at the provider, or lets another model answer.
    #[must_use]
    pub fn unbounded(self, body: &Map<String, Value>) -> Option<&'static str> {
        let own = |tool: &Value| {
            let kind = tool["type"].as_str();
            // Anthropic's tools of a caller's have no type, or this one.
            kind.is_none_or(|kind| kind == "function" || kind == "custom" || kind == "namespace")
        };
        if body.get("tools").and_then(Value::as_array).is_some_and(|tools| !tools.iter().all(own)) {
            return Some("it has the provider run tools of its own");
        }
        for (name, why) in [
            ("mcp_servers", "it has the provider call MCP servers"),
            ("models", "it lets other models answer"),
            ("prompt", "it uses a prompt that is stored at the provider"),
            ("service_tier", "it asks for another tier of service"),
            ("web_search_options", "it has the provider search the web"),
            ("container", "it has the provider run programs"),
        ] {
            let is_set = |value: &Value| {
                !value.is_null()
                    && !(name == "service_tier" && matches!(value.as_str(), Some("auto" | "default" | "standard_only")))
            };
            if body.get(name).is_some_and(is_set) && !(name == "prompt" && self != Self::Responses) {
                return Some(why);
            }
        }
        None
    }

    /// Whether a body leads to content whose tokens its bytes do not bound: pictures, sounds, documents, and what is not in it.
    #[must_use]
    pub fn reaches_out(self, body: &Map<String, Value>) -> bool {
        const REFERENCES: [&str; 8] = [
            "previous_response_id",
            "conversation",
            "file_id",
            "file_url",
            "file_data",
            "image_url",
            "input_audio",
            "container_id",
        ];
        const PARTS: [&str; 9] =
            ["image", "image_url", "input_image", "input_file", "file", "document", "input_audio", "audio", "item_reference"];
        fn any(value: &Value) -> bool {
            match value {
                Value::Array(items) => items.iter().any(any),
                Value::Object(fields) => {
                    fields.get("type").and_then(Value::as_str).is_some_and(|kind| PARTS.contains(&kind))
                        || fields.iter().any(|(name, value)| is_reference(name, value) || any(value))
                }
                _ => false,
            }
        }
        fn is_reference(name: &str, value: &Value) -> bool {
            REFERENCES.contains(&name) && !value.is_null()
        }
        body.iter().any(|(name, value)| name != "tools" && (is_reference(name, value) || any(value)))
    }

    /// What an answer that came at once says of itself.
    #[must_use]
    pub fn read(self, answer: &Value) -> Read {
        match self {
            Self::Chat => chat::read(answer),
            Self::Messages => messages::read(answer),
            Self::Responses => responses::read(answer),
            Self::Embeddings => Read { usage: chat::usage(&answer["usage"]), ..Read::default() },
        }
    }

    /// Events that begin an answer: of a later turn nothing begins anew.
    #[must_use]
    pub fn begins_anew(self, kind: &str) -> bool {
        match self {
            Self::Messages => kind == "message_start",
            Self::Responses => matches!(kind, "response.created" | "response.queued" | "response.in_progress"),
            Self::Chat | Self::Embeddings => false,
        }
    }

    /// The event with which a block of an answer begins, where blocks have numbers.
    #[must_use]
    pub const fn block_begins(self) -> Option<&'static str> {
        match self {
            Self::Messages => Some("\"content_block_start\""),
            Self::Responses => Some("\"response.output_item.added\""),
            Self::Chat | Self::Embeddings => None,
        }
    }

    /// Give an event of a later turn the numbers that it has in the caller's one stream, behind so many blocks and events. False: it has none.
    #[must_use]
    pub fn renumber(self, event: &mut Value, blocks: u64, events: u64) -> bool {
        let (name, behind) = match self {
            Self::Messages => ("index", blocks),
            Self::Responses => ("output_index", blocks),
            Self::Chat | Self::Embeddings => return false,
        };
        let mut changed = false;
        if let Some(number) = event[name].as_u64() {
            event[name] = (number + behind).into();
            changed = behind > 0;
        }
        if self == Self::Responses && event["sequence_number"].is_u64() {
            event["sequence_number"] = events.into();
            changed = true;
        }
        changed
    }

    /// A body with a model's answer and what its tool calls came to, for its next turn.
    pub fn go_on(self, body: &mut Map<String, Value>, answer: &Value, results: &[ToolResult]) {
        match self {
            Self::Chat => chat::go_on(body, answer, results),
            Self::Messages => messages::go_on(body, answer, results),
            Self::Responses => responses::go_on(body, answer, results),
            Self::Embeddings => {}
        }
    }

    /// A result as the caller has to send it on, in manual mode.
    #[must_use]
    pub fn result(self, result: &ToolResult) -> Value {
        match self {
            Self::Messages => messages::result(result),
            Self::Responses => responses::result(result),
            Self::Chat | Self::Embeddings => chat::result(result),
        }
    }

    /// An error as the official clients read it.
    #[must_use]
    pub fn error(self, status: StatusCode, code: &str, message: &str) -> Value {
        match self {
            Self::Messages => {
                json!({"type": "error", "error": {"type": messages::error_type(status), "message": message, "code": code}})
            }
            _ => json!({"error": {"message": message, "type": chat::error_type(status), "param": null, "code": code}}),
        }
    }
}

/// What an error of a provider's says.
#[must_use]
pub fn words_of(error: &Value) -> String {
    let words = error["message"].as_str().or_else(|| error.as_str()).unwrap_or("it does not say what");
    words.chars().filter(|c| !c.is_control()).take(2_000).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(value: Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap_or_default()
    }

    #[test]
    fn tools_are_added_behind_the_callers_own() {
        let find =
            Offered { name: "crm__find".into(), description: "Find".into(), parameters: json!({"type": "object"}), bytes: 0 };
        let offered = [&find];
        let mut chat = body(json!({"tools": [{"type": "function", "function": {"name": "own"}}], "x_unknown": 1}));
        assert_eq!(Dialect::Chat.own_tools(&chat), ["own"]);
        Dialect::Chat.offer(&mut chat, &offered);
        assert_eq!(Dialect::Chat.own_tools(&chat), ["own", "crm__find"]);
        let mut messages = body(json!({}));
        Dialect::Messages.offer(&mut messages, &offered);
        assert_eq!(messages["tools"][0]["input_schema"], json!({"type": "object"}));
        let mut responses = body(json!({}));
        Dialect::Responses.offer(&mut responses, &offered);
        assert_eq!(responses["tools"][0]["type"], "function");
        assert_eq!(Dialect::Responses.own_tools(&responses), ["crm__find"]);
    }

    #[test]
    fn what_is_not_in_a_body_is_seen() {
        for reaches in [
            json!({"previous_response_id": "resp_1"}),
            json!({"messages": [{"content": [{"type": "image_url", "image_url": {"url": "https://x/y.png"}}]}]}),
            json!({"messages": [{"content": [{"type": "document", "source": {"type": "url", "url": "https://x"}}]}]}),
            json!({"input": [{"content": [{"type": "input_file", "file_id": "file_1"}]}]}),
        ] {
            assert!(Dialect::Chat.reaches_out(&body(reaches.clone())), "{reaches}");
        }
        for own in [
            json!({"messages": [{"content": "https://x"}], "previous_response_id": null}),
            json!({"tools": [{"parameters": {"properties": {"file_id": {"type": "string"}}}}]}),
        ] {
            assert!(!Dialect::Chat.reaches_out(&body(own.clone())), "{own}");
        }
        let picture =
            json!({"messages": [{"content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}]}]});
        assert!(Dialect::Chat.reaches_out(&body(picture)), "what a picture costs goes with its size on the screen");
    }

    #[test]
    fn what_runs_elsewhere_has_no_bound() {
        for unbounded in [
            json!({"tools": [{"type": "web_search"}]}),
            json!({"tools": [{"type": "function"}, {"type": "mcp"}]}),
            json!({"mcp_servers": [{}]}),
            json!({"models": ["a"]}),
            json!({"service_tier": "priority"}),
            json!({"prompt": {"id": "p"}}),
        ] {
            assert!(Dialect::Responses.unbounded(&body(unbounded.clone())).is_some(), "{unbounded}");
        }
        for fine in [
            json!({"tools": [{"type": "function"}, {"name": "anthropic"}]}),
            json!({"service_tier": "auto", "models": null}),
            json!({}),
        ] {
            assert_eq!(Dialect::Chat.unbounded(&body(fine.clone())), None, "{fine}");
        }
    }

    #[test]
    fn events_of_a_later_turn_go_on_with_the_numbers() {
        let mut event = json!({"type": "content_block_stop", "index": 1});
        assert!(Dialect::Messages.renumber(&mut event, 3, 9));
        assert_eq!(event["index"], 4);
        let mut event = json!({"type": "response.output_text.delta", "output_index": 0, "sequence_number": 4});
        assert!(Dialect::Responses.renumber(&mut event, 2, 17));
        assert_eq!((&event["output_index"], &event["sequence_number"]), (&json!(2), &json!(17)));
        assert!(!Dialect::Messages.renumber(&mut json!({"type": "message_stop"}), 3, 9));
        assert!(!Dialect::Chat.renumber(&mut json!({"index": 0}), 3, 9));
    }

    #[test]
    fn an_answer_has_the_larger_of_its_ends_and_numbers_are_numbers() {
        assert_eq!(Dialect::Chat.max_output(&body(json!({"max_tokens": 5, "n": 3}))), Some(15));
        assert_eq!(Dialect::Chat.max_output(&body(json!({"max_tokens": 500, "max_completion_tokens": 1}))), Some(500));
        assert_eq!(Dialect::Chat.max_output(&body(json!({}))), None);
        for (odd, name) in [
            (json!({"max_tokens": 5.0}), "max_tokens"),
            (json!({"n": "5"}), "n"),
            (json!({"max_output_tokens": -1}), "max_output_tokens"),
        ] {
            assert_eq!(Dialect::Chat.odd_number(&body(odd)), Some(name));
        }
        let mut open = body(json!({}));
        Dialect::Chat.limit_output(&mut open, 9, "https://api.openai.com/v1");
        Dialect::Chat.limit_output(&mut open, 9, "http://localhost:8000/v1");
        assert_eq!(Value::from(open), json!({"max_completion_tokens": 9, "max_tokens": 9}));
    }
}
