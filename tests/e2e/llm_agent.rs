//! Models and their tools through the LLM door: by hand, and in a loop.

use std::time::Duration;

use serde_json::{Value, json};

use crate::llm::{Got, World};

fn calls(world: &World) -> Vec<String> {
    world.recorder.tags().into_keys().collect()
}

const AGENT: (&str, &str) = ("x-tollgate-mode", "agent");

async fn chat(world: &World, headers: &[(&str, &str)], model: &str, says: &str, stream: bool) -> Got {
    let body = json!({"model": model, "stream": stream, "messages": [{"role": "user", "content": says}]});
    world.ask_with("/v1/chat/completions", headers, body).await
}

#[tokio::test]
async fn by_hand_a_model_asks_and_the_caller_executes_under_the_same_request() {
    let world = World::new("Manual").await;
    let answer = chat(&world, &[], "tools", r#"rec__echo {"tag": "m"}"#, false).await;
    let call = answer.json()["choices"][0]["message"]["tool_calls"][0].clone();
    assert_eq!((&call["function"]["name"], answer.json().get("tollgate")), (&json!("rec__echo"), None), "{answer:?}");
    assert!(calls(&world).is_empty(), "nothing runs by itself");

    let id = answer.id();
    let parent = [("x-tollgate-request-id", id.as_str())];
    let made = world.ask_with("/v1/mcp/tool/execute", &parent, call.clone()).await;
    assert_eq!((made.status, &made.json()["role"], &made.json()["tool_call_id"]), (200, &json!("tool"), &call["id"]), "{made:?}");
    assert!(made.json()["content"].as_str().is_some_and(|text| text.contains("\"tag\":\"m\"")), "{made:?}");
    assert_eq!(calls(&world), ["m"]);
    let tree = world.row(&id).await;
    assert_eq!(tree["tool_calls"][0]["id"], made.json()["tollgate"]["call_id"], "{tree}");
    assert_eq!(tree["tool_calls"][0]["origin"], "llm");

    // The same in the other dialects, and with nobody's parent.
    let block = json!({"type": "tool_use", "id": "toolu_9", "name": "rec__fail", "input": {}});
    let made = world.ask("/v1/mcp/tool/execute", block).await.json();
    assert_eq!(
        (&made["type"], &made["tool_use_id"], &made["is_error"]),
        (&json!("tool_result"), &json!("toolu_9"), &json!(true)),
        "{made}"
    );
    let item = json!({"type": "function_call", "call_id": "c9", "name": "rec__echo", "arguments": "{\"tag\":\"r\"}"});
    let made = world.ask("/v1/mcp/tool/execute", item).await.json();
    assert_eq!((&made["type"], &made["call_id"]), (&json!("function_call_output"), &json!("c9")), "{made}");

    let foreign = [("x-tollgate-request-id", "req_00000000000000000000000001")];
    let refused = world.ask_with("/v1/mcp/tool/execute", &foreign, call).await;
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (404, &json!("unknown_parent")));
    let rows = world.tenant.get("tool-calls?limit=1").await.expect(200);
    assert_eq!(
        (&rows["items"][0]["decision"], &rows["items"][0]["reason"]),
        (&json!("denied"), &json!("unknown_parent")),
        "{rows}"
    );
    let unknown = json!({"id": "c", "function": {"name": "rec__nothing", "arguments": "{}"}});
    let refused = world.ask("/v1/mcp/tool/execute", unknown).await.json();
    assert_eq!(refused["tollgate"]["outcome"], "denied", "{refused}");
    assert_eq!(world.ask("/v1/mcp/tool/execute", json!({"x": 1})).await.status, 400);
}

