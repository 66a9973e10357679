//! Real MCP servers behind Tollgate: what they list and answer arrives as they wrote it.

use serde_json::{Value, json};

use crate::harness::{FastMcp, MODERN, Mcp, ODD, Recorder, Tenant, Tollgate, http, peers, stdio};

/// What a client of Tollgate must see of what a peer lists itself.
fn under(upstream: &str, listed: &Value) -> Vec<Value> {
    let renamed = listed["tools"].as_array().expect("tools").iter().map(|tool| {
        let mut tool = tool.clone();
        tool["name"] = format!("{upstream}__{}", tool["name"].as_str().expect("a name")).into();
        tool
    });
    sorted(renamed.collect())
}

fn sorted(mut tools: Vec<Value>) -> Vec<Value> {
    tools.sort_by_key(|tool| tool["name"].to_string());
    tools
}

#[tokio::test]
async fn programs_are_discovered_and_listed_as_they_list_themselves() {
    let tollgate = Tollgate::shared().await;
    let tenant = Tenant::new(tollgate, "Programs").await;
    for peer in
        peers(tollgate.scratch()).into_iter().filter(|peer| ["everything", "filesystem", "memory"].contains(&peer.program))
    {
        let upstream = tenant.upstream(peer.program, stdio(peer.program), "classic").await;
        let (_, mcp) = tenant.open(&[&upstream]).await;
        let direct = tokio::task::spawn_blocking(move || peer.ask(&[("tools/list", json!({}))])).await.expect("asked");
        let direct = under(&upstream.name, &direct[0]);
        assert!(direct.len() > 5, "{direct:?}");
        let seen = sorted(mcp.tools().await);
        assert_eq!(seen, direct, "{}", upstream.name);
        assert_eq!(upstream.tools.len(), direct.len(), "the admin API lists as many");
        assert!(upstream.tools.iter().all(|tool| tool["status"] == "approved"));
    }
}

#[tokio::test]
async fn a_program_answers_through_the_gateway_what_it_answers_directly() {
    let tollgate = Tollgate::shared().await;
    let tenant = Tenant::new(tollgate, "Same answers").await;
    let upstream = tenant.upstream("everything", stdio("everything"), "classic").await;
    let (_, mcp) = tenant.open(&[&upstream]).await;
    let asks = [
        ("echo", json!({"message": "grüße 😀"})),
        ("get-sum", json!({"a": 2, "b": 40})),
        ("get-tiny-image", json!({})),
        ("get-structured-content", json!({"location": "Chicago"})),
        ("get-annotated-message", json!({"messageType": "debug", "includeImage": true})),
        ("get-resource-links", json!({"count": 3})),
        // A mistake of the caller's is the tool's to name.
        ("get-sum", json!({"a": "two"})),
    ];
    let peer = peers(tollgate.scratch()).into_iter().find(|peer| peer.program == "everything").expect("the peer");
    let direct = {
        let asks = asks.clone();
        let params = move || {
            asks.iter().map(|(name, arguments)| ("tools/call", json!({"name": name, "arguments": arguments}))).collect::<Vec<_>>()
        };
        tokio::task::spawn_blocking(move || peer.ask(&params())).await.expect("asked")
    };
    let kinds: std::collections::BTreeSet<&str> = direct
        .iter()
        .flat_map(|result| result["content"].as_array().expect("content"))
        .filter_map(|part| part["type"].as_str())
        .collect();
    assert!(kinds.is_superset(&["text", "image", "resource_link"].into()), "the asks cover {kinds:?}");
    assert!(direct.iter().any(|result| result.get("structuredContent").is_some()));
    assert!(direct.iter().flat_map(|r| r["content"].as_array().expect("content")).any(|part| part.get("annotations").is_some()));
    for ((name, arguments), direct) in asks.into_iter().zip(direct) {
        let through = mcp.call(&format!("everything__{name}"), arguments).await;
        assert_eq!(through.result(), direct, "{name}");
    }
}

#[tokio::test]
async fn a_server_over_http_answers_through_the_gateway_what_it_answers_directly() {
    let (tollgate, fast) = tokio::join!(Tollgate::shared(), FastMcp::start());
    let tenant = Tenant::new(tollgate, "FastMCP").await;
    let upstream = tenant.upstream("fast", http(&fast.url), "classic").await;
    let seen = tenant.get(&format!("upstreams/{}", upstream.id)).await.expect(200);
    assert_eq!((&seen["server"]["name"], &seen["server"]["version"]), (&json!("fast"), &json!("1.2.3")), "{seen}");
    let (_, mcp) = tenant.open(&[&upstream]).await;

    // The gateway speaks the newest revision with it. Marks of that era are not for a client of the older one.
    assert_eq!(seen["server"]["protocol"], MODERN);
    let direct = Mcp::keyless(fast.url.trim_end_matches("/mcp")).modern();
    let listed = direct.request("tools/list", json!({})).await.result();
    assert_eq!(sorted(mcp.tools().await), under("fast", &listed));
    assert_eq!(sorted(mcp.modern().tools().await), under("fast", &listed));
    let asks = [
        ("add", json!({"a": 20, "b": 22})),
        ("weather", json!({"city": "Zürich"})),
        ("picture", json!({})),
        ("fail", json!({"why": "because"})),
        ("add", json!({"a": "x"})),
    ];
    for (name, arguments) in asks {
        let mut answer = direct.call(name, arguments.clone()).await.result();
        let through = mcp.modern().call(&format!("fast__{name}"), arguments.clone()).await;
        assert_eq!(through.result(), answer, "{name}");
        assert_eq!(answer.as_object_mut().and_then(|a| a.shift_remove("resultType")), Some(json!("complete")));
        let through = mcp.call(&format!("fast__{name}"), arguments).await;
        assert_eq!(through.result(), answer, "{name}");
    }
}

