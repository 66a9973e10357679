//! Chat completions.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use serde_json::{Map, Value, json};
use tollgate_domain::llm_price::Usage;

use super::dialect::{Offered, Passage, Read, ToolResult, ToolUse};

pub fn tool(tool: &Offered) -> Value {
    json!({"type": "function", "function": {"name": tool.name, "description": tool.description, "parameters": tool.parameters}})
}

pub fn usage(usage: &Value) -> Option<Usage> {
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    usage.as_object()?;
    Some(Usage {
        input: number(&usage["prompt_tokens"]),
        cached_input: number(&usage["prompt_tokens_details"]["cached_tokens"]),
        cache_write: 0,
        output: number(&usage["completion_tokens"]),
        reasoning: number(&usage["completion_tokens_details"]["reasoning_tokens"]),
    })
}

pub fn read(answer: &Value) -> Read {
    let choice = &answer["choices"][0];
    let calls = choice["message"]["tool_calls"].as_array().into_iter().flatten();
    Read {
        usage: usage(&answer["usage"]),
        finish_reason: choice["finish_reason"].as_str().map(str::to_owned),
        calls: calls.filter_map(tool_use).collect(),
    }
}

/// A tool call as it stands in a message.
pub fn tool_use(call: &Value) -> Option<ToolUse> {
    Some(ToolUse {
        id: call["id"].as_str()?.to_owned(),
        name: call["function"]["name"].as_str()?.to_owned(),
        arguments: call["function"]["arguments"].as_str().filter(|text| !text.is_empty()).unwrap_or("{}").to_owned(),
    })
}

pub fn result(result: &ToolResult) -> Value {
    json!({"role": "tool", "tool_call_id": result.id, "content": result.text})
}

pub fn go_on(body: &mut Map<String, Value>, answer: &Value, results: &[ToolResult]) {
    let Some(Value::Array(messages)) = body.get_mut("messages") else { return };
    messages.push(answer["choices"][0]["message"].clone());
    messages.extend(results.iter().map(result));
    // A tool that the caller forces the model to call would be forced for ever.
    if body.get("tool_choice").is_some_and(|choice| choice != "none") {
        body.insert("tool_choice".to_owned(), "auto".into());
    }
}

pub fn error_type(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 => "authentication_error",
        403 => "permission_error",
        402 => "insufficient_quota",
        429 => "rate_limit_error",
        400..=499 => "invalid_request_error",
        _ => "api_error",
    }
}

/// Puts a streamed answer together.
#[derive(Debug, Default)]
pub struct Streamed {
    head: Map<String, Value>,
    choices: BTreeMap<u64, Choice>,
    usage: Option<Usage>,
    usage_text: Value,
    /// Bytes of content that came.
    pub bytes: usize,
    ended: bool,
}

#[derive(Debug, Default)]
struct Choice {
    message: Map<String, Value>,
    calls: BTreeMap<u64, Value>,
    finish_reason: Option<String>,
}

impl Streamed {
    /// Take in one event; `own_usage` if the caller has asked for the count of tokens.
    pub fn push(&mut self, data: &str, own_usage: bool) -> Passage {
        if data.trim() == "[DONE]" {
            self.ended = true;
            return Passage::End;
        }
        let Ok(mut chunk) = serde_json::from_str::<Value>(data) else { return Passage::On };
        if self.head.is_empty() {
            let fields =
                chunk.as_object().into_iter().flatten().filter(|(name, _)| !["choices", "usage"].contains(&name.as_str()));
            self.head = fields.map(|(name, value)| (name.clone(), value.clone())).collect();
        }
        if let Some(usage) = usage(&chunk["usage"]) {
            self.usage = Some(usage);
            self.usage_text = chunk["usage"].take();
        }
        let choices = chunk["choices"].as_array_mut();
        if choices.as_ref().is_none_or(|choices| choices.is_empty()) && self.usage.is_some() {
            return if own_usage { Passage::End } else { Passage::Dropped };
        }
        let passages: Vec<Passage> = choices.into_iter().flatten().map(|choice| self.take(choice)).collect();
        let is = |passage| passages.contains(&passage);
        match (is(Passage::Tool), is(Passage::End)) {
            (true, _) => Passage::Tool,
            (false, true) => Passage::End,
            (false, false) => Passage::On,
        }
    }

    fn take(&mut self, choice: &mut Value) -> Passage {
        let into = self.choices.entry(choice["index"].as_u64().unwrap_or(0)).or_default();
        if let Some(reason) = choice["finish_reason"].as_str() {
            into.finish_reason = Some(reason.to_owned());
        }
        let mut passage = if choice["finish_reason"].is_string() { Passage::End } else { Passage::On };
        let Some(delta) = choice["delta"].as_object_mut() else { return passage };
        for (name, value) in std::mem::take(delta) {
            match (name.as_str(), value) {
                (_, Value::Null) => {}
                ("tool_calls", Value::Array(calls)) => {
                    passage = Passage::Tool;
                    for call in calls {
                        self.bytes += call["function"]["arguments"].as_str().map_or(0, str::len);
                        let at = call["index"].as_u64().unwrap_or(0);
                        add_call(into.calls.entry(at).or_insert_with(|| json!({})), call);
                    }
                }
                ("role", value) => drop(into.message.insert(name, value)),
                (_, Value::String(text)) => {
                    self.bytes += text.len();
                    match into.message.get_mut(&name) {
                        Some(Value::String(all)) => all.push_str(&text),
                        _ => drop(into.message.insert(name, text.into())),
                    }
                }
                (_, Value::Array(more)) => match into.message.get_mut(&name) {
                    Some(Value::Array(all)) => all.extend(more),
                    _ => drop(into.message.insert(name, more.into())),
                },
                (_, value) => drop(into.message.insert(name, value)),
            }
        }
        passage
    }

