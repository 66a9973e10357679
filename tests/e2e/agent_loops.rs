//! Agent loops that wait for people: put down, decided on, and taken up again, by whoever is there.

use std::{process::Command, time::Duration};

use serde_json::{Value, json};

use crate::{
    harness::{Key, Models, Options, Recorder, Tenant, Tollgate, python, root, until},
    llm::{Got, ask, provider},
    second_worker::Worker,
};

const AGENT: (&str, &str) = ("x-tollgate-mode", "agent");
const SOON: Duration = Duration::from_secs(20);

/// A tenant whose upstream `pay` has a tool `echo` that one person has to confirm.
struct World {
    tenant: Tenant,
    recorder: Recorder,
    models: Models,
    key: Key,
    gateway: String,
}

impl World {
    async fn new(tollgate: &Tollgate, name: &str, exposure: &str) -> Self {
        let tenant = Tenant::new(tollgate, name).await;
        let (models, recorder) = (Models::start(), Recorder::start());
        for kind in ["openai", "anthropic"] {
            provider(&tenant, kind, kind, &models.base(), json!({})).await;
        }
        let upstream = tenant.upstream("pay", recorder.transport(), exposure).await;
        let members = json!([{"upstream_id": upstream.id, "tools": ["*"]}]);
        let approval = json!([{"upstream_id": upstream.id, "tools": ["echo"], "confirmations": 1}]);
        let group = json!({"name": "pay", "members": members, "approval": approval});
        let group = tenant.post("tool-groups", group).await.expect(201);
        let key = tenant.key_with(json!({"name": "k", "tool_group_ids": [group["id"]]})).await;
        tokio::time::sleep(Duration::from_millis(1_200)).await;
        Self { tenant, recorder, models, key, gateway: tollgate.gateway_url.clone() }
    }

    async fn shared(name: &str) -> Self {
        Self::new(Tollgate::shared().await, name, "classic").await
    }

    async fn send(&self, path: &str, headers: &[(&str, &str)], body: Value) -> Got {
        ask(&format!("{}{path}", self.gateway), &self.key.secret, headers, body).await
    }

    async fn chat(&self, says: &str) -> Got {
        self.send("/v1/chat/completions", &[AGENT], json!({"model": "tools", "messages": [{"role": "user", "content": says}]}))
            .await
    }

    /// What the official clients send: the same request, with a header more.
    async fn resume(&self, root: &str, stream: bool) -> Got {
        let body = json!({"model": "tools", "stream": stream, "messages": []});
        self.send("/v1/chat/completions", &[("x-tollgate-resume", root)], body).await
    }

    async fn decide(&self, approval: &Value, verdict: &str) {
        let operator = self.tenant.role("operator").await;
        let path = format!("approvals/{}/{verdict}", approval.as_str().expect("an approval"));
        operator.post(&self.tenant.path(&path), json!({"reason": "said so"})).await.ok();
    }

    async fn tree(&self, root: &str) -> Value {
        self.tenant.get(&format!("llm-requests/{root}")).await.ok()
    }

    async fn until(&self, root: &str, state: &str) -> Value {
        until(&format!("the loop is {state}"), SOON, async || {
            let tree = self.tree(root).await;
            (tree["agent_loop"]["state"] == state).then_some(tree)
        })
        .await
    }
}

fn one<'a>(answer: &'a Value, name: &str) -> &'a Value {
    let calls = answer["tollgate"]["tool_calls"].as_array().expect("calls");
    calls.iter().find(|one| one["name"] == name).unwrap_or_else(|| panic!("no {name}: {answer}"))
}

const TWO: &str = "pay__echo {\"tag\": \"p\"}\npay__slow {\"ms\": 1, \"tag\": \"q\"}";

