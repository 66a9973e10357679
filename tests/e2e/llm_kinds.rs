//! Providers that speak otherwise than their callers: whatever a caller's dialect is, each kind answers in it.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    harness::{Admin, LEAK, Models, Tenant, until},
    llm::{CANARY, Got, World, provider},
};

/// Credentials of AWS, no part of which may be seen.
const AWS: [&str; 3] = ["ASIACANARYCANARY0001", "aws/canary+secret/0123456789", "aws-canary-token=="];
const AGENT: (&str, &str) = ("x-tollgate-mode", "agent");
/// Those whom a chat completion is translated for.
const FOREIGN: [&str; 4] = ["anthropic", "gem", "rock", "signed"];

/// A world with a provider of each kind, and one of Bedrock's whose requests are signed.
async fn world(name: &str) -> World {
    let world = World::new(name).await;
    kinds(&world.tenant, &world.models).await;
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    world
}

pub async fn kinds(tenant: &Tenant, models: &Models) {
    let root = models.root();
    provider(tenant, "gem", "gemini", &format!("{root}/v1beta"), json!({})).await;
    provider(tenant, "rock", "bedrock", &root, json!({"region": "eu-west-1"})).await;
    let keys = json!([{"name": "iam", "secret": AWS.join(":")}]);
    provider(tenant, "signed", "bedrock", &root, json!({"region": "eu-central-1", "keys": keys})).await;
}

fn chat(model: &str, says: &str, stream: bool) -> Value {
    let mut body =
        json!({"model": model, "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": says}]});
    if stream {
        (body["stream"], body["stream_options"]) = (true.into(), json!({"include_usage": true}));
    }
    body
}

fn message(model: &str, says: &str, stream: bool) -> Value {
    json!({"model": model, "max_tokens": 50, "stream": stream, "messages": [{"role": "user", "content": says}]})
}

fn events(answer: &Got) -> Vec<Value> {
    answer.events().iter().filter_map(|event| serde_json::from_str(event).ok()).collect()
}

fn leaks(text: &str) -> bool {
    AWS.iter().any(|part| text.contains(part)) || text.contains(CANARY) || text.contains(LEAK)
}

#[tokio::test]
async fn a_chat_completion_reaches_every_kind_and_is_a_row_like_any_other() {
    let world = world("Kinds chat").await;
    world.tenant.post("llm-prices", json!({"model": "echo", "input": "1000000", "output": "1000000"})).await.expect(201);
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    for name in FOREIGN {
        for stream in [false, true] {
            let answer = world.ask("/v1/chat/completions", chat(&format!("{name}/echo"), "two words", stream)).await;
            assert_eq!(answer.status, 200, "{name}: {answer:?}");
            let said = if stream {
                assert!(answer.text.ends_with("data: [DONE]\n\n"), "{name}: {answer:?}");
                assert!(events(&answer).iter().any(|event| event["usage"]["total_tokens"].is_u64()), "{name}: {answer:?}");
                let deltas = events(&answer);
                deltas.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str().map(str::to_owned)).collect()
            } else {
                answer.json()["choices"][0]["message"]["content"].as_str().unwrap_or_default().to_owned()
            };
            assert_eq!(said, "two words", "{name}: {answer:?}");
            let row = world.row(&answer.id()).await;
            let (input, output) = if name == "gem" { (2, 3) } else { (4, 5) };
            for (field, value) in [
                ("outcome", json!("ok")),
                ("provider", json!(name)),
                ("model_served", json!("echo")),
                ("usage", json!("reported")),
                ("input_tokens", json!(input)),
                ("output_tokens", json!(output)),
                ("finish_reason", json!("stop")),
                ("streaming", json!(stream)),
                ("amount", json!((input + output).to_string())),
            ] {
                assert_eq!(row[field], value, "{name} {field}: {row}");
            }
            assert_eq!(row["prompt"]["messages"][0]["role"], "system", "as the caller has sent it: {row}");
            assert_eq!(row["answer"]["object"], "chat.completion", "as the caller has got it: {row}");
            assert!(!leaks(&format!("{answer:?}{row}")), "{row}");
        }
    }
    let asked = world.models.asked();
    let of = |path: &str| asked.iter().find(|asked| asked.path == path).expect("it was asked");
    assert_eq!((&of("messages").body["system"], &of("messages").body["max_tokens"]), (&json!("Be brief."), &json!(16_384)));
    assert_eq!(of("gemini").headers["x-goog-api-key"], CANARY);
    assert_eq!(of("gemini").body["contents"][0]["parts"][0]["text"], "two words");
    let rock: Vec<_> = asked.iter().filter(|asked| asked.path == "bedrock").collect();
    assert_eq!(rock[0].headers["authorization"], format!("Bearer {CANARY}"));
    let signed = rock.iter().find(|asked| asked.headers.contains_key("x-amz-security-token")).expect("it was signed");
    assert_eq!(signed.headers["x-amz-security-token"], AWS[2]);
    let authorization = signed.headers["authorization"].to_str().expect("text");
    let credential = format!("AWS4-HMAC-SHA256 Credential={}/", AWS[0]);
    assert!(
        authorization.starts_with(&credential) && authorization.contains("/eu-central-1/bedrock/aws4_request"),
        "{authorization}"
    );
    assert!(!authorization.contains(AWS[1]));
    assert!(asked.iter().all(|asked| !format!("{:?}", asked.headers).contains(&world.key.secret)), "a virtual key stays here");
}