    #[must_use]
    pub const fn ended(&self) -> bool {
        self.ended
    }

    #[must_use]
    pub fn usage(&self) -> Option<Usage> {
        self.usage
    }

    /// The answer as it would have come at once.
    #[must_use]
    pub fn answer(&self) -> Value {
        let mut answer = self.head.clone();
        answer.insert("object".to_owned(), "chat.completion".into());
        let choices = self.choices.iter().map(|(index, choice)| {
            let mut message = choice.message.clone();
            message.entry("role").or_insert_with(|| "assistant".into());
            message.entry("content").or_insert(Value::Null);
            if !choice.calls.is_empty() {
                message.insert("tool_calls".to_owned(), choice.calls.values().cloned().collect());
            }
            json!({"index": index, "message": message, "finish_reason": choice.finish_reason})
        });
        answer.insert("choices".to_owned(), choices.collect());
        if !self.usage_text.is_null() {
            answer.insert("usage".to_owned(), self.usage_text.clone());
        }
        answer.into()
    }
}

/// A piece of a tool call: names and ids come whole, arguments bit by bit.
fn add_call(into: &mut Value, piece: Value) {
    let Value::Object(piece) = piece else { return };
    for (name, value) in piece {
        match (name.as_str(), value) {
            ("index", _) | (_, Value::Null) => {}
            ("function", Value::Object(function)) => {
                for (name, value) in function {
                    let there = &mut into["function"][&name];
                    match (there.is_string(), value) {
                        (true, Value::String(more)) => *there = format!("{}{more}", there.as_str().unwrap_or_default()).into(),
                        (_, Value::Null) => {}
                        (_, value) => *there = value,
                    }
                }
            }
            (_, value) => into[&name] = value,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_streamed_answer_is_the_one_that_would_have_come_at_once() {
        let mut streamed = Streamed::default();
        let chunk = |delta: Value, finish: Value| {
            json!({"id": "c1", "model": "m", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})
                .to_string()
        };
        assert_eq!(streamed.push(&chunk(json!({"role": "assistant", "content": ""}), Value::Null), false), Passage::On);
        assert_eq!(streamed.push(&chunk(json!({"content": "Hel"}), Value::Null), false), Passage::On);
        assert_eq!(streamed.push(&chunk(json!({"content": "lo"}), Value::Null), false), Passage::On);
        let first = json!({"tool_calls": [{"index": 0, "id": "t1", "type": "function", "function": {"name": "crm__find", "arguments": ""}}]});
        assert_eq!(streamed.push(&chunk(first, Value::Null), false), Passage::Tool);
        for piece in ["{\"a\":", "1}"] {
            let more = json!({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]});
            assert_eq!(streamed.push(&chunk(more, Value::Null), false), Passage::Tool);
        }
        assert_eq!(streamed.push(&chunk(json!({}), "tool_calls".into()), false), Passage::End);
        let usage = json!({"id": "c1", "choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10,
            "prompt_tokens_details": {"cached_tokens": 2}}});
        assert_eq!(streamed.push(&usage.to_string(), false), Passage::Dropped);
        assert_eq!(streamed.push("[DONE]", false), Passage::End);
        assert!(streamed.ended());
        let answer = streamed.answer();
        assert_eq!(answer["choices"][0]["message"]["content"], "Hello");
        let read = read(&answer);
        assert_eq!(read.finish_reason.as_deref(), Some("tool_calls"));
        assert_eq!(read.calls, [ToolUse { id: "t1".into(), name: "crm__find".into(), arguments: "{\"a\":1}".into() }]);
        assert_eq!(read.usage, Some(Usage { input: 7, cached_input: 2, output: 3, ..Usage::default() }));
        assert_eq!(streamed.bytes, "Hello".len() + "{\"a\":1}".len());
    }

    #[test]
    fn a_turn_goes_on_behind_the_answer_and_nothing_before_it_changes() {
        let mut body =
            json!({"messages": [{"role": "user", "content": "x"}], "tool_choice": "required"}).as_object().cloned().unwrap();
        let answer = json!({"choices": [{"message": {"role": "assistant", "content": null, "tool_calls": [], "odd": 1}}]});
        let results = [ToolResult { id: "t1".into(), name: "n".into(), text: "7".into(), failed: false }];
        go_on(&mut body, &answer, &results);
        assert_eq!(
            Value::from(body),
            json!({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": null, "tool_calls": [], "odd": 1},
                {"role": "tool", "tool_call_id": "t1", "content": "7"}], "tool_choice": "auto"})
        );
    }
}
