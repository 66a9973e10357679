use super::*;

const WEATHER: &str =
    r#"{"type":"object","properties":{"city":{"type":"string"}},"required":["city"],"additionalProperties":false}"#;

fn schema() -> Value {
    serde_json::from_str(WEATHER).unwrap()
}

/// A conversation with all that can be said in it.
fn chat() -> Value {
    json!({
        "model": "m", "stream": true, "stream_options": {"include_usage": true}, "max_completion_tokens": 300, "temperature": 0.5, "top_p": 0.9,
        "stop": "END", "user": "u", "metadata": {"a": "b"}, "reasoning_effort": "low", "n": 1, "logprobs": false, "presence_penalty": 0,
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
            {"role": "user", "name": "ann", "content": [{"type": "text", "text": "Weather?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBO", "detail": "low"}}]},
            {"role": "assistant", "content": "Let me see.", "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{\"city\":\"Paris\"}"}},
                {"id": "call_2", "type": "function", "function": {"name": "weather", "arguments": "{\"city\":\"London\"}"}}]},
            {"role": "tool", "tool_call_id": "call_2", "content": "12 degrees"},
            {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "15 degrees"}]},
            {"role": "user", "content": "And?"}
        ],
        "tools": [{"type": "function", "function": {"name": "weather", "description": "Weather of a city", "parameters": schema(), "strict": true}}],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "response_format": {"type": "json_schema", "json_schema": {"name": "report", "schema": {"type": "object"}}}
    })
}

fn messages() -> Value {
    json!({
        "model": "m", "stream": true, "max_tokens": 300, "temperature": 0.5, "top_p": 0.9, "stop_sequences": ["END"],
        "metadata": {"user_id": "u"}, "thinking": {"type": "enabled", "budget_tokens": 2048}, "service_tier": "auto",
        "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}, {"type": "text", "text": "Be kind."}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Weather?"},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBO"}}]},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "Two cities.", "signature": "EqQB"},
                {"type": "text", "text": "Let me see."},
                {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Paris"}},
                {"type": "tool_use", "id": "toolu_2", "name": "weather", "input": {"city": "London"}}]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "toolu_2", "content": [{"type": "text", "text": "12 degrees"}], "is_error": true},
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": "15 degrees"},
                {"type": "text", "text": "And?"}]}
        ],
        "tools": [{"name": "weather", "description": "Weather of a city", "input_schema": schema(), "cache_control": {"type": "ephemeral"}}],
        "tool_choice": {"type": "any"},
        "output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}, "effort": "low"}
    })
}

#[test]
fn a_chat_completion_as_a_message() {
    let sent = sent(Dialect::Chat, ProviderKind::Anthropic, chat()).unwrap();
    assert_eq!(
        sent,
        json!({
            "model": "claude-sonnet-5-5", "max_tokens": 300, "system": "Be brief.\n\nBe kind.",
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "Weather?"},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBO"}}]},
                {"role": "assistant", "content": [{"type": "text", "text": "Let me see."},
                    {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Paris"}},
                    {"type": "tool_use", "id": "call_2", "name": "weather", "input": {"city": "London"}}]},
                {"role": "user", "content": [
                    {"type": "tool_result", "tool_use_id": "call_2", "content": [{"type": "text", "text": "12 degrees"}]},
                    {"type": "tool_result", "tool_use_id": "call_1", "content": [{"type": "text", "text": "15 degrees"}]},
                    {"type": "text", "text": "And?"}]}
            ],
            "tools": [{"name": "weather", "input_schema": schema(), "description": "Weather of a city"}],
            "tool_choice": {"type": "tool", "name": "weather"},
            "output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}},
            "temperature": 0.5, "top_p": 0.9, "stop_sequences": ["END"], "stream": true
        })
    );
}

