//! Providers that speak Anthropic's messages.

use serde_json::{Map, Value, json};

use super::{
    Reads, To, known_id,
    neutral::{Call, Choice, Conversation, Event, Finish, Format, Message, Part, Picture, Role, Thought},
};
use crate::llm::messages::usage;

/// Tokens of an answer at most, where the caller has not said and no budget has: it has to be told.
pub const OUTPUT: u64 = 16_384;

/// # Errors
/// A sentence that names what cannot be said.
pub fn write(all: &Conversation, to: &To<'_>) -> Result<Value, String> {
    let messages: Vec<Value> = all.messages.iter().map(message).filter(|message| message["content"] != json!([])).collect();
    let tools: Vec<Value> = all
        .tools
        .iter()
        .map(|tool| {
            let mut own = json!({"name": tool.name, "input_schema": tool.parameters});
            if let Some(description) = &tool.description {
                own["description"] = description.as_str().into();
            }
            own
        })
        .collect();
    let format = match &all.format {
        None => None,
        Some(Format::Schema { schema, .. }) => Some(json!({"format": {"type": "json_schema", "schema": schema}})),
        Some(Format::Json) => return Err(to.cannot("response_format.type: json_object")),
    };
    let has_tools = !tools.is_empty();
    let mut body = Map::new();
    for (name, value) in [
        ("model", Some(to.model.into())),
        ("max_tokens", Some(all.max_tokens.unwrap_or(OUTPUT).into())),
        ("system", all.system().map(Value::from)),
        ("messages", Some(messages.into())),
        ("tools", has_tools.then(|| tools.into())),
        ("tool_choice", choice(all).filter(|_| has_tools)),
        ("output_config", format),
        ("temperature", all.temperature.clone()),
        ("top_p", all.top_p.clone()),
        ("top_k", all.top_k.clone()),
        ("stop_sequences", (!all.stop.is_empty()).then(|| json!(all.stop))),
        ("stream", all.stream.then(|| true.into())),
    ] {
        if let Some(value) = value {
            body.insert(name.to_owned(), value);
        }
    }
    Ok(body.into())
}

fn choice(all: &Conversation) -> Option<Value> {
    let mut choice = match all.choice.as_ref() {
        None if !all.one_call => return None,
        None | Some(Choice::Auto) => json!({"type": "auto"}),
        Some(Choice::None) => return Some(json!({"type": "none"})),
        Some(Choice::Any) => json!({"type": "any"}),
        Some(Choice::Named(name)) => json!({"type": "tool", "name": name}),
    };
    if all.one_call {
        choice["disable_parallel_tool_use"] = true.into();
    }
    Some(choice)
}

fn message(message: &Message) -> Value {
    let role = if message.role == Role::User { "user" } else { "assistant" };
    let content: Vec<Value> = message.parts.iter().filter_map(block).collect();
    json!({"role": role, "content": content})
}

fn block(part: &Part) -> Option<Value> {
    Some(match part {
        Part::Text(text) => json!({"type": "text", "text": text}),
        Part::Picture(Picture::Inline(kind, data)) => {
            json!({"type": "image", "source": {"type": "base64", "media_type": kind, "data": data}})
        }
        Part::Picture(Picture::Address(url)) => json!({"type": "image", "source": {"type": "url", "url": url}}),
        Part::Call(call) => json!({"type": "tool_use", "id": known_id(&call.id), "name": call.name, "input": call.object()}),
        Part::Result(result) => {
            let parts: Vec<Value> = result.parts.iter().filter_map(block).collect();
            let mut own = json!({"type": "tool_result", "tool_use_id": known_id(&result.id), "content": parts});
            if result.failed {
                own["is_error"] = true.into();
            }
            own
        }
        Part::Thought(Thought::Shown(text, Some(by))) => json!({"type": "thinking", "thinking": text, "signature": by}),
        Part::Thought(Thought::Hidden(data)) => json!({"type": "redacted_thinking", "data": data}),
        Part::Thought(Thought::Shown(_, None)) => return None,
    })
}

