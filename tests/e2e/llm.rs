//! The LLM door: every dialect as it is, every request a row with its price, and nothing of a provider's that reaches a caller.

use std::{process::Command, time::Duration};

use futures::StreamExt;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};

use crate::harness::{Key, LEAK, Models, Options, Recorder, Tenant, Tollgate, http_client, python, root, until, verify};

/// A provider's key: it stands in no answer, row, log or export.
pub const CANARY: &str = "sk-canary-0123456789abcdef";

pub struct World {
    pub tollgate: &'static Tollgate,
    pub tenant: Tenant,
    pub models: Models,
    pub recorder: Recorder,
    pub key: Key,
}

/// An answer of the LLM door.
#[derive(Debug)]
pub struct Got {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
}

impl Got {
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {} {}", self.status, self.text))
    }

    #[track_caller]
    pub fn id(&self) -> String {
        self.headers["x-tollgate-request-id"].to_str().expect("text").to_owned()
    }

    /// The data of its events.
    pub fn events(&self) -> Vec<String> {
        self.text
            .split("\n\n")
            .filter_map(|frame| Some(frame.lines().find_map(|line| line.strip_prefix("data: "))?.to_owned()))
            .collect()
    }
}

impl World {
    pub async fn new(name: &str) -> Self {
        let tollgate = Tollgate::shared().await;
        let tenant = Tenant::new(tollgate, name).await;
        let (models, recorder) = (Models::start(), Recorder::start());
        for kind in ["openai", "anthropic"] {
            provider(&tenant, kind, kind, &models.base(), json!({})).await;
        }
        let upstream = tenant.upstream("rec", recorder.transport(), "classic").await;
        let (key, _) = tenant.open(&[&upstream]).await;
        // Workers serve by a configuration of at most a second ago.
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        Self { tollgate, tenant, models, recorder, key }
    }

    pub async fn ask(&self, path: &str, body: Value) -> Got {
        self.ask_with(path, &[], body).await
    }

    pub async fn ask_with(&self, path: &str, headers: &[(&str, &str)], body: Value) -> Got {
        ask(&format!("{}{path}", self.tollgate.gateway_url), &self.key.secret, headers, body).await
    }

    pub async fn chat(&self, model: &str, says: &str) -> Got {
        self.ask("/v1/chat/completions", json!({"model": model, "messages": [{"role": "user", "content": says}]})).await
    }

    /// A request as the trail has it.
    pub async fn row(&self, id: &str) -> Value {
        self.tenant.get(&format!("llm-requests/{id}")).await.ok()
    }
}