#[tokio::test]
async fn a_message_reaches_every_kind_and_so_does_its_agent_loop() {
    let world = world("Kinds messages").await;
    for name in ["openai", "gem", "rock"] {
        for stream in [false, true] {
            let answer = world.ask("/v1/messages", message(&format!("{name}/echo"), "two words", stream)).await;
            assert_eq!(answer.status, 200, "{name}: {answer:?}");
            if stream {
                let kinds: Vec<_> =
                    events(&answer).iter().map(|event| event["type"].as_str().unwrap_or_default().to_owned()).collect();
                assert_eq!(
                    (kinds.first().map(String::as_str), kinds.last().map(String::as_str)),
                    (Some("message_start"), Some("message_stop"))
                );
            } else {
                assert_eq!(
                    (&answer.json()["content"][0]["text"], &answer.json()["stop_reason"]),
                    (&json!("two words"), &json!("end_turn"))
                );
            }
            let row = world.row(&answer.id()).await;
            assert_eq!(
                (&row["outcome"], &row["usage"], &row["answer"]["type"]),
                (&json!("ok"), &json!("reported"), &json!("message")),
                "{row}"
            );

            let body = message(&format!("{name}/tools"), "rec__echo {\"tag\": \"m\"}", stream);
            let answer = world.ask_with("/v1/messages", &[AGENT], body).await;
            assert!(answer.text.contains("done: "), "{name}: {answer:?}");
            if stream {
                let starts: Vec<_> = events(&answer).into_iter().filter(|event| event["type"] == "content_block_start").collect();
                let indices: Vec<_> = starts.iter().map(|event| event["index"].as_u64().unwrap()).collect();
                assert_eq!(indices, (0..).take(indices.len()).collect::<Vec<u64>>(), "{name}: {answer:?}");
                assert!(starts.iter().all(|event| event["content_block"]["type"] != "tool_use"), "{name}: {answer:?}");
            } else {
                assert_eq!(answer.json()["tollgate"]["state"], "done", "{name}: {answer:?}");
            }
            let tree = world.row(&answer.id()).await;
            assert_eq!(tree["turns"].as_array().map(Vec::len), Some(2), "{tree}");
        }
    }
    let sent = world.models.asked();
    let asked = sent.iter().find(|asked| asked.path == "chat" && asked.body["stream"] == true).expect("it was asked");
    assert_eq!(asked.body["stream_options"], json!({"include_usage": true}), "what it costs is counted at the end");
}