/// Reads an answer.
#[derive(Debug, Default)]
pub struct Reader {
    usage: Map<String, Value>,
    /// A tool call whose arguments have not come.
    empty_call: bool,
}

impl Reader {
    fn count(&mut self, more: &Value) -> Option<tollgate_domain::llm_price::Usage> {
        self.usage.extend(more.as_object().cloned().unwrap_or_default());
        usage(&Value::Object(self.usage.clone()))
    }

    fn begin(&mut self, block: &Value, out: &mut Vec<Event>) {
        let text = |name: &str| block[name].as_str().unwrap_or_default().to_owned();
        match block["type"].as_str() {
            Some("text") if !text("text").is_empty() => out.push(Event::Text(text("text"))),
            Some("thinking") if !text("thinking").is_empty() => out.push(Event::Thought(text("thinking"))),
            Some("redacted_thinking") => out.push(Event::Hidden(text("data"))),
            Some("tool_use") => {
                out.push(Event::Call(Call { id: text("id"), name: text("name"), ..Call::default() }));
                self.empty_call = true;
                if block["input"].as_object().is_some_and(|input| !input.is_empty()) {
                    self.argue(block["input"].to_string(), out);
                }
            }
            _ => {}
        }
    }

    fn argue(&mut self, more: String, out: &mut Vec<Event>) {
        if !more.is_empty() {
            self.empty_call = false;
            out.push(Event::Arguments(more));
        }
    }

    fn stop(&mut self, out: &mut Vec<Event>) {
        if std::mem::take(&mut self.empty_call) {
            out.push(Event::Arguments("{}".to_owned()));
        }
    }

    fn finish(answer: &Value) -> Option<Event> {
        Some(Event::Finish(match answer["stop_reason"].as_str()? {
            "max_tokens" | "model_context_window_exceeded" => Finish::Length,
            "stop_sequence" => Finish::StopAt(answer["stop_sequence"].as_str().map(str::to_owned)),
            "tool_use" => Finish::Calls,
            "refusal" => Finish::Filter,
            _ => Finish::Stop,
        }))
    }
}

impl Reads for Reader {
    fn event(&mut self, _: &str, event: &Value, out: &mut Vec<Event>) {
        let delta = &event["delta"];
        let text = |name: &str| delta[name].as_str().unwrap_or_default().to_owned();
        match event["type"].as_str().unwrap_or_default() {
            "message_start" => {
                let message = &event["message"];
                let text = |name: &str| message[name].as_str().map(str::to_owned);
                let usage = self.count(&message["usage"]);
                out.push(Event::Start { id: text("id"), model: text("model"), usage });
            }
            "content_block_start" => self.begin(&event["content_block"], out),
            "content_block_delta" => match delta["type"].as_str() {
                Some("text_delta") => out.push(Event::Text(text("text"))),
                Some("thinking_delta") => out.push(Event::Thought(text("thinking"))),
                Some("signature_delta") => out.push(Event::Signed(text("signature"))),
                Some("input_json_delta") => self.argue(text("partial_json"), out),
                _ => {}
            },
            "content_block_stop" => self.stop(out),
            "message_delta" => {
                out.extend(Self::finish(delta));
                out.extend(self.count(&event["usage"]).map(Event::Usage));
            }
            "message_stop" => out.push(Event::Done),
            // Some servers in between say it without the type.
            _ if event["error"].is_object() => out.push(Event::Failed(crate::llm::dialect::words_of(&event["error"]))),
            _ => {}
        }
    }

    fn whole(&mut self, answer: &Value, out: &mut Vec<Event>) -> Result<(), &'static str> {
        let Some(blocks) = answer["content"].as_array() else { return Err("the provider's answer has no content") };
        let text = |name: &str| answer[name].as_str().map(str::to_owned);
        out.push(Event::Start { id: text("id"), model: text("model"), usage: None });
        for block in blocks {
            self.begin(block, out);
            if block["type"] == "thinking" {
                out.extend(block["signature"].as_str().map(|by| Event::Signed(by.to_owned())));
            }
            self.stop(out);
        }
        out.extend(Self::finish(answer));
        out.extend(self.count(&answer["usage"]).map(Event::Usage));
        Ok(())
    }
}