pub async fn ask(url: &str, secret: &str, headers: &[(&str, &str)], body: Value) -> Got {
    let mut request = http_client().post(url).header("x-api-key", secret).json(&body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = request.send().await.expect("an answer");
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    Got { status, headers, text: answer.text().await.expect("text") }
}

pub async fn provider(tenant: &Tenant, name: &str, kind: &str, base: &str, more: Value) -> String {
    let mut body = json!({"name": name, "kind": kind, "base_url": base, "keys": [{"name": "main", "secret": CANARY}]});
    for (field, value) in more.as_object().into_iter().flatten() {
        body[field] = value.clone();
    }
    tenant.post("providers", body).await.expect(201)["id"].as_str().expect("an id").to_owned()
}

#[tokio::test]
async fn what_a_caller_sends_goes_on_as_it_is_and_the_answer_comes_back_so() {
    let world = World::new("LLM passes").await;
    let answer = world
        .ask("/v1/chat/completions", json!({"model": "echo", "messages": [{"role": "user", "content": "two words"}], "x_new_field": {"a": [1, null]}, "temperature": 0.5}))
        .await;
    assert_eq!((answer.status, answer.json()["choices"][0]["message"]["content"].as_str()), (200, Some("two words")));
    assert_eq!(answer.json()["system_fingerprint"], "fp");
    let asked = world.models.asked().remove(0);
    assert_eq!((&asked.body["x_new_field"], &asked.body["temperature"]), (&json!({"a": [1, null]}), &json!(0.5)));
    assert_eq!(asked.headers["authorization"], format!("Bearer {CANARY}"));
    assert!(!format!("{:?}", asked.headers).contains(&world.key.secret), "a virtual key stays here");
    assert!(!format!("{answer:?}").contains(LEAK) && !format!("{answer:?}").contains(CANARY), "{answer:?}");

    let row = world.row(&answer.id()).await;
    for (field, value) in [
        ("origin", json!("llm")),
        ("method", json!("/v1/chat/completions")),
        ("model", json!("echo")),
        ("model_served", json!("echo")),
        ("provider", json!("openai")),
        ("mode", json!("manual")),
        ("streaming", json!(false)),
        ("outcome", json!("ok")),
        ("usage", json!("reported")),
        ("input_tokens", json!(2)),
        ("cached_tokens", json!(1)),
        ("output_tokens", json!(2)),
        ("finish_reason", json!("stop")),
        ("turn", json!(1)),
        ("amount", json!("0")),
        ("price", Value::Null),
    ] {
        assert_eq!(row[field], value, "{field}: {row}");
    }
    assert_eq!(row["root_id"], row["id"]);
    assert_eq!(row["prompt"]["messages"][0]["content"], "two words");
    assert_eq!(row["answer"]["choices"][0]["message"]["content"], "two words");
    assert!(row["tools_offered"].as_i64() > Some(3) && row["tools_tokens"].as_i64() > Some(50), "{row}");
    assert_eq!(row["attempts"][0]["key"], "main");
    assert!(!row.to_string().contains(CANARY));

    for (path, body, input) in [
        ("/v1/messages", json!({"model": "echo", "max_tokens": 9, "messages": [{"role": "user", "content": "a b c"}]}), 5),
        ("/v1/responses", json!({"model": "echo", "input": "a b"}), 9),
        ("/v1/embeddings", json!({"model": "echo", "input": "a b"}), 3),
    ] {
        let answer = world.ask(path, body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let row = world.row(&answer.id()).await;
        assert_eq!((&row["outcome"], &row["input_tokens"], &row["method"]), (&json!("ok"), &json!(input), &json!(path)), "{row}");
    }
    let sent = world.models.asked();
    let message = sent.iter().find(|asked| asked.path == "messages").expect("it came");
    assert_eq!(
        (&message.headers["x-api-key"], &message.headers["anthropic-version"]),
        (&CANARY.parse().unwrap(), &"2023-06-01".parse().unwrap())
    );
    assert_eq!(message.body["tools"][0]["name"].as_str().map(|name| name.starts_with("rec__")), Some(true));
    assert!(sent.iter().any(|asked| asked.path == "embeddings" && asked.body.get("tools").is_none()));
}

#[tokio::test]
async fn a_stream_goes_through_as_it_comes_and_ends_once_its_row_is_durable() {
    let world = World::new("LLM streams").await;
    let body = json!({"model": "slow-150", "stream": true, "messages": [{"role": "user", "content": "one two three four"}]});
    let request = http_client().post(format!("{}/v1/chat/completions", world.tollgate.gateway_url));
    let answer = request.bearer_auth(&world.key.secret).json(&body).send().await.expect("an answer");
    assert!(answer.headers()["content-type"].to_str().unwrap().starts_with("text/event-stream"));
    let id = answer.headers()["x-tollgate-request-id"].to_str().unwrap().to_owned();
    let mut stream = answer.bytes_stream();
    let (mut text, mut pieces) = (String::new(), 0);
    while let Some(piece) = stream.next().await {
        pieces += 1;
        text.push_str(std::str::from_utf8(&piece.expect("a piece")).expect("text"));
        if text.contains("one") && !text.contains("four") {
            // It has begun, and nobody knows yet how it ends.
            assert_eq!(world.row(&id).await["outcome"], Value::Null);
        }
    }
    assert!(pieces >= 4, "nothing is buffered: {pieces}");
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    assert!(!text.contains("prompt_tokens"), "the caller has not asked for the count: {text}");
    // The end came after the row.
    let row = world.row(&id).await;
    assert_eq!((&row["outcome"], &row["usage"], &row["streaming"]), (&json!("ok"), &json!("reported"), &json!(true)), "{row}");
    assert_eq!(row["answer"]["choices"][0]["message"]["content"], "one two three four");
    assert!(row["first_token_us"].as_i64() < row["latency_us"].as_i64());
    assert_eq!(world.models.asked()[0].body["stream_options"], json!({"include_usage": true}));

    for (path, body, last) in [
        (
            "/v1/chat/completions",
            json!({"model": "echo", "stream": true, "stream_options": {"include_usage": true}, "messages": [{"role": "user", "content": "x"}]}),
            "[DONE]",
        ),
        (
            "/v1/messages",
            json!({"model": "echo", "stream": true, "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]}),
            "message_stop",
        ),
        ("/v1/responses", json!({"model": "echo", "stream": true, "input": "x"}), "response.completed"),
    ] {
        let answer = world.ask(path, body).await;
        let events = answer.events();
        assert!(events.last().is_some_and(|event| event.contains(last)), "{answer:?}");
        let row = world.row(&answer.id()).await;
        assert_eq!((&row["outcome"], &row["usage"]), (&json!("ok"), &json!("reported")), "{row}");
        if path == "/v1/chat/completions" {
            assert!(events.iter().any(|event| event.contains("prompt_tokens")), "the caller has asked for it");
        }
    }
}

#[tokio::test]
async fn a_caller_who_goes_away_pays_for_what_was_said_and_the_provider_is_told_to_stop() {
    let world = World::new("LLM leaves").await;
    let price = json!({"model": "slow-*", "input": "1", "output": "1000000"});
    world.tenant.post("llm-prices", price).await.expect(201);
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let body = json!({"model": "slow-100", "stream": true, "max_tokens": 100, "messages": [{"role": "user", "content": "word ".repeat(60)}]});
    let request = http_client().post(format!("{}/v1/chat/completions", world.tollgate.gateway_url));
    let answer = request.bearer_auth(&world.key.secret).json(&body).send().await.expect("an answer");
    let id = answer.headers()["x-tollgate-request-id"].to_str().unwrap().to_owned();
    let mut stream = answer.bytes_stream();
    for _ in 0..4 {
        stream.next().await.expect("a piece").expect("bytes");
    }
    drop(stream);
    until("the request has ended", Duration::from_secs(10), async || {
        (world.row(&id).await["outcome"] != Value::Null).then_some(())
    })
    .await;
    let row = world.row(&id).await;
    assert_eq!((&row["outcome"], &row["usage"]), (&json!("cancelled"), &json!("estimated")), "{row}");
    let output = row["output_tokens"].as_u64().expect("a number");
    assert!((2..40).contains(&output), "{row}");
    assert!(row["amount"].as_str().expect("text").parse::<f64>().expect("a number") >= 2.0, "{row}");
    until("the provider has been left", Duration::from_secs(10), async || (world.models.abandoned() == 1).then_some(())).await;
}

#[tokio::test]
async fn what_goes_wrong_at_a_provider_is_told_in_the_callers_dialect_and_without_its_secrets() {
    let world = World::new("LLM fails").await;
    let mut seen = String::new();
    for (model, status, code, outcome) in [
        ("shut", 502, "provider_refused_key", "upstream_error"),
        ("down", 502, "provider_error", "upstream_error"),
        ("wrong", 400, "provider_refused", "upstream_error"),
        ("garbage", 502, "provider_error", "upstream_error"),
    ] {
        let answer = world.chat(model, "x").await;
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (status, &json!(code)), "{model}: {answer:?}");
        assert!(answer.json()["error"]["message"].as_str().is_some_and(|message| !message.is_empty()));
        let row = world.row(&answer.id()).await;
        assert_eq!(row["outcome"], outcome, "{model}: {row}");
        seen += &format!("{answer:?} {row}");
        let anthropic = json!({"model": model, "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]});
        let answer = world.ask("/v1/messages", anthropic).await;
        assert_eq!((answer.status, &answer.json()["type"]), (status, &json!("error")), "{model}: {answer:?}");
        seen += &format!("{answer:?}");
    }
    assert!(seen.contains("temperature is too high"), "what is about the request is told");
    assert!(!seen.contains(CANARY) && !seen.contains(LEAK), "{seen}");
    let events = world.tenant.list("admin-events").await;
    let log = world.tollgate.process.output();
    assert!(events.iter().any(|event| event["action"] == "provider.create"));
    assert!(!format!("{events:?}{log}").contains(CANARY), "neither in the events of admins nor in the log");
    // Twice refused, then answered: the row tells of all three.
    let answer = world.chat("busy", "x").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let row = world.row(&answer.id()).await;
    let statuses: Vec<_> = row["attempts"].as_array().unwrap().iter().map(|attempt| attempt["status"].clone()).collect();
    assert_eq!(statuses, [json!(429), json!(429), json!(200)], "{row}");
    // A stream that is cut off says so in the stream, and its row says it too.
    let answer = world
        .ask(
            "/v1/chat/completions",
            json!({"model": "cut", "stream": true, "messages": [{"role": "user", "content": "a b c d e f"}]}),
        )
        .await;
    let last: Value = serde_json::from_str(answer.events().last().expect("an event")).expect("JSON");
    assert_eq!(last["error"]["code"], "provider_error", "{answer:?}");
    assert!(!answer.text.contains("[DONE]"));
    let row = world.row(&answer.id()).await;
    assert_eq!((&row["outcome"], &row["usage"]), (&json!("upstream_error"), &json!("estimated")), "{row}");
}

#[tokio::test]
async fn a_model_is_found_by_route_by_provider_and_by_name_and_only_where_the_key_may() {
    let world = World::new("LLM models").await;
    let other = Models::start();
    let backup = provider(&world.tenant, "backup", "openai", &other.base(), json!({"models": ["special-*", "echo2"]})).await;
    let dead = provider(&world.tenant, "dead", "openai", "http://127.0.0.1:1/v1", json!({"models": ["none"]})).await;
    let targets = json!([{"provider_id": dead, "model": "gone"}, {"provider_id": backup, "model": "echo", "weight": 0}]);
    world.tenant.post("model-routes", json!({"name": "fast", "targets": targets})).await.expect(201);
    tokio::time::sleep(Duration::from_millis(1_100)).await;

    let answer = world.chat("fast", "x").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let row = world.row(&answer.id()).await;
    assert_eq!(
        (&row["model"], &row["model_served"], &row["provider"]),
        (&json!("fast"), &json!("echo"), &json!("backup")),
        "{row}"
    );
    assert_eq!(row["attempts"].as_array().map(Vec::len), Some(2), "{row}");
    for (model, provider) in
        [("special-1", "backup"), ("backup/echo2", "backup"), ("openai/echo", "openai"), ("anything", "openai")]
    {
        let answer = world.chat(model, "x").await;
        assert_eq!(world.row(&answer.id()).await["provider"], provider, "{model}");
    }
    let spoken = world.ask("/v1/messages", json!({"model": "backup/echo2", "max_tokens": 1, "messages": []})).await;
    assert_eq!(world.row(&spoken.id()).await["provider"], "backup", "it speaks another dialect, and is spoken to in it");
    let unknown = world.ask("/v1/messages", json!({"model": "backup/unlisted", "max_tokens": 1, "messages": []})).await;
    assert_eq!((unknown.status, &unknown.json()["error"]["type"]), (404, &json!("not_found_error")), "{unknown:?}");
    assert_eq!(world.row(&unknown.id()).await["reason"], "unknown_model");

    let narrow = world.tenant.key_with(json!({"name": "narrow", "tool_group_ids": [], "models": ["fast", "special-*"]})).await;
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let url = format!("{}/v1/chat/completions", world.tollgate.gateway_url);
    let body = |model: &str| json!({"model": model, "messages": [{"role": "user", "content": "x"}]});
    assert_eq!(ask(&url, &narrow.secret, &[], body("special-x")).await.status, 200);
    let refused = ask(&url, &narrow.secret, &[], body("echo")).await;
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (403, &json!("model_not_allowed")), "{refused:?}");
    let row = world.row(&refused.id()).await;
    assert_eq!(
        (&row["outcome"], &row["reason"], &row["amount"]),
        (&json!("denied"), &json!("model_not_allowed"), &Value::Null),
        "{row}"
    );

    let listed =
        http_client().get(format!("{}/v1/models", world.tollgate.gateway_url)).bearer_auth(&narrow.secret).send().await.unwrap();
    let listed: Value = serde_json::from_str(&listed.text().await.unwrap()).unwrap();
    let ids: Vec<_> = listed["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["fast"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn money_is_drawn_before_a_request_and_settled_to_the_token() {
    let world = World::new("LLM money").await;
    // 0.1 a token of input, 1 a token of output.
    world.tenant.post("llm-prices", json!({"model": "echo", "input": "100000", "output": "1000000"})).await.expect(201);
    let scope = json!({"key_id": world.key.id});
    let budget = json!({"name": "Models", "scope": scope, "limit": "400", "period": "month", "thresholds": []});
    let budget = world.tenant.post("budgets", budget).await.expect(201);
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    let ask =
        |tokens: u32| json!({"model": "echo", "max_tokens": tokens, "messages": [{"role": "user", "content": "one two three"}]});
    let headers = [("x-tollgate-tools", "none")];
    let answer = world.ask_with("/v1/chat/completions", &headers, ask(10)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let row = world.row(&answer.id()).await;
    assert_eq!((&row["amount"], &row["price"].is_string()), (&json!("3.3"), &true), "3 tokens in, 3 out: {row}");
    // It would fit what is left only if the model said less than it may.
    let refused = world.ask_with("/v1/chat/completions", &headers, ask(500)).await;
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (402, &json!("budget_exhausted")), "{refused:?}");
    assert!(refused.json()["error"]["message"].as_str().unwrap().contains("of budget \"Models\""), "{refused:?}");
    assert_eq!(world.row(&refused.id()).await["reason"], "budget_exhausted");
    assert_eq!(world.models.asked().len(), 1, "what does not fit is not sent");
    // Without an end of its own, an answer is given one: what it may cost is known before it is sent.
    let open = json!({"model": "echo", "messages": [{"role": "user", "content": "one two three"}]});
    assert_eq!(world.ask_with("/v1/chat/completions", &headers, open).await.status, 402);
    let path = format!("budgets/{}", budget["id"].as_str().unwrap());
    until("the request is settled", Duration::from_secs(20), async || {
        let window = world.tenant.get(&path).await.ok()["window"].clone();
        (window["spent"] == "3.3" && window["reserved"] == "0").then_some(())
    })
    .await;
    // Beside what calls cost; who was refused is counted, under no model.
    let report = world.tenant.get("reports/costs?group_by=model").await.ok();
    let expected = [
        [json!("echo"), json!(0), json!("0"), json!(1), json!("3.3"), json!(3), json!(3)],
        [Value::Null, json!(0), json!("0"), json!(2), json!("0"), json!(0), json!(0)],
    ];
    for (line, expected) in report["items"].as_array().unwrap().iter().zip(&expected) {
        let told =
            ["model", "calls", "amount", "llm_requests", "llm_amount", "input_tokens", "output_tokens"].map(|name| &line[name]);
        assert_eq!(told, expected.each_ref(), "{report}");
    }
    assert_eq!(world.tenant.get("reports/costs").await.ok()["total"]["net"], "3.3");
    let quota = http_client().get(format!("{}/v1/quota", world.tollgate.gateway_url)).bearer_auth(&world.key.secret).send().await;
    let quota: Value = serde_json::from_str(&quota.unwrap().text().await.unwrap()).unwrap();
    let spend = ["calls", "llm_requests", "amount"].map(|name| &quota["spend"][name]);
    assert_eq!(spend, [&json!(0), &json!(3), &json!("3.3")], "{quota}");
}

/// Prompts and answers are evidence like any payload: proved offline, and erased on request without the proof breaking.
#[tokio::test]
async fn requests_are_in_the_bundle_and_their_texts_can_be_erased() {
    let world = World::new("LLM evidence").await;
    let answer = world.chat("tools", "rec__echo {\"tag\": \"evidence\"}").await;
    let asked = [("x-tollgate-mode", "agent")];
    let body = json!({"model": "tools", "messages": [{"role": "user", "content": "rec__echo {\"tag\": \"secret-word\"}"}]});
    let loops = world.ask_with("/v1/chat/completions", &asked, body).await;
    assert_eq!((answer.status, loops.status), (200, 200));
    let bundle = world.tollgate.scratch().join("llm.tar.zst");
    let sound = async || {
        until("it is sealed", Duration::from_secs(20), async || {
            world.tenant.bundle(&bundle).await;
            let verdict = verify(&bundle, &["--json"]);
            (verdict.code == Some(0) && verdict.report()["entries"].as_u64() > Some(8)).then_some(verdict.report())
        })
        .await
    };
    sound().await;
    let erase = json!({"reason": "asked for", "selection": {"key_id": world.key.id}});
    let erased = world.tenant.post("audit/erasures", erase).await.expect(201);
    assert_eq!(erased["requests"], 3, "one by hand, two turns: {erased}");
    let row = world.row(&loops.id()).await;
    assert_eq!((&row["prompt"], &row["answer"], &row["outcome"]), (&Value::Null, &Value::Null, &json!("ok")), "{row}");
    assert!(!row.to_string().contains("secret-word"));
    until("the erasure is sealed, and excuses what is missing", Duration::from_secs(20), async || {
        world.tenant.bundle(&bundle).await;
        let report = verify(&bundle, &["--json"]).report();
        (report["erased"].as_u64() >= Some(6) && report["findings"].as_array().is_some_and(Vec::is_empty)).then_some(())
    })
    .await;
}

/// The official clients of OpenAI and Anthropic, with nothing changed but the address and the key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_official_python_clients_work_by_changing_address_and_key() {
    let world = World::new("LLM SDKs").await;
    crate::llm_kinds::kinds(&world.tenant, &world.models).await;
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let (url, secret) = (world.tollgate.gateway_url.clone(), world.key.secret.clone());
    let output = tokio::task::spawn_blocking(move || {
        Command::new(python()).arg(root().join("tests/peers/models.py")).args([&url, &secret]).output().expect("models.py")
    })
    .await
    .expect("it ran");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {errors}"));
    for (name, value) in [
        ("openai_chat", json!("hello there")),
        ("openai_stream", json!("hello there")),
        ("openai_tool", json!("rec__echo")),
        ("openai_responses", json!("hello there")),
        ("openai_responses_stream", json!("hello there")),
        ("openai_embedding", json!([0.5, -1.0])),
        ("openai_error", json!(["NotFoundError", "model_not_found"])),
        ("openai_agent", json!(true)),
        ("openai_agent_stream", json!(true)),
        ("openai_agent_responses", json!(true)),
        ("anthropic_message", json!("hello there")),
        ("anthropic_stream", json!("hello there")),
        ("anthropic_tool", json!("rec__echo")),
        ("anthropic_error", json!("NotFoundError")),
        ("anthropic_agent_stream", json!(true)),
        ("anthropic_models", json!(true)),
        ("openai_at_anthropic", json!(["hello there", "hello there", true, true])),
        ("openai_at_gem", json!(["hello there", "hello there", true, true])),
        ("openai_at_rock", json!(["hello there", "hello there", true, true])),
        ("anthropic_at_openai", json!(["hello there", "hello there", true, true])),
        ("anthropic_at_gem", json!(["hello there", "hello there", true, true])),
        ("anthropic_at_rock", json!(["hello there", "hello there", true, true])),
    ] {
        assert_eq!(report[name], value, "{name}: {report}");
    }
    assert!(!report.to_string().contains(CANARY) && !report.to_string().contains(LEAK));
}

/// Of a count that no request can have nothing is believed: the tokens are estimated, and sums stay sums.
#[tokio::test]
async fn a_count_of_tokens_that_is_absurd_is_none() {
    let world = World::new("LLM boastful").await;
    let ask = |model: &str, stream: bool| json!({"model": model, "stream": stream, "messages": [{"role": "user", "content": "a b c d"}]});
    for stream in [false, true, false] {
        let answer = world.ask("/v1/chat/completions", ask("boastful", stream)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let row = world.row(&answer.id()).await;
        assert_eq!((&row["outcome"], &row["usage"]), (&json!("ok"), &json!("estimated")), "{row}");
        assert!(row["input_tokens"].as_i64().is_some_and(|tokens| (1..1000).contains(&tokens)), "{row}");
    }
    let report = world.tenant.get("reports/costs?group_by=model").await.ok();
    assert_eq!((&report["items"][0]["model"], &report["items"][0]["llm_requests"]), (&json!("boastful"), &json!(3)), "{report}");
    assert!(report["total"]["input_tokens"].as_i64().is_some_and(|tokens| (3..3000).contains(&tokens)), "{report}");
}

/// Who asks for models that the key may not have asks as often as it may, and makes no groups in reports.
#[tokio::test]
async fn names_that_somebody_makes_up_are_limited_and_no_groups() {
    let world = World::new("LLM made up").await;
    world.tenant.patch(&format!("keys/{}", world.key.id), json!({"models": ["echo"]})).await.expect(200);
    let limit = json!({"name": "Few", "scope": {"key_id": world.key.id}, "max": 3, "per": "hour"});
    world.tenant.post("rate-limits", limit).await.expect(201);
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    let mut statuses = Vec::new();
    for n in 0..5 {
        statuses.push(world.chat(&format!("made-up-{n}"), "x").await.status);
    }
    assert_eq!(statuses, [403, 403, 403, 429, 429]);
    let report = world.tenant.get("reports/costs?group_by=model").await.ok();
    let lines: Vec<_> = report["items"].as_array().unwrap().iter().map(|item| (&item["model"], &item["llm_requests"])).collect();
    assert_eq!(lines, [(&Value::Null, &json!(5))], "{report}");
}

/// What a provider does that it should not: nothing of it is taken for an answer, and nothing is lost.
#[tokio::test]
async fn errors_in_the_middle_odd_numbers_and_what_has_no_bound_are_told() {
    let world = World::new("LLM odd").await;
    let ask = |model: &str, stream: bool| json!({"model": model, "stream": stream, "messages": [{"role": "user", "content": "a b c d"}]});
    for stream in [true, false] {
        let answer = world.ask("/v1/chat/completions", ask("broken", stream)).await;
        assert!(answer.text.contains("out of memory") && !answer.text.contains(CANARY), "{answer:?}");
        assert!(answer.text.contains("[key]"), "the provider has put our key there: {answer:?}");
        let row = world.row(&answer.id()).await;
        assert_eq!(row["outcome"], "upstream_error", "{row}");
        assert!(row["error"].as_str().is_some_and(|error| error.contains("out of memory")), "{row}");
    }
    for (body, says) in [
        (json!({"model": "echo", "max_tokens": 5.5, "messages": []}), "max_tokens"),
        (json!({"model": "echo", "n": "2", "messages": []}), "\"n\""),
        (json!({"model": 7, "messages": []}), "model"),
        (json!({"model": "echo", "background": true, "messages": []}), "background"),
    ] {
        let answer = world.ask("/v1/chat/completions", body).await;
        assert_eq!(answer.status, 400, "{answer:?}");
        assert!(answer.json()["error"]["message"].as_str().is_some_and(|message| message.contains(says)), "{answer:?}");
    }
    let budget =
        json!({"name": "Hard", "scope": {"key_id": world.key.id}, "limit": "1000000", "period": "month", "thresholds": []});
    world.tenant.post("budgets", budget).await.expect(201);
    world.tenant.post("llm-prices", json!({"model": "echo", "input": "1", "output": "1"})).await.expect(201);
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    let search = json!({"model": "echo", "input": "x", "tools": [{"type": "web_search"}]});
    for (path, body, says) in [
        ("/v1/chat/completions", ask("nobody-has-priced-this", false), "has no price"),
        ("/v1/responses", search, "run tools of its own"),
    ] {
        let answer = world.ask(path, body).await;
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (400, &json!("unbounded_cost")), "{answer:?}");
        assert!(answer.json()["error"]["message"].as_str().is_some_and(|message| message.contains(says)), "{answer:?}");
        assert_eq!(world.row(&answer.id()).await["reason"], "unbounded_cost");
    }
    assert_eq!(world.ask("/v1/chat/completions", ask("echo", false)).await.status, 200);
}

/// What a worker was in the middle of when it died is resolved, and charged as drawn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_of_a_worker_that_died_is_resolved() {
    let up = Tollgate::start(Options::default()).await;
    let tenant = Tenant::new(&up, "LLM crash").await;
    let models = Models::start();
    provider(&tenant, "p", "openai", &models.base(), json!({})).await;
    tenant.post("llm-prices", json!({"model": "silent", "input": "1", "output": "1"})).await.expect(201);
    let key = tenant.key_with(json!({"name": "k", "tool_group_ids": []})).await;
    let worker = crate::second_worker::Worker::start(&up).await;
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    let url = format!("{}/v1/chat/completions", worker.url);
    let body = json!({"model": "silent", "max_tokens": 7, "messages": [{"role": "user", "content": "x"}]});
    let asked = tokio::spawn(async move { http_client().post(url).bearer_auth(&key.secret).json(&body).send().await });
    until("the provider has been asked", Duration::from_secs(10), async || (models.asked().len() == 1).then_some(())).await;
    worker.process.kill();
    let _ = asked.await;
    until("the request is resolved", Duration::from_secs(40), async || {
        tenant.list("llm-requests").await.iter().any(|row| row["outcome"] == "unknown").then_some(())
    })
    .await;
    let rows = tenant.list("llm-requests").await;
    assert_eq!(rows.len(), 1);
    assert!(rows[0]["amount"].as_str().is_some_and(|amount| amount != "0"), "{rows:?}");
}

/// Requests to models leave in rows as tool calls do: by time, by cursor, as a job and as a stream, each as the list shows it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_exported_in_rows() {
    let world = World::new("LLM exports").await;
    let id = world.chat("echo", "one two").await.id();
    world.ask("/v1/messages", json!({"model": "echo", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]})).await;
    world.chat("nobody/such", "x").await;
    let pool = sqlx::PgPool::connect(&world.tollgate.database_url()).await.expect("the database");
    crate::harness::all_sealed(&pool, Duration::from_secs(30)).await;

    let mut listed = world.tenant.list("llm-requests").await;
    listed.sort_by_key(|row| row["id"].to_string());
    for row in &mut listed {
        row["tenant_id"] = json!(world.tenant.id);
    }
    assert!(listed.len() >= 2 && listed.iter().any(|row| row["id"] == json!(id) && row["output_tokens"] == 2), "{listed:?}");
    let lines = |text: &str| -> Vec<Value> {
        let mut rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        rows.sort_by_key(|row| row["id"].to_string());
        rows
    };
    let export = async |query: &str| world.tenant.get(&format!("audit/export?{query}")).await;
    let whole = export("rows=llm_requests").await;
    assert_eq!((whole.status, lines(&whole.text)), (200, listed.clone()), "{}", whole.text);
    assert!(whole.header("content-disposition").is_some_and(|name| name.contains("llm-requests-")), "{whole:?}");
    let by_cursor = export("rows=llm_requests&cursor=start").await;
    assert_eq!(lines(&by_cursor.text), listed);
    let next = by_cursor.header("x-tollgate-next-cursor").expect("a cursor").to_owned();
    assert_eq!(export(&format!("rows=llm_requests&cursor={next}")).await.text, "");
    assert_eq!(export(&format!("cursor={next}")).await.status, 400, "a cursor is of its rows");
    let later = world.chat("echo", "later").await.id();
    crate::harness::all_sealed(&pool, Duration::from_secs(30)).await;
    let rest = lines(&export(&format!("rows=llm_requests&cursor={next}")).await.text);
    assert_eq!(rest.iter().map(|row| row["id"].clone()).collect::<Vec<_>>(), [json!(later)]);

    let table = export("rows=llm_requests&format=csv&outcome=ok").await;
    assert!(table.text.starts_with("id,key_id,team_id,origin,method,model,") && table.text.contains(&id), "{}", table.text);
    assert_eq!(export("rows=llm_requests&format=parquet").await.status, 200);
    for refused in
        ["rows=all", "rows=llm_requests&format=ocsf", "rows=llm_requests&tool_id=tool_00000000000000000000000000", "rows=x"]
    {
        let answer = export(refused).await;
        assert!(matches!(answer.status, 400 | 422), "{refused}: {} {}", answer.status, answer.text);
    }
    let calls = export("").await.text;
    assert!(!calls.contains("\"output_tokens\""), "tool calls alone, unless something else is said: {calls}");

    let job = world.tenant.post("audit/export-jobs", json!({"destination": "lake", "rows": "llm_requests"})).await.expect(201);
    assert_eq!(job["rows_of"], "llm_requests");
    let path = format!("audit/export-jobs/{}", job["id"].as_str().expect("an id"));
    let done = until("the job is done", Duration::from_secs(30), async || {
        let job = world.tenant.get(&path).await.expect(200);
        (job["state"] == "done").then_some(job)
    })
    .await;
    let folder = world.tollgate.scratch().join("exports").join(done["folder"].as_str().expect("a folder"));
    let part = std::fs::read_to_string(folder.join("part-00001.ndjson")).expect("a part");
    assert_eq!((lines(&part).len(), &done["rows"]), (listed.len() + 1, &json!(listed.len() + 1)));

    let url = format!("{}{}", world.tollgate.api_url, world.tenant.path("audit/stream?rows=all&cursor=start"));
    let stream = http_client().get(url).bearer_auth(&world.tollgate.admin_token).send().await.expect("a stream");
    let (mut stream, mut seen) = (stream.bytes_stream(), String::new());
    while !seen.contains(&later) {
        let piece = tokio::time::timeout(Duration::from_secs(20), stream.next()).await.expect("in time");
        seen += &String::from_utf8_lossy(&piece.expect("more").expect("bytes"));
    }
    assert!(seen.contains("event: llm_request") && seen.contains("event: admin_event"), "{seen}");
    assert!(!format!("{whole:?}{calls}{part}{seen}").contains(CANARY));
}
