//! Results that are too long for one answer: what a model is shown, and how it reads the rest.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Mcp, Recorder, Reply, Tenant, Tollgate, text, until};

const SECRET: &str = "ada@example.com";
const ROWS: &str = "rows = [{\"id\": i, \"text\": \"row %d\" % i} for i in range(2000)]\n";

async fn read(mcp: &Mcp, run: &str, more: Value) -> Reply {
    let mut arguments = json!({"run": run});
    arguments.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
    mcp.call("readResult", arguments).await
}

/// What `readResult` says where it does not answer.
async fn refused(mcp: &Mcp, run: &str, more: Value) -> String {
    let reply = read(mcp, run, more).await;
    let result = reply.result();
    assert_eq!(result["isError"], true, "{result}");
    text(&result["content"][0], "text")
}

#[tokio::test]
async fn a_long_result_is_cut_and_the_rest_can_be_read_by_the_key_that_made_it() {
    let tollgate = Tollgate::shared().await;
    let (tenant, other) = (Tenant::new(tollgate, "Long results").await, Tenant::new(tollgate, "Others").await);
    let recorder = Recorder::start();
    let upstream = tenant.upstream("rec", recorder.transport(), "code").await;
    let (_, mcp) = tenant.open(&[&upstream]).await;
    let script = format!("{ROWS}result = {{\"total\": len(rows), \"rows\": rows, \"log\": \"x\" * 30000}}");
    let reply = mcp.call("executeToolCode", json!({"code": script})).await;
    let run = reply.structured();
    let id = text(&run, "script_run_id");
    let result = run["result"].as_object().expect("a dict");
    assert_eq!(result.keys().collect::<Vec<_>>(), ["total", "rows", "log"], "cut, and of the same form");
    let shown = result["rows"].as_array().map_or(0, Vec::len);
    assert!((100..2000).contains(&shown) && run["result"].to_string().len() <= 25_000, "{shown}");
    assert!(reply.content_text().len() < 26_000);
    let message = text(&run, "message");
    assert!(
        message.starts_with("The result is cut: ") && message.contains(&format!("rows shows items 0:{shown} of 2000")),
        "{message}"
    );
    assert!(message.contains(&format!("readResult {{\"run\": \"{id}\"")), "{message}");

    // All of it, page by page, and single values.
    let (mut rows, mut pages) = (Vec::new(), 0);
    loop {
        let page = read(&mcp, &id, json!({"path": "rows", "range": format!("{}:", rows.len())})).await.content_text();
        assert!(page.len() < 26_000);
        let (items, note) = page.split_once('\n').unwrap_or((&page, ""));
        rows.extend(serde_json::from_str::<Vec<Value>>(items).expect("items"));
        pages += 1;
        if note.is_empty() {
            break;
        }
    }
    assert!(pages > 1 && rows.len() == 2000);
    assert!(rows.iter().enumerate().all(|(i, row)| *row == json!({"id": i, "text": format!("row {i}")})));
    assert_eq!(read(&mcp, &id, json!({"path": "rows[1999].text"})).await.content_text(), "\"row 1999\"");
    assert_eq!(read(&mcp, &id, json!({"path": "/rows/7/id"})).await.content_text(), "7");
    assert_eq!(read(&mcp, &id, json!({"path": "log", "range": "-3:"})).await.content_text(), "\"xxx\"");
    assert!(refused(&mcp, &id, json!({"path": "rows[0].nme"})).await.contains("Its keys: id, text."));

    // Another key's, another tenant's and no run at all read alike.
    let (_, stranger) = tenant.open(&[&upstream]).await;
    let (_, foreign) = other.open(&[&other.upstream("rec", recorder.transport(), "code").await]).await;
    let nothing = refused(&mcp, "run_00000000000000000000000000", json!({})).await;
    for told in
        [refused(&stranger, &id, json!({})).await, refused(&foreign, &id, json!({})).await, refused(&mcp, "x", json!({})).await]
    {
        assert_eq!(told, nothing);
    }
    let failed = mcp.call("executeToolCode", json!({"code": "fail(\"no\")"})).await.result()["structuredContent"].clone();
    assert!(refused(&mcp, &text(&failed, "script_run_id"), json!({})).await.contains("has no result"), "{failed}");
    let small = mcp.script("result = 7\nprint(\"y\" * 30000)").await;
    assert_eq!((&small["result"], small.get("message")), (&json!(7), None), "{small}");
    let logs = small["logs"].to_string();
    assert!(logs.len() < 26_000 && logs.contains("cut after"), "{logs}");
}

#[tokio::test]
async fn of_a_result_can_be_read_what_the_trail_keeps() {
    let tenant = Tenant::new(Tollgate::shared().await, "Kept results").await;
    let recorder = Recorder::start();
    let (_, mcp) = tenant.open(&[&tenant.upstream("rec", recorder.transport(), "code").await]).await;
    let code = format!("{ROWS}rows[1999][\"text\"] = \"{SECRET}\"\nresult = rows");
    let whole = text(&mcp.script(&code).await, "script_run_id");
    let last = json!({"path": "[1999].text"});
    assert_eq!(read(&mcp, &whole, last.clone()).await.content_text(), format!("\"{SECRET}\""));

    tenant.patch("audit/settings", json!({"redaction": {"detectors": ["email"]}})).await.expect(200);
    let redacted = until("the rules are in force", Duration::from_secs(10), async || {
        let id = text(&mcp.script(&code).await, "script_run_id");
        let told = read(&mcp, &id, last.clone()).await.content_text();
        told.contains("[redacted:email]").then_some(told)
    })
    .await;
    assert!(redacted.contains("the copy that the audit trail keeps") && !redacted.contains(SECRET), "{redacted}");

    tenant.patch("audit/settings", json!({"redaction": {}, "payload_limit_bytes": 1000})).await.expect(200);
    until("nothing long is kept", Duration::from_secs(10), async || {
        let run = mcp.script(&code).await;
        let told = text(&run, "message");
        let lost = told.ends_with("The rest is not kept: run the script again and return less.");
        if lost {
            assert!(refused(&mcp, &text(&run, "script_run_id"), json!({})).await.contains("is not kept"), "{run}");
        }
        lost.then_some(())
    })
    .await;

    let call = mcp.script(&format!("x = rec.echo(text=\"{SECRET}\")\nresult = [x] * 500")).await;
    let selection = json!({"call_ids": [text(&call["calls"][0], "call_id")]});
    tenant.patch("audit/settings", json!({"payload_limit_bytes": null})).await.expect(200);
    tenant.post("audit/erasures", json!({"reason": "asked for", "selection": selection})).await.expect(201);
    assert!(refused(&mcp, &text(&call, "script_run_id"), json!({})).await.contains("is not kept"), "{call}");
}
