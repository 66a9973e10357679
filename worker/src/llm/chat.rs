//! Chat completions.

use std::borrow::Cow;

use axum::http::StatusCode;
use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Map, Value, json};
use tollgate_domain::llm_price::Usage;

use super::dialect::{Offered, Passage, Read, ToolResult, ToolUse};

pub fn tool(tool: &Offered) -> Value {
    json!({"type": "function", "function": {"name": tool.name, "description": tool.description, "parameters": tool.parameters}})
}

pub fn usage(usage: &Value) -> Option<Usage> {
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    usage.as_object()?;
    let usage = Usage {
        input: number(&usage["prompt_tokens"]),
        cached_input: number(&usage["prompt_tokens_details"]["cached_tokens"]),
        // Of those who charge for it.
        cache_write: number(&usage["prompt_tokens_details"]["cache_write_tokens"]),
        output: number(&usage["completion_tokens"]),
        reasoning: number(&usage["completion_tokens_details"]["reasoning_tokens"]),
    };
    usage.believable()
}

pub fn read(answer: &Value) -> Read {
    let choice = &answer["choices"][0];
    let calls = choice["message"]["tool_calls"].as_array().into_iter().flatten();
    Read {
        usage: usage(&answer["usage"]),
        model: answer["model"].as_str().map(str::to_owned),
        finish_reason: choice["finish_reason"].as_str().map(str::to_owned),
        calls: calls.filter_map(tool_use).collect(),
    }
}

/// A tool call as it stands in a message.
pub fn tool_use(call: &Value) -> Option<ToolUse> {
    Some(ToolUse {
        id: call["id"].as_str()?.to_owned(),
        name: call["function"]["name"].as_str()?.to_owned(),
        arguments: arguments(&call["function"]["arguments"]),
    })
}

