//! The protocol in all its revisions: the official Python client, and raw messages where a client would not misbehave.

use std::{process::Command, time::Duration};

use serde_json::{Value, json};

use crate::harness::{Key, MODERN, Mcp, Recorder, Tenant, Tollgate, Upstream, python, root, until};

struct World {
    tollgate: &'static Tollgate,
    tenant: Tenant,
    recorder: Recorder,
    upstream: Upstream,
    key: Key,
    mcp: Mcp,
}

async fn world(name: &str) -> World {
    let tollgate = Tollgate::shared().await;
    let tenant = Tenant::new(tollgate, name).await;
    let recorder = Recorder::start();
    let upstream = tenant.upstream("rec", recorder.transport(), "classic").await;
    let (key, mcp) = tenant.open(&[&upstream]).await;
    World { tollgate, tenant, recorder, upstream, key, mcp }
}

/// `tests/peers/client.py` speaking one revision.
async fn python_client(version: &'static str) {
    let world = world(&format!("Python {version}")).await;
    let url = format!("{}/mcp", world.tollgate.gateway_url);
    let secret = world.key.secret.clone();
    let output = tokio::task::spawn_blocking(move || {
        Command::new(python())
            .arg(root().join("tests/peers/client.py"))
            .args([&url, &secret, version, "rec"])
            .output()
            .expect("client.py")
    })
    .await
    .expect("it ran");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{version}: {errors}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {errors}"));

    assert_eq!(report["version"], version);
    if version != MODERN {
        assert_eq!((&report["ping"], &report["server"]), (&json!(true), &json!("tollgate")));
    }
    let mut names: Vec<String> = world.upstream.tool_names().iter().map(|name| format!("rec__{name}")).collect();
    names.sort();
    assert_eq!(report["tools"], json!(names));
    assert_eq!(report["echo"]["structuredContent"], json!({"echo": {"text": "grüße", "tag": "python"}}), "{report}");
    assert_eq!(
        (&report["fail"]["isError"], &report["fail"]["content"][0]["text"]),
        (&json!(true), &json!("it failed on purpose"))
    );
    assert_eq!(
        report["progress"],
        json!({"steps": [[1.0, 3.0, "step 1"], [2.0, 3.0, "step 2"], [3.0, 3.0, "step 3"]], "text": "done"})
    );
    assert_eq!(report["unknown"], json!({"code": -32602, "message": "Unknown tool: rec__nothing"}));
    assert_eq!(report["cancelled"], true, "the client gave the slow call up");

    let rows = until("the cancelled call is closed", Duration::from_secs(10), async || {
        let rows = world.tenant.calls("").await;
        rows.iter().all(|row| !row["outcome"].is_null()).then_some(rows)
    })
    .await;
    let outcomes: Vec<(&str, &str)> = rows
        .iter()
        .map(|row| (row["tool_name"].as_str().expect("a name"), row["outcome"].as_str().expect("an outcome")))
        .collect();
    let expected =
        [("echo", "ok"), ("fail", "tool_error"), ("progress", "ok"), ("slow", "cancelled"), ("rec__nothing", "denied")];
    assert_eq!(outcomes, expected, "{version}");
    let given_up = &world.recorder.tagged("given-up")[0];
    assert!(world.recorder.cancelled().contains(&given_up.id), "the upstream was told: {:?}", world.recorder.cancelled());
    let requests = world.tenant.list("llm-requests").await;
    assert!(
        requests.iter().any(|request| request["client"].as_str().is_some_and(|client| client.starts_with("mcp"))),
        "{requests:?}"
    );
}

#[tokio::test]
async fn the_python_client_speaks_2025_03_26() {
    python_client("2025-03-26").await;
}

#[tokio::test]
async fn the_python_client_speaks_2025_06_18() {
    python_client("2025-06-18").await;
}

#[tokio::test]
async fn the_python_client_speaks_2025_11_25() {
    python_client("2025-11-25").await;
}

#[tokio::test]
async fn the_python_client_speaks_2026_07_28() {
    python_client(MODERN).await;
}

