use tollgate_domain::llm_price::Usage;

use super::*;

/// An answer of each kind with a text and two tool calls.
pub fn with_calls(kind: ProviderKind) -> Value {
    match kind {
        ProviderKind::OpenAi => json!({
            "id": "chatcmpl-B9MHDbslfkBeAs8l4bebGdFOJ6PeG", "object": "chat.completion", "created": 1741570283, "model": "gpt-5-mini-2025-08-07",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "It is", "refusal": null, "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{\"city\":\"Paris\"}"}},
                {"id": "call_2", "type": "function", "function": {"name": "weather", "arguments": "{\"city\":\"London\"}"}}]},
                "logprobs": null, "finish_reason": "tool_calls"}],
            "usage": {"prompt_tokens": 100, "completion_tokens": 40, "total_tokens": 140, "prompt_tokens_details": {"cached_tokens": 30},
                "completion_tokens_details": {"reasoning_tokens": 20}}
        }),
        ProviderKind::Anthropic => json!({
            "id": "msg_01XFDUDYJgAACzvnptvVoYEL", "type": "message", "role": "assistant", "model": "claude-sonnet-5-5-20260801",
            "content": [{"type": "thinking", "thinking": "Two cities.", "signature": "EqQB"}, {"type": "text", "text": "It is"},
                {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Paris"}},
                {"type": "tool_use", "id": "toolu_2", "name": "weather", "input": {"city": "London"}}],
            "stop_reason": "tool_use", "stop_sequence": null,
            "usage": {"input_tokens": 60, "cache_creation_input_tokens": 10, "cache_read_input_tokens": 30, "output_tokens": 40}
        }),
        ProviderKind::Gemini => json!({
            "candidates": [{"content": {"role": "model", "parts": [
                {"text": "Two cities.", "thought": true}, {"text": "It is"},
                {"functionCall": {"name": "weather", "args": {"city": "Paris"}}, "thoughtSignature": "CpkC"},
                {"functionCall": {"id": "f7x9", "name": "weather", "args": {"city": "London"}}}]}, "finishReason": "STOP", "index": 0}],
            "usageMetadata": {"promptTokenCount": 100, "cachedContentTokenCount": 30, "candidatesTokenCount": 20, "thoughtsTokenCount": 20,
                "totalTokenCount": 140},
            "modelVersion": "gemini-3.8-flash-001", "responseId": "mAitaLmkHPPlz7IPvtfUqQ4"
        }),
        ProviderKind::Bedrock => json!({
            "output": {"message": {"role": "assistant", "content": [
                {"reasoningContent": {"reasoningText": {"text": "Two cities.", "signature": "EqQB"}}}, {"text": "It is"},
                {"toolUse": {"toolUseId": "tooluse_1", "name": "weather", "input": {"city": "Paris"}}},
                {"toolUse": {"toolUseId": "tooluse_2", "name": "weather", "input": {"city": "London"}}}]}},
            "stopReason": "tool_use",
            "usage": {"inputTokens": 60, "outputTokens": 40, "totalTokens": 140, "cacheReadInputTokens": 30, "cacheWriteInputTokens": 10},
            "metrics": {"latencyMs": 1275}
        }),
    }
}

/// What each kind has counted of it.
pub fn counted(kind: ProviderKind) -> Usage {
    let (cache_write, reasoning) = match kind {
        ProviderKind::OpenAi | ProviderKind::Gemini => (0, 20),
        ProviderKind::Anthropic | ProviderKind::Bedrock => (10, 0),
    };
    Usage { input: 100, cached_input: 30, cache_write, output: 40, reasoning }
}

