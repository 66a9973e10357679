//! Upstreams that are slow, away, or trusted with a credential.

use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::json;

use crate::harness::{Recorder, Tenant, Tollgate, until};

#[tokio::test]
async fn a_call_that_takes_too_long_is_given_up_and_the_upstream_is_told() {
    let tollgate = Tollgate::shared().await;
    let tenant = Tenant::new(tollgate, "Timeouts").await;
    let recorder = Recorder::start();
    let body = json!({"name": "rec", "transport": recorder.transport(), "exposure": "classic", "timeout_ms": 400});
    let upstream = tenant.upstream_with(body).await;
    tenant.price_tool(&upstream.tool_id("slow"), "0.5").await;
    let (_, mcp) = tenant.open(&[&upstream]).await;

    let reply = mcp.call("rec__slow", json!({"ms": 30_000, "tag": "late"})).await;
    assert_eq!(reply.result()["isError"], true);
    assert!(reply.content_text().contains("longer than 400 ms"), "{}", reply.content_text());
    let row = tenant.call_of(&reply.request_id()).await;
    assert_eq!(row["outcome"], "timeout", "{row}");
    assert!(row["error"].as_str().is_some_and(|why| why.contains("400 ms")), "{row}");
    let latency = row["latency_us"].as_i64().expect("a latency");
    assert!((400_000..20_000_000).contains(&latency), "{latency}");
    assert_eq!(recorder.tagged("late").len(), 1, "it is not tried again");
    let id = recorder.tagged("late")[0].id.clone();
    until("the upstream is told", Duration::from_secs(10), async || recorder.cancelled().contains(&id).then_some(())).await;

    // One that is in time is none of it.
    let reply = mcp.call("rec__slow", json!({"ms": 1, "tag": "in-time"})).await;
    assert_eq!(reply.structured(), json!({"slept": true}));
    assert_eq!(tenant.call_of(&reply.request_id()).await["outcome"], "ok");
}

