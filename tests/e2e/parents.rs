//! A client may say under which LLM request a call belongs. It is believed about its own, and about nothing else.

use serde_json::{Value, json};

use crate::harness::{Mcp, Recorder, Reply, Tenant, Tollgate};

const META: &str = "tollgate/llm_request_id";
const HEADER: &str = "x-tollgate-request-id";

async fn under_meta(mcp: &Mcp, parent: Value, tag: &str) -> Reply {
    mcp.request("tools/call", json!({"name": "rec__echo", "arguments": {"tag": tag}, "_meta": {META: parent}})).await
}

async fn under_header(mcp: &Mcp, parent: &str, tag: &str) -> Reply {
    mcp.header(HEADER, parent).call("rec__echo", json!({"tag": tag})).await
}

#[tokio::test]
async fn a_request_that_names_no_parent_gets_one_of_the_servers_own() {
    let tenant = Tenant::new(Tollgate::shared().await, "Minted").await;
    let recorder = Recorder::start();
    let upstream = tenant.upstream("rec", recorder.transport(), "classic").await;
    let (key, mcp) = tenant.open(&[&upstream]).await;
    let (first, second) = (mcp.call("rec__echo", json!({})).await, mcp.call("rec__echo", json!({})).await);
    assert_ne!(first.request_id(), second.request_id());
    for reply in [first, second] {
        let row = tenant.call_of(&reply.request_id()).await;
        assert_eq!((&row["origin"], &row["key_id"], &row["outcome"]), (&json!("minted"), &json!(key.id), &json!("ok")), "{row}");
        let request = tenant.get(&format!("llm-requests/{}", reply.request_id())).await.expect(200);
        assert_eq!((&request["origin"], &request["key_id"]), (&json!("minted"), &json!(key.id)), "{request}");
    }
    // A name that the client makes up for its JSON-RPC request names nothing here.
    let forged = "req_01arz3ndektsv4rrffq69g5fav";
    let body = json!({"jsonrpc": "2.0", "id": forged, "method": "tools/call", "params": {"name": "rec__echo", "arguments": {}}});
    let reply = mcp.raw(body.to_string()).await;
    assert_ne!(reply.request_id(), forged);
    assert_eq!(tenant.get(&format!("llm-requests/{forged}")).await.status, 404);
}

#[tokio::test]
async fn ones_own_request_is_believed_in_either_place_and_era() {
    let tenant = Tenant::new(Tollgate::shared().await, "Own parent").await;
    let recorder = Recorder::start();
    let (upstream, code) = (
        tenant.upstream("rec", recorder.transport(), "classic").await,
        tenant.upstream("code", recorder.transport(), "code").await,
    );
    let (_, mcp) = tenant.open(&[&upstream, &code]).await;
    let parent = mcp.request("tools/list", json!({})).await.request_id();
    for mcp in [mcp.clone(), mcp.modern()] {
        for reply in [under_meta(&mcp, json!(parent), "own").await, under_header(&mcp, &parent, "own").await] {
            assert_eq!(reply.structured()["echo"]["tag"], "own");
            assert_eq!(reply.request_id(), parent);
        }
    }
    let script =
        json!({"name": "executeToolCode", "arguments": {"code": "result = code.echo(tag=\"own\")"}, "_meta": {META: parent}});
    let run = mcp.request("tools/call", script).await.structured();
    assert_eq!(run["state"], "done", "{run}");
    let rows = tenant.calls(&format!("llm_request_id={parent}")).await;
    assert_eq!(rows.len(), 5, "{rows:?}");
    assert!(rows.iter().all(|row| row["outcome"] == "ok" && row["llm_request_id"] == json!(parent)));
    assert_eq!(rows.iter().filter(|row| row["script_run_id"] == run["script_run_id"]).count(), 1);
    assert!(recorder.calls().iter().all(|call| call.meta.get(META).is_none()), "it is not the upstream's business");
    // Where both places name one, the body counts: it is what is audited.
    let other = mcp.request("tools/list", json!({})).await.request_id();
    let both = under_meta(&mcp.header(HEADER, &other), json!(parent), "both").await;
    assert_eq!(both.request_id(), parent);
}

