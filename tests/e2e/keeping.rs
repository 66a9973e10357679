//! What a tenant decides about its trail, seen from both doors: models and upstreams get what they always got, and the trail
//! keeps what it may.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{LEGACY, Mcp, Recorder, Tenant, Tollgate, in_millis, python, root, until, verify};

const SECRET: &str = "ada@example.com";

/// Ask again until a call's row says that the worker has heard of the settings; that call's request.
async fn heard(tenant: &Tenant, mcp: &Mcp) -> Value {
    until("the worker has heard of it", Duration::from_secs(10), async || {
        let reply = mcp.call("rec__echo", json!({"tag": "heard", "text": SECRET})).await;
        let row = tenant.call_of(&reply.request_id()).await;
        (row["arguments_form"] == "redacted").then_some(row)
    })
    .await
}

#[tokio::test]
async fn what_is_redacted_reaches_the_upstream_and_the_model_and_not_the_trail() {
    let tollgate = Tollgate::shared().await;
    let tenant = Tenant::new(tollgate, "Redacts").await;
    let recorder = Recorder::start();
    let (classic, code) = (
        tenant.upstream("rec", recorder.transport(), "classic").await,
        tenant.upstream("code", recorder.transport(), "code").await,
    );
    let (_, mcp) = tenant.open(&[&classic, &code]).await;
    let rules = json!({"redaction": {"paths": ["$.pin"], "detectors": ["email"]}, "durability": "relaxed"});
    tenant.patch("audit/settings", rules).await.expect(200);
    heard(&tenant, &mcp).await;

    let reply = mcp.call("rec__echo", json!({"tag": "once", "text": SECRET, "pin": 1234})).await;
    assert_eq!(reply.structured()["echo"], json!({"tag": "once", "text": SECRET, "pin": 1234}), "what the model reads");
    assert_eq!(recorder.tagged("once")[0].args(), json!({"tag": "once", "text": SECRET, "pin": 1234}), "what the upstream reads");
    let row = until("the row is closed", Duration::from_secs(10), async || {
        let row = tenant.call_of(&reply.request_id()).await;
        row["outcome"].is_string().then_some(row)
    })
    .await;
    assert_eq!(row["arguments"], json!({"tag": "once", "text": "[redacted:email]", "pin": "[redacted]"}), "{row}");
    assert_eq!((&row["arguments_form"], &row["result_form"]), (&json!("redacted"), &json!("redacted")));
    assert_eq!(row["result"]["structuredContent"]["echo"]["text"], "[redacted:email]", "{row}");

    let run = mcp.script(&format!("print(\"{SECRET}\")\nresult = code.echo(tag=\"run\", text=\"{SECRET}\")")).await;
    assert_eq!((&run["state"], &run["result"]["echo"]["text"]), (&json!("done"), &json!(SECRET)), "{run}");
    assert_eq!(recorder.tagged("run")[0].args()["text"], SECRET);
    let path = format!("script-runs/{}", run["script_run_id"].as_str().expect("an id"));
    let stored = tenant.get(&path).await;
    assert!(stored.text.contains("[redacted:email]") && !stored.text.contains(SECRET), "{}", stored.text);
    let export = tenant.get("audit/export").await.text;
    assert!(export.contains("[redacted:email]") && export.lines().count() >= 3, "{export}");
    assert_eq!(export.matches(SECRET).count(), before_the_rules(&tenant).await, "{export}");

    // A name that nobody has is written down as it was asked for, but for what is in it.
    let unknown = mcp.call(&format!("mail {SECRET}"), json!({})).await;
    let row = tenant.call_of(&unknown.request_id()).await;
    assert_eq!((&row["tool_name"], &row["outcome"]), (&json!("mail [redacted:email]"), &json!("denied")), "{row}");
    let hello = json!({"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": SECRET, "version": "1"}});
    let named = mcp.version(None).request("initialize", hello).await;
    let request = tenant.get(&format!("llm-requests/{}", named.request_id())).await;
    assert!(request.text.contains("[redacted:email]") && !request.text.contains(SECRET), "{}", request.text);
}

/// How often the secret stands in the trail from before the worker had heard of the rules.
async fn before_the_rules(tenant: &Tenant) -> usize {
    let rows = tenant.calls("").await;
    rows.iter().filter(|row| row["arguments"]["tag"] == "heard").map(|row| row.to_string().matches(SECRET).count()).sum()
}

