//! Anthropic's messages.

use std::{borrow::Cow, collections::BTreeMap};

use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tollgate_domain::llm_price::Usage;

use super::dialect::{Offered, Passage, Read, ToolResult, ToolUse};

pub fn tool(tool: &Offered) -> Value {
    json!({"name": tool.name, "description": tool.description, "input_schema": tool.parameters})
}

/// Anthropic counts what is cached beside the input; here it is among it. Every message costs something: of one that costs nothing, nobody has
/// counted.
pub fn usage(usage: &Value) -> Option<Usage> {
    let number = |name: &str| usage[name].as_u64().unwrap_or(0);
    usage.as_object()?;
    let (cached, cache_write) = (number("cache_read_input_tokens"), number("cache_creation_input_tokens"));
    let usage = Usage {
        input: number("input_tokens").saturating_add(cached).saturating_add(cache_write),
        cached_input: cached,
        cache_write,
        output: number("output_tokens"),
        // Told by this door alone, of providers that count it.
        reasoning: usage["output_tokens_details"]["reasoning_tokens"].as_u64().unwrap_or(0),
    };
    if usage.input > 0 || usage.output > 0 { usage.believable() } else { None }
}

pub fn read(answer: &Value) -> Read {
    let blocks = answer["content"].as_array().into_iter().flatten();
    Read {
        usage: usage(&answer["usage"]),
        model: answer["model"].as_str().map(str::to_owned),
        finish_reason: answer["stop_reason"].as_str().map(str::to_owned),
        calls: blocks.filter_map(tool_use).collect(),
    }
}

/// A tool call as it stands among the blocks of a message.
pub fn tool_use(block: &Value) -> Option<ToolUse> {
    if block["type"] != "tool_use" {
        return None;
    }
    let arguments = if block["input"].is_null() { "{}".to_owned() } else { block["input"].to_string() };
    Some(ToolUse { id: block["id"].as_str()?.to_owned(), name: block["name"].as_str()?.to_owned(), arguments })
}

pub fn result(result: &ToolResult) -> Value {
    let mut block = json!({"type": "tool_result", "tool_use_id": result.id, "content": result.text});
    if result.failed {
        block["is_error"] = true.into();
    }
    block
}

pub fn go_on(body: &mut Map<String, Value>, answer: &Value, results: &[ToolResult]) {
    let Some(Value::Array(messages)) = body.get_mut("messages") else { return };
    messages.push(json!({"role": "assistant", "content": answer["content"]}));
    let results: Vec<Value> = results.iter().map(result).collect();
    messages.push(json!({"role": "user", "content": results}));
    // A tool that the caller forces the model to call would be forced for ever.
    if let Some(choice) = body.get_mut("tool_choice").filter(|choice| matches!(choice["type"].as_str(), Some("any" | "tool"))) {
        choice["type"] = "auto".into();
        choice.as_object_mut().map(|choice| choice.remove("name"));
    }
}

pub fn error_type(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        400..=499 => "invalid_request_error",
        503 | 529 => "overloaded_error",
        _ => "api_error",
    }
}

/// Puts a streamed answer together.
#[derive(Debug, Default)]
pub struct Streamed {
    message: Map<String, Value>,
    usage: Map<String, Value>,
    blocks: BTreeMap<u64, Block>,
    /// Bytes of content that came.
    pub bytes: usize,
    ended: bool,
    /// What the provider says went wrong.
    pub error: Option<String>,
}

#[derive(Debug, Default)]
struct Block {
    block: Map<String, Value>,
    /// The arguments of a tool call, bit by bit.
    json: String,
}

impl Block {
    fn passage(&self) -> Passage {
        if self.block.get("type").is_some_and(|kind| kind == "tool_use") { Passage::Tool } else { Passage::On }
    }
}

/// An event that has a piece of text and nothing else.
#[derive(Deserialize)]
struct Piece<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    index: u64,
    #[serde(borrow)]
    delta: Text<'a>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Text<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    text: Cow<'a, str>,
}

