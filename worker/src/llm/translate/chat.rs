//! Callers who speak OpenAI's chat completions.

use serde_json::{Map, Value, json};
use tollgate_domain::llm_price::Usage;

use super::{
    Told, Writes,
    fields::odd,
    neutral::{Answer, Call, Choice, Conversation, Event, Finish, Format, Outcome, Part, Picture, Role, Thought, Tool},
};
use crate::llm::{chat::arguments, sse};

/// Of what this door has put into a message: a client that sends all of it back sends this as well. See [`forget`].
const OURS: &str = "tollgate";

/// A thought is kept until its signature comes. No model thinks as much.
const MAX_THOUGHT: usize = 8 << 20;

/// # Errors
/// A sentence that names what cannot be read.
pub fn read(body: &Map<String, Value>) -> Result<Conversation, String> {
    let field = |name: &str| body.get(name).filter(|value| !value.is_null()).cloned();
    let mut all = Conversation {
        max_tokens: field("max_completion_tokens").and_then(|n| n.as_u64()).max(field("max_tokens").and_then(|n| n.as_u64())),
        temperature: field("temperature"),
        top_p: field("top_p"),
        top_k: field("top_k"),
        seed: field("seed"),
        presence_penalty: field("presence_penalty"),
        frequency_penalty: field("frequency_penalty"),
        one_call: field("parallel_tool_calls") == Some(Value::Bool(false)),
        stream: field("stream") == Some(Value::Bool(true)),
        ..Conversation::default()
    };
    let Some(messages) = body.get("messages").and_then(Value::as_array) else {
        return Err(odd("messages", "an array of messages"));
    };
    for (at, message) in messages.iter().enumerate() {
        read_message(&mut all, message, &format!("messages[{at}]"))?;
    }
    all.stop = match field("stop") {
        None => Vec::new(),
        Some(Value::String(stop)) => vec![stop],
        Some(Value::Array(stops)) => stops.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        Some(_) => return Err(odd("stop", "a text or an array of texts")),
    };
    for (at, tool) in body.get("tools").and_then(Value::as_array).into_iter().flatten().enumerate() {
        all.tools.push(read_tool(tool, &format!("tools[{at}]"))?);
    }
    all.choice = field("tool_choice").map(|choice| read_choice(&choice)).transpose()?;
    all.format = read_format(&field("response_format").unwrap_or_default())?;
    Ok(all)
}

fn read_message(all: &mut Conversation, message: &Value, at: &str) -> Result<(), String> {
    let content = &message["content"];
    match message["role"].as_str() {
        Some("system" | "developer") => {
            for part in parts(content, at)? {
                match part {
                    Part::Text(text) => all.system.push(text),
                    _ => return Err(odd(at, "a text")),
                }
            }
        }
        Some("user") => all.say(Role::User, parts(content, at)?),
        Some("assistant") => {
            let blocks = message["thinking_blocks"].as_array().into_iter().flatten();
            let mut said: Vec<Part> = blocks.filter_map(thought).collect();
            said.extend(parts(content, at)?);
            if let Some(refusal) = message["refusal"].as_str().filter(|text| !text.is_empty()) {
                said.push(Part::Text(refusal.to_owned()));
            }
            for (n, call) in message["tool_calls"].as_array().into_iter().flatten().enumerate() {
                said.push(Part::Call(read_call(call, &format!("{at}.tool_calls[{n}]"))?));
            }
            if !message["function_call"].is_null() {
                return Err(odd(&format!("{at}.function_call"), "of an older time: use \"tool_calls\""));
            }
            all.say(Role::Assistant, said);
        }
        Some("tool") => {
            let id = message["tool_call_id"].as_str().ok_or_else(|| odd(&format!("{at}.tool_call_id"), "missing"))?.to_owned();
            let parts = parts(content, at)?;
            if !parts.iter().all(|part| matches!(part, Part::Text(_))) {
                return Err(odd(&format!("{at}.content"), "more than text"));
            }
            all.say(Role::User, vec![Part::Result(Outcome { id, parts, failed: false })]);
        }
        _ => return Err(odd(&format!("{at}.role"), "\"system\", \"developer\", \"user\", \"assistant\" or \"tool\"")),
    }
    Ok(())
}