#[tokio::test]
async fn a_loop_says_what_was_done_waits_and_its_caller_gets_the_answer_after_the_approval() {
    let world = World::shared("Loop waits").await;
    let answer = world.chat(TWO).await;
    let (id, json) = (answer.id(), answer.json());
    assert_eq!(
        (&json["tollgate"]["state"], &json["tollgate"]["resumable"]),
        (&json!("waiting_approval"), &json!(true)),
        "{json}"
    );
    let (waiting, made) = (one(&json, "pay__echo"), one(&json, "pay__slow"));
    assert!(
        waiting["approval_id"].as_str().is_some_and(|id| id.starts_with("apr_")) && waiting.get("result").is_none(),
        "{json}"
    );
    assert_eq!((&made["outcome"], &made["result"]["role"]), (&json!("ok"), &json!("tool")), "{json}");
    let tree = world.tree(&id).await;
    assert_eq!(tree["agent_loop"]["state"], "waiting_approval", "{tree}");
    assert_eq!(tree["agent_loop"]["approval_ids"], json!([waiting["approval_id"]]));

    // Whoever waits for it hears of it in the moment in which people decide.
    let (resumed, ()) = tokio::join!(world.resume(&id, false), async {
        tokio::time::sleep(Duration::from_millis(1_000)).await;
        world.decide(&waiting["approval_id"], "approve").await;
    });
    let (header, json) = (resumed.id(), resumed.json());
    assert_eq!((resumed.status, &header), (200, &id));
    let said = json["choices"][0]["message"]["content"].as_str().unwrap_or_default();
    assert!(said.starts_with("done: ") && said.contains("\"tag\":\"p\"") && said.contains("slept"), "{json}");
    assert_eq!((&json["tollgate"]["state"], &json["tollgate"]["turns"]), (&json!("done"), &json!(2)), "{json}");
    assert_eq!(one(&json, "pay__echo")["outcome"], "ok", "{json}");
    assert_eq!((world.recorder.tagged("p").len(), world.recorder.tagged("q").len()), (1, 1), "each once");

    let tree = world.until(&id, "done").await;
    assert_eq!(tree["turns"].as_array().map(Vec::len), Some(2), "{tree}");
    let outcomes: Vec<_> = tree["tool_calls"].as_array().unwrap().iter().map(|call| call["outcome"].clone()).collect();
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == json!("held")).count(), 1, "{tree}");
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == json!("ok")).count(), 2, "{tree}");
    // The model's history is what it said, and what came of it.
    let asked = world.models.asked();
    let (first, second) = (&asked[0].body, &asked[1].body);
    assert_eq!((&first["tools"], &second["messages"][0]), (&second["tools"], &first["messages"][0]));
    let roles: Vec<_> = second["messages"].as_array().unwrap().iter().map(|m| m["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["user", "assistant", "tool", "tool"]);
}

#[tokio::test]
async fn nobody_waits_and_it_goes_on_all_the_same_and_its_answer_is_there_for_whoever_comes_later() {
    let world = World::shared("Loop alone").await;
    let message =
        json!({"model": "tools", "max_tokens": 99, "messages": [{"role": "user", "content": "pay__echo {\"tag\": \"m\"}"}]});
    let response = json!({"model": "tools", "input": "pay__echo {\"tag\": \"r\"}"});
    let all = [
        ("/v1/chat/completions", world.chat("pay__echo {\"tag\": \"c\"}").await),
        ("/v1/messages", world.send("/v1/messages", &[AGENT], message).await),
        ("/v1/responses", world.send("/v1/responses", &[AGENT], response).await),
    ];
    for (_, answer) in &all {
        assert_eq!(answer.json()["tollgate"]["state"], "waiting_approval", "{answer:?}");
        world.decide(&one(&answer.json(), "pay__echo")["approval_id"], "approve").await;
    }
    for (path, answer) in &all {
        let id = answer.id();
        world.until(&id, "done").await;
        let resume = [("x-tollgate-resume", id.as_str())];
        let whole = world.send(path, &resume, json!({})).await.json();
        assert!(whole.to_string().contains("done: ") && whole["tollgate"]["state"] == "done", "{whole}");
        let streamed = world.send(path, &resume, json!({"stream": true})).await;
        assert_eq!(streamed.headers["content-type"], "text/event-stream; charset=utf-8");
        let events: Vec<Value> = streamed.events().iter().filter_map(|event| serde_json::from_str(event).ok()).collect();
        let said: String = events
            .iter()
            .filter_map(|event| {
                event["choices"][0]["delta"]["content"].as_str().or(event["delta"]["text"].as_str()).or(event["delta"].as_str())
            })
            .collect();
        assert!(said.starts_with("done: "), "{streamed:?}");
    }
    assert_eq!(world.recorder.tags(), [("c", 1), ("m", 1), ("r", 1)].map(|(tag, n)| (tag.to_owned(), n)).into());
    // And the official clients find it with a header more.
    let ids = all.iter().map(|(_, answer)| answer.id());
    let args: Vec<String> = [world.gateway.clone(), world.key.secret.clone()].into_iter().chain(ids).collect();
    let run = move || Command::new(python()).arg(root().join("tests/peers/resume.py")).args(args).output().expect("resume.py");
    let output = tokio::task::spawn_blocking(run).await.expect("it runs");
    let seen: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    assert_eq!(seen["anthropic_final"], "end_turn", "{seen}");
    let told = seen.as_object().unwrap().iter().filter(|(name, _)| *name != "anthropic_final");
    assert!(told.clone().count() == 6 && told.clone().all(|(_, said)| said.as_str().unwrap().starts_with("done: ")), "{seen}");

    let elsewhere = world.send("/v1/messages", &[("x-tollgate-resume", &all[0].1.id())], json!({})).await;
    assert_eq!(elsewhere.status, 400, "{elsewhere:?}");
}

#[tokio::test]
async fn a_caller_that_waits_reads_the_rest_as_a_stream_while_it_comes() {
    let world = World::shared("Loop streams").await;
    let body = json!({"model": "tools", "stream": true, "messages": [{"role": "user", "content": "pay__echo {\"tag\": \"s\"}"}]});
    let answer = world.send("/v1/chat/completions", &[AGENT], body).await;
    let events: Vec<Value> = answer.events().iter().filter_map(|event| serde_json::from_str(event).ok()).collect();
    let told = events.iter().find(|event| event["tollgate"]["state"] == "waiting_approval").expect("it says so");
    let approval = one(told, "pay__echo")["approval_id"].clone();
    let id = answer.id();
    let (resumed, ()) = tokio::join!(world.resume(&id, true), async {
        tokio::time::sleep(Duration::from_millis(800)).await;
        world.decide(&approval, "approve").await;
    });
    let events: Vec<Value> = resumed.events().iter().filter_map(|event| serde_json::from_str(event).ok()).collect();
    let said: Vec<_> = events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect();
    assert!(said.len() > 1 && said.concat().starts_with("done: "), "bit by bit: {resumed:?}");
    assert!(resumed.text.ends_with("data: [DONE]\n\n"), "{resumed:?}");
    assert!(world.models.asked()[1].body["stream"] == true, "and so it was asked for");
    world.until(&id, "done").await;
}

#[tokio::test]
async fn what_was_denied_is_told_to_the_model_and_the_loop_is_its_keys_alone() {
    let world = World::shared("Loop denied").await;
    let answer = world.chat("pay__echo {\"tag\": \"d\"}").await;
    let id = answer.id();
    let stranger = world.tenant.key_with(json!({"name": "other", "tool_group_ids": []})).await;
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    let url = format!("{}/v1/chat/completions", world.gateway);
    let foreign = ask(&url, &stranger.secret, &[("x-tollgate-resume", &id)], json!({})).await;
    assert_eq!((foreign.status, &foreign.json()["error"]["code"]), (404, &json!("unknown_loop")), "{foreign:?}");
    assert_eq!(world.resume("req_00000000000000000000000001", false).await.status, 404);
    assert_eq!(world.resume("nonsense", false).await.status, 400);

    world.decide(&one(&answer.json(), "pay__echo")["approval_id"], "deny").await;
    let json = world.resume(&id, false).await.json();
    let said = json["choices"][0]["message"]["content"].as_str().unwrap_or_default();
    assert!(said.contains("denied") && said.contains("said so"), "{json}");
    assert!(world.recorder.tags().is_empty());
    assert_eq!(one(&json, "pay__echo")["outcome"], "denied", "{json}");
}

#[tokio::test]
async fn whoever_goes_on_by_hand_takes_the_loop_over() {
    let world = World::shared("Loop by hand").await;
    let answer = world.chat("pay__echo {\"tag\": \"h\"}").await;
    let (id, json) = (answer.id(), answer.json());
    let call = json["choices"][0]["message"]["tool_calls"][0].clone();
    let parent = [("x-tollgate-request-id", id.as_str())];
    let held = world.send("/v1/mcp/tool/execute", &parent, call.clone()).await.json();
    assert_eq!(held["tollgate"]["outcome"], "held", "{held}");
    world.decide(&one(&json, "pay__echo")["approval_id"], "approve").await;
    let made = world.send("/v1/mcp/tool/execute", &parent, call).await.json();
    assert_eq!(made["tollgate"]["outcome"], "ok", "{made}");
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let tree = world.tree(&id).await;
    assert_eq!(
        (&tree["agent_loop"]["state"], &tree["agent_loop"]["error"]["code"]),
        (&json!("failed"), &json!("loop_taken_over"))
    );
    assert_eq!((world.models.asked().len(), world.recorder.tagged("h").len()), (1, 1), "nobody else goes on");
    assert_eq!(world.resume(&id, false).await.status, 409);
}

#[tokio::test]
async fn what_is_not_kept_cannot_be_taken_up_and_the_caller_is_told_at_once() {
    let world = World::shared("Loop not kept").await;
    world.tenant.patch("audit/settings", json!({"payload_limit_bytes": 64})).await.ok();
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    let answer = world.chat("pay__echo {\"tag\": \"n\"}").await.json();
    let told = &answer["tollgate"];
    assert_eq!((&told["state"], &told["resumable"]), (&json!("waiting_approval"), &json!(false)), "{answer}");
    assert!(told["message"].as_str().is_some_and(|message| message.contains("kept")), "{answer}");
}

#[tokio::test]
async fn a_script_that_waits_puts_its_loop_down_as_well() {
    let world = World::new(Tollgate::shared().await, "Loop scripts", "code").await;
    let script = "executeToolCode {\"code\": \"result = pay.echo(tag='script')\"}";
    let answer = world.chat(script).await;
    let (id, json) = (answer.id(), answer.json());
    assert_eq!(json["tollgate"]["state"], "waiting_approval", "{json}");
    world.decide(&one(&json, "executeToolCode")["approvals"][0]["id"], "approve").await;
    let json = world.resume(&id, false).await.json();
    let said = json["choices"][0]["message"]["content"].as_str().unwrap_or_default();
    assert!(said.contains("\"state\":\"done\"") && said.contains("script"), "{json}");
    assert_eq!(world.recorder.tagged("script").len(), 1);
}

#[tokio::test]
async fn a_loop_waits_as_often_as_it_has_to_and_no_longer_than_its_turns() {
    let world = World::shared("Loop again").await;
    let body = json!({"model": "loop", "messages": [{"role": "user", "content": "pay__echo {\"tag\": \"again\"}"}]});
    let answer = world.send("/v1/chat/completions", &[AGENT, ("x-tollgate-max-turns", "3")], body).await;
    let (id, mut json) = (answer.id(), answer.json());
    let mut asked = Vec::new();
    for _ in 0..2 {
        assert_eq!(json["tollgate"]["state"], "waiting_approval", "{json}");
        let calls = json["tollgate"]["tool_calls"].as_array().expect("calls");
        let approval = calls.iter().rev().find_map(|one| one.get("approval_id")).expect("it waits").clone();
        assert!(!asked.contains(&approval), "each time anew: {json}");
        world.decide(&approval, "approve").await;
        asked.push(approval);
        json = world.resume(&id, false).await.json();
        if json["tollgate"]["state"] == "waiting_approval" && asked.len() == 2 {
            break;
        }
    }
    assert_eq!((&json["tollgate"]["state"], &json["tollgate"]["turns"]), (&json!("done"), &json!(3)), "{json}");
    assert_eq!(json["choices"][0]["finish_reason"], "tool_calls", "the third turn's calls go back to the caller: {json}");
    assert_eq!(world.recorder.tagged("again").len(), 2);
}

#[tokio::test]
async fn whoever_leaves_while_it_goes_on_or_meets_a_limit_does_not_end_it() {
    let world = World::shared("Loop patient").await;
    let answer = world.chat("pay__echo {\"tag\": \"limit\"}").await;
    let id = answer.id();
    // The call that was approved takes what the model's next turn would need.
    let limit = json!({"scope": {"key_id": world.key.id}, "max": 1, "per": "second"});
    world.tenant.post("rate-limits", limit).await.expect(201);
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    // A caller that waits, and goes before people have decided.
    let gone = tokio::time::timeout(Duration::from_millis(600), world.resume(&id, false)).await;
    assert!(gone.is_err(), "{gone:?}");
    world.decide(&one(&answer.json(), "pay__echo")["approval_id"], "approve").await;
    let tree = world.until(&id, "done").await;
    assert_eq!(world.recorder.tagged("limit").len(), 1, "{tree}");
    let refused = tree["turns"].as_array().unwrap().iter().filter(|turn| turn["reason"] == "rate_limited").count();
    assert!(refused > 0, "it met the limit: {tree}");
}

#[tokio::test]
async fn a_key_that_may_no_longer_use_agent_mode_has_no_loops() {
    let world = World::shared("Loop off").await;
    let answer = world.chat("pay__echo {\"tag\": \"off\"}").await;
    world.tenant.patch(&format!("keys/{}", world.key.id), json!({"agent_mode": "off"})).await.ok();
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    world.decide(&one(&answer.json(), "pay__echo")["approval_id"], "approve").await;
    let tree = world.until(&answer.id(), "failed").await;
    assert_eq!(tree["agent_loop"]["error"]["code"], "agent_mode_off", "{tree}");
    assert!(world.recorder.tags().is_empty(), "{tree}");
}

/// The worker that began the loop is gone, and so is the one that had taken it up: nothing is made twice.
#[tokio::test]
async fn drill_a_loop_survives_its_workers() {
    let up = Tollgate::start(Options::default()).await;
    let mut world = World::new(&up, "Loop crash", "classic").await;
    let first = Worker::start(&up).await;
    world.gateway.clone_from(&first.url);
    let answer = world.chat(TWO).await;
    let id = answer.id();
    first.process.kill();

    // Another one takes it up and dies in the middle of the call that was approved: it has been made, and nobody knows how it ended.
    world.recorder.hold_tools(&["echo"]);
    let second = Worker::start(&up).await;
    world.gateway.clone_from(&second.url);
    let listener = {
        let (url, secret, id) = (format!("{}/v1/chat/completions", second.url), world.key.secret.clone(), id.clone());
        tokio::spawn(async move {
            let request = crate::harness::http_client().post(url).header("x-api-key", secret).header("x-tollgate-resume", id);
            drop(request.json(&json!({})).send().await);
        })
    };
    tokio::time::sleep(Duration::from_millis(800)).await;
    world.decide(&one(&answer.json(), "pay__echo")["approval_id"], "approve").await;
    until("the call is under way", SOON, async || (world.recorder.tagged("p").len() == 1).then_some(())).await;
    second.process.kill();
    listener.await.expect("it ends");
    world.recorder.release();

    world.gateway.clone_from(&up.gateway_url);
    let tree = until("the loop goes on", Duration::from_secs(60), async || {
        let tree = world.tree(&id).await;
        (tree["agent_loop"]["state"] == "done").then_some(tree)
    })
    .await;
    assert_eq!((world.recorder.tagged("p").len(), world.recorder.tagged("q").len()), (1, 1), "{tree}");
    let json = world.resume(&id, false).await.json();
    let said = json["choices"][0]["message"]["content"].as_str().unwrap_or_default();
    assert!(said.contains("unknown whether this call took effect") && said.contains("slept"), "{json}");
}
