//! Callers who speak Anthropic's messages.

use serde_json::{Map, Value, json};
use tollgate_domain::llm_price::Usage;

use super::{
    Told, Writes,
    fields::odd,
    neutral::{Answer, Call, Choice, Conversation, Event, Finish, Format, Outcome, Part, Picture, Role, Thought, Tool},
};
use crate::llm::sse;

/// Before a signature that Anthropic has not given: a caller brings it back with the thought, and nobody shows it to Anthropic.
const OURS: &str = "tollgate:";
const OF_GEMINI: &str = "tollgate:gemini:";
/// Of a thought that nobody has signed.
const OF_NOBODY: &str = "tollgate:none";

/// # Errors
/// A sentence that names what cannot be read.
pub fn read(body: &Map<String, Value>) -> Result<Conversation, String> {
    let field = |name: &str| body.get(name).filter(|value| !value.is_null()).cloned();
    let stops = field("stop_sequences").unwrap_or_default();
    let mut all = Conversation {
        max_tokens: field("max_tokens").and_then(|n| n.as_u64()),
        temperature: field("temperature"),
        top_p: field("top_p"),
        top_k: field("top_k"),
        stop: stops.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect(),
        stream: field("stream") == Some(Value::Bool(true)),
        ..Conversation::default()
    };
    match field("system") {
        None => {}
        Some(Value::String(text)) if text.is_empty() => {}
        Some(Value::String(text)) => all.system.push(text),
        Some(Value::Array(blocks)) => {
            all.system.extend(
                blocks.iter().filter_map(|block| block["text"].as_str()).filter(|text| !text.is_empty()).map(str::to_owned),
            );
        }
        Some(_) => return Err(odd("system", "a text or an array of texts")),
    }
    let Some(messages) = body.get("messages").and_then(Value::as_array) else {
        return Err(odd("messages", "an array of messages"));
    };
    for (at, message) in messages.iter().enumerate() {
        let at = format!("messages[{at}]");
        let role = match message["role"].as_str() {
            Some("user") => Role::User,
            Some("assistant") => Role::Assistant,
            _ => return Err(odd(&format!("{at}.role"), "\"user\" or \"assistant\"")),
        };
        all.say(role, parts(&message["content"], &at)?);
    }
    for (at, tool) in body.get("tools").and_then(Value::as_array).into_iter().flatten().enumerate() {
        all.tools.push(read_tool(tool, &format!("tools[{at}]"))?);
    }
    if let Some(choice) = field("tool_choice") {
        all.one_call = choice["disable_parallel_tool_use"] == true;
        all.choice = Some(match (choice["type"].as_str(), choice["name"].as_str()) {
            (Some("auto"), _) => Choice::Auto,
            (Some("any"), _) => Choice::Any,
            (Some("none"), _) => Choice::None,
            (Some("tool"), Some(name)) => Choice::Named(name.to_owned()),
            _ => return Err(odd("tool_choice", "neither \"auto\", \"any\", \"none\" nor a tool")),
        });
    }
    let format = field("output_config").map(|config| config["format"].clone()).unwrap_or_default();
    all.format = match format["type"].as_str() {
        None => None,
        Some("json_schema") => Some(Format::Schema { name: "answer".to_owned(), schema: format["schema"].clone() }),
        Some(_) => return Err(odd("output_config.format", "no \"json_schema\"")),
    };
    let thinking = field("thinking").unwrap_or_default();
    all.thinking = thinking["budget_tokens"].as_u64().filter(|_| thinking["type"] == "enabled");
    Ok(all)
}

fn parts(content: &Value, at: &str) -> Result<Vec<Part>, String> {
    let text = |text: &str| (!text.is_empty()).then(|| Part::Text(text.to_owned()));
    let blocks = match content {
        Value::Null => return Ok(Vec::new()),
        Value::String(whole) => return Ok(text(whole).into_iter().collect()),
        Value::Array(blocks) => blocks,
        _ => return Err(odd(&format!("{at}.content"), "a text or an array of blocks")),
    };
    let mut all = Vec::new();
    // A thought's signature of Gemini's belongs to the call behind it.
    let mut signature = None;
    for (n, block) in blocks.iter().enumerate() {
        let at = format!("{at}.content[{n}]");
        let needs = |name: &str| block[name].as_str().map(str::to_owned).ok_or_else(|| odd(&format!("{at}.{name}"), "missing"));
        match block["type"].as_str() {
            Some("text") => all.extend(text(&needs("text")?)),
            Some("image") => all.push(Part::Picture(picture(&block["source"], &at)?)),
            Some("tool_use") => {
                let arguments = if block["input"].is_null() { "{}".to_owned() } else { block["input"].to_string() };
                all.push(Part::Call(Call { id: needs("id")?, name: needs("name")?, arguments, signature: signature.take() }));
            }
            Some("tool_result") => {
                let parts = parts(&block["content"], &at)?;
                if !parts.iter().all(|part| matches!(part, Part::Text(_) | Part::Picture(_))) {
                    return Err(odd(&format!("{at}.content"), "more than text and pictures"));
                }
                all.push(Part::Result(Outcome { id: needs("tool_use_id")?, parts, failed: block["is_error"] == true }));
            }
            Some("thinking") => {
                let by = block["signature"].as_str().unwrap_or_default();
                if let Some(of_gemini) = by.strip_prefix(OF_GEMINI) {
                    signature = Some(of_gemini.to_owned());
                } else {
                    let signed = (!by.is_empty() && !by.starts_with(OURS)).then(|| by.to_owned());
                    all.push(Part::Thought(Thought::Shown(block["thinking"].as_str().unwrap_or_default().to_owned(), signed)));
                }
            }
            Some("redacted_thinking") => all.push(Part::Thought(Thought::Hidden(needs("data")?))),
            Some(kind) => {
                return Err(odd(&at, &format!("of type \"{kind}\", which only a provider of kind \"anthropic\" takes")));
            }
            None => return Err(odd(&format!("{at}.type"), "missing")),
        }
    }
    Ok(all)
}