#[tokio::test]
async fn tools_are_called_in_a_loop_and_by_hand_at_every_kind() {
    let world = world("Kinds tools").await;
    for name in FOREIGN {
        for stream in [false, true] {
            let two = "rec__echo {\"tag\": \"a\"}\nrec__echo {\"tag\": \"b\"}";
            let answer = world.ask_with("/v1/chat/completions", &[AGENT], chat(&format!("{name}/tools"), two, stream)).await;
            assert!(answer.text.contains("done: "), "{name}: {answer:?}");
            let tree = world.row(&answer.id()).await;
            let turns = tree["turns"].as_array().expect("turns");
            assert_eq!(turns.len(), 2, "{name}: {tree}");
            assert!(
                turns.iter().all(|turn| turn["outcome"] == "ok" && turn["usage"] == "reported" && turn["provider"] == name),
                "{tree}"
            );
            assert_eq!(turns[0]["tool_calls"].as_array().map(Vec::len), Some(2), "{name}: {tree}");
        }
        // By hand, and with what the model said sent back by a client that keeps nothing but what it knows.
        let body = chat(&format!("{name}/tools"), "rec__echo {\"tag\": \"h\"}", false);
        let asked = world.ask("/v1/chat/completions", body.clone()).await;
        let said = asked.json()["choices"][0]["message"].clone();
        let call = &said["tool_calls"][0];
        assert_eq!((&call["function"]["name"], &call["type"]), (&json!("rec__echo"), &json!("function")), "{name}: {asked:?}");
        let id = asked.id();
        let parent = [("x-tollgate-request-id", id.as_str())];
        let result = world.ask_with("/v1/mcp/tool/execute", &parent, call.clone()).await.json();
        let mut again = body;
        let list = again["messages"].as_array_mut().expect("a list");
        list.extend([said, json!({"role": "tool", "tool_call_id": result["tool_call_id"], "content": result["content"]})]);
        let answer = world.ask("/v1/chat/completions", again).await;
        assert!(answer.text.contains("done: "), "{name}: {answer:?}");
    }
}

#[tokio::test]
async fn a_route_falls_back_across_kinds_and_a_name_is_found_at_who_speaks_the_dialect_first() {
    let world = world("Kinds fall back").await;
    let other = Models::start();
    let all = world.tenant.list("providers").await;
    let id = |name: &str| all.iter().find(|one| one["name"] == name).expect("it exists")["id"].clone();
    for (route, first) in [("limited", "busy"), ("failing", "down")] {
        let targets = json!([{"provider_id": id("openai"), "model": first}, {"provider_id": id("anthropic"), "model": "echo", "weight": 0}]);
        world.tenant.post("model-routes", json!({"name": route, "targets": targets})).await.expect(201);
    }
    let targets = json!([{"provider_id": id("gem"), "model": "down"}, {"provider_id": id("rock"), "model": "shut", "weight": 0},
        {"provider_id": id("openai"), "model": "echo", "weight": 0}]);
    world.tenant.post("model-routes", json!({"name": "far", "targets": targets})).await.expect(201);
    provider(&world.tenant, "listed", "gemini", &format!("{}/v1beta", other.root()), json!({"models": ["gemini-*"]})).await;
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    for (route, tries, served) in [("limited", 2, "anthropic"), ("failing", 2, "anthropic"), ("far", 3, "openai")] {
        for stream in [false, true] {
            let answer = world.ask("/v1/chat/completions", chat(route, "over there", stream)).await;
            assert_eq!(answer.status, 200, "{route}: {answer:?}");
            let row = world.row(&answer.id()).await;
            let made = row["attempts"].as_array().map_or(0, Vec::len);
            // A key that was refused is left alone the second time.
            assert!((made == tries || (stream && route == "far" && made == 2)) && row["provider"] == served, "{row}");
        }
        let answer = world.ask("/v1/messages", message(route, "over there", false)).await;
        assert_eq!(answer.json()["content"][0]["text"], "over there", "{route}: {answer:?}");
    }
    for (model, provider) in [("anything", "openai"), ("gemini-9", "listed")] {
        let answer = world.ask("/v1/chat/completions", chat(model, "x", false)).await;
        assert_eq!(world.row(&answer.id()).await["provider"], provider, "{model}: {answer:?}");
    }
    assert_eq!(other.asked().len(), 1);
    // What the first of them cannot be told is told the second, and nobody is told what nobody can be.
    let mut body = chat("far", "x", false);
    body["logprobs"] = true.into();
    let answer = world.ask("/v1/chat/completions", body).await;
    let row = world.row(&answer.id()).await;
    assert_eq!((row["attempts"].as_array().map(Vec::len), &row["provider"]), (Some(1), &json!("openai")), "{row}");
}