#[test]
fn an_answer_is_read_as_one_of_the_callers_dialect() {
    for (dialect, kind) in OTHERS {
        let (answer, read) = whole(dialect, kind, &with_calls(kind));
        let calls: Vec<_> = read.calls.iter().map(|call| (call.name.as_str(), call.arguments.as_str())).collect();
        assert_eq!(
            calls,
            [("weather", "{\"city\":\"Paris\"}"), ("weather", "{\"city\":\"London\"}")],
            "{dialect:?} {kind}: {answer}"
        );
        assert_ne!(read.calls[0].id, read.calls[1].id);
        assert_eq!(read.usage, Some(counted(kind)), "{dialect:?} {kind}: {answer}");
        let (finish, text) = match dialect {
            Dialect::Messages => {
                let blocks = answer["content"].as_array().unwrap().iter();
                ("tool_use", blocks.filter_map(|block| block["text"].as_str()).collect::<String>())
            }
            _ => ("tool_calls", answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned()),
        };
        assert_eq!((read.finish_reason.as_deref(), text.as_str()), (Some(finish), "It is"), "{dialect:?} {kind}: {answer}");
        let model = match kind {
            ProviderKind::OpenAi => "gpt-5-mini-2025-08-07",
            ProviderKind::Anthropic => "claude-sonnet-5-5-20260801",
            ProviderKind::Gemini => "gemini-3.8-flash-001",
            ProviderKind::Bedrock => "eu.anthropic.claude-sonnet-5-5-v1:0",
        };
        assert_eq!(read.model.as_deref(), Some(model), "who has answered, or who was asked");
        assert!(answer["id"].as_str().is_some_and(|id| id.len() > 6), "{answer}");
    }
}