#[tokio::test]
async fn in_a_loop_tools_run_side_by_side_and_each_turn_is_a_request_under_one_root() {
    let world = World::new("Agent").await;
    let two = "rec__slow {\"ms\": 300, \"tag\": \"a\"}\nrec__slow {\"ms\": 300, \"tag\": \"b\"}";
    let answer = chat(&world, &[AGENT], "tools", two, false).await;
    let json = answer.json();
    assert!(json["choices"][0]["message"]["content"].as_str().is_some_and(|text| text.starts_with("done: ")), "{answer:?}");
    assert_eq!((&json["tollgate"]["state"], &json["tollgate"]["turns"]), (&json!("done"), &json!(2)), "{json}");
    assert_eq!(json["tollgate"]["tool_calls"].as_array().map(Vec::len), Some(2));
    assert_eq!(world.recorder.most_at_once(), 2, "side by side");

    let tree = world.row(&answer.id()).await;
    let turns = tree["turns"].as_array().expect("turns");
    assert_eq!(turns.len(), 2, "{tree}");
    assert_eq!(turns[0]["id"], tree["id"]);
    assert_eq!((&turns[1]["root_id"], &turns[1]["turn"], &turns[1]["mode"]), (&tree["id"], &json!(2), &json!("agent")));
    assert_eq!(turns[0]["tool_calls"].as_array().map(Vec::len), Some(2));
    assert!(turns[1]["tool_calls"].as_array().is_some_and(Vec::is_empty));
    assert!(turns.iter().all(|turn| turn["outcome"] == "ok" && turn["usage"] == "reported"), "{tree}");
    // What the model reads in its second turn is what it said and what came of it, and nothing else was changed.
    let second = &world.models.asked()[1].body["messages"];
    let roles: Vec<_> = second.as_array().unwrap().iter().map(|m| m["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["user", "assistant", "tool", "tool"]);

    let answer = world
        .ask_with(
            "/v1/messages",
            &[AGENT],
            json!({"model": "tools", "max_tokens": 9, "messages": [{"role": "user", "content": "rec__echo {\"tag\": \"c\"}"}]}),
        )
        .await;
    assert!(answer.json()["content"][0]["text"].as_str().is_some_and(|text| text.starts_with("done: ")), "{answer:?}");
    let answer =
        world.ask_with("/v1/responses", &[AGENT], json!({"model": "tools", "input": "rec__echo {\"tag\": \"d\"}"})).await;
    assert!(
        answer.json()["output"][0]["content"][0]["text"].as_str().is_some_and(|text| text.starts_with("done: ")),
        "{answer:?}"
    );
}

#[tokio::test]
async fn a_loop_streams_all_the_way_and_its_own_tool_calls_are_not_the_callers() {
    let world = World::new("Agent streams").await;
    let answer = chat(&world, &[AGENT], "tools", r#"rec__echo {"tag": "s"}"#, true).await;
    let events: Vec<Value> = answer.events().iter().filter_map(|event| serde_json::from_str(event).ok()).collect();
    let said: String = events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect();
    assert!(said.starts_with("done: "), "{answer:?}");
    assert!(events.iter().all(|event| event["choices"][0]["delta"].get("tool_calls").is_none()), "{answer:?}");
    let finishes: Vec<_> = events.iter().filter_map(|event| event["choices"][0]["finish_reason"].as_str()).collect();
    assert_eq!(finishes, ["stop"], "{answer:?}");
    assert!(events.iter().any(|event| event["tollgate"]["tool_call"]["name"] == "rec__echo"), "{answer:?}");
    assert!(answer.text.ends_with("data: [DONE]\n\n"));
    assert_eq!(world.row(&answer.id()).await["turns"].as_array().map(Vec::len), Some(2));

    let body = json!({"model": "tools", "stream": true, "max_tokens": 9, "messages": [{"role": "user", "content": "rec__echo {\"tag\": \"t\"}"}]});
    let answer = world.ask_with("/v1/messages", &[AGENT], body).await;
    let events: Vec<Value> = answer.events().iter().filter_map(|event| serde_json::from_str(event).ok()).collect();
    let kinds: Vec<_> = events.iter().map(|event| event["type"].as_str().unwrap_or_default()).collect();
    assert_eq!(kinds.iter().filter(|kind| **kind == "message_start").count(), 1, "{kinds:?}");
    assert_eq!(kinds.iter().filter(|kind| **kind == "message_stop").count(), 1, "{kinds:?}");
    let starts: Vec<_> = events
        .iter()
        .filter(|event| event["type"] == "content_block_start")
        .map(|event| (event["index"].clone(), event["content_block"]["type"].clone()))
        .collect();
    assert_eq!(starts, [(json!(0), json!("text")), (json!(1), json!("text"))], "blocks are numbered through: {answer:?}");

    let body = json!({"model": "tools", "stream": true, "input": "rec__echo {\"tag\": \"r\"}"});
    let answer = world.ask_with("/v1/responses", &[AGENT], body).await;
    let events: Vec<Value> = answer.events().iter().filter_map(|event| serde_json::from_str(event).ok()).collect();
    let kinds: Vec<_> = events.iter().map(|event| event["type"].as_str().unwrap_or_default()).collect();
    for once in ["response.created", "response.completed"] {
        assert_eq!(kinds.iter().filter(|kind| **kind == once).count(), 1, "{kinds:?}");
    }
    assert!(!kinds.iter().any(|kind| kind.contains("function_call")), "{kinds:?}");
    let said: String = events.iter().filter_map(|event| event["delta"].as_str()).collect();
    assert!(said.starts_with("done: "), "{answer:?}");
    let numbers: Vec<u64> = events.iter().filter_map(|event| event["sequence_number"].as_u64()).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "{numbers:?}");
    assert!(events.iter().any(|event| event["tollgate"]["tool_call"]["name"] == "rec__echo"), "{answer:?}");
}

#[tokio::test]
async fn what_is_not_ours_or_not_allowed_goes_back_to_the_caller() {
    let world = World::new("Agent stops").await;
    // The caller's own tool, also beside one of ours: the caller has to answer both.
    let own = json!([{"type": "function", "function": {"name": "mine", "parameters": {"type": "object"}}}]);
    let body = json!({"model": "tools", "tools": own, "messages": [{"role": "user", "content": "mine {\"x\": 1}\nrec__echo {\"tag\": \"z\"}"}]});
    let answer = world.ask_with("/v1/chat/completions", &[AGENT], body).await.json();
    assert_eq!(answer["choices"][0]["message"]["tool_calls"].as_array().map(Vec::len), Some(2), "{answer}");
    assert!(calls(&world).is_empty());
    assert_eq!(world.models.asked()[0].body["tools"][0], own[0], "and stands before ours, as it was");

    // A model that never stops is stopped.
    let headers = [AGENT, ("x-tollgate-max-turns", "3")];
    let answer = chat(&world, &headers, "loop", r#"rec__echo {"tag": "l"}"#, false).await.json();
    assert_eq!(
        (&answer["tollgate"]["turns"], answer["choices"][0]["finish_reason"].as_str()),
        (&json!(3), Some("tool_calls")),
        "{answer}"
    );
    assert_eq!(world.recorder.tagged("l").len(), 2);

    world.tenant.patch(&format!("keys/{}", world.key.id), json!({"agent_mode": "off"})).await.ok();
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    let refused = chat(&world, &[AGENT], "echo", "x", false).await;
    assert_eq!(refused.status, 400, "{refused:?}");
    world.tenant.patch(&format!("keys/{}", world.key.id), json!({"agent_mode": "always", "agent_turns": 2})).await.ok();
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    let answer = chat(&world, &[], "tools", r#"rec__echo {"tag": "always"}"#, false).await.json();
    assert_eq!(answer["tollgate"]["state"], "done", "{answer}");
}

/// Code Mode through the LLM door: the meta-tools are functions like any other.
#[tokio::test]
async fn a_model_writes_a_script_whose_calls_hang_under_its_request() {
    let world = World::new("Agent scripts").await;
    let upstream = world.tenant.upstream("code", world.recorder.transport(), "code").await;
    let (key, _) = world.tenant.open(&[&upstream]).await;
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    let url = format!("{}/v1/chat/completions", world.tollgate.gateway_url);
    let script = "executeToolCode {\"code\": \"result = [code.echo(tag=str(i)) for i in range(3)]\"}";
    let body = json!({"model": "tools", "messages": [{"role": "user", "content": script}]});
    let answer = crate::llm::ask(&url, &key.secret, &[AGENT], body).await;
    assert!(
        answer.json()["choices"][0]["message"]["content"].as_str().is_some_and(|text| text.contains("\"state\":\"done\"")),
        "{answer:?}"
    );
    let tree = world.row(&answer.id()).await;
    assert_eq!(tree["script_runs"][0]["tool_calls"].as_array().map(Vec::len), Some(3), "{tree}");
}