#[test]
fn a_chat_completion_to_gemini() {
    let sent = sent(Dialect::Chat, ProviderKind::Gemini, chat()).unwrap();
    assert_eq!(
        sent,
        json!({
            "contents": [
                {"role": "user", "parts": [{"text": "Weather?"}, {"inlineData": {"mimeType": "image/png", "data": "iVBO"}}]},
                {"role": "model", "parts": [{"text": "Let me see."},
                    {"functionCall": {"name": "weather", "args": {"city": "Paris"}}, "thoughtSignature": "skip_thought_signature_validator"},
                    {"functionCall": {"name": "weather", "args": {"city": "London"}}}]},
                // In the order of the calls, by which Gemini knows them.
                {"role": "user", "parts": [
                    {"functionResponse": {"name": "weather", "response": {"result": "15 degrees"}}},
                    {"functionResponse": {"name": "weather", "response": {"result": "12 degrees"}}},
                    {"text": "And?"}]}
            ],
            "systemInstruction": {"parts": [{"text": "Be brief.\n\nBe kind."}]},
            "tools": [{"functionDeclarations": [{"name": "weather", "description": "Weather of a city", "parametersJsonSchema": schema()}]}],
            "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["weather"]}},
            "generationConfig": {"maxOutputTokens": 300, "temperature": 0.5, "topP": 0.9, "presencePenalty": 0, "stopSequences": ["END"],
                "responseMimeType": "application/json", "responseJsonSchema": {"type": "object"}}
        })
    );
}

#[test]
fn a_message_to_bedrock() {
    let sent = sent(Dialect::Messages, ProviderKind::Bedrock, messages()).unwrap();
    assert_eq!(
        sent,
        json!({
            "messages": [
                {"role": "user", "content": [{"text": "Weather?"}, {"image": {"format": "png", "source": {"bytes": "iVBO"}}}]},
                {"role": "assistant", "content": [
                    {"reasoningContent": {"reasoningText": {"text": "Two cities.", "signature": "EqQB"}}},
                    {"text": "Let me see."},
                    {"toolUse": {"toolUseId": "toolu_1", "name": "weather", "input": {"city": "Paris"}}},
                    {"toolUse": {"toolUseId": "toolu_2", "name": "weather", "input": {"city": "London"}}}]},
                {"role": "user", "content": [
                    {"toolResult": {"toolUseId": "toolu_2", "content": [{"text": "12 degrees"}], "status": "error"}},
                    {"toolResult": {"toolUseId": "toolu_1", "content": [{"text": "15 degrees"}]}},
                    {"text": "And?"}]}
            ],
            "system": [{"text": "Be brief.\n\nBe kind."}],
            "inferenceConfig": {"maxTokens": 300, "temperature": 0.5, "topP": 0.9, "stopSequences": ["END"]},
            "toolConfig": {"tools": [{"toolSpec": {"name": "weather", "inputSchema": {"json": schema()}, "description": "Weather of a city"}}],
                "toolChoice": {"any": {}}},
            "outputConfig": {"textFormat": {"type": "json_schema", "structure": {"jsonSchema": {"name": "answer", "schema": "{\"type\":\"object\"}"}}}},
            "additionalModelRequestFields": {"thinking": {"type": "enabled", "budget_tokens": 2048}}
        })
    );
}

