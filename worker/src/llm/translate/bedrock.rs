//! Providers that speak Amazon's Converse.

use serde_json::{Map, Value, json};
use tollgate_domain::llm_price::Usage;

use super::{
    Reads, To, known_id,
    neutral::{Call, Choice, Conversation, Event, Finish, Format, Message, Part, Picture, Role, Thought},
};

/// A result that says nothing: Bedrock takes no empty text.
const NOTHING: &str = "(nothing)";

/// # Errors
/// A sentence that names what cannot be said.
pub fn write(all: &Conversation, to: &To<'_>) -> Result<Value, String> {
    if all.one_call {
        return Err(to.cannot("tool_choice.disable_parallel_tool_use"));
    }
    let mut messages = Vec::new();
    for message in &all.messages {
        messages.push(write_message(message, to)?);
    }
    messages.retain(|message| message["content"] != json!([]));
    let mut body = Map::new();
    body.insert("messages".to_owned(), messages.into());
    if let Some(text) = all.system() {
        body.insert("system".to_owned(), json!([{"text": text}]));
    }
    let inference: Map<String, Value> = [
        ("maxTokens", all.max_tokens.map(Value::from)),
        ("temperature", all.temperature.clone()),
        ("topP", all.top_p.clone()),
        ("stopSequences", (!all.stop.is_empty()).then(|| json!(all.stop))),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name.to_owned(), value?)))
    .collect();
    if !inference.is_empty() {
        body.insert("inferenceConfig".to_owned(), inference.into());
    }
    if let Some(tools) = tools(all, to)? {
        body.insert("toolConfig".to_owned(), tools);
    }
    match &all.format {
        None => {}
        Some(Format::Json) => return Err(to.cannot("response_format.type: json_object")),
        Some(Format::Schema { name, schema }) => {
            let structure = json!({"jsonSchema": {"name": name, "schema": schema.to_string()}});
            body.insert("outputConfig".to_owned(), json!({"textFormat": {"type": "json_schema", "structure": structure}}));
        }
    }
    // Of all the models there, Claude alone knows the word.
    if let Some(budget) = all.thinking.filter(|_| to.model.contains("anthropic.")) {
        let own = json!({"thinking": {"type": "enabled", "budget_tokens": budget}});
        body.insert("additionalModelRequestFields".to_owned(), own);
    }
    Ok(body.into())
}

fn tools(all: &Conversation, to: &To<'_>) -> Result<Option<Value>, String> {
    let has_calls =
        all.messages.iter().flat_map(|message| &message.parts).any(|part| matches!(part, Part::Call(_) | Part::Result(_)));
    let choice = match &all.choice {
        _ if all.tools.is_empty() => return Ok(None),
        // A tool that is not told of is not called; but what was called before has to be told of.
        Some(Choice::None) if has_calls => return Err(to.cannot("tool_choice: none")),
        Some(Choice::None) => return Ok(None),
        None => None,
        Some(Choice::Auto) => Some(json!({"auto": {}})),
        Some(Choice::Any) => Some(json!({"any": {}})),
        Some(Choice::Named(name)) => Some(json!({"tool": {"name": name}})),
    };
    let specs: Vec<Value> = all
        .tools
        .iter()
        .map(|tool| {
            let mut spec = json!({"name": tool.name, "inputSchema": {"json": tool.parameters}});
            if let Some(description) = tool.description.as_ref().filter(|text| !text.is_empty()) {
                spec["description"] = description.as_str().into();
            }
            json!({"toolSpec": spec})
        })
        .collect();
    let mut config = json!({"tools": specs});
    if let Some(choice) = choice {
        config["toolChoice"] = choice;
    }
    Ok(Some(config))
}

fn write_message(message: &Message, to: &To<'_>) -> Result<Value, String> {
    let mut content = Vec::new();
    for part in &message.parts {
        content.extend(block(part, to)?);
    }
    let role = if message.role == Role::User { "user" } else { "assistant" };
    Ok(json!({"role": role, "content": content}))
}

fn block(part: &Part, to: &To<'_>) -> Result<Option<Value>, String> {
    Ok(Some(match part {
        Part::Text(text) => json!({"text": text}),
        Part::Picture(Picture::Inline(kind, data)) => {
            let format = kind.strip_prefix("image/").map(|format| if format == "jpg" { "jpeg" } else { format });
            let format = format.ok_or_else(|| to.cannot(&format!("a picture of type {kind}")))?;
            json!({"image": {"format": format, "source": {"bytes": data}}})
        }
        Part::Picture(Picture::Address(_)) => return Err(to.cannot("a picture by its address")),
        Part::Call(call) => json!({"toolUse": {"toolUseId": known_id(&call.id), "name": call.name, "input": call.object()}}),
        Part::Result(result) => {
            let mut content = Vec::new();
            for part in &result.parts {
                content.extend(block(part, to)?);
            }
            if content.is_empty() {
                content.push(json!({"text": NOTHING}));
            }
            let mut own = json!({"toolUseId": known_id(&result.id), "content": content});
            // Not every model there knows it.
            if result.failed {
                own["status"] = "error".into();
            }
            json!({"toolResult": own})
        }
        Part::Thought(Thought::Shown(text, Some(by))) => {
            json!({"reasoningContent": {"reasoningText": {"text": text, "signature": by}}})
        }
        Part::Thought(Thought::Hidden(data)) => json!({"reasoningContent": {"redactedContent": data}}),
        Part::Thought(Thought::Shown(_, None)) => return Ok(None),
    }))
}