#[tokio::test]
async fn what_a_provider_cannot_be_told_is_refused_before_anything_is_sent() {
    let world = world("Kinds refuse").await;
    for (path, mut body, field, value) in [
        ("/v1/chat/completions", chat("gem/echo", "x", false), "logprobs", json!(true)),
        ("/v1/chat/completions", chat("rock/echo", "x", false), "x_new_field", json!({"a": 1})),
        ("/v1/chat/completions", chat("anthropic/echo", "x", true), "n", json!(2)),
        ("/v1/messages", message("openai/echo", "x", false), "mcp_servers", json!([{"url": "https://x"}])),
    ] {
        body[field] = value;
        let answer = world.ask(path, body).await;
        let error = &answer.json()["error"];
        assert_eq!((answer.status, &error["code"]), (400, &json!("not_translatable")), "{answer:?}");
        assert!(error["message"].as_str().is_some_and(|words| words.contains(&format!("\"{field}\""))), "{answer:?}");
    }
    for (path, body) in [
        ("/v1/embeddings", json!({"model": "gem/echo", "input": "x"})),
        ("/v1/responses", json!({"model": "rock/echo", "input": "x"})),
    ] {
        let answer = world.ask(path, body).await;
        assert_eq!(answer.status, 404, "{answer:?}");
        let words = answer.json()["error"]["message"].as_str().expect("words").to_owned();
        assert!(words.contains(&format!("{path} is served by providers of kind \"openai\" alone")), "{answer:?}");
        assert_eq!(world.row(&answer.id()).await["reason"], "unknown_model");
    }
    assert!(world.models.asked().is_empty(), "nobody was asked");
}

