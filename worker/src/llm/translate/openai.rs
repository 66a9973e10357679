//! Providers that speak OpenAI's chat completions.

use serde_json::{Map, Value, json};

use super::{
    Reads, To, minted,
    neutral::{Call, Choice, Conversation, Event, Finish, Format, Message, Outcome, Part, Picture, Role},
};
use crate::llm::{
    chat::{arguments, usage},
    dialect::Dialect,
};

/// # Errors
/// A sentence that names what cannot be said.
pub fn write(all: &Conversation, to: &To<'_>) -> Result<Value, String> {
    let mut messages: Vec<Value> = all.system().map(|text| json!({"role": "system", "content": text})).into_iter().collect();
    for message in &all.messages {
        write_message(message, to, &mut messages)?;
    }
    let mut body = Map::new();
    body.insert("model".to_owned(), to.model.into());
    body.insert("messages".to_owned(), messages.into());
    let tools: Vec<Value> = all
        .tools
        .iter()
        .map(|tool| {
            let mut function = json!({"name": tool.name, "parameters": tool.parameters});
            if let Some(description) = &tool.description {
                function["description"] = description.as_str().into();
            }
            json!({"type": "function", "function": function})
        })
        .collect();
    let choice = all.choice.as_ref().map(|choice| match choice {
        Choice::None => json!("none"),
        Choice::Auto => json!("auto"),
        Choice::Any => json!("required"),
        Choice::Named(name) => json!({"type": "function", "function": {"name": name}}),
    });
    let format = all.format.as_ref().map(|format| match format {
        Format::Json => json!({"type": "json_object"}),
        Format::Schema { name, schema } => {
            json!({"type": "json_schema", "json_schema": {"name": name, "schema": schema, "strict": true}})
        }
    });
    let has_tools = !tools.is_empty();
    for (name, value) in [
        ("tools", has_tools.then(|| tools.into())),
        ("tool_choice", choice.filter(|_| has_tools)),
        ("parallel_tool_calls", (all.one_call && has_tools).then(|| false.into())),
        ("response_format", format),
        ("temperature", all.temperature.clone()),
        ("top_p", all.top_p.clone()),
        ("stop", (!all.stop.is_empty()).then(|| json!(all.stop))),
        ("stream", all.stream.then(|| true.into())),
        ("stream_options", all.stream.then(|| json!({"include_usage": true}))),
    ] {
        if let Some(value) = value {
            body.insert(name.to_owned(), value);
        }
    }
    if let Some(tokens) = all.max_tokens {
        Dialect::Chat.limit_output(&mut body, tokens, to.base);
    }
    Ok(body.into())
}

fn write_message(message: &Message, to: &To<'_>, out: &mut Vec<Value>) -> Result<(), String> {
    let (mut said, mut calls) = (Vec::new(), Vec::new());
    for part in &message.parts {
        match part {
            Part::Text(text) => said.push(json!({"type": "text", "text": text})),
            Part::Picture(Picture::Address(url)) => said.push(json!({"type": "image_url", "image_url": {"url": url}})),
            Part::Picture(Picture::Inline(kind, data)) => {
                said.push(json!({"type": "image_url", "image_url": {"url": format!("data:{kind};base64,{data}")}}));
            }
            Part::Call(Call { id, name, arguments, .. }) => {
                calls.push(json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}));
            }
            // Results stand before what the user says beside them, as they do here.
            Part::Result(result) => out.push(write_result(result, to)?),
            // It would have to be the provider's own.
            Part::Thought(_) => {}
        }
    }
    let is_text = said.iter().all(|part| part["type"] == "text");
    let content = match (message.role, is_text) {
        _ if said.is_empty() => Value::Null,
        // Texts of one message, which some servers read as one text alone.
        (Role::Assistant, true) => said.iter().filter_map(|part| part["text"].as_str()).collect::<String>().into(),
        (Role::User, true) if said.len() == 1 => said[0]["text"].clone(),
        _ => said.into(),
    };
    match message.role {
        Role::User if content.is_null() => {}
        Role::User => out.push(json!({"role": "user", "content": content})),
        Role::Assistant if calls.is_empty() && content.is_null() => {}
        Role::Assistant if calls.is_empty() => out.push(json!({"role": "assistant", "content": content})),
        Role::Assistant => out.push(json!({"role": "assistant", "content": content, "tool_calls": calls})),
    }
    Ok(())
}

