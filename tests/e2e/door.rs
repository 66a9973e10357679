//! What the model door refuses, and how little it says about why.

use futures::future::join_all;
use serde_json::{Value, json};

use crate::harness::{Mcp, Recorder, Reply, Tenant, Tollgate, in_millis};

const LIMIT: usize = 4 << 20;

/// All that a client can tell one refusal from another by.
fn seen(reply: &Reply) -> (u16, Vec<(String, String)>, String) {
    let mut headers: Vec<_> = reply
        .headers
        .iter()
        .filter(|(name, _)| *name != "date")
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect();
    headers.sort();
    (reply.status, headers, reply.text.clone())
}

async fn list(mcp: &Mcp) -> Reply {
    mcp.request("tools/list", json!({})).await
}

#[tokio::test]
async fn t49_whatever_is_wrong_with_a_key_the_answer_is_the_same() {
    let tollgate = Tollgate::shared().await;
    let tenant = Tenant::new(tollgate, "Keys").await;
    let good = tenant.key(&[]).await;
    let revoked = tenant.key(&[]).await;
    tenant.post(&format!("keys/{}/revoke", revoked.id), json!({})).await.expect(200);
    let expired = tenant.key_with(json!({"name": "short", "tool_group_ids": [], "expires_at": in_millis(1500)})).await;
    assert_eq!(list(&tenant.mcp(&expired)).await.status, 200, "it works until then");
    let rotated = tenant.key(&[]).await;
    let fresh = tenant.post(&format!("keys/{}/rotate", rotated.id), json!({})).await.expect(200);
    let fresh = fresh["secret"].as_str().expect("a secret").to_owned();
    let service = tenant.post("service-tokens", json!({"name": "s", "role": "owner"})).await.expect(201)["secret"]
        .as_str()
        .expect("a secret")
        .to_owned();
    tokio::time::sleep(std::time::Duration::from_millis(1600)).await;

    let url = &tollgate.gateway_url;
    let with = |secret: &str| Mcp::new(url, secret);
    let mut typo = good.secret.clone().into_bytes();
    let last = typo.last_mut().expect("a character");
    *last = if *last == b'a' { b'b' } else { b'a' };
    let typo = String::from_utf8(typo).expect("ASCII");
    // Well-formed and never given out: the id of one, the rest of another.
    let middle = good.secret.len() / 2;
    let spliced = format!("{}{}", &good.secret[..middle], &fresh[middle..]);
    let cases = [
        ("none", Mcp::keyless(url)),
        ("empty", with("")),
        ("malformed", with("hello")),
        ("another scheme", Mcp::keyless(url).header("authorization", "Basic dXNlcjpwYXNz")),
        ("typo", with(&typo)),
        ("spliced", with(&spliced)),
        ("half", with(&good.secret[..middle])),
        ("revoked", with(&revoked.secret)),
        ("expired", with(&expired.secret)),
        ("rotated away", with(&rotated.secret)),
        ("an admin's token", with(&service)),
        ("the platform's token", with(&tollgate.admin_token)),
        ("two different keys", with(&good.secret).header("x-api-key", &fresh)),
        ("two bearers", with(&good.secret).header("authorization", &format!("Bearer {fresh}"))),
    ];
    let mut refusals = Vec::new();
    for (name, client) in &cases {
        let reply = list(client).await;
        assert_eq!(reply.status, 401, "{name}: {}", reply.text);
        assert!(reply.header("www-authenticate").is_some_and(|v| v.starts_with("Bearer")), "{name}: {:?}", reply.headers);
        assert!(reply.header("x-tollgate-request-id").is_none(), "{name}: nothing is recorded for nobody");
        refusals.push((name, seen(&reply)));
    }
    for (name, refusal) in &refusals {
        assert_eq!(refusal, &refusals[0].1, "{name} reads differently from {}", refusals[0].0);
    }
    let modern = list(&cases[0].1.modern()).await;
    assert_eq!((modern.status, &modern.text), (401, &refusals[0].1.2), "in either era");
    let stream = Mcp::keyless(url).listen().await;
    assert_eq!(stream.status, 401, "GET as well");

    // The other way round: a virtual key opens no admin route.
    let admin = tollgate.admin().with_token(&good.secret).get("/v1/tenants").await;
    assert_eq!(admin.expect(401)["code"], tollgate.admin().anonymous().get("/v1/tenants").await.expect(401)["code"]);

    // And each good way to send one works.
    for client in [
        with(&good.secret),
        Mcp::keyless(url).header("authorization", &format!("bearer {}", good.secret)),
        Mcp::keyless(url).header("x-api-key", &good.secret),
        Mcp::keyless(url).header("x-tollgate-key", &good.secret),
        with(&good.secret).header("x-api-key", &good.secret),
        with(&fresh),
    ] {
        assert_eq!(list(&client).await.result(), json!({"tools": []}));
    }
}