#[tokio::test]
async fn any_other_request_is_refused_and_the_refusal_is_a_row() {
    let tollgate = Tollgate::shared().await;
    let (tenant, stranger) = (Tenant::new(tollgate, "Parents").await, Tenant::new(tollgate, "Stranger").await);
    let (recorder, foreign) = (Recorder::start(), Recorder::start());
    let upstream = tenant.upstream("rec", recorder.transport(), "classic").await;
    let (key, mcp) = tenant.open(&[&upstream]).await;
    let (_, second_key) = tenant.open(&[&upstream]).await;
    let (_, stranger_mcp) = stranger.open(&[&stranger.upstream("rec", foreign.transport(), "classic").await]).await;

    let own = mcp.request("tools/list", json!({})).await.request_id();
    let another_keys = second_key.request("tools/list", json!({})).await.request_id();
    let another_tenants = stranger_mcp.request("tools/list", json!({})).await.request_id();
    let unknown = format!("{}0", &own[..own.len() - 1]);
    let unknown = if unknown == own { format!("{}1", &own[..own.len() - 1]) } else { unknown };
    let named = [
        ("another key's", json!(another_keys)),
        ("another tenant's", json!(another_tenants)),
        ("unknown", json!(unknown)),
        ("another kind", json!(own.replace("req_", "run_"))),
        ("upper case", json!(own.to_uppercase())),
        ("with a space", json!(format!("{own} "))),
        ("a uuid", json!("0190a3e4-0000-7000-8000-000000000000")),
        ("SQL", json!("' OR 1=1 --")),
        ("empty", json!("")),
        ("null", json!(null)),
        ("a number", json!(7)),
        ("a list", json!([own])),
    ];
    let mut refused = 0;
    for (what, parent) in &named {
        let mut replies = vec![under_meta(&mcp, parent.clone(), "refused").await];
        // A header has no trailing space: HTTP takes it away.
        if let Some(text) = parent.as_str().filter(|text| text.trim() == *text) {
            replies.push(under_header(&mcp, text, "refused").await);
        }
        for reply in replies {
            let error = reply.error();
            assert_eq!(error["code"], -32602, "{what}: {error}");
            assert_eq!(
                error["message"], "The LLM request named as the parent of this call is not one that this key has made",
                "{what}"
            );
            let minted = reply.request_id();
            assert!(
                minted != own && parent.as_str() != Some(minted.as_str()),
                "{what}: recorded under a name of the server's own"
            );
            let row = tenant.call_of(&minted).await;
            let fields = ["decision", "reason", "outcome", "key_id", "origin", "amount"].map(|field| row[field].clone());
            assert_eq!(
                fields,
                [json!("denied"), json!("unknown_parent"), json!("denied"), json!(key.id), json!("minted"), json!("0")],
                "{what}: {row}"
            );
            refused += 1;
        }
    }
    assert!(recorder.tagged("refused").is_empty(), "the upstream heard of a refused call");
    assert_eq!(tenant.calls("outcome=denied").await.len(), refused);
    // What was named has gained nothing.
    for (tenant, id) in [(&tenant, &another_keys), (&stranger, &another_tenants)] {
        assert!(tenant.calls(&format!("llm_request_id={id}")).await.is_empty());
    }
    assert_eq!(tenant.get(&format!("llm-requests/{unknown}")).await.status, 404, "a client's id becomes no key");
    // A script does not run under a foreign parent either, and still its refusal is a row.
    let code = tenant.upstream("code", recorder.transport(), "code").await;
    let (_, scripts) = tenant.open(&[&code]).await;
    let ask =
        json!({"name": "executeToolCode", "arguments": {"code": "result = code.echo(tag=\"refused\")"}, "_meta": {META: own}});
    let reply = scripts.request("tools/call", ask).await;
    assert_eq!(reply.error()["code"], -32602);
    assert_eq!(tenant.call_of(&reply.request_id()).await["reason"], "unknown_parent");
    assert!(recorder.tagged("refused").is_empty());
}
