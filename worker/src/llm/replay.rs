//! An answer that is whole already, as the stream in which it would have come: for callers who ask for a stream and find the answer ready.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::{dialect::Dialect, sse};

/// The events of an answer, in their order.
#[must_use]
pub fn events(dialect: Dialect, answer: &Value, own_usage: bool) -> Vec<Bytes> {
    let events = match dialect {
        Dialect::Messages => messages(answer),
        Dialect::Responses => responses(answer),
        Dialect::Chat | Dialect::Embeddings => chat(answer, own_usage),
    };
    let end = matches!(dialect, Dialect::Chat).then(|| sse::frame(None, "[DONE]"));
    events.iter().map(|event| sse::event(dialect, event)).chain(end).collect()
}

fn without(value: &Value, names: &[&str]) -> Map<String, Value> {
    let fields = value.as_object().into_iter().flatten().filter(|(name, _)| !names.contains(&name.as_str()));
    fields.map(|(name, value)| (name.clone(), value.clone())).collect()
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn chat(answer: &Value, own_usage: bool) -> Vec<Value> {
    let chunk = |choices: Value| {
        let mut chunk = without(answer, &["choices", "usage", "tollgate"]);
        chunk.insert("object".to_owned(), "chat.completion.chunk".into());
        chunk.insert("choices".to_owned(), choices);
        Value::from(chunk)
    };
    let mut events = Vec::new();
    for choice in list(answer, "choices") {
        let mut delta = choice["message"].clone();
        for (index, call) in delta["tool_calls"].as_array_mut().into_iter().flatten().enumerate() {
            call["index"] = index.into();
        }
        if delta["tool_calls"].is_null()
            && let Some(delta) = delta.as_object_mut()
        {
            delta.remove("tool_calls");
        }
        events.push(chunk(json!([{"index": choice["index"], "delta": delta, "finish_reason": null}])));
        events.push(chunk(json!([{"index": choice["index"], "delta": {}, "finish_reason": choice["finish_reason"]}])));
    }
    if let (Some(last), Some(told)) = (events.last_mut(), answer.get("tollgate")) {
        last["tollgate"] = told.clone();
    }
    if own_usage && answer.get("usage").is_some() {
        let mut usage = chunk(json!([]));
        usage["usage"] = answer["usage"].clone();
        events.push(usage);
    }
    events
}

fn messages(answer: &Value) -> Vec<Value> {
    let mut message = without(answer, &["content", "stop_reason", "stop_sequence", "tollgate"]);
    message.extend([
        ("content".to_owned(), json!([])),
        ("stop_reason".to_owned(), Value::Null),
        ("stop_sequence".to_owned(), Value::Null),
    ]);
    let mut events = vec![json!({"type": "message_start", "message": message})];
    if let Some(told) = answer.get("tollgate") {
        events.push(json!({"type": "ping", "tollgate": told}));
    }
    for (index, block) in list(answer, "content").iter().enumerate() {
        let (begins, deltas) = block_deltas(block);
        events.push(json!({"type": "content_block_start", "index": index, "content_block": begins}));
        events.extend(deltas.into_iter().map(|delta| json!({"type": "content_block_delta", "index": index, "delta": delta})));
        events.push(json!({"type": "content_block_stop", "index": index}));
    }
    let delta = json!({"stop_reason": answer["stop_reason"], "stop_sequence": answer["stop_sequence"]});
    events.push(json!({"type": "message_delta", "delta": delta, "usage": answer["usage"]}));
    events.push(json!({"type": "message_stop"}));
    events
}

/// A block as it begins, and what makes it whole.
fn block_deltas(block: &Value) -> (Value, Vec<Value>) {
    let mut begins = block.clone();
    let deltas = match block["type"].as_str() {
        Some("text") => {
            begins["text"] = "".into();
            vec![json!({"type": "text_delta", "text": block["text"]})]
        }
        Some("tool_use") => {
            begins["input"] = json!({});
            vec![json!({"type": "input_json_delta", "partial_json": block["input"].to_string()})]
        }
        Some("thinking") => {
            (begins["thinking"], begins["signature"]) = ("".into(), "".into());
            vec![
                json!({"type": "thinking_delta", "thinking": block["thinking"]}),
                json!({"type": "signature_delta", "signature": block["signature"]}),
            ]
        }
        // Others come whole.
        _ => Vec::new(),
    };
    (begins, deltas)
}

fn responses(answer: &Value) -> Vec<Value> {
    let response = Value::from(without(answer, &["tollgate"]));
    let mut begun = response.clone();
    (begun["status"], begun["output"], begun["usage"]) = ("in_progress".into(), json!([]), Value::Null);
    let mut events =
        vec![json!({"type": "response.created", "response": begun}), json!({"type": "response.in_progress", "response": begun})];
    if let Some(told) = answer.get("tollgate") {
        events.push(json!({"type": "tollgate", "tollgate": told}));
    }
    for (index, item) in list(answer, "output").iter().enumerate() {
        let at = |kind: &str, more: Value| {
            let mut event = json!({"type": kind, "output_index": index, "item_id": item["id"]});
            if let (Some(event), Value::Object(more)) = (event.as_object_mut(), more) {
                event.extend(more);
            }
            event
        };
        let mut begins = item.clone();
        begins["status"] = "in_progress".into();
        let mut parts = Vec::new();
        match item["type"].as_str() {
            Some("message") => {
                begins["content"] = json!([]);
                for (part_index, part) in list(item, "content").iter().enumerate() {
                    let place = |field: &str, value: &Value| json!({"content_index": part_index, field: value});
                    let mut empty = part.clone();
                    if part["type"] == "output_text" {
                        empty["text"] = "".into();
                        parts.push(at("response.content_part.added", place("part", &empty)));
                        parts.push(at("response.output_text.delta", place("delta", &part["text"])));
                        parts.push(at("response.output_text.done", place("text", &part["text"])));
                    } else {
                        parts.push(at("response.content_part.added", place("part", &empty)));
                    }
                    parts.push(at("response.content_part.done", place("part", part)));
                }
            }
            Some("function_call") => {
                begins["arguments"] = "".into();
                parts.push(at("response.function_call_arguments.delta", json!({"delta": item["arguments"]})));
                parts.push(at(
                    "response.function_call_arguments.done",
                    json!({"arguments": item["arguments"], "name": item["name"]}),
                ));
            }
            _ => {}
        }
        events.push(json!({"type": "response.output_item.added", "output_index": index, "item": begins}));
        events.extend(parts);
        events.push(json!({"type": "response.output_item.done", "output_index": index, "item": item}));
    }
    let end = if response["status"] == "incomplete" { "response.incomplete" } else { "response.completed" };
    events.push(json!({"type": end, "response": response}));
    for (sequence, event) in events.iter_mut().enumerate() {
        event["sequence_number"] = sequence.into();
    }
    events
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::streamed::Streamed;

    /// Whoever puts the stream together again has the answer.
    fn round(dialect: Dialect, answer: &Value) -> Value {
        let mut streamed = Streamed::new(dialect, true);
        for event in events(dialect, answer, true) {
            let data = sse::data(&event).map(std::borrow::Cow::into_owned).unwrap_or_default();
            streamed.push(&data);
        }
        assert!(streamed.ended());
        streamed.answer(dialect).0
    }

    #[test]
    fn a_stream_made_of_an_answer_is_that_answer() {
        let chat = json!({"id": "c", "object": "chat.completion", "created": 1, "model": "m", "usage": {"prompt_tokens": 3, "completion_tokens": 2},
            "choices": [{"index": 0, "finish_reason": "tool_calls", "message": {"role": "assistant", "content": "Hi",
              "tool_calls": [{"id": "t", "type": "function", "function": {"name": "n", "arguments": "{\"a\":1}"}},
                             {"id": "u", "type": "function", "function": {"name": "n", "arguments": "{}"}}]}}]});
        assert_eq!(round(Dialect::Chat, &chat), chat);
        let message = json!({"id": "m", "type": "message", "role": "assistant", "model": "m", "stop_reason": "tool_use", "stop_sequence": null,
            "usage": {"input_tokens": 3, "output_tokens": 2}, "content": [
              {"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "text", "text": "Hi"},
              {"type": "tool_use", "id": "t", "name": "n", "input": {"a": 1}}]});
        assert_eq!(round(Dialect::Messages, &message), message);
        let response = json!({"id": "r", "object": "response", "status": "completed", "model": "m", "usage": {"input_tokens": 3, "output_tokens": 2},
            "output": [{"type": "message", "id": "i", "role": "assistant", "status": "completed", "content": [{"type": "output_text", "text": "Hi", "annotations": []}]},
                       {"type": "function_call", "id": "f", "call_id": "t", "name": "n", "arguments": "{}", "status": "completed"}]});
        assert_eq!(round(Dialect::Responses, &response), response);
    }

    #[test]
    fn how_a_loop_stands_is_told_beside_it() {
        let told = json!({"state": "waiting_approval"});
        for (dialect, answer) in [
            (Dialect::Chat, json!({"choices": [{"index": 0, "message": {}, "finish_reason": "stop"}], "tollgate": told})),
            (Dialect::Messages, json!({"content": [], "tollgate": told})),
            (Dialect::Responses, json!({"output": [], "tollgate": told})),
        ] {
            let all = events(dialect, &answer, false);
            let telling = all.iter().filter(|event| sse::data(event).is_some_and(|data| data.contains("waiting_approval")));
            assert_eq!(telling.count(), 1, "{all:?}");
        }
    }
}