#[test]
fn what_the_official_clients_need_is_there() {
    let (chat, _) = whole(Dialect::Chat, ProviderKind::Anthropic, &with_calls(ProviderKind::Anthropic));
    assert_eq!(
        (&chat["object"], &chat["created"], &chat["choices"][0]["index"]),
        (&json!("chat.completion"), &json!(7), &json!(0))
    );
    let message = &chat["choices"][0]["message"];
    assert_eq!((&message["role"], &message["tool_calls"][0]["type"]), (&json!("assistant"), &json!("function")));
    assert_eq!(message["reasoning_content"], "Two cities.");
    assert_eq!(
        message["thinking_blocks"],
        json!([{"type": "thinking", "thinking": "Two cities.", "signature": "EqQB", "tollgate": true}])
    );
    assert_eq!(chat["usage"]["total_tokens"], 140);
    let (message, _) = whole(Dialect::Messages, ProviderKind::Gemini, &with_calls(ProviderKind::Gemini));
    assert_eq!(
        (&message["type"], &message["role"], &message["stop_sequence"]),
        (&json!("message"), &json!("assistant"), &Value::Null)
    );
    assert_eq!((&message["usage"]["input_tokens"], &message["usage"]["cache_read_input_tokens"]), (&json!(70), &json!(30)));
    let kinds: Vec<_> = message["content"].as_array().unwrap().iter().map(|block| block["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["thinking", "text", "thinking", "tool_use", "tool_use"]);
    assert_eq!(message["content"][2]["signature"], "tollgate:gemini:CpkC");
    assert_eq!(message["content"][4]["id"], "gem_f7x9");
    let (chat, _) = whole(Dialect::Chat, ProviderKind::Gemini, &with_calls(ProviderKind::Gemini));
    let calls = &chat["choices"][0]["message"]["tool_calls"];
    assert_eq!(calls[0]["extra_content"], json!({"google": {"thought_signature": "CpkC"}, "tollgate": true}));
    assert!(calls[1].get("extra_content").is_none());
}

#[test]
fn why_an_answer_ended_is_told() {
    let gemini = |reason: &str| json!({"candidates": [{"content": {"parts": [{"text": "x"}]}, "finishReason": reason}]});
    let converse = |reason: &str| json!({"output": {"message": {"content": [{"text": "x"}]}}, "stopReason": reason});
    let message =
        |reason: &str| json!({"content": [{"type": "text", "text": "x"}], "stop_reason": reason, "stop_sequence": "END"});
    let chat = |reason: &str| json!({"choices": [{"message": {"content": "x"}, "finish_reason": reason}]});
    for (dialect, kind, answer, finish) in [
        (Dialect::Chat, ProviderKind::Gemini, gemini("STOP"), "stop"),
        (Dialect::Chat, ProviderKind::Gemini, gemini("MAX_TOKENS"), "length"),
        (Dialect::Chat, ProviderKind::Gemini, gemini("SAFETY"), "content_filter"),
        (Dialect::Messages, ProviderKind::Gemini, gemini("PROHIBITED_CONTENT"), "refusal"),
        (Dialect::Messages, ProviderKind::Gemini, json!({"promptFeedback": {"blockReason": "SAFETY"}}), "refusal"),
        (Dialect::Chat, ProviderKind::Bedrock, converse("end_turn"), "stop"),
        (Dialect::Chat, ProviderKind::Bedrock, converse("max_tokens"), "length"),
        (Dialect::Messages, ProviderKind::Bedrock, converse("stop_sequence"), "stop_sequence"),
        (Dialect::Messages, ProviderKind::Bedrock, converse("guardrail_intervened"), "refusal"),
        (Dialect::Chat, ProviderKind::Anthropic, message("stop_sequence"), "stop"),
        (Dialect::Chat, ProviderKind::Anthropic, message("model_context_window_exceeded"), "length"),
        (Dialect::Chat, ProviderKind::Anthropic, message("refusal"), "content_filter"),
        (Dialect::Messages, ProviderKind::OpenAi, chat("length"), "max_tokens"),
        (Dialect::Messages, ProviderKind::OpenAi, chat("content_filter"), "refusal"),
    ] {
        let (told, read) = whole(dialect, kind, &answer);
        assert_eq!(read.finish_reason.as_deref(), Some(finish), "{answer}: {told}");
        assert_eq!(read.usage, None, "nobody has counted");
    }
}

#[test]
fn what_is_no_answer_is_an_error_and_its_tokens_are_counted() {
    let usage = json!({"promptTokenCount": 5, "candidatesTokenCount": 1});
    for (dialect, kind, answer, says) in [
        (
            Dialect::Chat,
            ProviderKind::Gemini,
            json!({"error": {"code": 500, "message": "An internal error"}}),
            "An internal error",
        ),
        (
            Dialect::Chat,
            ProviderKind::Gemini,
            json!({"candidates": [{"finishReason": "MALFORMED_FUNCTION_CALL"}], "usageMetadata": usage}),
            "MALFORMED_FUNCTION_CALL",
        ),
        (
            Dialect::Messages,
            ProviderKind::Bedrock,
            json!({"output": {"message": {"content": []}}, "stopReason": "malformed_tool_use", "usage": {"inputTokens": 5, "outputTokens": 1}}),
            "malformed_tool_use",
        ),
        (Dialect::Messages, ProviderKind::Bedrock, json!({}), "no message"),
        (
            Dialect::Chat,
            ProviderKind::Anthropic,
            json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}),
            "Overloaded",
        ),
        (Dialect::Messages, ProviderKind::OpenAi, json!({"choices": []}), "no choices"),
    ] {
        let (told, read) = whole(dialect, kind, &answer);
        assert!(told["error"]["message"].as_str().is_some_and(|words| words.contains(says)), "{answer}: {told}");
        let counts = answer.to_string().contains("okenCount") || answer.to_string().contains("inputTokens");
        assert_eq!(read.usage.map(|usage| (usage.input, usage.output)), counts.then_some((5, 1)), "{told}");
    }
    let mut answers = Answers::new(&to(Dialect::Chat, ProviderKind::Gemini), 7, "text/html");
    answers.push(b"<html>").unwrap();
    assert_eq!(answers.end().as_ref(), b"<html>", "whoever reads it sees that it is none");
    assert!(answers.end().is_empty());
}