fn parts(content: &Value, at: &str) -> Result<Vec<Part>, String> {
    let text = |text: &str| (!text.is_empty()).then(|| Part::Text(text.to_owned()));
    let blocks = match content {
        Value::Null => return Ok(Vec::new()),
        Value::String(whole) => return Ok(text(whole).into_iter().collect()),
        Value::Array(blocks) => blocks,
        _ => return Err(odd(&format!("{at}.content"), "a text or an array of parts")),
    };
    let mut all = Vec::new();
    for (n, block) in blocks.iter().enumerate() {
        let at = format!("{at}.content[{n}]");
        match block["type"].as_str() {
            Some("text") => all.extend(block["text"].as_str().and_then(text)),
            Some("refusal") => all.extend(block["refusal"].as_str().and_then(text)),
            Some("image_url") => {
                let url = block["image_url"]["url"].as_str().ok_or_else(|| odd(&format!("{at}.image_url.url"), "missing"))?;
                all.push(Part::Picture(picture(url, &at)?));
            }
            Some(kind) => return Err(odd(&at, &format!("of type \"{kind}\", which only a provider of kind \"openai\" takes"))),
            None => return Err(odd(&format!("{at}.type"), "missing")),
        }
    }
    Ok(all)
}

fn picture(url: &str, at: &str) -> Result<Picture, String> {
    if url.starts_with("https://") || url.starts_with("http://") {
        return Ok(Picture::Address(url.to_owned()));
    }
    let inline = url.strip_prefix("data:").and_then(|rest| rest.split_once(";base64,"));
    let (kind, data) =
        inline.ok_or_else(|| odd(&format!("{at}.image_url.url"), "neither an address nor \"data:TYPE;base64,...\""))?;
    Ok(Picture::Inline(kind.to_owned(), data.to_owned()))
}

fn read_call(call: &Value, at: &str) -> Result<Call, String> {
    let text =
        |value: &Value, name: &str| value.as_str().map(str::to_owned).ok_or_else(|| odd(&format!("{at}.{name}"), "missing"));
    if call["type"].as_str().is_some_and(|kind| kind != "function") {
        return Err(odd(at, "no function"));
    }
    Ok(Call {
        id: text(&call["id"], "id")?,
        name: text(&call["function"]["name"], "function.name")?,
        arguments: arguments(&call["function"]["arguments"]),
        signature: call["extra_content"]["google"]["thought_signature"].as_str().map(str::to_owned),
    })
}

/// A thought that this door has handed out, as Anthropic's own blocks are.
fn thought(block: &Value) -> Option<Part> {
    let text = |name: &str| block[name].as_str().map(str::to_owned);
    Some(Part::Thought(match block["type"].as_str()? {
        "thinking" => Thought::Shown(text("thinking")?, text("signature").filter(|by| !by.is_empty())),
        "redacted_thinking" => Thought::Hidden(text("data")?),
        _ => return None,
    }))
}

fn read_tool(tool: &Value, at: &str) -> Result<Tool, String> {
    if tool["type"] != "function" {
        return Err(odd(at, "no function, and only a provider of kind \"openai\" takes other tools"));
    }
    let function = &tool["function"];
    let name = function["name"].as_str().ok_or_else(|| odd(&format!("{at}.function.name"), "missing"))?.to_owned();
    let parameters = match &function["parameters"] {
        schema @ Value::Object(_) => schema.clone(),
        _ => json!({"type": "object", "properties": {}}),
    };
    Ok(Tool { name, description: function["description"].as_str().map(str::to_owned), parameters })
}

fn read_choice(choice: &Value) -> Result<Choice, String> {
    match (choice.as_str(), choice["type"].as_str(), choice["function"]["name"].as_str()) {
        (Some("none"), ..) => Ok(Choice::None),
        (Some("auto"), ..) => Ok(Choice::Auto),
        (Some("required"), ..) => Ok(Choice::Any),
        (_, Some("function"), Some(name)) => Ok(Choice::Named(name.to_owned())),
        _ => Err(odd(
            "tool_choice",
            "neither \"none\", \"auto\" or \"required\" nor a function, which is all that other providers know",
        )),
    }
}

