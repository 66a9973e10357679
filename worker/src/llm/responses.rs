//! OpenAI's responses.

use serde_json::{Map, Value, json};
use tollgate_domain::llm_price::Usage;

use super::dialect::{Offered, Passage, Read, ToolResult, ToolUse};

pub fn tool(tool: &Offered) -> Value {
    json!({"type": "function", "name": tool.name, "description": tool.description, "parameters": tool.parameters, "strict": false})
}

pub fn usage(usage: &Value) -> Option<Usage> {
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    usage.as_object()?;
    let usage = Usage {
        input: number(&usage["input_tokens"]),
        cached_input: number(&usage["input_tokens_details"]["cached_tokens"]),
        cache_write: 0,
        output: number(&usage["output_tokens"]),
        reasoning: number(&usage["output_tokens_details"]["reasoning_tokens"]),
    };
    usage.believable()
}

pub fn read(answer: &Value) -> Read {
    let items = answer["output"].as_array().into_iter().flatten();
    Read {
        usage: usage(&answer["usage"]),
        model: answer["model"].as_str().map(str::to_owned),
        finish_reason: answer["status"].as_str().map(str::to_owned),
        calls: items.filter_map(tool_use).collect(),
    }
}

/// A tool call as it stands among the items of an answer.
pub fn tool_use(item: &Value) -> Option<ToolUse> {
    if item["type"] != "function_call" {
        return None;
    }
    Some(ToolUse {
        id: item["call_id"].as_str()?.to_owned(),
        name: item["name"].as_str()?.to_owned(),
        arguments: super::chat::arguments(&item["arguments"]),
    })
}

pub fn result(result: &ToolResult) -> Value {
    json!({"type": "function_call_output", "call_id": result.id, "output": result.text})
}

pub fn go_on(body: &mut Map<String, Value>, answer: &Value, results: &[ToolResult]) {
    let input = body.entry("input").or_insert_with(|| json!([]));
    if let Value::String(text) = input {
        *input = json!([{"role": "user", "content": text}]);
    }
    if let Value::Array(items) = input {
        items.extend(answer["output"].as_array().into_iter().flatten().cloned());
        items.extend(results.iter().map(result));
    }
    super::chat::free(body);
}

/// What a streamed answer says of itself: the last event holds all of it.
#[derive(Debug, Default)]
pub struct Streamed {
    answer: Value,
    /// Bytes of content that came.
    pub bytes: usize,
    ended: bool,
    /// What the provider says went wrong.
    pub error: Option<String>,
}

impl Streamed {
    /// Take in one event.
    pub fn push(&mut self, data: &str) -> Passage {
        let Ok(Value::Object(mut event)) = serde_json::from_str::<Value>(data) else { return Passage::On };
        let field = |name: &str| event.get(name).and_then(Value::as_str).unwrap_or_default();
        self.bytes += field("delta").len();
        match field("type") {
            "response.completed" | "response.incomplete" => {
                self.answer = event.remove("response").unwrap_or_default();
                self.ended = true;
                Passage::End
            }
            "response.failed" => {
                self.answer = event.remove("response").unwrap_or_default();
                self.error = Some(super::dialect::words_of(&self.answer["error"]));
                Passage::Dropped
            }
            "error" => {
                self.error = Some(super::dialect::words_of(&Value::Object(event)));
                Passage::Dropped
            }
            "response.function_call_arguments.delta" | "response.function_call_arguments.done" => Passage::Tool,
            _ if event.get("item").is_some_and(|item| item["type"] == "function_call") => Passage::Tool,
            _ => Passage::On,
        }
    }

    #[must_use]
    pub const fn ended(&self) -> bool {
        self.ended
    }

    #[must_use]
    pub fn usage(&self) -> Option<Usage> {
        usage(&self.answer["usage"])
    }

    #[must_use]
    pub fn answer(&self) -> Value {
        self.answer.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_event_holds_the_answer() {
        let mut streamed = Streamed::default();
        assert_eq!(streamed.push(r#"{"type":"response.output_text.delta","delta":"Hi"}"#), Passage::On);
        let response = json!({"status": "completed", "output": [
            {"type": "function_call", "call_id": "t1", "name": "crm__find", "arguments": "{}"}],
            "usage": {"input_tokens": 4, "output_tokens": 2, "output_tokens_details": {"reasoning_tokens": 1}}});
        assert_eq!(streamed.push(&json!({"type": "response.completed", "response": response}).to_string()), Passage::End);
        let read = read(&streamed.answer());
        assert_eq!(read.calls.len(), 1);
        assert_eq!(read.usage, Some(Usage { input: 4, output: 2, reasoning: 1, ..Usage::default() }));
        assert_eq!(streamed.bytes, 2);
    }

    #[test]
    fn a_text_becomes_a_list_that_goes_on() {
        let mut body = json!({"input": "x"}).as_object().cloned().unwrap();
        let answer = json!({"output": [{"type": "function_call", "call_id": "t1"}]});
        go_on(&mut body, &answer, &[ToolResult { id: "t1".into(), name: "n".into(), text: "7".into(), failed: false }]);
        assert_eq!(
            Value::from(body)["input"],
            json!([{"role": "user", "content": "x"}, {"type": "function_call", "call_id": "t1"},
                {"type": "function_call_output", "call_id": "t1", "output": "7"}])
        );
    }
}