#[tokio::test]
async fn what_goes_wrong_is_told_in_the_callers_dialect_and_no_key_is_seen() {
    let world = world("Kinds fail").await;
    let mut seen = String::new();
    for name in ["gem", "rock", "signed", "anthropic"] {
        for (model, status, code) in [
            ("shut", 502, "provider_refused_key"),
            ("down", 502, "provider_error"),
            ("wrong", 400, "provider_refused"),
            ("garbage", 502, "provider_error"),
            ("broken", 502, "provider_error"),
        ] {
            let answer = world.ask("/v1/chat/completions", chat(&format!("{name}/{model}"), "x", false)).await;
            assert_eq!((answer.status, &answer.json()["error"]["code"]), (status, &json!(code)), "{name}/{model}: {answer:?}");
            let row = world.row(&answer.id()).await;
            assert_eq!(row["outcome"], "upstream_error", "{name}/{model}: {row}");
            seen += &format!("{answer:?}{row}");
        }
        for (model, says) in [("cut", "broke in the middle"), ("broken", "out of memory")] {
            for (path, body) in [
                ("/v1/chat/completions", chat(&format!("{name}/{model}"), "a b c d e f", true)),
                (
                    "/v1/messages",
                    message(&format!("{}/{model}", if name == "anthropic" { "openai" } else { name }), "a b c d e f", true),
                ),
            ] {
                let answer = world.ask(path, body).await;
                let last = events(&answer).pop().expect("an event");
                assert!(
                    last["error"]["message"].as_str().is_some_and(|words| words.contains(says)),
                    "{name}/{model}: {answer:?}"
                );
                assert!(!answer.text.contains("[DONE]") && !answer.text.contains("message_stop"), "{answer:?}");
                let row = world.row(&answer.id()).await;
                assert_eq!(row["outcome"], "upstream_error", "{row}");
                seen += &format!("{answer:?}{row}");
            }
        }
    }
    assert!(
        seen.contains("temperature is too high for [key]") && seen.contains("out of memory for [key]"),
        "what is about the request is told"
    );
    let log = world.tollgate.process.output();
    let events = world.tenant.list("admin-events").await;
    assert!(!leaks(&seen) && !leaks(&format!("{log}{events:?}")), "{seen}");
    // A key that is left alone, and a provider that was asked too often, answer again.
    let answer = world.ask("/v1/chat/completions", chat("gem/busy", "x", false)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[tokio::test]
async fn a_caller_who_goes_away_pays_for_what_was_said() {
    let world = world("Kinds leave").await;
    let body = chat("rock/slow-100", &"word ".repeat(60), true);
    let request = crate::harness::http_client().post(format!("{}/v1/chat/completions", world.tollgate.gateway_url));
    let answer = request.bearer_auth(&world.key.secret).json(&body).send().await.expect("an answer");
    let id = answer.headers()["x-tollgate-request-id"].to_str().unwrap().to_owned();
    let mut stream = answer.bytes_stream();
    for _ in 0..4 {
        futures::StreamExt::next(&mut stream).await.expect("a piece").expect("bytes");
    }
    drop(stream);
    until("the request has ended", Duration::from_secs(10), async || {
        (world.row(&id).await["outcome"] != Value::Null).then_some(())
    })
    .await;
    let row = world.row(&id).await;
    assert_eq!((&row["outcome"], &row["usage"]), (&json!("cancelled"), &json!("estimated")), "{row}");
    until("the provider has been left", Duration::from_secs(10), async || (world.models.abandoned() == 1).then_some(())).await;
}

#[tokio::test]
async fn each_kind_of_provider_has_its_own_fields() {
    let world = World::new("Kinds admin").await;
    let admin: &Admin = &world.tenant.admin;
    let path = world.tenant.path("providers");
    let keys = json!([{"name": "k", "secret": "s"}]);
    for (body, pointer) in [
        (json!({"name": "a", "kind": "openai", "keys": keys}), "/base_url"),
        (json!({"name": "a", "kind": "gemini", "region": "eu-west-1", "keys": keys}), "/region"),
        (json!({"name": "a", "kind": "bedrock", "keys": keys}), "/region"),
        (json!({"name": "a", "kind": "bedrock", "base_url": "https://example.com", "keys": keys}), "/region"),
        (json!({"name": "a", "kind": "bedrock", "region": "EU", "keys": keys}), "/region"),
        (
            json!({"name": "a", "kind": "bedrock", "region": "eu-west-1", "keys": [{"name": "k", "secret": "id:secret"}]}),
            "/keys/0/secret",
        ),
    ] {
        let refused = admin.post(&path, body.clone()).await.expect(422);
        assert_eq!(refused["errors"][0]["pointer"], pointer, "{body}: {refused}");
    }
    let gemini = world.tenant.post("providers", json!({"name": "g", "kind": "gemini", "keys": keys})).await.expect(201);
    assert_eq!(gemini["base_url"], "https://generativelanguage.googleapis.com/v1beta");
    let bedrock = json!({"name": "b", "kind": "bedrock", "region": "eu-west-1", "keys": keys});
    let bedrock = world.tenant.post("providers", bedrock).await.expect(201);
    assert_eq!(
        (&bedrock["region"], &bedrock["base_url"]),
        (&json!("eu-west-1"), &json!("https://bedrock-runtime.eu-west-1.amazonaws.com/"))
    );
    // It moves as a whole or not at all.
    let own = format!("providers/{}", bedrock["id"].as_str().expect("an id"));
    world.tenant.patch(&own, json!({"region": "us-east-1"})).await.expect(422);
    let moved = json!({"region": "us-east-1", "base_url": "https://bedrock-runtime.us-east-1.amazonaws.com", "keys": keys});
    assert_eq!(world.tenant.patch(&own, moved).await.expect(200)["region"], "us-east-1");
    let elsewhere = json!({"base_url": "https://proxy.example.com", "keys": keys});
    assert_eq!(world.tenant.patch(&own, elsewhere).await.expect(200)["region"], "us-east-1", "it is still signed for");
}