impl Streamed {
    /// Take in one event. Without `keep` nothing of its content is kept.
    pub fn push(&mut self, data: &str, keep: bool) -> Passage {
        if let Some(passage) = self.push_text(data, keep) {
            return passage;
        }
        let Ok(Value::Object(mut event)) = serde_json::from_str::<Value>(data) else { return Passage::On };
        let index = event.get("index").and_then(Value::as_u64).unwrap_or(0);
        let mut object = |name: &str| match event.remove(name) {
            Some(Value::Object(fields)) => fields,
            _ => Map::new(),
        };
        let (mut message, block, delta, usage) = (object("message"), object("content_block"), object("delta"), object("usage"));
        match event.get("type").and_then(Value::as_str).unwrap_or_default() {
            "message_start" => {
                if let Some(Value::Object(usage)) = message.remove("usage") {
                    self.usage = usage;
                }
                self.message = message;
                Passage::On
            }
            "content_block_start" => {
                let block = Block { block, json: String::new() };
                let passage = block.passage();
                if keep {
                    self.blocks.insert(index, block);
                }
                passage
            }
            "content_block_delta" => self.delta(index, &delta, keep),
            "content_block_stop" => {
                let Some(block) = self.blocks.get_mut(&index) else { return Passage::On };
                if !block.json.is_empty() {
                    let json = std::mem::take(&mut block.json);
                    // What does not parse is the model's mistake, and the tool call says so.
                    let input = serde_json::from_str(&json).unwrap_or_else(|_| Value::String(json));
                    block.block.insert("input".to_owned(), input);
                }
                block.passage()
            }
            "message_delta" => {
                self.message.extend(delta);
                self.usage.extend(usage);
                Passage::End
            }
            "message_stop" => {
                self.ended = true;
                Passage::End
            }
            "error" => {
                self.error = Some(super::dialect::words_of(event.get("error").unwrap_or(&Value::Null)));
                Passage::Dropped
            }
            _ => Passage::On,
        }
    }

    /// Take in an event that has a piece of text and nothing else: almost all have, and need no tree of what they say.
    fn push_text(&mut self, data: &str, keep: bool) -> Option<Passage> {
        let Piece { kind: "content_block_delta", index, delta: Text { kind: "text_delta", text } } =
            serde_json::from_str(data).ok()?
        else {
            return None;
        };
        let block = self.blocks.get_mut(&index)?;
        let Value::String(all) = block.block.get_mut("text")? else { return None };
        if keep {
            all.push_str(&text);
        }
        self.bytes += text.len();
        Some(block.passage())
    }

    fn delta(&mut self, index: u64, delta: &Map<String, Value>, keep: bool) -> Passage {
        let field = |name: &str| delta.get(name).and_then(Value::as_str).unwrap_or_default();
        let kind = field("type");
        let name = match kind {
            "text_delta" => "text",
            "thinking_delta" => "thinking",
            "signature_delta" => "signature",
            "input_json_delta" => "partial_json",
            _ => "",
        };
        self.bytes += field(name).len();
        let Some(block) = self.blocks.get_mut(&index) else { return Passage::On };
        match (kind, keep) {
            (_, false) => {}
            ("input_json_delta", true) => block.json.push_str(field(name)),
            ("citations_delta", true) => {
                let citation = delta.get("citation").cloned().unwrap_or_default();
                match block.block.get_mut("citations") {
                    Some(Value::Array(all)) => all.push(citation),
                    _ => drop(block.block.insert("citations".to_owned(), json!([citation]))),
                }
            }
            (_, true) if !name.is_empty() => match block.block.get_mut(name) {
                Some(Value::String(all)) => all.push_str(field(name)),
                _ => drop(block.block.insert(name.to_owned(), field(name).into())),
            },
            _ => {}
        }
        block.passage()
    }

    #[must_use]
    pub const fn ended(&self) -> bool {
        self.ended
    }