/// Bedrock counts what is cached beside the input.
fn counted(usage: &Value) -> Option<Usage> {
    let number = |name: &str| usage[name].as_u64().unwrap_or(0);
    usage.as_object()?;
    let (cached, cache_write) = (number("cacheReadInputTokens"), number("cacheWriteInputTokens"));
    Some(Usage {
        input: number("inputTokens").saturating_add(cached).saturating_add(cache_write),
        cached_input: cached,
        cache_write,
        output: number("outputTokens"),
        reasoning: 0,
    })
}

fn finish(reason: &str) -> Event {
    Event::Finish(match reason {
        "max_tokens" | "model_context_window_exceeded" => Finish::Length,
        "stop_sequence" => Finish::StopAt(None),
        "tool_use" => Finish::Calls,
        "guardrail_intervened" | "content_filtered" => Finish::Filter,
        "end_turn" => Finish::Stop,
        // Nothing of it can be gone on with.
        other => return Event::Failed(format!("the model's answer ended with {other}")),
    })
}

/// Reads an answer.
#[derive(Debug, Default)]
pub struct Reader {
    /// A tool call whose arguments have not come.
    empty_call: bool,
    /// The answer is of no use; what it has cost is yet to be told.
    failed: Option<Event>,
}

impl Reader {
    fn thought(reasoning: &Value, out: &mut Vec<Event>) {
        let text = |name: &str| reasoning[name].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        out.extend(text("text").map(Event::Thought));
        out.extend(text("signature").map(Event::Signed));
        out.extend(text("redactedContent").map(Event::Hidden));
    }

    fn call(tool: &Value, out: &mut Vec<Event>) {
        let text = |name: &str| tool[name].as_str().unwrap_or_default().to_owned();
        out.push(Event::Call(Call { id: text("toolUseId"), name: text("name"), ..Call::default() }));
    }
}

impl Reads for Reader {
    fn event(&mut self, name: &str, event: &Value, out: &mut Vec<Event>) {
        match name {
            "messageStart" => out.push(Event::Start { id: None, model: None, usage: None }),
            "contentBlockStart" => {
                let tool = &event["start"]["toolUse"];
                if tool.is_object() {
                    self.empty_call = true;
                    Self::call(tool, out);
                }
            }
            "contentBlockDelta" => {
                let delta = &event["delta"];
                out.extend(delta["text"].as_str().map(|text| Event::Text(text.to_owned())));
                if let Some(more) = delta["toolUse"]["input"].as_str().filter(|more| !more.is_empty()) {
                    self.empty_call = false;
                    out.push(Event::Arguments(more.to_owned()));
                }
                Self::thought(&delta["reasoningContent"], out);
            }
            "contentBlockStop" => {
                if std::mem::take(&mut self.empty_call) {
                    out.push(Event::Arguments("{}".to_owned()));
                }
            }
            "messageStop" => match event["stopReason"].as_str().map(finish) {
                Some(failed @ Event::Failed(_)) => self.failed = Some(failed),
                finish => out.extend(finish),
            },
            "metadata" => {
                out.extend(counted(&event["usage"]).map(Event::Usage));
                out.extend(self.failed.take());
                out.push(Event::Done);
            }
            _ if name.ends_with("Exception") => {
                let words =
                    event["message"].as_str().or_else(|| event["originalMessage"].as_str()).unwrap_or("it does not say what");
                out.push(Event::Failed(format!("{name}: {words}")));
            }
            _ => {}
        }
    }

    fn whole(&mut self, answer: &Value, out: &mut Vec<Event>) -> Result<(), &'static str> {
        let Some(blocks) = answer["output"]["message"]["content"].as_array() else {
            return Err("the provider's answer has no message");
        };
        out.push(Event::Start { id: None, model: None, usage: None });
        out.extend(counted(&answer["usage"]).map(Event::Usage));
        for block in blocks {
            out.extend(block["text"].as_str().map(|text| Event::Text(text.to_owned())));
            let tool = &block["toolUse"];
            if tool.is_object() {
                Self::call(tool, out);
                out.push(Event::Arguments(if tool["input"].is_object() { tool["input"].to_string() } else { "{}".to_owned() }));
            }
            let reasoning = &block["reasoningContent"];
            Self::thought(&reasoning["reasoningText"], out);
            Self::thought(reasoning, out);
        }
        out.extend(answer["stopReason"].as_str().map(finish));
        Ok(())
    }
}