fn read_format(format: &Value) -> Result<Option<Format>, String> {
    match format["type"].as_str() {
        None | Some("text") => Ok(None),
        Some("json_object") => Ok(Some(Format::Json)),
        Some("json_schema") => {
            let name = format["json_schema"]["name"].as_str().unwrap_or("answer").to_owned();
            Ok(Some(Format::Schema { name, schema: format["json_schema"]["schema"].clone() }))
        }
        Some(_) => Err(odd("response_format.type", "neither \"text\", \"json_object\" nor \"json_schema\"")),
    }
}

const fn word(finish: &Finish) -> &'static str {
    match finish {
        Finish::Stop | Finish::StopAt(_) => "stop",
        Finish::Length => "length",
        Finish::Calls => "tool_calls",
        Finish::Filter => "content_filter",
    }
}

fn counted(usage: &Usage) -> Value {
    json!({
        "prompt_tokens": usage.input, "completion_tokens": usage.output, "total_tokens": usage.input.saturating_add(usage.output),
        "prompt_tokens_details": {"cached_tokens": usage.cached_input, "cache_write_tokens": usage.cache_write},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    })
}

/// A tool call's fields. What Gemini wants back stands where Google's own translation has it.
fn head(call: &Call) -> Value {
    let mut all = json!({"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}});
    if let Some(signature) = &call.signature {
        all["extra_content"] = json!({"google": {"thought_signature": signature}, OURS: true});
    }
    all
}

/// Writes chunks.
#[derive(Debug)]
pub struct Chunks {
    told: Told,
    calls: usize,
    thought: String,
    begun: bool,
}

impl Chunks {
    #[must_use]
    pub const fn new(told: Told) -> Self {
        Self { told, calls: 0, thought: String::new(), begun: false }
    }

    fn chunk(&self, choices: &Value) -> Value {
        let Told { id, model, created } = &self.told;
        json!({"id": id, "object": "chat.completion.chunk", "created": created, "model": model, "choices": choices})
    }

    fn delta(&mut self, out: &mut Vec<u8>, mut delta: Value, finish: Option<&str>) {
        if !self.begun {
            self.begun = true;
            delta["role"] = "assistant".into();
        }
        let chunk = self.chunk(&json!([{"index": 0, "delta": delta, "finish_reason": finish}]));
        out.extend_from_slice(&sse::frame(None, &chunk.to_string()));
    }

    /// A thought that nobody has signed ends with what stands for that.
    fn settle(&mut self, out: &mut Vec<u8>) {
        if !self.thought.is_empty() {
            self.thought.clear();
            self.delta(out, json!({"thinking_blocks": [unsigned()]}), None);
        }
    }

    fn usage(&self, out: &mut Vec<u8>, usage: Option<&Usage>) {
        if let Some(usage) = usage {
            let mut chunk = self.chunk(&json!([]));
            chunk["usage"] = counted(usage);
            out.extend_from_slice(&sse::frame(None, &chunk.to_string()));
        }
    }
}

impl Writes for Chunks {
    fn event(&mut self, event: Event, out: &mut Vec<u8>) {
        if !matches!(event, Event::Thought(_) | Event::Signed(_)) {
            self.settle(out);
        }
        match event {
            Event::Start { id, model, .. } => {
                self.told.learn(id, model);
                self.delta(out, json!({"content": ""}), None);
            }
            Event::Text(text) => self.delta(out, json!({"content": text}), None),
            Event::Thought(text) => {
                if self.thought.len() < MAX_THOUGHT {
                    self.thought.push_str(&text);
                }
                self.delta(out, json!({"reasoning_content": text}), None);
            }
            Event::Signed(by) => {
                let text = std::mem::take(&mut self.thought);
                self.delta(out, json!({"thinking_blocks": [shown(&text, &by)]}), None);
            }
            Event::Hidden(data) => self.delta(out, json!({"thinking_blocks": [hidden(&data)]}), None),
            Event::Call(call) => {
                let mut head = head(&call);
                head["index"] = self.calls.into();
                self.calls += 1;
                self.delta(out, json!({"tool_calls": [head]}), None);
            }
            Event::Arguments(more) => {
                let index = self.calls.saturating_sub(1);
                self.delta(out, json!({"tool_calls": [{"index": index, "function": {"arguments": more}}]}), None);
            }
            Event::Finish(_) | Event::Usage(_) | Event::Failed(_) | Event::Done => {}
        }
    }

    fn end(&mut self, finish: &Finish, usage: Option<&Usage>, out: &mut Vec<u8>) {
        self.settle(out);
        self.delta(out, json!({}), Some(word(finish)));
        self.usage(out, usage);
        out.extend_from_slice(&sse::frame(None, "[DONE]"));
    }

    fn failed(&mut self, words: &str, usage: Option<&Usage>, out: &mut Vec<u8>) {
        // What was counted before it failed has to be paid.
        self.usage(out, usage);
        out.extend_from_slice(&sse::frame(None, &error(words, None).to_string()));
    }

    fn whole(&mut self, answer: Answer) -> Value {
        let Answer { id, model, parts, finish, usage, failed } = answer;
        self.told.learn(id, model);
        if let Some(words) = failed {
            return error(&words, usage.as_ref());
        }
        let Told { id, model, created } = &self.told;
        let message = message(&parts);
        let finish = finish.map_or("stop", |finish| word(&finish));
        let choices = json!([{"index": 0, "message": message, "finish_reason": finish, "logprobs": null}]);
        let mut all = json!({"id": id, "object": "chat.completion", "created": created, "model": model, "choices": choices});
        if let Some(usage) = usage {
            all["usage"] = counted(&usage);
        }
        all
    }
}

fn shown(text: &str, by: &str) -> Value {
    json!({"type": "thinking", "thinking": text, "signature": by, OURS: true})
}

fn hidden(data: &str) -> Value {
    json!({"type": "redacted_thinking", "data": data, OURS: true})
}

/// Nobody takes it back: it says that the thought beside it is of another provider's.
fn unsigned() -> Value {
    shown("", "")
}

fn error(words: &str, usage: Option<&Usage>) -> Value {
    let mut all = json!({"error": {"message": words, "type": "api_error", "param": null, "code": "provider_error"}});
    if let Some(usage) = usage {
        all["usage"] = counted(usage);
    }
    all
}

fn message(parts: &[Part]) -> Value {
    let (mut text, mut thoughts, mut blocks, mut calls) = (String::new(), String::new(), Vec::new(), Vec::new());
    for part in parts {
        match part {
            Part::Text(more) => text.push_str(more),
            Part::Call(call) => {
                let mut whole = call.clone();
                if whole.arguments.is_empty() {
                    "{}".clone_into(&mut whole.arguments);
                }
                calls.push(head(&whole));
            }
            Part::Thought(Thought::Shown(text, signature)) => {
                thoughts.push_str(text);
                blocks.push(signature.as_ref().map_or_else(unsigned, |by| shown(text, by)));
            }
            Part::Thought(Thought::Hidden(data)) => blocks.push(hidden(data)),
            Part::Picture(_) | Part::Result(_) => {}
        }
    }
    let content = if text.is_empty() && !calls.is_empty() { Value::Null } else { text.into() };
    let mut all = json!({"role": "assistant", "content": content});
    for (name, value) in [("tool_calls", Value::from(calls)), ("thinking_blocks", blocks.into())] {
        if value.as_array().is_some_and(|all| !all.is_empty()) {
            all[name] = value;
        }
    }
    if !thoughts.is_empty() {
        all["reasoning_content"] = thoughts.into();
    }
    all
}

fn is_ours(value: &Value) -> bool {
    value.get(OURS).is_some()
}

/// Take out of a conversation what this door has put there for another provider. What a server of OpenAI's kind has put there stays.
pub fn forget(body: &mut Map<String, Value>) {
    for message in body.get_mut("messages").and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut) {
        let blocks = message.get("thinking_blocks").and_then(Value::as_array);
        if blocks.is_some_and(|blocks| blocks.iter().any(is_ours)) {
            message.remove("thinking_blocks");
            message.remove("reasoning_content");
        }
        for call in
            message.get_mut("tool_calls").and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
        {
            if call.get("extra_content").is_some_and(is_ours) {
                call.remove("extra_content");
            }
        }
    }
}