    /// What is known so far; of the output only once the answer has ended, because before that it is not yet the count of it.
    #[must_use]
    pub fn usage(&self) -> Option<Usage> {
        if !self.message.get("stop_reason").is_some_and(Value::is_string) {
            return None;
        }
        usage(&Value::Object(self.usage.clone()))
    }

    /// The input, which the provider counts at the beginning.
    #[must_use]
    pub fn input(&self) -> Option<Usage> {
        let usage = usage(&Value::Object(self.usage.clone())).filter(|usage| usage.input > 0)?;
        Some(Usage { output: 0, ..usage })
    }

    /// The answer as it would have come at once.
    #[must_use]
    pub fn answer(&self) -> Value {
        if self.message.is_empty() {
            return Value::Null;
        }
        let mut answer = self.message.clone();
        answer.insert("content".to_owned(), self.blocks.values().map(|block| Value::Object(block.block.clone())).collect());
        answer.insert("usage".to_owned(), self.usage.clone().into());
        answer.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_streamed_answer_is_the_one_that_would_have_come_at_once() {
        let mut streamed = Streamed::default();
        let events = [
            (
                json!({"type": "message_start", "message": {"id": "m1", "role": "assistant", "model": "c", "content": [], "stop_reason": null,
                "usage": {"input_tokens": 5, "cache_read_input_tokens": 2, "output_tokens": 1}}}),
                Passage::On,
            ),
            (json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}), Passage::On),
            (json!({"type": "ping"}), Passage::On),
            (json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}}), Passage::On),
            (json!({"type": "content_block_stop", "index": 0}), Passage::On),
            (
                json!({"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "id": "t1", "name": "crm__find", "input": {}}}),
                Passage::Tool,
            ),
            (
                json!({"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": "{\"a\""}}),
                Passage::Tool,
            ),
            (
                json!({"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": ":1}"}}),
                Passage::Tool,
            ),
            (json!({"type": "content_block_stop", "index": 1}), Passage::Tool),
            (json!({"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 9}}), Passage::End),
            (json!({"type": "message_stop"}), Passage::End),
        ];
        assert_eq!(streamed.usage(), None);
        for (event, passage) in events {
            assert_eq!(streamed.push(&event.to_string(), true), passage, "{event}");
        }
        assert!(streamed.ended());
        let answer = streamed.answer();
        assert_eq!(answer["content"][0]["text"], "Hi");
        let piece = |index: u64, kind: &str| {
            json!({"type": "content_block_delta", "index": index, "delta": {"type": kind, "text": " \"x\"\n"}}).to_string()
        };
        let bytes = streamed.bytes;
        assert_eq!(streamed.push_text(&piece(0, "text_delta"), true), Some(Passage::On));
        assert_eq!((streamed.answer()["content"][0]["text"].as_str(), streamed.bytes - bytes), (Some("Hi \"x\"\n"), 5));
        for (index, kind) in [(0, "thinking_delta"), (1, "text_delta"), (7, "text_delta")] {
            assert_eq!(streamed.push_text(&piece(index, kind), true), None, "{index} {kind}");
        }
        let read = read(&answer);
        assert_eq!(read.calls, [ToolUse { id: "t1".into(), name: "crm__find".into(), arguments: "{\"a\":1}".into() }]);
        assert_eq!(read.usage, Some(Usage { input: 7, cached_input: 2, output: 9, ..Usage::default() }));
        assert_eq!(read.finish_reason.as_deref(), Some("tool_use"));
        for odd in [
            r#"{"type":"message_start","message":"x"}"#,
            r#"{"type":"content_block_start","content_block":"x"}"#,
            "7",
            r#"{"type":"content_block_delta","index":9,"delta":3}"#,
        ] {
            let mut streamed = Streamed::default();
            streamed.push(odd, true);
            let _ = streamed.answer();
        }
        let mut failed = Streamed::default();
        failed.push(r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#, true);
        assert_eq!(failed.error.as_deref(), Some("Overloaded"));
    }
}