#[tokio::test]
async fn what_is_erased_is_gone_through_every_door() {
    let tollgate = Tollgate::shared().await;
    let tenant = Tenant::new(tollgate, "Erases").await;
    let recorder = Recorder::start();
    let code = tenant.upstream("code", recorder.transport(), "code").await;
    let (_, mcp) = tenant.open(&[&code]).await;
    let run = mcp.script(&format!("result = code.echo(tag=\"gone\", text=\"{SECRET}\")")).await;
    let kept = mcp.script("result = code.echo(tag=\"kept\")").await;
    let selection = json!({"contains": SECRET.to_uppercase(), "from": in_millis(-600_000), "to": in_millis(600_000)});
    let erased = tenant.post("audit/erasures", json!({"reason": "asked for", "selection": selection})).await.expect(201);
    assert_eq!((&erased["calls"], &erased["runs"]), (&json!(1), &json!(1)), "{erased}");
    for (run, form) in [(&run, json!("erased")), (&kept, json!(null))] {
        let row = tenant.get(&format!("tool-calls/{}", run["calls"][0]["call_id"].as_str().expect("an id"))).await.expect(200);
        assert_eq!((&row["arguments_form"], &row["result_form"], &row["outcome"]), (&form, &form, &json!("ok")), "{row}");
    }
    // At once, though the erasure is sealed a moment later: the bundle waits for what proves it.
    let folder = tempfile::tempdir().expect("a folder");
    let bundle = folder.path().join("erased.tar.zst");
    tenant.bundle(&bundle).await;
    let told = verify(&bundle, &["--replay"]);
    assert!(told.sound().contains("erased") && told.text.contains("named by 1 sealed erasure"), "{told:?}");
    let id = run["script_run_id"].as_str().expect("an id");
    for path in ["tool-calls", "script-runs", &format!("script-runs/{id}"), "audit/export", "admin-events", "audit/erasures"] {
        let answer = tenant.get(path).await;
        assert!(answer.status == 200 && !answer.text.to_lowercase().contains(SECRET), "{path}: {}", answer.text);
    }
}

/// Another implementation opens the file, and reads what the API shows.
#[tokio::test]
async fn a_parquet_export_is_read_by_pyarrow() {
    let tollgate = Tollgate::shared().await;
    let tenant = Tenant::new(tollgate, "Parquet").await;
    let recorder = Recorder::start();
    let classic = tenant.upstream("rec", recorder.transport(), "classic").await;
    tenant.price_tool(&classic.tool_id("echo"), "0.0025").await;
    let (_, mcp) = tenant.open(&[&classic]).await;
    for tag in ["a", "b", "c"] {
        mcp.call("rec__echo", json!({"tag": tag})).await;
    }
    mcp.call("rec__nothing", json!({})).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("calls.parquet");
    tenant.export("parquet", &file).await;
    let output = std::process::Command::new(python()).arg(root().join("tests/peers/read_parquet.py")).arg(&file).output();
    let output = output.expect("python");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let read: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(read["compression"], json!(["ZSTD"]));
    let rows = read["rows"].as_array().expect("rows");
    let listed = tenant.list("tool-calls?order=asc").await;
    assert_eq!(rows.len(), 4);
    for (row, shown) in rows.iter().zip(&listed) {
        for field in ["id", "llm_request_id", "tool_name", "outcome", "decision", "latency_us", "definition_sha256", "sequence"] {
            assert_eq!(row[field], shown[field], "{field}: {row}");
        }
        let arguments: Value = serde_json::from_str(row["arguments"].as_str().expect("text")).expect("JSON");
        assert_eq!(arguments, shown["arguments"]);
    }
    assert_eq!((&rows[0]["amount"], &rows[3]["amount"]), (&json!("0.002500000000"), &json!("0.000000000000")));
    let schema = read["schema"].to_string();
    for column in ["[\"amount\",\"decimal128(38, 12)\"", "[\"opened_at\",\"timestamp[us, tz=UTC]\"", "[\"latency_us\",\"int64\""]
    {
        assert!(schema.contains(column), "{column}: {schema}");
    }
}