#[tokio::test]
async fn older_revisions_are_agreed_upon_in_a_handshake() {
    let World { mcp, recorder: _lives, .. } = world("Handshakes").await;
    for version in ["2025-03-26", "2025-06-18", "2025-11-25"] {
        let (session, result) = mcp.initialize(version).await;
        assert_eq!(result["protocolVersion"], version);
        assert_eq!(result["serverInfo"]["name"], "tollgate");
        assert_eq!(result["capabilities"]["tools"], json!({"listChanged": true}));
        assert_eq!(session.request("ping", json!({})).await.result(), json!({}));
        assert_eq!(session.call("rec__echo", json!({"v": version})).await.structured(), json!({"echo": {"v": version}}));
        let list = session.request("tools/list", json!({})).await.result();
        assert!(list.get("resultType").is_none() && list.get("ttlMs").is_none(), "marks of the newer era: {list}");
    }
    // One that nobody knows is answered with the newest of the era.
    for version in ["2019-01-01", MODERN, "tomorrow"] {
        assert_eq!(mcp.initialize(version).await.1["protocolVersion"], "2025-11-25", "{version}");
    }
    // Afterwards the header names the revision, or none, or it is refused.
    assert_eq!(mcp.version(None).request("tools/list", json!({})).await.status, 200);
    let unknown = mcp.version(Some("2019-01-01")).request("tools/list", json!({})).await;
    assert_eq!((unknown.status, &unknown.error()["code"]), (400, &json!(-32022)), "{}", unknown.text);
    assert_eq!(unknown.error()["data"]["supported"], json!([MODERN, "2025-11-25", "2025-06-18", "2025-03-26"]));
    // What the newer era brought is not there in the older, and the other way round.
    assert_eq!(mcp.request("server/discover", json!({})).await.error()["code"], -32601);
    let gone = mcp.modern().request("ping", json!({})).await;
    assert_eq!((gone.status, &gone.error()["code"]), (404, &json!(-32601)));
}

#[tokio::test]
async fn batches_belong_to_the_oldest_revision_alone() {
    let World { mcp, recorder, tenant, .. } = world("Batches").await;
    let call = |id: Value, tag: &str| json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": "rec__echo", "arguments": {"tag": tag}}});
    let batch = json!([
        call(json!("a"), "one"),
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 7, "method": "tools/list"},
        {"jsonrpc": "2.0", "id": 8, "method": "nothing/here"},
        call(json!(9), "two"),
    ]);
    for client in [mcp.version(Some("2025-03-26")), mcp.version(None)] {
        let reply = client.raw(batch.to_string()).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        let answers: Vec<Value> = serde_json::from_str(&reply.text).expect("a list");
        let of = |id: Value| answers.iter().find(|a| a["id"] == id).unwrap_or_else(|| panic!("no answer to {id}: {answers:?}"));
        assert_eq!(answers.len(), 4, "a notification has no answer");
        assert_eq!(of(json!("a"))["result"]["structuredContent"], json!({"echo": {"tag": "one"}}));
        assert_eq!(of(json!(9))["result"]["structuredContent"], json!({"echo": {"tag": "two"}}));
        assert!(of(json!(7))["result"]["tools"].is_array());
        assert_eq!(of(json!(8))["error"]["code"], -32601);
    }
    assert_eq!(tenant.calls("outcome=ok").await.len(), 4, "each call in a batch is a row");
    let only = mcp.version(Some("2025-03-26")).raw(r#"[{"jsonrpc":"2.0","method":"notifications/initialized"}]"#).await;
    assert_eq!((only.status, only.text.as_str()), (202, ""));
    for client in [mcp.clone(), mcp.version(Some("2025-06-18")), mcp.modern()] {
        let refused = client.raw(batch.to_string()).await;
        assert_eq!((refused.status, &refused.error()["code"]), (400, &json!(-32600)), "{}", refused.text);
        assert!(refused.error()["message"].as_str().is_some_and(|m| m.contains("Batches")), "{}", refused.text);
    }
    assert_eq!(recorder.calls().len(), 4);
}

#[tokio::test]
async fn the_newest_revision_needs_no_handshake() {
    let World { mcp, upstream, tenant, recorder: _lives, .. } = world("2026-07-28").await;
    let modern = mcp.modern();
    let discovered = modern.request("server/discover", json!({})).await;
    let result = discovered.result();
    assert_eq!(result["supportedVersions"], json!([MODERN, "2025-11-25", "2025-06-18", "2025-03-26"]));
    assert_eq!((&result["resultType"], &result["cacheScope"]), (&json!("complete"), &json!("private")));
    assert_eq!(result["_meta"]["io.modelcontextprotocol/serverInfo"]["name"], "tollgate");
    assert!(discovered.header("mcp-session-id").is_none(), "there are no sessions");

    let list = modern.request("tools/list", json!({})).await.result();
    assert_eq!(list["tools"].as_array().map(Vec::len), Some(upstream.tools.len()));
    assert_eq!((&list["resultType"], &list["ttlMs"], &list["cacheScope"]), (&json!("complete"), &json!(0), &json!("private")));

    let reply = modern.call("rec__echo", json!({"text": "new"})).await;
    assert_eq!(reply.result()["resultType"], "complete");
    assert_eq!(reply.structured(), json!({"echo": {"text": "new"}}));
    let row = tenant.call_of(&reply.request_id()).await;
    assert_eq!(row["outcome"], "ok");
    let parent = tenant.get(&format!("llm-requests/{}", reply.request_id())).await.expect(200);
    assert_eq!(parent["client"], "tollgate-tests 1");
    assert_eq!(modern.request("resources/list", json!({})).await.status, 404);
}

