//! Limits of one tenant's scripts: set by its admins below the installation's ceilings, and felt by nobody else.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Mcp, Options, Recorder, Tenant, Tollgate, text, until};

async fn run(mcp: &Mcp, code: &str) -> Value {
    mcp.call("executeToolCode", json!({"code": code})).await.result()["structuredContent"].clone()
}

fn error(answer: &Value) -> (&str, &str) {
    (answer["error"]["kind"].as_str().unwrap_or("none"), answer["error"]["message"].as_str().unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_with_small_limits_meets_them_and_its_neighbour_does_not() {
    let up = Tollgate::start(Options::default()).await;
    let (small, large) = (Tenant::new(&up, "Small").await, Tenant::new(&up, "Large").await);
    let recorder = Recorder::start();
    let (_, ours) = small.open(&[&small.upstream("rec", recorder.transport(), "code").await]).await;
    let (_, theirs) = large.open(&[&large.upstream("rec", recorder.transport(), "code").await]).await;

    let before = small.get("script-limits").await.expect(200);
    assert_eq!(
        (&before["calls"], &before["ceilings"]["calls"], &before["updated_at"]),
        (&json!(null), &json!(200), &json!(null))
    );
    let set = json!({"wall_seconds": 1, "step_milliseconds": 300, "heap_bytes": 8 << 20, "ticks": 50_000, "calls": 5,
        "log_bytes": 100, "result_bytes": 2000, "answer_chars": 300});
    let set = small.patch("script-limits", set).await.expect(200);
    assert_eq!((&set["calls"], &set["heap_bytes"]), (&json!(5), &json!(8 << 20)), "{set}");

    let ended = |name: &'static str, code: &'static str, reason: &'static str| (name, code, reason);
    let scripts = [
        ended("calls", "for i in range(6): rec.echo()\nresult = 1", "Limit reached: calls (5 tool calls in one run)"),
        ended("ticks", "n = 0\nfor i in range(100000): n += 1\nresult = n > 0", "Limit reached: ticks (50000 "),
        ended(
            "heap",
            "x = [\"a\" * 1000 + str(i) for i in range(20000)]\nresult = len(x)",
            "Limit reached: heap (8388608 bytes)",
        ),
        ended("memory", "x = [0] * 5000000\nresult = len(x)", "Limit reached: memory (24 MB)"),
        ended(
            "time",
            "x = 7\nfor i in range(23): x = x * x\nresult = x > 0",
            "Limit reached: time (0.3 s of computing in one step)",
        ),
        ended("result", "result = \"x\" * 3000", "Limit reached: result (2000 bytes"),
        ended("wall", "for i in range(4): rec.slow(ms=600)\nresult = 1", "The run took longer than 1 s in all."),
    ];
    until("the limits are in force", Duration::from_secs(10), async || {
        error(&run(&ours, scripts[0].1).await).1.starts_with(scripts[0].2).then_some(())
    })
    .await;
    for (name, code, reason) in scripts {
        let (ours, theirs) = tokio::join!(run(&ours, code), run(&theirs, code));
        let (kind, message) = error(&ours);
        assert!(kind == "limit" && message.starts_with(reason), "{name}: {ours}");
        assert_eq!(theirs["state"], "done", "{name}: {theirs}");
        let row = small.get(&format!("script-runs/{}", text(&ours, "script_run_id"))).await.expect(200);
        assert_eq!(row["error"]["message"].as_str(), Some(message), "{row}");
    }
    let (ours, theirs) = tokio::join!(
        run(&ours, "print(\"y\" * 500)\nresult = list(range(300))"),
        run(&theirs, "print(\"y\" * 500)\nresult = list(range(300))")
    );
    assert!(
        ours["logs"].to_string().contains("logs cut: over 100 bytes") && text(&ours, "message").contains("items 0:"),
        "{ours}"
    );
    assert!(ours["result"].to_string().len() <= 300, "{ours}");
    assert_eq!((theirs["result"].as_array().map(Vec::len), theirs.get("message")), (Some(300), None), "{theirs}");
}

#[tokio::test]
async fn no_limit_is_set_above_its_ceiling_or_by_whoever_may_not() {
    let tenant = Tenant::new(Tollgate::shared().await, "Ceilings").await;
    let refused =
        tenant.patch("script-limits", json!({"calls": 201, "heap_bytes": 10, "answer_chars": 25_001, "ticks": 0})).await;
    assert_eq!(refused.status, 422, "{}", refused.text);
    let told: Vec<(String, String)> = refused.json()["errors"]
        .as_array()
        .expect("errors")
        .iter()
        .map(|error| (text(error, "pointer"), text(error, "message")))
        .collect();
    let pointers: Vec<_> = told.iter().map(|(pointer, _)| pointer.as_str()).collect();
    assert_eq!(pointers, ["/heap_bytes", "/ticks", "/calls"], "{told:?}");
    assert_eq!(told[2].1, "use 1 to 200, this installation's ceiling, or null for the ceiling itself");
    assert_eq!(tenant.get("script-limits").await.expect(200)["updated_at"], json!(null), "nothing was changed");

    tenant.patch("script-limits", json!({"calls": 7})).await.expect(200);
    tenant.patch("script-limits", json!({"ticks": 100})).await.expect(200);
    let both = tenant.get("script-limits").await.expect(200);
    assert_eq!((&both["calls"], &both["ticks"]), (&json!(7), &json!(100)));
    let unset = tenant.patch("script-limits", json!({"calls": null})).await.expect(200);
    assert_eq!((&unset["calls"], &unset["ticks"]), (&json!(null), &json!(100)));
    let events = tenant.list("admin-events").await;
    let changes: Vec<_> = events.iter().filter(|event| event["action"] == "script_limits.update").collect();
    assert_eq!(changes.len(), 3, "{events:?}");
    assert!(changes.iter().any(|event| event["detail"] == json!({"calls": {"from": 7, "to": null}})), "{changes:?}");
    let operator = tenant.role("operator").await;
    assert_eq!(operator.get(&tenant.path("script-limits")).await.status, 200);
    assert_eq!(operator.patch(&tenant.path("script-limits"), json!({"calls": 1})).await.status, 403);
}