/// Arguments as JSON text: some models write them as an object, and none where a tool takes none.
pub fn arguments(value: &Value) -> String {
    match value {
        Value::Null => "{}".to_owned(),
        Value::String(text) if text.is_empty() => "{}".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

pub fn result(result: &ToolResult) -> Value {
    json!({"role": "tool", "tool_call_id": result.id, "content": result.text})
}

pub fn go_on(body: &mut Map<String, Value>, answer: &Value, results: &[ToolResult]) {
    let Some(Value::Array(messages)) = body.get_mut("messages") else { return };
    messages.push(answer["choices"][0]["message"].clone());
    messages.extend(results.iter().map(result));
    free(body);
}

/// A tool that the caller forces the model to call would be forced for ever.
pub fn free(body: &mut Map<String, Value>) {
    let forced = |choice: &Value| choice == "required" || choice["type"] == "function" || choice["type"] == "custom";
    if body.get("tool_choice").is_some_and(forced) {
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
    /// In the order of their numbers. Almost always there is one.
    choices: Vec<(u64, Choice)>,
    usage: Option<Usage>,
    usage_text: Value,
    /// Bytes of content that came.
    pub bytes: usize,
    ended: bool,
    /// What the provider says went wrong.
    pub error: Option<String>,
}

#[derive(Debug, Default)]
struct Choice {
    message: Map<String, Value>,
    calls: Vec<Call>,
    finish_reason: Option<String>,
}

/// A tool call that comes bit by bit.
#[derive(Debug, Default)]
struct Call {
    index: u64,
    fields: Map<String, Value>,
    function: Map<String, Value>,
    arguments: String,
}

/// An event that has text of one choice and nothing else.
#[derive(Deserialize)]
struct Piece<'a> {
    #[serde(borrow)]
    choices: [PieceChoice<'a>; 1],
    error: Option<IgnoredAny>,
    usage: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct PieceChoice<'a> {
    #[serde(default)]
    index: u64,
    #[serde(borrow)]
    delta: Text<'a>,
    finish_reason: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Text<'a> {
    #[serde(borrow)]
    content: Cow<'a, str>,
}

impl Streamed {
    /// Take in one event; `own_usage` if the caller has asked for the count of tokens. Without `keep` nothing of its content is kept.
    pub fn push(&mut self, data: &str, own_usage: bool, keep: bool) -> Passage {
        if data.trim() == "[DONE]" {
            self.ended = true;
            return Passage::End;
        }
        if let Some(passage) = self.push_text(data, keep) {
            return passage;
        }
        let Ok(Value::Object(mut chunk)) = serde_json::from_str::<Value>(data) else { return Passage::On };
        if let Some(error) = chunk.get("error").filter(|error| !error.is_null()) {
            self.error = Some(super::dialect::words_of(error));
            return Passage::Dropped;
        }
        if self.head.is_empty() {
            let fields = chunk.iter().filter(|(name, _)| !["choices", "usage"].contains(&name.as_str()));
            self.head = fields.map(|(name, value)| (name.clone(), value.clone())).collect();
        }
        if let Some(text) = chunk.remove("usage")
            && let Some(usage) = usage(&text)
        {
            (self.usage, self.usage_text) = (Some(usage), text);
        }
        let choices = chunk.get_mut("choices").and_then(Value::as_array_mut);
        if choices.as_ref().is_none_or(|choices| choices.is_empty()) && self.usage.is_some() {
            return if own_usage { Passage::End } else { Passage::Dropped };
        }
        let choices = choices.into_iter().flatten().filter_map(Value::as_object_mut);
        let passages: Vec<Passage> = choices.map(|choice| self.take(choice, keep)).collect();
        let is = |passage| passages.contains(&passage);
        match (is(Passage::Tool), is(Passage::End)) {
            (true, _) => Passage::Tool,
            (false, true) => Passage::End,
            (false, false) => Passage::On,
        }
    }

    /// Take in an event that has text of one choice and nothing else: almost all have, and need no tree of what they say.
    fn push_text(&mut self, data: &str, keep: bool) -> Option<Passage> {
        let Piece { choices: [choice], error: None, usage: None } = serde_json::from_str(data).ok()? else { return None };
        let PieceChoice { index, delta, finish_reason: None, .. } = choice else { return None };
        let at = self.choices.binary_search_by_key(&index, |(index, _)| *index).ok()?;
        // The first one begins what this one goes on with.
        let Value::String(all) = self.choices[at].1.message.get_mut("content")? else { return None };
        if keep {
            all.push_str(&delta.content);
        }
        self.bytes += delta.content.len();
        Some(Passage::On)
    }

    fn take(&mut self, choice: &mut Map<String, Value>, keep: bool) -> Passage {
        let index = choice.get("index").and_then(Value::as_u64).unwrap_or(0);
        let at = self.choices.binary_search_by_key(&index, |(index, _)| *index).unwrap_or_else(|at| {
            self.choices.insert(at, (index, Choice::default()));
            at
        });
        let into = &mut self.choices[at].1;
        let finished = choice.get("finish_reason").and_then(Value::as_str);
        if let Some(reason) = finished {
            into.finish_reason = Some(reason.to_owned());
        }
        let mut passage = if finished.is_some() { Passage::End } else { Passage::On };
        let Some(delta) = choice.get_mut("delta").and_then(Value::as_object_mut) else { return passage };
        for (name, value) in std::mem::take(delta) {
            match (name.as_str(), value) {
                (_, Value::Null) => {}
                ("tool_calls", Value::Array(calls)) => {
                    passage = Passage::Tool;
                    for call in calls {
                        self.bytes += call["function"]["arguments"].as_str().map_or(0, str::len);
                        if keep && let Value::Object(call) = call {
                            add_call(&mut into.calls, call);
                        }
                    }
                }
                ("role", value) => drop(into.message.insert(name, value)),
                (_, Value::String(text)) => {
                    self.bytes += text.len();
                    match into.message.get_mut(&name) {
                        _ if !keep => {}
                        Some(Value::String(all)) => all.push_str(&text),
                        _ => drop(into.message.insert(name, text.into())),
                    }
                }
                (_, _) if !keep => {}
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
                message.insert("tool_calls".to_owned(), choice.calls.iter().map(Call::whole).collect());
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

impl Call {
    fn whole(&self) -> Value {
        let mut function = self.function.clone();
        function.insert("arguments".to_owned(), self.arguments.clone().into());
        let mut call = self.fields.clone();
        call.entry("type").or_insert_with(|| "function".into());
        call.insert("function".to_owned(), function.into());
        call.into()
    }
}

/// A piece of a tool call: names and ids come whole, arguments bit by bit. Some say no index, or always the same one: another id is another
/// call.
fn add_call(calls: &mut Vec<Call>, mut piece: Map<String, Value>) {
    let index = piece.remove("index").and_then(|index| index.as_u64()).unwrap_or(0);
    let id = piece.get("id").and_then(Value::as_str).filter(|id| !id.is_empty()).map(str::to_owned);
    let of_same = |call: &Call| {
        call.index == index
            && (id.is_none()
                || call
                    .fields
                    .get("id")
                    .is_none_or(|other| Some(other) == id.as_ref().map(|id| Value::from(id.as_str())).as_ref()))
    };
    let at = calls.iter().rposition(of_same).unwrap_or_else(|| {
        calls.push(Call { index, ..Call::default() });
        calls.len() - 1
    });
    let Some(call) = calls.get_mut(at) else { return };
    if let Some(Value::Object(function)) = piece.remove("function") {
        for (name, value) in function {
            match (name.as_str(), value) {
                ("arguments", Value::String(more)) => call.arguments.push_str(&more),
                ("arguments", Value::Null) => {}
                ("arguments", whole) => call.arguments = whole.to_string(),
                (_, Value::Null) => {}
                (_, value) => drop(call.function.insert(name, value)),
            }
        }
    }
    for (name, value) in piece {
        if !value.is_null() && value != "" {
            call.fields.insert(name, value);
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
        assert_eq!(streamed.push(&chunk(json!({"role": "assistant", "content": ""}), Value::Null), false, true), Passage::On);
        assert_eq!(streamed.push(&chunk(json!({"content": "Hel"}), Value::Null), false, true), Passage::On);
        assert_eq!(streamed.push(&chunk(json!({"content": "lo"}), Value::Null), false, true), Passage::On);
        let first = json!({"tool_calls": [{"index": 0, "id": "t1", "type": "function", "function": {"name": "crm__find", "arguments": ""}}]});
        assert_eq!(streamed.push(&chunk(first, Value::Null), false, true), Passage::Tool);
        for piece in ["{\"a\":", "1}"] {
            let more = json!({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]});
            assert_eq!(streamed.push(&chunk(more, Value::Null), false, true), Passage::Tool);
        }
        assert_eq!(streamed.push(&chunk(json!({}), "tool_calls".into()), false, true), Passage::End);
        let usage = json!({"id": "c1", "choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10,
            "prompt_tokens_details": {"cached_tokens": 2}}});
        assert_eq!(streamed.push(&usage.to_string(), false, true), Passage::Dropped);
        assert_eq!(streamed.push("[DONE]", false, true), Passage::End);
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
    fn a_piece_of_text_is_read_as_any_other_event() {
        let first = r#"{"id":"c1","model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}"#;
        let piece = |text: &str, more: &str| {
            format!(
                r#"{{"id":"c1","choices":[{{"index":0,"delta":{{"content":{}{more}}},"finish_reason":null}}],"usage":null}}"#,
                json!(text)
            )
        };
        let mut streamed = Streamed::default();
        assert_eq!(streamed.push_text(&piece("no first one", ""), true), None, "its answer has not begun");
        streamed.push(first, false, true);
        let mut other = Streamed::default();
        other.push(first, false, true);
        for (at, text) in ["plain", "with \"escapes\"\n", "żó", ""].into_iter().enumerate() {
            assert_eq!(streamed.push_text(&piece(text, ""), true), Some(Passage::On), "{at}");
            // A field that nobody knows: it is read as a whole.
            let odd = piece(text, r#","refusal":null"#);
            assert_eq!((other.push_text(&odd, true), other.push(&odd, false, true)), (None, Passage::On), "{at}");
        }
        assert_eq!((streamed.answer(), streamed.bytes), (other.answer(), other.bytes));
        let before = streamed.answer();
        assert_eq!(streamed.push_text(&piece("too much", ""), false), Some(Passage::On));
        assert_eq!(streamed.answer(), before, "nothing of a large answer is kept");
        for other in [
            r#"{"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":"stop"}]}"#,
            r#"{"choices":[{"index":1,"delta":{"content":"x"}}]}"#,
            r#"{"choices":[{"index":0,"delta":{"content":"x"}},{"index":1,"delta":{"content":"x"}}]}"#,
            r#"{"choices":[{"index":0,"delta":{"content":"x"}}],"usage":{"prompt_tokens":1}}"#,
            r#"{"choices":[{"index":0,"delta":{"content":"x"}}],"error":{"message":"x"}}"#,
            r#"{"choices":[{"index":0,"delta":{"content":null}}]}"#,
            r#"{"choices":[{"index":0,"delta":{"tool_calls":[]}}]}"#,
            r#"{"choices":[]}"#,
        ] {
            assert_eq!(streamed.push_text(other, true), None, "{other}");
        }
    }

    #[test]
    fn what_no_provider_should_send_breaks_nothing() {
        for odd in [
            "1",
            "[]",
            "\"x\"",
            "null",
            "{}",
            r#"{"choices":["x"]}"#,
            r#"{"choices":[{"delta":"x"}]}"#,
            r#"{"choices":{"a":1}}"#,
            r#"{"choices":[{"delta":{"tool_calls":["x",{"function":"x"},{"function":{"arguments":{"a":1}}}]}}]}"#,
            r#"{"usage":7,"choices":[]}"#,
        ] {
            let mut streamed = Streamed::default();
            streamed.push(odd, false, true);
            streamed.push(r#"{"choices":[{"delta":{"tool_calls":[{"function":{"name":"n","arguments":"{}"}}]}}]}"#, false, true);
            assert!(read(&streamed.answer()).calls.len() <= 2, "{odd}");
        }
        let mut streamed = Streamed::default();
        assert_eq!(streamed.push(r#"{"error":{"message":"out of memory"}}"#, false, true), Passage::Dropped);
        assert_eq!(streamed.error.as_deref(), Some("out of memory"));
    }

    #[test]
    fn calls_are_told_apart_by_index_or_by_id() {
        let mut streamed = Streamed::default();
        for (index, id, arguments) in [(0, "a", "{\"x\""), (0, "", ":1}"), (0, "b", "{}"), (1, "c", "{\"y\":2}")] {
            let piece = json!({"index": index, "id": id, "function": {"name": "n", "arguments": arguments}});
            streamed.push(&json!({"choices": [{"delta": {"tool_calls": [piece]}}]}).to_string(), false, true);
        }
        let calls: Vec<_> = read(&streamed.answer()).calls.into_iter().map(|call| (call.id, call.arguments)).collect();
        let expected = [("a", "{\"x\":1}"), ("b", "{}"), ("c", "{\"y\":2}")].map(|(id, text)| (id.to_owned(), text.to_owned()));
        assert_eq!(calls, expected);
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
