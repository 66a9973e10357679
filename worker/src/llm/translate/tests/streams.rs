use tollgate_domain::llm_price::Usage;

use super::{super::eventstream::message, *};

fn converse(events: &[(&str, Value)]) -> Vec<u8> {
    events.iter().flat_map(|(name, event)| message("event", name, &event.to_string())).collect()
}

/// A stream of each kind with a thought, a text and a tool call whose arguments come in pieces.
fn stream(kind: ProviderKind) -> Vec<u8> {
    match kind {
        ProviderKind::OpenAi => {
            let chunk = |delta: Value, finish: Value| {
                json!({"id": "chatcmpl-9", "object": "chat.completion.chunk", "created": 1, "model": "gpt-5-mini-2025-08-07",
                    "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], "usage": null})
            };
            let tool = |call: Value| chunk(json!({"tool_calls": [call]}), Value::Null);
            let usage = json!({"prompt_tokens": 100, "completion_tokens": 40, "prompt_tokens_details": {"cached_tokens": 30},
                "completion_tokens_details": {"reasoning_tokens": 20}});
            let mut all = sse(&[
                chunk(json!({"role": "assistant", "content": ""}), Value::Null),
                chunk(json!({"reasoning_content": "Two cities."}), Value::Null),
                chunk(json!({"content": "It "}), Value::Null),
                chunk(json!({"content": "is"}), Value::Null),
                tool(json!({"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": ""}})),
                tool(json!({"index": 0, "function": {"arguments": "{\"city\":"}})),
                tool(json!({"index": 0, "function": {"arguments": "\"Paris\"}"}})),
                tool(json!({"index": 1, "id": "call_2", "type": "function", "function": {"name": "now", "arguments": "{}"}})),
                chunk(json!({}), "tool_calls".into()),
                json!({"id": "chatcmpl-9", "choices": [], "usage": usage}),
            ]);
            all.extend(b"data: [DONE]\n\n");
            all
        }
        ProviderKind::Anthropic => {
            let delta = |index: u64, delta: Value| json!({"type": "content_block_delta", "index": index, "delta": delta});
            let start = |index: u64, block: Value| json!({"type": "content_block_start", "index": index, "content_block": block});
            let stop = |index: u64| json!({"type": "content_block_stop", "index": index});
            let usage =
                json!({"input_tokens": 60, "cache_creation_input_tokens": 10, "cache_read_input_tokens": 30, "output_tokens": 1});
            sse(&[
                json!({"type": "message_start", "message": {"id": "msg_9", "type": "message", "role": "assistant", "content": [],
                    "model": "claude-sonnet-5-5-20260801", "stop_reason": null, "stop_sequence": null, "usage": usage}}),
                json!({"type": "ping"}),
                start(0, json!({"type": "thinking", "thinking": "", "signature": ""})),
                delta(0, json!({"type": "thinking_delta", "thinking": "Two cities."})),
                delta(0, json!({"type": "signature_delta", "signature": "EqQB"})),
                stop(0),
                start(1, json!({"type": "text", "text": ""})),
                delta(1, json!({"type": "text_delta", "text": "It "})),
                delta(1, json!({"type": "text_delta", "text": "is"})),
                stop(1),
                start(2, json!({"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {}})),
                delta(2, json!({"type": "input_json_delta", "partial_json": ""})),
                delta(2, json!({"type": "input_json_delta", "partial_json": "{\"city\":"})),
                delta(2, json!({"type": "input_json_delta", "partial_json": "\"Paris\"}"})),
                stop(2),
                start(3, json!({"type": "tool_use", "id": "toolu_2", "name": "now", "input": {}})),
                stop(3),
                json!({"type": "message_delta", "delta": {"stop_reason": "tool_use", "stop_sequence": null}, "usage": {"output_tokens": 40}}),
                json!({"type": "message_stop"}),
            ])
        }
        ProviderKind::Gemini => {
            let chunk = |parts: Value, finish: Option<&str>, output: u64| {
                let mut candidate = json!({"content": {"parts": parts, "role": "model"}, "index": 0});
                if let Some(finish) = finish {
                    candidate["finishReason"] = finish.into();
                }
                json!({"candidates": [candidate], "usageMetadata": {"promptTokenCount": 100, "cachedContentTokenCount": 30,
                    "candidatesTokenCount": output, "thoughtsTokenCount": 20}, "modelVersion": "gemini-3.8-flash-001", "responseId": "r9"})
            };
            let weather = json!({"functionCall": {"name": "weather", "args": {"city": "Paris"}}, "thoughtSignature": "CpkC"});
            sse(&[
                chunk(json!([{"text": "Two cities.", "thought": true}]), None, 0),
                chunk(json!([{"text": "It "}]), None, 1),
                chunk(json!([{"text": "is"}]), None, 2),
                chunk(json!([weather, {"functionCall": {"name": "now", "args": {}}}]), None, 20),
                chunk(json!([{"text": ""}]), Some("STOP"), 20),
            ])
        }
        ProviderKind::Bedrock => {
            let delta = |index: u64, delta: Value| ("contentBlockDelta", json!({"contentBlockIndex": index, "delta": delta}));
            let start = |index: u64, id: &str, name: &str| {
                ("contentBlockStart", json!({"contentBlockIndex": index, "start": {"toolUse": {"toolUseId": id, "name": name}}}))
            };
            let stop = |index: u64| ("contentBlockStop", json!({"contentBlockIndex": index}));
            let usage = json!({"inputTokens": 60, "outputTokens": 40, "totalTokens": 140, "cacheReadInputTokens": 30, "cacheWriteInputTokens": 10});
            converse(&[
                ("messageStart", json!({"role": "assistant"})),
                delta(0, json!({"reasoningContent": {"text": "Two cities."}})),
                delta(0, json!({"reasoningContent": {"signature": "EqQB"}})),
                stop(0),
                delta(1, json!({"text": "It "})),
                delta(1, json!({"text": "is"})),
                stop(1),
                start(2, "tooluse_1", "weather"),
                delta(2, json!({"toolUse": {"input": "{\"city\":"}})),
                delta(2, json!({"toolUse": {"input": "\"Paris\"}"}})),
                stop(2),
                start(3, "tooluse_2", "now"),
                stop(3),
                ("messageStop", json!({"stopReason": "tool_use"})),
                ("metadata", json!({"usage": usage, "metrics": {"latencyMs": 9}})),
            ])
        }
    }
}

#[test]
fn a_stream_is_read_as_one_of_the_callers_dialect_however_it_is_cut() {
    for (dialect, kind) in OTHERS {
        let bytes = stream(kind);
        for size in [1, 7, 100, bytes.len()] {
            let got = streaming(dialect, kind, &bytes, size);
            let Streaming { answer, read, .. } = &got;
            assert!(got.ended && got.error.is_none(), "{dialect:?} {kind}: {answer}");
            let calls: Vec<_> = read.calls.iter().map(|call| (call.name.as_str(), call.arguments.as_str())).collect();
            assert_eq!(calls, [("weather", "{\"city\":\"Paris\"}"), ("now", "{}")], "{dialect:?} {kind}: {answer}");
            assert_eq!(read.usage, Some(answers::counted(kind)), "{dialect:?} {kind}: {answer}");
            let (finish, text) = match dialect {
                Dialect::Messages => ("tool_use", answer["content"][1]["text"].clone()),
                _ => ("tool_calls", answer["choices"][0]["message"]["content"].clone()),
            };
            assert_eq!((read.finish_reason.as_deref(), &text), (Some(finish), &json!("It is")), "{dialect:?} {kind}: {answer}");
            // Whoever runs the tools reads of them before the end, and the end alone waits for the row.
            assert!(got.passages.contains(&Passage::Tool), "{dialect:?} {kind}");
            assert_eq!(got.passages.last(), Some(&Passage::End), "{dialect:?} {kind}");
        }
    }
}

#[test]
fn blocks_of_a_message_begin_and_end_one_after_the_other() {
    for kind in [ProviderKind::OpenAi, ProviderKind::Gemini, ProviderKind::Bedrock] {
        let got = streaming(Dialect::Messages, kind, &stream(kind), 64);
        let (mut open, mut next) = (None, 0);
        for event in &got.events {
            match event["type"].as_str().unwrap() {
                "content_block_start" => {
                    assert_eq!((open, &event["index"]), (None, &json!(next)), "{kind}");
                    open = Some(next);
                    next += 1;
                }
                "content_block_delta" => assert_eq!(Some(event["index"].as_u64().unwrap()), open, "{kind}: {event}"),
                "content_block_stop" => assert_eq!(event["index"].as_u64(), open.take(), "{kind}: {event}"),
                "message_start" | "message_delta" | "message_stop" => assert_eq!(open, None, "{kind}"),
                other => panic!("{kind}: {other}"),
            }
        }
        assert_eq!(got.events[0]["type"], "message_start");
        let blocks = got.answer["content"].as_array().unwrap();
        assert!(
            blocks.iter().filter(|block| block["type"] == "thinking").all(|block| block["signature"].as_str() != Some("")),
            "{kind}"
        );
    }
    // Of Gemini, what it has counted so far is told at once, should the caller go away.
    let got = streaming(Dialect::Messages, ProviderKind::Gemini, &stream(ProviderKind::Gemini), 64);
    assert_eq!(got.events[0]["message"]["usage"]["input_tokens"], 70);
}

#[test]
fn chunks_of_a_completion_are_those_of_one_choice() {
    for kind in [ProviderKind::Anthropic, ProviderKind::Gemini, ProviderKind::Bedrock] {
        let got = streaming(Dialect::Chat, kind, &stream(kind), 64);
        let (usage, chunks) = got.events.split_last().unwrap();
        assert_eq!((&usage["choices"], &usage["usage"]["prompt_tokens"]), (&json!([]), &json!(100)), "{kind}");
        assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant", "{kind}");
        let id = &chunks[0]["id"];
        assert!(chunks.iter().all(|chunk| chunk["id"] == *id && chunk["object"] == "chat.completion.chunk"), "{kind}");
        let finishes: Vec<_> = chunks.iter().filter_map(|chunk| chunk["choices"][0]["finish_reason"].as_str()).collect();
        assert_eq!(finishes, ["tool_calls"], "{kind}");
        let pieces = chunks.iter().flat_map(|chunk| chunk["choices"][0]["delta"]["tool_calls"].as_array().into_iter().flatten());
        let indices: Vec<_> = pieces.map(|piece| piece["index"].as_u64().unwrap()).collect();
        assert!(indices.is_sorted() && indices.contains(&1), "{kind}: {indices:?}");
        let message = &got.answer["choices"][0]["message"];
        if kind == ProviderKind::Gemini {
            assert_eq!(message["tool_calls"][0]["extra_content"]["google"]["thought_signature"], "CpkC");
        } else {
            let block = json!([{"type": "thinking", "thinking": "Two cities.", "signature": "EqQB", "tollgate": true}]);
            assert_eq!((&message["thinking_blocks"], &message["reasoning_content"]), (&block, &json!("Two cities.")), "{kind}");
        }
    }
}

#[test]
fn a_stream_that_is_cut_has_no_end() {
    for (dialect, kind) in OTHERS {
        let bytes = stream(kind);
        // Behind the last event but two there is no word of how it finished.
        for end in [bytes.len() / 3, bytes.len() / 2] {
            let got = streaming(dialect, kind, &bytes[..end], 50);
            assert!(!got.ended && got.read.finish_reason.is_none(), "{dialect:?} {kind}: {}", got.answer);
            assert_eq!(got.error, None, "whoever reads it sees it");
        }
    }
    // Bedrock says how it finished, and dies before it says what it cost: it is whole, and nobody knows the cost.
    let bytes = converse(&[
        ("messageStart", json!({})),
        ("contentBlockDelta", json!({"delta": {"text": "x"}})),
        ("messageStop", json!({"stopReason": "end_turn"})),
    ]);
    let got = streaming(Dialect::Messages, ProviderKind::Bedrock, &bytes, 9);
    assert_eq!((got.ended, got.read.usage), (true, None), "{}", got.answer);
}

#[test]
fn an_error_in_the_middle_is_told_in_the_callers_dialect() {
    let text = json!({"candidates": [{"content": {"parts": [{"text": "x"}]}}], "usageMetadata": {"promptTokenCount": 4, "candidatesTokenCount": 1}});
    let gemini = sse(&[text.clone(), json!({"error": {"code": 503, "message": "The model is overloaded."}})]);
    let malformed = sse(&[text, json!({"candidates": [{"finishReason": "MALFORMED_FUNCTION_CALL"}]})]);
    let mut bedrock =
        converse(&[("messageStart", json!({"role": "assistant"})), ("contentBlockDelta", json!({"delta": {"text": "x"}}))]);
    bedrock.extend(message("exception", "throttlingException", r#"{"message":"Too many tokens"}"#));
    let anthropic = sse(&[
        json!({"type": "message_start", "message": {"id": "m", "usage": {"input_tokens": 4}}}),
        json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}),
    ]);
    let openai =
        sse(&[json!({"choices": [{"delta": {"content": "x"}}]}), json!({"error": {"message": "The server had an error"}})]);
    for (dialect, kind, bytes, says) in [
        (Dialect::Chat, ProviderKind::Gemini, &gemini, "overloaded"),
        (Dialect::Messages, ProviderKind::Gemini, &gemini, "overloaded"),
        (Dialect::Chat, ProviderKind::Gemini, &malformed, "MALFORMED_FUNCTION_CALL"),
        (Dialect::Chat, ProviderKind::Bedrock, &bedrock, "throttlingException: Too many tokens"),
        (Dialect::Messages, ProviderKind::Bedrock, &bedrock, "Too many tokens"),
        (Dialect::Chat, ProviderKind::Anthropic, &anthropic, "Overloaded"),
        (Dialect::Messages, ProviderKind::OpenAi, &openai, "The server had an error"),
    ] {
        let got = streaming(dialect, kind, bytes, 33);
        assert!(got.error.as_deref().is_some_and(|words| words.contains(says)), "{dialect:?} {kind}: {:?}", got.error);
        assert!(!got.ended);
        if dialect == Dialect::Chat && kind == ProviderKind::Gemini {
            assert_eq!(
                got.read.usage,
                Some(Usage { input: 4, output: 1, ..Usage::default() }),
                "what was counted has to be paid"
            );
        }
    }
}

#[test]
fn what_no_provider_should_send_breaks_nothing() {
    let odd: Vec<Value> = [
        "1",
        "[]",
        "\"x\"",
        "null",
        "{}",
        r#"{"choices":["x"]}"#,
        r#"{"choices":{"a":1}}"#,
        r#"{"choices":[{"delta":{"tool_calls":["x",{}]}}]}"#,
        r#"{"type":"message_start","message":7}"#,
        r#"{"type":"content_block_start","content_block":3}"#,
        r#"{"candidates":7}"#,
        r#"{"candidates":[{"content":{"parts":[7,{"functionCall":7},{"functionCall":{"name":7}}]}}]}"#,
        r#"{"delta":{"toolUse":7}}"#,
    ]
    .iter()
    .map(|text| serde_json::from_str(text).unwrap())
    .collect();
    for (dialect, kind) in OTHERS {
        let bytes = if kind == ProviderKind::Bedrock {
            let names = ["messageStart", "contentBlockStart", "contentBlockDelta", "messageStop", "metadata", "strange"];
            odd.iter().flat_map(|event| names.iter().flat_map(|name| message("event", name, &event.to_string()))).collect()
        } else {
            sse(&odd)
        };
        let got = streaming(dialect, kind, &bytes, 40);
        assert_eq!(got.read.finish_reason, None, "{dialect:?} {kind}");
        for answer in &odd {
            let mut answers = Answers::new(&to(dialect, kind), 7, "application/json");
            answers.push(answer.to_string().as_bytes()).unwrap();
            let _ = answers.end();
        }
    }
    // Interleaved arguments cannot be told apart, and are not guessed at.
    let tool = |call: Value| json!({"choices": [{"delta": {"tool_calls": [call]}}]});
    let begin = |index: u64| tool(json!({"index": index, "id": format!("c{index}"), "function": {"name": "f", "arguments": ""}}));
    let mixed = sse(&[begin(0), begin(1), tool(json!({"index": 0, "function": {"arguments": "{}"}}))]);
    let got = streaming(Dialect::Messages, ProviderKind::OpenAi, &mixed, 99);
    assert!(got.error.is_some_and(|words| words.contains("tell apart")));
    let mut answers = Answers::new(&to(Dialect::Chat, ProviderKind::Bedrock), 7, "application/vnd.amazon.eventstream");
    assert!(answers.push(&[7; 40]).is_err());
}