#[tokio::test]
async fn an_upstream_that_is_away_fails_its_calls_alone_and_comes_back() {
    let tollgate = Tollgate::shared().await;
    let tenant = Tenant::new(tollgate, "Away").await;
    let (recorder, other) = (Recorder::start(), Recorder::start());
    let upstream = tenant.upstream("rec", recorder.transport(), "classic").await;
    let healthy = tenant.upstream("other", other.transport(), "classic").await;
    let (_, mcp) = tenant.open(&[&upstream, &healthy]).await;
    assert_eq!(mcp.call("rec__echo", json!({})).await.structured(), json!({"echo": {}}));

    recorder.stop();
    let reply = mcp.call("rec__echo", json!({"tag": "away"})).await;
    assert_eq!(reply.result()["isError"], true);
    let told = reply.content_text();
    assert!(told.contains("\"rec\" cannot be reached"), "{told}");
    assert!(
        !told.contains("http") && !told.contains("rmcp"),
        "a model learns neither the address nor what we are made of: {told}"
    );
    let row = tenant.call_of(&reply.request_id()).await;
    assert_eq!((&row["outcome"], &row["decision"]), (&json!("upstream_error"), &json!("permitted")), "{row}");
    assert!(recorder.tagged("away").is_empty());
    assert_eq!(mcp.call("other__echo", json!({})).await.structured(), json!({"echo": {}}), "the others work");

    // The admin sees it, and why.
    let path = format!("upstreams/{}", upstream.id);
    let seen = until("the admin API says so", Duration::from_secs(60), async || {
        let seen = tenant.get(&path).await.expect(200);
        (seen["state"] == "error" || seen["state"] == "disconnected").then_some(seen)
    })
    .await;
    assert!(seen["error"].as_str().is_some_and(|why| !why.is_empty()), "{seen}");
    assert_eq!(mcp.tool_names().await.len(), upstream.tools.len() + healthy.tools.len(), "its tools stay listed");

    recorder.resume();
    until("calls work again", Duration::from_secs(60), async || {
        let reply = mcp.call("rec__echo", json!({"tag": "back"})).await;
        (reply.result()["isError"] != true).then_some(())
    })
    .await;
    until("the admin API says so", Duration::from_secs(10), async || {
        let seen = tenant.get(&path).await.expect(200);
        (seen["state"] == "connected" && seen["error"].is_null()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_upstream_that_was_never_there_says_so_when_it_is_added() {
    let tollgate = Tollgate::shared().await;
    let tenant = Tenant::new(tollgate, "Nobody").await;
    let recorder = Recorder::start();
    recorder.stop();
    let body = json!({"name": "nobody", "transport": recorder.transport(), "exposure": "classic"});
    let made = tenant.post("upstreams", body).await.expect(201);
    assert_eq!(made["state"], "error", "{made}");
    assert!(made["error"].as_str().is_some_and(|why| !why.is_empty()), "{made}");
    // It appears later: nobody has to add it again.
    recorder.resume();
    let id = made["id"].as_str().expect("an id");
    until("it connects", Duration::from_secs(60), async || (!tenant.tools(id).await.is_empty()).then_some(())).await;
}

#[tokio::test]
async fn slow_calls_of_one_upstream_run_side_by_side() {
    let tollgate = Tollgate::shared().await;
    let tenant = Tenant::new(tollgate, "Side by side").await;
    let recorder = Recorder::start();
    let upstream = tenant.upstream("rec", recorder.transport(), "classic").await;
    let (_, mcp) = tenant.open(&[&upstream]).await;
    const CALLS: usize = 4;

    let start = Instant::now();
    for _ in 0..CALLS {
        mcp.call("rec__slow", json!({"ms": 300})).await.structured();
    }
    let serial = start.elapsed();
    assert_eq!(recorder.most_at_once(), 1);

    let start = Instant::now();
    let replies = join_all((0..CALLS).map(|_| mcp.call("rec__slow", json!({"ms": 300})))).await;
    let parallel = start.elapsed();
    replies.iter().for_each(|reply| drop(reply.structured()));
    assert_eq!(recorder.most_at_once(), CALLS, "all of them run at the same time");
    assert!(parallel * 2 < serial, "{parallel:?} against {serial:?} one after the other");
}

#[tokio::test]
async fn t17_answers_find_their_caller_though_all_name_the_same_id() {
    let tollgate = Tollgate::shared().await;
    let tenant = Tenant::new(tollgate, "Crossover").await;
    let recorder = Recorder::start();
    let upstream = tenant.upstream("rec", recorder.transport(), "classic").await;
    let (_, mcp) = tenant.open(&[&upstream]).await;
    let asks = (0..200).map(|n| {
        let body = json!({"jsonrpc": "2.0", "id": 0, "method": "tools/call", "params": {"name": "rec__echo", "arguments": {"tag": format!("n{n}")}}});
        let mcp = &mcp;
        async move { (n, mcp.raw(body.to_string()).await) }
    });
    for (n, reply) in join_all(asks).await {
        assert_eq!(reply.message()["id"], 0);
        assert_eq!(reply.structured(), json!({"echo": {"tag": format!("n{n}")}}));
    }
    let sent: std::collections::BTreeSet<String> = recorder.calls().iter().map(|call| call.id.to_string()).collect();
    assert_eq!(sent.len(), 200, "towards the upstream every call has an id of its own");
}

const CREDENTIAL: &str = "upstream-credential-7f3a9c";

#[tokio::test]
async fn t52_an_upstreams_credential_goes_to_the_upstream_and_to_nobody_else() {
    let tollgate = Tollgate::shared().await;
    let tenant = Tenant::new(tollgate, "Credentials").await;
    let recorder = Recorder::start();
    let bearer = format!("Bearer {CREDENTIAL}");
    let transport = json!({"type": "http", "url": recorder.url(), "headers": {"Authorization": bearer, "X-Own": CREDENTIAL}});
    let upstream = tenant.upstream("rec", transport.clone(), "classic").await;
    let (key, mcp) = tenant.open(&[&upstream]).await;
    let reply = mcp.call("rec__echo", json!({"tag": "with-credential"})).await;
    reply.structured();

    let everything = recorder.headers();
    assert!(everything.len() >= 3, "the handshake, the list, the call");
    for headers in &everything {
        assert_eq!(headers.get("authorization").map(|v| v.as_bytes()), Some(bearer.as_bytes()));
        assert_eq!(headers.get("x-own").map(|v| v.as_bytes()), Some(CREDENTIAL.as_bytes()));
    }

    let seen = tenant.get(&format!("upstreams/{}", upstream.id)).await;
    assert_eq!(seen.expect(200)["transport"]["headers"], json!({"authorization": "***", "x-own": "***"}));
    // A change that leaves the values out keeps them.
    let masked = json!({"type": "http", "url": recorder.url(), "headers": {"authorization": "***", "x-own": "***"}});
    tenant.patch(&format!("upstreams/{}", upstream.id), json!({"transport": masked, "description": "masked"})).await.expect(200);
    let before = recorder.headers().len();
    until("the changed upstream is connected again", Duration::from_secs(20), async || {
        (recorder.headers().len() > before + 1).then_some(())
    })
    .await;
    assert!(recorder.headers().iter().all(|headers| headers.get("x-own").is_some_and(|v| v == CREDENTIAL)));

    for path in
        ["upstreams", "tools", "admin-events", "tool-calls", "llm-requests", "audit/export", &format!("keys/{}/scope", key.id)]
    {
        let answer = tenant.get(path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
        assert!(answer.text.len() > 2 && !answer.text.contains(CREDENTIAL), "{path}: {}", answer.text);
    }
    assert!(!mcp.request("tools/list", json!({})).await.text.contains(CREDENTIAL));
    assert!(!tollgate.process.output().contains(CREDENTIAL), "the log");
}

#[tokio::test]
async fn t13_what_the_client_sends_for_the_gateway_never_reaches_the_upstream() {
    let tollgate = Tollgate::shared().await;
    let tenant = Tenant::new(tollgate, "Passthrough").await;
    let recorder = Recorder::start();
    let upstream = tenant.upstream("rec", recorder.transport(), "classic").await;
    let (key, mcp) = tenant.open(&[&upstream]).await;
    for n in 0..100 {
        let canary = format!("canary-{n}-5e1d");
        let client = mcp
            .header("cookie", &format!("session={canary}"))
            .header("x-forwarded-authorization", &canary)
            .header("proxy-authorization", &format!("Basic {canary}"))
            .header("x-amz-security-token", &canary)
            .header(&format!("x-canary-{n}"), &canary);
        let client = if n % 2 == 0 { client.modern() } else { client };
        client.call("rec__echo", json!({"tag": "canary"})).await.structured();
    }
    assert_eq!(recorder.tagged("canary").len(), 100, "the calls arrived");
    for headers in recorder.headers() {
        let text = format!("{headers:?}");
        assert!(!text.contains("5e1d") && !text.contains(&key.secret), "{text}");
        assert!(headers.get("authorization").is_none() && headers.get("cookie").is_none(), "{text}");
    }
    assert!(recorder.calls().iter().all(|call| !call.body.contains(&key.secret) && !call.body.contains("5e1d")));
}

#[tokio::test]
async fn t53_headers_of_an_upstreams_answer_stay_inside() {
    let tollgate = Tollgate::shared().await;
    let tenant = Tenant::new(tollgate, "Headers").await;
    let recorder = Recorder::start();
    let upstream = tenant.upstream("rec", recorder.transport(), "classic").await;
    let (_, mcp) = tenant.open(&[&upstream]).await;
    for client in [mcp.clone(), mcp.modern()] {
        let reply = client.call("rec__echo", json!({})).await;
        reply.structured();
        for inner in ["x-upstream-secret", "set-cookie", "mcp-session-id"] {
            assert!(reply.header(inner).is_none(), "{inner}: {:?}", reply.headers);
        }
    }
}
