//! What results look like, for tools that do not say: learned from calls, told in the documentation, never a value.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Mcp, Recorder, Tenant, Tollgate, until};

const SECRET: &str = "ada@example.com";
const SEEN: &str = "Returns: not declared; seen in recent results: ";

async fn docs(mcp: &Mcp, tool: &str) -> String {
    mcp.call("getToolDocs", json!({"server": "rec", "tool": tool})).await.content_text()
}

/// The line about results, once it says this.
async fn says(mcp: &Mcp, tool: &str, shape: &str) {
    until(&format!("the shape {shape}"), Duration::from_secs(20), async || {
        docs(mcp, tool).await.contains(&format!("{SEEN}{shape}\n")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_a_tool_has_answered_shows_in_its_documentation_as_a_shape() {
    let tollgate = Tollgate::shared().await;
    let (tenant, other) = (Tenant::new(tollgate, "Shapes").await, Tenant::new(tollgate, "No shapes").await);
    let recorder = Recorder::start();
    let upstream = tenant.upstream("rec", recorder.transport(), "code").await;
    let (_, mcp) = tenant.open(&[&upstream]).await;
    let (_, theirs) = other.open(&[&other.upstream("rec", recorder.transport(), "code").await]).await;
    let unknown = docs(&mcp, "count").await;
    assert!(unknown.contains("Returns: not declared. "), "{unknown}");

    let run = mcp.script("rec.count()\nrec.slow(ms=1)\nresult = 1").await;
    assert_eq!(run["state"], "done", "{run}");
    says(&mcp, "count", "{\"count\": int}").await;
    // More results, more of the shape; what is text is text.
    let answer = |value: Value| json!({"content": [{"type": "text", "text": value.to_string()}]}).to_string();
    recorder.answer("count", &answer(json!({"count": null, "rows": [{"id": "c1", "mail": SECRET}], "by_mail": {SECRET: 3}})));
    assert_eq!(mcp.script("result = rec.count()").await["state"], "done");
    let rows = r#"{"by_mail?": dict[str, int], "count": int | None, "rows?": list[{"id": str, "mail": str}]}"#;
    says(&mcp, "count", rows).await;
    recorder.answer("slow", r#"{"content":[{"type":"text","text":"slept well"}]}"#);
    mcp.script("result = rec.slow(ms=1)").await;
    says(&mcp, "slow", "{\"slept\": bool} | str").await;
    // Errors teach nothing, and nobody else's results do.
    mcp.script("result = try_call(rec.fail)").await;
    assert!(docs(&mcp, "fail").await.contains("Returns: not declared. "));
    assert!(docs(&theirs, "count").await.contains("Returns: not declared. "));

    // With another definition it begins anew.
    recorder.change_tool("count", |tool| tool["description"] = "Counts otherwise.".into());
    tenant.post(&format!("upstreams/{}/sync", upstream.id), json!({})).await.expect(200);
    let tool = tenant.get(&format!("tools/{}", upstream.tool_id("count"))).await.expect(200);
    let hash = json!({"definition_sha256": tool["definition_sha256"]});
    tenant.post(&format!("tools/{}/approve", upstream.tool_id("count")), hash).await.expect(200);
    until("the new definition is served", Duration::from_secs(20), async || {
        let docs = docs(&mcp, "count").await;
        docs.contains("Counts otherwise.").then(|| assert!(docs.contains("Returns: not declared. "), "{docs}"))
    })
    .await;
}

#[tokio::test]
async fn calls_outside_scripts_teach_as_well_and_redaction_is_not_evaded() {
    let tenant = Tenant::new(Tollgate::shared().await, "Shapes redacted").await;
    let recorder = Recorder::start();
    let upstream = tenant.upstream("rec", recorder.transport(), "classic").await;
    let (_, mcp) = tenant.open(&[&upstream]).await;
    tenant
        .patch(
            "audit/settings",
            json!({"redaction": {"paths": ["$.content"], "patterns": [{"name": "project", "regex": "zeppelin"}]}}),
        )
        .await
        .expect(200);
    until("the rules are in force", Duration::from_secs(10), async || {
        let row = tenant.call_of(&mcp.call("rec__echo", json!({"text": "zeppelin"})).await.request_id()).await;
        (row["arguments_form"] == "redacted").then_some(())
    })
    .await;
    // A word that a rule takes out of payloads is learned neither as a value nor as the name of a field.
    recorder.answer("count", r#"{"content":[],"structuredContent":{"zeppelin":1,"zeppelin_two":2}}"#);
    mcp.call("rec__count", json!({})).await;
    tenant.patch(&format!("upstreams/{}", upstream.id), json!({"exposure": "code"})).await.expect(200);
    until("it is behind Code Mode", Duration::from_secs(20), async || {
        mcp.tool_names().await.contains(&"getToolDocs".to_owned()).then_some(())
    })
    .await;
    says(&mcp, "count", "dict[str, int]").await;
}