#[tokio::test]
async fn t19_a_page_in_a_browser_gets_neither_in_by_its_origin_nor_by_a_rebound_name() {
    let tollgate = Tollgate::shared().await;
    let tenant = Tenant::new(tollgate, "Browsers").await;
    let mcp = tenant.mcp(&tenant.key(&[]).await);
    let port = tollgate.gateway_url.rsplit(':').next().expect("a port");
    for (header, value, said) in [
        ("origin", "https://evil.example", "Origin"),
        ("origin", "null", "Origin"),
        ("origin", "http://localhost.evil.example", "Origin"),
        ("host", "evil.example", "Host"),
        ("host", &format!("evil.example:{port}"), "Host"),
        ("host", &format!("127.0.0.1.evil.example:{port}"), "Host"),
    ] {
        for client in [mcp.header(header, value), mcp.modern().header(header, value)] {
            let reply = list(&client).await;
            assert_eq!(reply.status, 403, "{header}: {value}: {}", reply.text);
            assert!(reply.text.contains(said) && reply.header("access-control-allow-origin").is_none(), "{}", reply.text);
        }
        assert_eq!(mcp.header(header, value).listen().await.status, 403);
    }
    for (header, value) in
        [("origin", "http://localhost:6274".to_owned()), ("host", format!("localhost:{port}")), ("host", format!("[::1]:{port}"))]
    {
        assert_eq!(list(&mcp.header(header, &value)).await.status, 200, "{header}: {value}");
    }
}

/// A call of `rec__echo` whose body has exactly this many bytes.
fn sized(bytes: usize, tag: &str) -> String {
    let empty = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "rec__echo", "arguments": {"tag": tag, "text": ""}}}).to_string();
    let body = empty.replace(r#""text":"""#, &format!(r#""text":"{}""#, "x".repeat(bytes - empty.len())));
    assert_eq!(body.len(), bytes);
    body
}

#[tokio::test]
async fn t22_a_body_over_the_limit_is_refused_and_one_at_the_limit_is_not() {
    let tollgate = Tollgate::shared().await;
    let tenant = Tenant::new(tollgate, "Bodies").await;
    let recorder = Recorder::start();
    let upstream = tenant.upstream("rec", recorder.transport(), "classic").await;
    let (_, mcp) = tenant.open(&[&upstream]).await;
    let reply = mcp.raw(sized(LIMIT, "at")).await;
    assert_eq!(reply.structured()["echo"]["tag"], "at");
    let reply = mcp.raw(sized(LIMIT + 1, "over")).await;
    assert_eq!(reply.status, 413, "{}", reply.text);
    assert!(reply.error()["message"].as_str().is_some_and(|why| why.contains("size limit")), "{}", reply.text);
    // Without a length that could be read beforehand.
    let chunks = futures::stream::iter(
        sized(LIMIT + 1, "over").into_bytes().chunks(64 << 10).map(|c| Ok::<_, std::io::Error>(c.to_vec())).collect::<Vec<_>>(),
    );
    let reply = mcp.raw(reqwest::Body::wrap_stream(chunks)).await;
    assert_eq!(reply.status, 413, "{}", reply.text);
    assert!(recorder.tagged("over").is_empty());
    assert_eq!(recorder.tagged("at").len(), 1);

    // The other door takes less. (Just over: a server that refuses early may cut off a client that is still sending.)
    let name = "x".repeat(1 << 20);
    let refused = tenant.post("teams", json!({"name": name})).await;
    assert_eq!(refused.status, 413, "{}", refused.text);
}