#[tokio::test]
async fn t21_headers_that_contradict_the_body_are_refused_for_every_method() {
    let World { mcp, recorder, .. } = world("Mismatches").await;
    // Without the client's own headers of the era: each is said by hand.
    let plain = mcp.version(None);
    for method in ["tools/call", "tools/list", "server/discover", "subscriptions/listen"] {
        let params = json!({"name": "rec__echo", "arguments": {"tag": "mismatch"}});
        let body = mcp.modern().body(method, params).to_string();
        let good = [("mcp-protocol-version", MODERN), ("mcp-method", method), ("mcp-name", "rec__echo")];
        let send = async |headers: &[(&str, &str)]| {
            let client = headers.iter().fold(plain.clone(), |client, (name, value)| client.header(name, value));
            client.raw(body.clone()).await
        };
        let mut bad: Vec<Vec<(&str, &str)>> = vec![
            vec![good[1], good[2]],
            vec![good[0], good[2]],
            vec![("mcp-protocol-version", "2025-11-25"), good[1], good[2]],
            vec![good[0], ("mcp-method", "ping"), good[2]],
            vec![good[0], ("mcp-method", "TOOLS/CALL"), good[2]],
            vec![good[0], good[1], ("mcp-method", "ping"), good[2]],
        ];
        if method == "tools/call" {
            bad.push(vec![good[0], good[1]]);
            bad.push(vec![good[0], good[1], ("mcp-name", "rec__count")]);
            bad.push(vec![good[0], good[1], ("mcp-name", "=?base64?cmVjX19jb3VudA==?=")]);
            bad.push(vec![good[0], good[1], good[2], ("mcp-name", "rec__count")]);
        }
        for headers in bad {
            let reply = send(&headers).await;
            assert_eq!((reply.status, &reply.error()["code"]), (400, &json!(-32020)), "{method} {headers:?}: {}", reply.text);
        }
    }
    assert!(recorder.tagged("mismatch").is_empty(), "none of them was called");
    let encoded = mcp
        .version(None)
        .header("mcp-protocol-version", MODERN)
        .header("mcp-method", "tools/call")
        .header("mcp-name", "=?base64?cmVjX19lY2hv?=");
    let body = mcp.modern().body("tools/call", json!({"name": "rec__echo", "arguments": {}}));
    assert_eq!(encoded.raw(body.to_string()).await.structured(), json!({"echo": {}}), "an encoded name is the same name");

    // A version that nobody supports, and a body that lacks what the era asks for.
    let mut body = mcp.modern().body("tools/list", json!({}));
    body["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"] = "2099-01-01".into();
    let reply = mcp.version(Some("2099-01-01")).header("mcp-method", "tools/list").raw(body.to_string()).await;
    assert_eq!((reply.status, &reply.error()["code"]), (400, &json!(-32022)), "{}", reply.text);
    assert_eq!(reply.error()["data"]["requested"], "2099-01-01");
    let bare = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"});
    let reply = mcp.modern().header("mcp-method", "tools/list").raw(bare.to_string()).await;
    assert_eq!((reply.status, &reply.error()["code"]), (400, &json!(-32602)), "{}", reply.text);
}

#[tokio::test]
async fn who_listens_is_told_when_their_tools_change_and_when_others_do_not() {
    let tollgate = Tollgate::shared().await;
    let tenant = Tenant::new(tollgate, "News").await;
    let recorder = Recorder::start();
    let upstream = tenant.upstream("rec", recorder.transport(), "classic").await;
    let members = |tools: &[&str]| json!([{"upstream_id": upstream.id, "tools": tools}]);
    let (mine, other) = (tenant.group_with(members(&["echo"])).await, tenant.group_with(members(&["echo"])).await);
    let key = tenant.key(&[&mine]).await;
    let mcp = tenant.mcp(&key);

    let mut newer = mcp.modern().stream("subscriptions/listen", json!({"notifications": {"toolsListChanged": true}})).await;
    assert_eq!(newer.status, 200);
    let acknowledged = newer.soon().await;
    assert_eq!(acknowledged["method"], "notifications/subscriptions/acknowledged");
    assert_eq!(acknowledged["params"]["notifications"], json!({"toolsListChanged": true}));
    let id = acknowledged["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"].clone();
    assert!(id.is_number(), "{acknowledged}");
    let (session, _) = mcp.initialize("2025-11-25").await;
    let mut older = session.listen().await;
    assert_eq!(older.status, 200);
    assert_eq!(mcp.tool_names().await, ["rec__echo"]);

    // Somebody else's group first: whoever were told of it would be told twice below.
    tenant.patch(&format!("tool-groups/{}", other.id), json!({"members": members(&["echo", "fail"])})).await.expect(200);
    tenant.patch(&format!("tool-groups/{}", mine.id), json!({"members": members(&["echo", "count"])})).await.expect(200);
    let told = newer.soon().await;
    assert_eq!(told["method"], "notifications/tools/list_changed");
    assert_eq!(told["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], id);
    assert_eq!(mcp.tool_names().await, ["rec__count", "rec__echo"], "whoever is told finds the change");
    let told = older.soon().await;
    assert_eq!(told, json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}));

    // The next change is the next message: there was no second one for the first.
    tenant.patch(&format!("tool-groups/{}", mine.id), json!({"members": members(&["count"])})).await.expect(200);
    assert_eq!(newer.soon().await["method"], "notifications/tools/list_changed");
    assert_eq!(mcp.tool_names().await, ["rec__count"]);

    // A stream ends with its key.
    tenant.post(&format!("keys/{}/revoke", key.id), json!({})).await.expect(200);
    for stream in [&mut newer, &mut older] {
        let end = tokio::time::timeout(Duration::from_secs(10), async { while stream.next().await.is_some() {} }).await;
        assert!(end.is_ok(), "the stream of a revoked key is still open");
    }
}