fn picture(source: &Value, at: &str) -> Result<Picture, String> {
    match (source["type"].as_str(), source["media_type"].as_str(), source["data"].as_str(), source["url"].as_str()) {
        (Some("base64"), Some(kind), Some(data), _) => Ok(Picture::Inline(kind.to_owned(), data.to_owned())),
        (Some("url"), _, _, Some(url)) => Ok(Picture::Address(url.to_owned())),
        _ => Err(odd(&format!("{at}.source"), "neither \"base64\" nor \"url\", which is all that other providers take")),
    }
}

fn read_tool(tool: &Value, at: &str) -> Result<Tool, String> {
    if tool["type"].as_str().is_some_and(|kind| kind != "custom") {
        return Err(odd(at, "no tool of the caller's own, and only a provider of kind \"anthropic\" takes others"));
    }
    let name = tool["name"].as_str().ok_or_else(|| odd(&format!("{at}.name"), "missing"))?.to_owned();
    let parameters = match &tool["input_schema"] {
        schema @ Value::Object(_) => schema.clone(),
        _ => json!({"type": "object", "properties": {}}),
    };
    Ok(Tool { name, description: tool["description"].as_str().map(str::to_owned), parameters })
}

const fn word(finish: &Finish) -> &'static str {
    match finish {
        Finish::Stop => "end_turn",
        Finish::StopAt(_) => "stop_sequence",
        Finish::Length => "max_tokens",
        Finish::Calls => "tool_use",
        Finish::Filter => "refusal",
    }
}

fn stop_of(finish: &Finish) -> Option<&str> {
    match finish {
        Finish::StopAt(stop) => stop.as_deref(),
        _ => None,
    }
}

/// Anthropic counts what is cached beside the input. How much of the output was thought is told beside what it tells itself.
fn counted(usage: &Usage) -> Value {
    let input = usage.input.saturating_sub(usage.cached_input).saturating_sub(usage.cache_write);
    json!({
        "input_tokens": input, "cache_read_input_tokens": usage.cached_input, "cache_creation_input_tokens": usage.cache_write,
        "output_tokens": usage.output, "output_tokens_details": {"reasoning_tokens": usage.reasoning},
    })
}

/// Writes events.
#[derive(Debug)]
pub struct Blocks {
    told: Told,
    /// Blocks that have begun, and what the last one is as long as it is open.
    begun: usize,
    open: Option<Open>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Open {
    Text,
    Thought,
    Call,
}

impl Blocks {
    #[must_use]
    pub const fn new(told: Told) -> Self {
        Self { told, begun: 0, open: None }
    }

    fn write(out: &mut Vec<u8>, event: &Value) {
        out.extend_from_slice(&sse::frame(event["type"].as_str(), &event.to_string()));
    }

    fn begin(&mut self, kind: Open, block: &Value, out: &mut Vec<u8>) {
        self.close(out);
        Self::write(out, &json!({"type": "content_block_start", "index": self.begun, "content_block": block}));
        self.begun += 1;
        self.open = Some(kind);
    }

    fn delta(&self, delta: &Value, out: &mut Vec<u8>) {
        Self::write(out, &json!({"type": "content_block_delta", "index": self.begun.saturating_sub(1), "delta": delta}));
    }

    fn close(&mut self, out: &mut Vec<u8>) {
        if self.open == Some(Open::Thought) {
            self.delta(&json!({"type": "signature_delta", "signature": OF_NOBODY}), out);
        }
        self.shut(out);
    }

    fn shut(&mut self, out: &mut Vec<u8>) {
        if self.open.take().is_some() {
            Self::write(out, &json!({"type": "content_block_stop", "index": self.begun.saturating_sub(1)}));
        }
    }

    fn think(&mut self, out: &mut Vec<u8>) {
        if self.open != Some(Open::Thought) {
            self.begin(Open::Thought, &json!({"type": "thinking", "thinking": "", "signature": ""}), out);
        }
    }