#[tokio::test]
async fn t24_t20_json_that_is_too_deep_or_reads_in_two_ways_is_refused() {
    let tollgate = Tollgate::shared().await;
    let tenant = Tenant::new(tollgate, "Strict").await;
    let recorder = Recorder::start();
    let upstream = tenant.upstream("rec", recorder.transport(), "classic").await;
    let (key, mcp) = tenant.open(&[&upstream]).await;
    let call = |arguments: &str| {
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"rec__echo","arguments":{arguments}}}}}"#)
    };
    // The message, its params and its arguments are three levels themselves.
    let deep = |levels: usize| call(&format!(r#"{{"tag":"deep","text":{}{}}}"#, "[".repeat(levels - 3), "]".repeat(levels - 3)));

    let reply = mcp.raw(deep(64)).await;
    assert_eq!(reply.structured()["echo"]["tag"], "deep");
    for (body, said) in [
        (deep(65), "64 levels"),
        ("[".repeat(1_000_000), "64 levels"),
        (call(r#"{"tag":"twice","tag":"other"}"#), "comes twice"),
        (call(r#"{"tag":"twice","nested":{"a":1,"\u0061":2}}"#), "comes twice"),
        (r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"rec__echo","name":"rec__fail","arguments":{"tag":"twice"}}}"#.to_owned(), "comes twice"),
        (r#"{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call","params":{"name":"rec__echo","arguments":{"tag":"twice"}}}"#.to_owned(), "comes twice"),
        (format!("{} trailing", call(r#"{"tag":"twice"}"#)), "Parse error"),
        (call(r#"{"tag":"twice",}"#), "Parse error"),
    ] {
        let reply = mcp.raw(body).await;
        assert_eq!((reply.status, &reply.error()["code"]), (400, &json!(-32700)), "{}", reply.text);
        assert!(reply.error()["message"].as_str().is_some_and(|why| why.contains(said)), "{said}: {}", reply.text);
    }
    let mut utf = call(r#"{"tag":"twice","text":"?"}"#).into_bytes();
    let at = utf.iter().position(|b| *b == b'?').expect("there");
    utf[at] = 0xff;
    assert_eq!(mcp.raw(utf).await.error()["code"], -32700);
    assert!(recorder.tagged("twice").is_empty(), "none of them was called");

    // Messages that are no JSON-RPC: one whose id is null is not taken for a notification.
    for id in ["null", "{}", "[1]", "true"] {
        let body = call(r#"{"tag":"twice"}"#).replace(r#""id":1"#, &format!(r#""id":{id}"#));
        let reply = mcp.raw(body).await;
        assert_eq!((reply.status, &reply.error()["code"]), (400, &json!(-32600)), "{id}: {}", reply.text);
    }
    assert!(recorder.tagged("twice").is_empty());

    // Arguments that are no object are a row, and no call.
    for arguments in ["[1]", "\"text\"", "7", "true"] {
        let reply = mcp.raw(call(arguments)).await;
        assert_eq!(reply.error()["code"], -32602, "{arguments}: {}", reply.text);
    }
    let rows = tenant.calls(&format!("key_id={}&outcome=denied", key.id)).await;
    assert!(rows.len() == 4 && rows.iter().all(|row| row["reason"] == "bad_arguments"), "{rows:?}");
    assert_eq!(recorder.calls().len(), 1);
}

#[tokio::test]
async fn t42_t43_hidden_and_unknown_look_the_same_and_what_is_listed_is_what_can_be_called() {
    let tollgate = Tollgate::shared().await;
    let (tenant, stranger) = (Tenant::new(tollgate, "Hidden").await, Tenant::new(tollgate, "Stranger").await);
    let recorder = Recorder::start();
    let upstream = tenant.upstream("rec", recorder.transport(), "classic").await;
    let scripted = tenant.upstream("coded", recorder.transport(), "code").await;
    let foreign = stranger.upstream("foreign", recorder.transport(), "classic").await;
    let visible = tenant.group_with(json!([{"upstream_id": upstream.id, "tools": ["echo", "count"]}])).await;
    let hidden = tenant.group_with(json!([{"upstream_id": upstream.id, "tools": ["fail"]}])).await;
    let foreign_group = stranger.group(&[&foreign]).await;
    let key = tenant.key(&[&visible]).await;
    let mcp = tenant.mcp(&key);

    // T43: the list and the call agree on every name there is.
    assert_eq!(mcp.tool_names().await, ["rec__count", "rec__echo"]);
    let listed = mcp.tool_names().await;
    for tool in upstream.tool_names() {
        let name = format!("rec__{tool}");
        let before = recorder.calls().len();
        let reply = mcp.call(&name, json!({})).await;
        assert_eq!(listed.contains(&name), reply.message().get("result").is_some(), "{name}: {}", reply.text);
        assert_eq!(recorder.calls().len() - before, usize::from(listed.contains(&name)), "{name}");
    }

    // T42: why a name finds nothing is in the row, never in the answer.
    let names = [
        ("rec__fail", "not_in_scope"),
        ("rec__slow", "not_in_scope"),
        ("coded__echo", "not_in_scope"),
        ("foreign__echo", "unknown_tool"),
        ("rec__nothing", "unknown_tool"),
        ("nothing__echo", "unknown_tool"),
        ("rec", "unknown_tool"),
        ("rec__", "unknown_tool"),
        ("__echo", "unknown_tool"),
        ("rec__echo ", "unknown_tool"),
        ("REC__echo", "unknown_tool"),
        ("rec__ech*", "unknown_tool"),
        ("*", "unknown_tool"),
        ("", "unknown_tool"),
        ("executeToolCode", "unknown_tool"),
    ];
    let mut answers = Vec::new();
    for (name, reason) in names {
        let reply = mcp.call(name, json!({"tag": "hidden"})).await;
        let row = tenant.call_of(&reply.request_id()).await;
        assert_eq!(
            (&row["decision"], &row["outcome"], &row["reason"]),
            (&json!("denied"), &json!("denied"), &json!(reason)),
            "{name}: {row}"
        );
        assert_eq!((&row["amount"], &row["key_id"]), (&json!("0"), &json!(key.id)), "{row}");
        let mut error = reply.error();
        let message = error["message"].as_str().expect("a message").to_owned();
        assert_eq!(message, format!("Unknown tool: {name}"));
        error["message"] = "".into();
        answers.push((reply.status, error, reply.header("content-type").map(str::to_owned)));
    }
    answers.iter().for_each(|answer| assert_eq!(answer, &answers[0]));
    assert!(recorder.tagged("hidden").is_empty());
    drop(scripted);

    // Groups by name in the path: one's own narrows, any other is not there.
    assert_eq!(mcp.at(&visible.slug).tool_names().await, ["rec__count", "rec__echo"]);
    let missing: Vec<_> = [&hidden.slug, &foreign_group.slug, "nothing", "*", "%2A", "g-", "null"]
        .into_iter()
        .map(|slug| (slug.to_owned(), mcp.at(slug)))
        .collect();
    let replies = join_all(missing.iter().map(async |(slug, mcp)| (slug, list(mcp).await))).await;
    for (slug, reply) in &replies {
        assert_eq!(seen(reply), seen(&replies[0].1), "{slug}");
        assert_eq!(reply.status, 404);
    }

    // T42: no group is nothing, not everything; a group without members as well.
    let empty = tenant.group_with(json!([])).await;
    for groups in [vec![], vec![&empty]] {
        let none = tenant.mcp(&tenant.key(&groups).await);
        assert_eq!(list(&none).await.result()["tools"], json!([]));
        assert_eq!(none.call("rec__echo", json!({})).await.error()["message"], "Unknown tool: rec__echo");
    }
    for scope in [Value::Null, json!("*"), json!(["*"]), json!([null]), json!({}), json!([foreign_group.id]), json!(["tg_junk"])]
    {
        let made = tenant.post("keys", json!({"name": "k", "tool_group_ids": scope})).await;
        assert!((400..500).contains(&made.status), "{scope}: {} {}", made.status, made.text);
    }
    let made = tenant.post("keys", json!({"name": "k"})).await;
    assert_eq!(made.status, 422, "{}", made.text);
    let made = tenant.post("tool-groups", json!({"name": "g", "members": [{"upstream_id": foreign.id, "tools": ["*"]}]})).await;
    assert!((400..500).contains(&made.status), "another tenant's upstream: {} {}", made.status, made.text);
}