fn write_result(result: &Outcome, to: &To<'_>) -> Result<Value, String> {
    if result.has_pictures() {
        return Err(to.cannot("a picture in a tool_result"));
    }
    Ok(json!({"role": "tool", "tool_call_id": result.id, "content": result.text()}))
}

/// Reads an answer.
#[derive(Debug, Default)]
pub struct Reader {
    begun: bool,
    /// Place and id of the tool call whose arguments come.
    call: Option<(u64, String)>,
    calls: u64,
}

impl Reader {
    fn start(&mut self, answer: &Value, out: &mut Vec<Event>) {
        if !std::mem::replace(&mut self.begun, true) {
            let text = |name: &str| answer[name].as_str().map(str::to_owned);
            out.push(Event::Start { id: text("id"), model: text("model"), usage: None });
        }
    }

    /// A message, or a piece of one.
    fn said(&mut self, message: &Value, out: &mut Vec<Event>) {
        let text = |name: &str| message[name].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        out.extend(text("reasoning_content").or_else(|| text("reasoning")).map(Event::Thought));
        out.extend(text("content").map(Event::Text));
        out.extend(text("refusal").map(Event::Text));
        for call in message["tool_calls"].as_array().into_iter().flatten() {
            self.called(call, out);
        }
    }

    fn called(&mut self, call: &Value, out: &mut Vec<Event>) {
        let function = &call["function"];
        let more = match &function["arguments"] {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            whole => arguments(whole),
        };
        let index = call["index"].as_u64();
        let id = call["id"].as_str().filter(|id| !id.is_empty());
        let goes_on =
            self.call.as_ref().is_some_and(|(at, own)| index.is_none_or(|index| index == *at) && id.is_none_or(|id| id == own));
        match (goes_on, function["name"].as_str().filter(|name| !name.is_empty())) {
            // Some say name and id with every piece, others not even the place.
            (true, _) if index.is_some() => out.push(Event::Arguments(more)),
            (true, None) => out.push(Event::Arguments(more)),
            (_, Some(name)) => {
                let id = id.map_or_else(|| format!("call_{}", minted()), str::to_owned);
                self.call = Some((index.unwrap_or(self.calls), id.clone()));
                self.calls += 1;
                out.push(Event::Call(Call { id, name: name.to_owned(), arguments: String::new(), signature: None }));
                if !more.is_empty() {
                    out.push(Event::Arguments(more));
                }
            }
            _ => out.push(Event::Failed("its tool calls come in pieces that nobody can tell apart".to_owned())),
        }
    }

    fn ended(answer: &Value, choice: &Value, out: &mut Vec<Event>) {
        out.extend(choice["finish_reason"].as_str().map(|reason| {
            Event::Finish(match reason {
                "length" => Finish::Length,
                "tool_calls" | "function_call" => Finish::Calls,
                "content_filter" => Finish::Filter,
                _ => Finish::Stop,
            })
        }));
        out.extend(usage(&answer["usage"]).map(Event::Usage));
    }
}

impl Reads for Reader {
    fn event(&mut self, _: &str, chunk: &Value, out: &mut Vec<Event>) {
        if !chunk["error"].is_null() {
            return out.push(Event::Failed(crate::llm::dialect::words_of(&chunk["error"])));
        }
        self.start(chunk, out);
        let choices = chunk["choices"].as_array().into_iter().flatten();
        let first = choices.filter(|choice| choice["index"].as_u64().unwrap_or(0) == 0);
        for choice in first {
            self.said(&choice["delta"], out);
            Self::ended(&Value::Null, choice, out);
        }
        Self::ended(chunk, &Value::Null, out);
    }

    fn whole(&mut self, answer: &Value, out: &mut Vec<Event>) -> Result<(), &'static str> {
        let choice = &answer["choices"][0];
        if !choice["message"].is_object() {
            return Err("the provider's answer has no choices");
        }
        self.start(answer, out);
        self.said(&choice["message"], out);
        Self::ended(answer, choice, out);
        Ok(())
    }
}