#[tokio::test]
async fn t16_a_session_is_of_no_use_to_another_key_or_on_another_path() {
    let World { mcp, tenant, upstream, recorder: _lives, .. } = world("Sessions").await;
    let group = tenant.group(&[&upstream]).await;
    let thief = tenant.mcp(&tenant.key(&[&group]).await);
    let hello = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}});
    let session = mcp.request("initialize", hello).await.header("mcp-session-id").expect("a session").to_owned();
    let with = |mcp: &Mcp| mcp.header("mcp-session-id", &session);
    assert_eq!(with(&mcp).request("tools/list", json!({})).await.status, 200);
    let made_up = mcp.header("mcp-session-id", "made-up").request("tools/list", json!({})).await;
    assert_eq!(made_up.status, 404);
    for (who, client) in [("another key", with(&thief)), ("another path", with(&thief.at(&group.slug)))] {
        let reply = client.request("tools/list", json!({})).await;
        assert_eq!((reply.status, &reply.text), (404, &made_up.text), "{who} reads the same as a session that was made up");
        assert_eq!(client.listen().await.status, 404);
    }
    for (at, _) in session.char_indices().step_by(7) {
        let mut bent = session.clone();
        bent.replace_range(at..=at, if &session[at..=at] == "A" { "B" } else { "A" });
        let reply = mcp.header("mcp-session-id", &bent).request("tools/list", json!({})).await;
        assert_eq!(reply.status, 404, "bent at {at}");
    }
}

#[tokio::test]
async fn t60_a_client_that_hangs_up_in_the_newest_revision_cancels_its_call() {
    let World { tenant, recorder, upstream, .. } = world("Hang-ups").await;
    tenant.price_tool(&upstream.tool_id("slow"), "0.25").await;
    // A key made after the price: whoever knows it knows the price.
    let (_, mcp) = tenant.open(&[&upstream]).await;
    let hang_up = tokio::spawn({
        let modern = mcp.modern();
        async move { modern.try_call("rec__slow", json!({"ms": 20_000, "tag": "hung-up"})).await }
    });
    until("the call has arrived", Duration::from_secs(10), async || (recorder.tagged("hung-up").len() == 1).then_some(())).await;
    hang_up.abort();
    let row = until("its row is closed", Duration::from_secs(10), async || {
        let rows = tenant.calls("").await;
        rows.into_iter().find(|row| !row["outcome"].is_null())
    })
    .await;
    assert_eq!(
        (&row["outcome"], &row["amount"]),
        (&json!("cancelled"), &json!("0.25")),
        "the upstream had it, so it is charged: {row}"
    );
    let id = recorder.tagged("hung-up")[0].id.clone();
    until("the upstream is told", Duration::from_secs(10), async || recorder.cancelled().contains(&id).then_some(())).await;

    // In the older era a connection that breaks is no cancellation: the call goes on and has its row.
    let hang_up = tokio::spawn({
        let older = mcp.clone();
        async move { older.try_call("rec__slow", json!({"ms": 1000, "tag": "goes-on"})).await }
    });
    until("the call has arrived", Duration::from_secs(10), async || (recorder.tagged("goes-on").len() == 1).then_some(())).await;
    hang_up.abort();
    until("its row is closed", Duration::from_secs(10), async || {
        let rows = tenant.calls("outcome=ok").await;
        rows.iter().any(|row| row["arguments"]["tag"] == "goes-on").then_some(())
    })
    .await;
}