#[test]
fn a_message_as_a_chat_completion() {
    let sent = sent(Dialect::Messages, ProviderKind::OpenAi, messages()).unwrap();
    assert_eq!(
        sent,
        json!({
            "model": "gpt-5-mini",
            "messages": [
                {"role": "system", "content": "Be brief.\n\nBe kind."},
                {"role": "user", "content": [{"type": "text", "text": "Weather?"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBO"}}]},
                {"role": "assistant", "content": "Let me see.", "tool_calls": [
                    {"id": "toolu_1", "type": "function", "function": {"name": "weather", "arguments": "{\"city\":\"Paris\"}"}},
                    {"id": "toolu_2", "type": "function", "function": {"name": "weather", "arguments": "{\"city\":\"London\"}"}}]},
                {"role": "tool", "tool_call_id": "toolu_2", "content": "12 degrees"},
                {"role": "tool", "tool_call_id": "toolu_1", "content": "15 degrees"},
                {"role": "user", "content": "And?"}
            ],
            "tools": [{"type": "function", "function": {"name": "weather", "parameters": schema(), "description": "Weather of a city"}}],
            "tool_choice": "required",
            "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}, "strict": true}},
            "temperature": 0.5, "top_p": 0.9, "stop": ["END"], "stream": true, "stream_options": {"include_usage": true},
            "max_completion_tokens": 300
        })
    );
}

#[test]
fn the_end_of_an_answer_is_told_to_everyone() {
    for (dialect, kind) in OTHERS {
        let mut body = object(json!({"model": "m", "messages": [{"role": "user", "content": "x"}]}));
        // As a budget has it, where the caller has not said.
        dialect.limit_output(&mut body, 4_096, "http://127.0.0.1");
        let sent = request(&body, &to(dialect, kind)).unwrap();
        let told = match kind {
            ProviderKind::OpenAi => &sent["max_completion_tokens"],
            ProviderKind::Anthropic => &sent["max_tokens"],
            ProviderKind::Gemini => &sent["generationConfig"]["maxOutputTokens"],
            ProviderKind::Bedrock => &sent["inferenceConfig"]["maxTokens"],
        };
        assert_eq!(told, 4_096, "{dialect:?} {kind}: {sent}");
    }
    let open = sent(Dialect::Chat, ProviderKind::Anthropic, json!({"messages": []})).unwrap();
    assert_eq!(open["max_tokens"], 16_384, "Anthropic takes no request without one");
}

/// What the model reads is bounded by the bytes of what the caller has sent, and of what is sent for it.
#[test]
fn a_translation_adds_little() {
    for (dialect, kind) in OTHERS {
        let body = if dialect == Dialect::Messages { messages() } else { chat() };
        let sent = sent(dialect, kind, body.clone()).unwrap().to_string();
        assert!(sent.len() < body.to_string().len() + 300, "{dialect:?} {kind}: {} of {}", sent.len(), body.to_string().len());
    }
}

#[test]
fn what_cannot_be_said_is_refused_by_its_name() {
    let said = json!([{"role": "user", "content": "x"}]);
    let picture = |source: Value| json!([{"role": "user", "content": [source]}]);
    let url = picture(json!({"type": "image_url", "image_url": {"url": "https://x/y.png"}}));
    for (dialect, kind, body, field) in [
        (Dialect::Chat, ProviderKind::Gemini, json!({"messages": said, "logprobs": true}), "\"logprobs\""),
        (Dialect::Chat, ProviderKind::Gemini, json!({"messages": said, "n": 2}), "\"n\""),
        (Dialect::Chat, ProviderKind::Gemini, json!({"messages": said, "parallel_tool_calls": false}), "\"parallel_tool_calls\""),
        (Dialect::Chat, ProviderKind::Gemini, json!({"messages": url}), "a picture by its address"),
        (Dialect::Chat, ProviderKind::Bedrock, json!({"messages": url}), "a picture by its address"),
        (Dialect::Chat, ProviderKind::Bedrock, json!({"messages": said, "top_k": 5}), "\"top_k\""),
        (Dialect::Chat, ProviderKind::Anthropic, json!({"messages": said, "logit_bias": {"1": 2}}), "\"logit_bias\""),
        (Dialect::Chat, ProviderKind::Anthropic, json!({"messages": said, "frequency_penalty": 0.5}), "\"frequency_penalty\""),
        (
            Dialect::Chat,
            ProviderKind::Anthropic,
            json!({"messages": said, "response_format": {"type": "json_object"}}),
            "response_format",
        ),
        (Dialect::Chat, ProviderKind::Anthropic, json!({"messages": said, "service_tier": "priority"}), "\"service_tier\""),
        (Dialect::Chat, ProviderKind::Anthropic, json!({"messages": said, "x_new_field": 1}), "\"x_new_field\""),
        (Dialect::Chat, ProviderKind::Anthropic, json!({"messages": said, "tools": [{"type": "custom"}]}), "\"tools[0]\""),
        (
            Dialect::Chat,
            ProviderKind::Anthropic,
            json!({"messages": [{"role": "tool", "content": "x"}]}),
            "messages[0].tool_call_id",
        ),
        (
            Dialect::Chat,
            ProviderKind::Gemini,
            json!({"messages": [{"role": "tool", "tool_call_id": "lost", "content": "x"}]}),
            "\"lost\"",
        ),
        (
            Dialect::Chat,
            ProviderKind::Bedrock,
            json!({"messages": picture(json!({"type": "input_audio"}))}),
            "messages[0].content[0]",
        ),
        (Dialect::Chat, ProviderKind::Bedrock, json!({"prompt": "x"}), "prompt"),
        (Dialect::Chat, ProviderKind::Bedrock, json!({"messages": "x"}), "messages"),
        (Dialect::Messages, ProviderKind::OpenAi, json!({"messages": said, "mcp_servers": [{}]}), "\"mcp_servers\""),
        (Dialect::Messages, ProviderKind::OpenAi, json!({"messages": said, "top_k": 5}), "\"top_k\""),
        (
            Dialect::Messages,
            ProviderKind::OpenAi,
            json!({"messages": said, "tools": [{"type": "web_search_20250305"}]}),
            "\"tools[0]\"",
        ),
        (Dialect::Messages, ProviderKind::OpenAi, json!({"messages": picture(json!({"type": "document"}))}), "\"document\""),
        (
            Dialect::Messages,
            ProviderKind::Gemini,
            json!({"messages": said, "tool_choice": {"type": "auto", "disable_parallel_tool_use": true}}),
            "disable_parallel_tool_use",
        ),
    ] {
        let why = sent(dialect, kind, body.clone()).unwrap_err();
        assert!(why.contains(field), "{body}: {why}");
    }
}

#[test]
fn what_asks_for_nothing_is_no_obstacle() {
    let body = json!({"messages": [{"role": "user", "content": "x"}], "n": 1, "logprobs": false, "top_logprobs": null, "logit_bias": {}, "seed": 5,
        "frequency_penalty": 0, "service_tier": "auto", "modalities": ["text"], "parallel_tool_calls": true, "store": true, "x_new": null});
    for kind in [ProviderKind::Anthropic, ProviderKind::Gemini, ProviderKind::Bedrock] {
        let sent = sent(Dialect::Chat, kind, body.clone()).unwrap();
        assert_eq!(sent.to_string().contains("\"seed\":5"), kind == ProviderKind::Gemini, "{sent}");
    }
}

#[test]
fn odd_histories_are_said_as_well_as_they_can_be() {
    // Ids of other servers, arguments that are none, and empty texts.
    let call =
        |id: &str, arguments: &str| json!({"id": id, "type": "function", "function": {"name": "f", "arguments": arguments}});
    let body = json!({"messages": [
        {"role": "user", "content": ""},
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "", "tool_calls": [call("functions.get:0", "not json"), call("ok", "")]},
        {"role": "tool", "tool_call_id": "functions.get:0", "content": ""},
        {"role": "tool", "tool_call_id": "ok", "content": "y"}
    ]});
    let anthropic = sent(Dialect::Chat, ProviderKind::Anthropic, body.clone()).unwrap();
    let blocks = &anthropic["messages"][1]["content"];
    assert_eq!(anthropic["messages"][0]["content"], json!([{"type": "text", "text": "x"}]));
    assert_eq!((&blocks[0]["input"], &blocks[1]["input"]), (&json!({"arguments": "not json"}), &json!({})));
    let id = blocks[0]["id"].as_str().unwrap();
    assert!(super::super::is_known_id(id), "{id}");
    assert_eq!(anthropic["messages"][2]["content"][0]["tool_use_id"], id);
    let bedrock = sent(Dialect::Chat, ProviderKind::Bedrock, body).unwrap();
    assert_eq!(bedrock["messages"][2]["content"][0]["toolResult"]["toolUseId"], id);
    assert_eq!(bedrock["messages"][2]["content"][0]["toolResult"]["content"], json!([{"text": "(nothing)"}]));
    for odd in [
        json!({"messages": [1]}),
        json!({"messages": [{"role": "user", "content": 7}]}),
        json!({"messages": [{"role": "x"}]}),
        json!({}),
    ] {
        for (dialect, kind) in OTHERS {
            assert!(sent(dialect, kind, odd.clone()).is_err(), "{odd}");
        }
    }
    for (dialect, odd) in [
        (Dialect::Chat, json!({"messages": [1, {"content": "x"}]})),
        (Dialect::Messages, json!({"messages": [1, {"content": [1]}]})),
    ] {
        forget(dialect, &mut object(odd));
    }
}

#[test]
fn thoughts_go_back_to_whom_they_are_from() {
    // Claude's own, through a chat completion.
    let thinking =
        json!([{"type": "thinking", "thinking": "Hm.", "signature": "EqQB"}, {"type": "redacted_thinking", "data": "xx"}]);
    let call = json!({"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"},
        "extra_content": {"google": {"thought_signature": "SIG"}}});
    let body = json!({"messages": [{"role": "user", "content": "x"},
        {"role": "assistant", "content": null, "reasoning_content": "Hm.", "thinking_blocks": thinking, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "y"}]});
    let anthropic = sent(Dialect::Chat, ProviderKind::Anthropic, body.clone()).unwrap();
    assert_eq!(anthropic["messages"][1]["content"][0], thinking[0]);
    assert_eq!(anthropic["messages"][1]["content"][1], thinking[1]);
    let bedrock = sent(Dialect::Chat, ProviderKind::Bedrock, body.clone()).unwrap();
    assert_eq!(bedrock["messages"][1]["content"][1], json!({"reasoningContent": {"redactedContent": "xx"}}));
    let gemini = sent(Dialect::Chat, ProviderKind::Gemini, body.clone()).unwrap();
    assert_eq!(gemini["contents"][1]["parts"], json!([{"functionCall": {"name": "f", "args": {}}, "thoughtSignature": "SIG"}]));
    // What is not this door's own stays for a server of the caller's kind.
    let mut own = object(body.clone());
    forget(Dialect::Chat, &mut own);
    assert_eq!(Value::from(own), body);
    let mut marked = body;
    (
        marked["messages"][1]["thinking_blocks"][1]["tollgate"],
        marked["messages"][1]["tool_calls"][0]["extra_content"]["tollgate"],
    ) = (true.into(), true.into());
    let mut own = object(marked);
    forget(Dialect::Chat, &mut own);
    let plain = json!({"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}});
    assert_eq!(own["messages"][1], json!({"role": "assistant", "content": null, "tool_calls": [plain]}));

    // Gemini's, through a message; and nobody's.
    let block = |by: &str| json!({"type": "thinking", "thinking": "Hm.", "signature": by});
    let tool = json!({"type": "tool_use", "id": "gen_1", "name": "f", "input": {}});
    let said = json!([block("tollgate:none"), block("tollgate:gemini:SIG"), tool]);
    let body = json!({"max_tokens": 5, "messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": said}]});
    let gemini = sent(Dialect::Messages, ProviderKind::Gemini, body.clone()).unwrap();
    assert_eq!(gemini["contents"][1]["parts"], json!([{"functionCall": {"name": "f", "args": {}}, "thoughtSignature": "SIG"}]));
    let bedrock = sent(Dialect::Messages, ProviderKind::Bedrock, body.clone()).unwrap();
    assert_eq!(bedrock["messages"][1]["content"].as_array().map(Vec::len), Some(1), "{bedrock}");
    let mut own = object(body);
    forget(Dialect::Messages, &mut own);
    assert_eq!(own["messages"][1]["content"], json!([tool]));
    // Older models check no signature, and are shown none that is not theirs.
    let older = To { model: "gemini-2.5-flash", ..to(Dialect::Chat, ProviderKind::Gemini) };
    let call = json!({"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}});
    let body = object(json!({"messages": [{"role": "assistant", "tool_calls": [call]}]}));
    assert!(!request(&body, &older).unwrap().to_string().contains("thoughtSignature"));
}