    fn sign(&mut self, by: &str, out: &mut Vec<u8>) {
        self.think(out);
        self.delta(&json!({"type": "signature_delta", "signature": by}), out);
        self.shut(out);
    }

    fn message(&self, content: &Value, finish: Option<&Finish>, usage: &Usage) -> Value {
        let Told { id, model, .. } = &self.told;
        json!({"id": id, "type": "message", "role": "assistant", "model": model, "content": content, "stop_reason": finish.map(word),
            "stop_sequence": finish.and_then(stop_of), "usage": counted(usage)})
    }
}

impl Writes for Blocks {
    fn event(&mut self, event: Event, out: &mut Vec<u8>) {
        match event {
            Event::Start { id, model, usage } => {
                self.told.learn(id, model);
                let usage = Usage { output: 0, ..usage.unwrap_or_default() };
                Self::write(out, &json!({"type": "message_start", "message": self.message(&json!([]), None, &usage)}));
            }
            Event::Text(text) => {
                if self.open != Some(Open::Text) {
                    self.begin(Open::Text, &json!({"type": "text", "text": ""}), out);
                }
                self.delta(&json!({"type": "text_delta", "text": text}), out);
            }
            Event::Thought(text) => {
                self.think(out);
                self.delta(&json!({"type": "thinking_delta", "thinking": text}), out);
            }
            Event::Signed(by) => self.sign(&by, out),
            Event::Hidden(data) => {
                self.begin(Open::Text, &json!({"type": "redacted_thinking", "data": data}), out);
                self.close(out);
            }
            Event::Call(call) => {
                if let Some(signature) = &call.signature {
                    self.sign(&format!("{OF_GEMINI}{signature}"), out);
                }
                self.begin(Open::Call, &json!({"type": "tool_use", "id": call.id, "name": call.name, "input": {}}), out);
                if !call.arguments.is_empty() {
                    self.delta(&json!({"type": "input_json_delta", "partial_json": call.arguments}), out);
                }
            }
            Event::Arguments(more) => self.delta(&json!({"type": "input_json_delta", "partial_json": more}), out),
            Event::Finish(_) | Event::Usage(_) | Event::Failed(_) | Event::Done => {}
        }
    }

    fn end(&mut self, finish: &Finish, usage: Option<&Usage>, out: &mut Vec<u8>) {
        self.close(out);
        let delta = json!({"stop_reason": word(finish), "stop_sequence": stop_of(finish)});
        let mut event = json!({"type": "message_delta", "delta": delta});
        if let Some(usage) = usage {
            event["usage"] = counted(usage);
        }
        Self::write(out, &event);
        Self::write(out, &json!({"type": "message_stop"}));
    }

    fn failed(&mut self, words: &str, _: Option<&Usage>, out: &mut Vec<u8>) {
        Self::write(out, &error(words, None));
    }

    fn whole(&mut self, answer: Answer) -> Value {
        let Answer { id, model, parts, finish, usage, failed } = answer;
        self.told.learn(id, model);
        if let Some(words) = failed {
            return error(&words, usage.as_ref());
        }
        let content: Vec<Value> = parts.iter().flat_map(block).collect();
        self.message(&content.into(), Some(&finish.unwrap_or(Finish::Stop)), &usage.unwrap_or_default())
    }
}

fn error(words: &str, usage: Option<&Usage>) -> Value {
    let mut all = json!({"type": "error", "error": {"type": "api_error", "message": words, "code": "provider_error"}});
    if let Some(usage) = usage {
        all["usage"] = counted(usage);
    }
    all
}

fn block(part: &Part) -> Vec<Value> {
    let thinking = |text: &str, by: &str| json!({"type": "thinking", "thinking": text, "signature": by});
    match part {
        Part::Text(text) => vec![json!({"type": "text", "text": text})],
        Part::Call(call) => {
            let signed = call.signature.as_ref().map(|by| thinking("", &format!("{OF_GEMINI}{by}")));
            let call = json!({"type": "tool_use", "id": call.id, "name": call.name, "input": call.object()});
            signed.into_iter().chain([call]).collect()
        }
        Part::Thought(Thought::Shown(text, by)) => vec![thinking(text, by.as_deref().unwrap_or(OF_NOBODY))],
        Part::Thought(Thought::Hidden(data)) => vec![json!({"type": "redacted_thinking", "data": data})],
        Part::Picture(_) | Part::Result(_) => Vec::new(),
    }
}

/// Take out of a conversation what this door has put there for another provider: Anthropic would not know the signatures.
pub fn forget(body: &mut Map<String, Value>) {
    let is_ours =
        |block: &Value| block["type"] == "thinking" && block["signature"].as_str().is_some_and(|by| by.starts_with(OURS));
    for message in body.get_mut("messages").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(blocks) = message.get_mut("content").and_then(Value::as_array_mut) {
            blocks.retain(|block| !is_ours(block));
        }
    }
}