#[tokio::test]
async fn an_answer_arrives_byte_by_byte_whatever_it_holds() {
    let tollgate = Tollgate::shared().await;
    let tenant = Tenant::new(tollgate, "Bytes").await;
    let recorder = Recorder::start();
    let upstream = tenant.upstream("rec", recorder.transport(), "classic").await;
    let (_, mcp) = tenant.open(&[&upstream]).await;

    let reply = mcp.call("rec__odd", json!({})).await;
    assert_eq!(reply.result_text(), ODD);
    let modern = mcp.modern().call("rec__odd", json!({})).await;
    assert_eq!(
        modern.result_text(),
        ODD.replacen('{', r#"{"resultType":"complete","#, 1),
        "the newer era marks it, and changes nothing else"
    );

    // The evidence is the same bytes.
    let row = tenant.get(&format!("tool-calls?llm_request_id={}", reply.request_id())).await;
    assert!(row.text.contains(&format!(r#""result":{ODD}"#)), "{}", row.text);
    let export = tenant.get("audit/export?format=ndjson").await;
    assert_eq!(export.text.matches(ODD).count(), 2, "{}", export.text);

    // An error of the protocol is passed on with its code and data.
    let broken = mcp.call("rec__broken", json!({})).await;
    assert_eq!(broken.error(), json!({"code": -32050, "message": "broken on purpose", "data": {"from": "recorder"}}));
    assert_eq!(tenant.call_of(&broken.request_id()).await["outcome"], "upstream_error");

    // A failure of the tool is a result that says so.
    let failed = mcp.call("rec__fail", json!({})).await;
    assert_eq!(failed.result_text(), r#"{"content":[{"type":"text","text":"it failed on purpose"}],"isError":true}"#);
    assert_eq!(tenant.call_of(&failed.request_id()).await["outcome"], "tool_error");

    // A megabyte passes; what is beyond the limit does not, and says so.
    for stream in [false, true] {
        let big = mcp.call("rec__big", json!({"bytes": 1 << 20, "stream": stream})).await;
        assert_eq!(big.content_text().len(), 1 << 20);
        let huge = mcp.call("rec__big", json!({"bytes": 20 << 20, "stream": stream})).await;
        let error = huge.error();
        let why = error["message"].as_str().expect("a message");
        assert!(error["code"] == -32603 && why.starts_with("The server's answer is over the limit of"), "{stream}: {error}");
        assert_eq!(tenant.call_of(&huge.request_id()).await["outcome"], "upstream_error");
    }
    assert_eq!(mcp.call("rec__echo", json!({"text": "still here"})).await.structured(), json!({"echo": {"text": "still here"}}));
}

#[tokio::test]
async fn a_newer_servers_answer_loses_its_mark_and_nothing_else_for_an_older_client() {
    let tollgate = Tollgate::shared().await;
    let tenant = Tenant::new(tollgate, "Marks").await;
    let recorder = Recorder::modern();
    let upstream = tenant.upstream("rec", recorder.transport(), "classic").await;
    let (_, mcp) = tenant.open(&[&upstream]).await;
    let marked = ODD.replacen('{', r#"{"resultType":"complete","#, 1);
    recorder.answer("odd", &marked);
    assert_eq!(mcp.modern().call("rec__odd", json!({})).await.result_text(), marked);
    let older = mcp.call("rec__odd", json!({})).await.result_text();
    let compact = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
    assert_eq!(compact(&older), compact(ODD), "numbers keep their spelling");
    let asks_for_more = r#"{"resultType":"input_required","inputRequests":{}}"#;
    recorder.answer("odd", asks_for_more);
    let refused = mcp.call("rec__odd", json!({})).await;
    assert_eq!(refused.result()["isError"], true);
    assert!(refused.content_text().contains("more input"), "{}", refused.content_text());
}

#[tokio::test]
async fn arguments_reach_the_upstream_as_the_client_wrote_them() {
    let tollgate = Tollgate::shared().await;
    let tenant = Tenant::new(tollgate, "Arguments").await;
    let recorder = Recorder::start();
    let upstream = tenant.upstream("rec", recorder.transport(), "classic").await;
    let (_, mcp) = tenant.open(&[&upstream]).await;
    let arguments = r#"{"tag":"exact","z":1,"a":1.0,"exp":1e2,"cents":1.10,"big":12345678901234567890123,"text":"caf\u00e9","nested":{"b":[],"a":{}}}"#;
    let body = format!(
        r#"{{"jsonrpc":"2.0","id":"one","method":"tools/call","params":{{"name":"rec__echo","arguments":{arguments},"_meta":{{"example.com/trace":"t1","progressToken":"mine","tollgate/other":1}}}}}}"#
    );
    let reply = mcp.raw(body).await;
    assert_eq!(reply.message()["id"], "one");
    let received = &recorder.tagged("exact")[0];
    assert_eq!(received.arguments, arguments, "what was recorded as sent is what was sent");
    assert_eq!(received.meta["example.com/trace"], "t1", "the caller's own _meta is passed on");
    assert_ne!(received.meta["progressToken"], "mine", "that token is between the client and the gateway");
    let row = tenant.get(&format!("tool-calls?llm_request_id={}", reply.request_id())).await;
    assert!(row.text.contains(&format!(r#""arguments":{arguments}"#)), "{}", row.text);
}
