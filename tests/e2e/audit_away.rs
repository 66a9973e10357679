//! Without its audit trail the gateway makes no calls.

use std::{
    fs,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::harness::{Options, Recorder, Tenant, Tollgate, text, until};

/// The postmaster and its children: stopping the first alone would leave the others at work.
fn signal_postgres(tollgate: &Tollgate, signal: Signal) {
    let postmaster = tollgate.postgres_pid();
    let children = fs::read_to_string(format!("/proc/{postmaster}/task/{postmaster}/children")).expect("its children");
    let children = children.split_whitespace().map(|pid| pid.parse::<i32>().expect("a process id"));
    for pid in std::iter::once(postmaster).chain(children) {
        // One of them may have ended meanwhile.
        let _ = kill_process(Pid::from_raw(pid).expect("a process id"), signal);
    }
}

async fn works_again(tenant: &Tenant, mcp: &crate::harness::Mcp, within: Duration) {
    until("calls are made again", within, async || {
        let reply = mcp.try_call("rec__echo", json!({"tag": "after"})).await.ok()?;
        (reply.status == 200).then_some(())
    })
    .await;
    until("the admin API answers", within, async || (tenant.get("tool-calls?limit=1").await.status == 200).then_some(())).await;
}

#[tokio::test]
async fn calls_are_refused_while_postgres_does_not_answer_and_none_reaches_an_upstream() {
    let tollgate = Tollgate::start(Options::default()).await;
    let tenant = Tenant::new(&tollgate, "Frozen").await;
    let recorder = Recorder::start();
    let upstream = tenant.upstream("rec", recorder.transport(), "classic").await;
    let coded = tenant.upstream("coded", recorder.transport(), "code").await;
    tenant.price_upstream(&upstream.id, "1").await;
    let (key, mcp) = tenant.open(&[&upstream, &coded]).await;
    mcp.call("rec__echo", json!({"tag": "before"})).await.structured();

    // A call whose answer comes while nothing can be written: it is not released as if nothing had happened.
    recorder.hold();
    let in_flight = tokio::spawn({
        let mcp = mcp.clone();
        async move { mcp.try_call("rec__echo", json!({"tag": "in-flight"})).await }
    });
    until("it has arrived", Duration::from_secs(10), async || (recorder.tagged("in-flight").len() == 1).then_some(())).await;
    signal_postgres(&tollgate, Signal::STOP);
    recorder.release();

    // At once, on what the worker still believes to be true; and later, when it has to ask.
    let start = Instant::now();
    let at_once = mcp.call("rec__echo", json!({"tag": "refused-at-once"})).await;
    assert_eq!(at_once.status, 503, "{}", at_once.text);
    let later = futures::future::join_all((0..5).map(|n| {
        let mcp = mcp.clone();
        async move { mcp.call("rec__echo", json!({"tag": format!("refused-{n}")})).await }
    }))
    .await;
    for reply in later.iter().chain([&at_once]) {
        assert_eq!(reply.status, 503, "{}", reply.text);
        assert_eq!(reply.header("retry-after"), Some("1"));
        let message = reply.error()["message"].as_str().expect("a message").to_owned();
        assert!(message.contains("audit trail") && message.contains("no calls"), "{message}");
    }
    assert!(start.elapsed() < Duration::from_secs(40), "a refusal comes in time: {:?}", start.elapsed());
    let script = mcp.call("executeToolCode", json!({"code": "coded.echo(tag=\"refused-script\")"})).await;
    assert_eq!(script.status, 503, "{}", script.text);
    assert_eq!(mcp.request("tools/list", json!({})).await.status, 503, "a list is a row as well");
    let answered = in_flight.await.expect("no panic").expect("an answer");
    assert_eq!(answered.status, 503, "its row could not be closed: {}", answered.text);
    let received: Vec<String> = recorder.tags().into_keys().collect();
    assert_eq!(received, ["before", "in-flight"], "nothing but what was permitted beforehand");
    let ready = tollgate.admin().anonymous();
    let gateway = crate::harness::http_client().get(format!("{}/readyz", tollgate.gateway_url)).send().await.expect("an answer");
    assert_eq!(gateway.status().as_u16(), 503, "a load balancer is told");
    until("so is the API's", Duration::from_secs(20), async || (ready.get("/readyz").await.status == 503).then_some(())).await;
    let admin = tenant.get("tool-calls").await;
    assert_eq!(admin.status, 503, "{}", admin.text);

    signal_postgres(&tollgate, Signal::CONT);
    works_again(&tenant, &mcp, Duration::from_secs(15)).await;
    let gateway = format!("{}/readyz", tollgate.gateway_url);
    until("ready", Duration::from_secs(10), async || {
        crate::harness::http_client().get(&gateway).send().await.ok()?.status().is_success().then_some(())
    })
    .await;

    // What was refused cost nothing and claims nothing; what was in flight is in the trail.
    until("every row is closed", Duration::from_secs(20), async || {
        tenant.calls(&format!("key_id={}", key.id)).await.iter().all(|row| !row["outcome"].is_null()).then_some(())
    })
    .await;
    for row in tenant.calls(&format!("key_id={}", key.id)).await {
        let tag = text(&row["arguments"], "tag");
        let (outcome, amount) = (text(&row, "outcome"), text(&row, "amount"));
        match tag.as_str() {
            "before" | "after" | "in-flight" => assert_eq!((outcome.as_str(), amount.as_str()), ("ok", "1"), "{row}"),
            _ => {
                assert_eq!((outcome.as_str(), amount.as_str()), ("upstream_error", "0"), "{row}");
                assert!(text(&row, "error").contains("was not made"), "{row}");
            }
        }
    }
    let tags: Vec<String> = tenant.calls("outcome=ok").await.iter().map(|row| text(&row["arguments"], "tag")).collect();
    assert!(tags.contains(&"in-flight".to_owned()), "what the upstream received has its row: {tags:?}");
}

#[tokio::test]
async fn a_postgres_that_is_killed_is_started_again_and_has_lost_nothing() {
    let tollgate = Tollgate::start(Options::default()).await;
    let tenant = Tenant::new(&tollgate, "Killed").await;
    let recorder = Recorder::start();
    let upstream = tenant.upstream("rec", recorder.transport(), "classic").await;
    let (key, mcp) = tenant.open(&[&upstream]).await;
    let mut acknowledged = Vec::new();
    for n in 0..20 {
        let reply = mcp.call("rec__echo", json!({"tag": format!("n{n}")})).await;
        reply.structured();
        acknowledged.push(reply.request_id());
    }
    let before = tollgate.postgres_pid();
    signal_postgres(&tollgate, Signal::KILL);
    // While it is away: refused, or answered because it is already back; never answered without a row.
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(15) {
        let reply = mcp.call("rec__echo", json!({"tag": "meanwhile"})).await;
        match reply.status {
            200 => {
                acknowledged.push(reply.request_id());
                break;
            }
            status => assert_eq!(status, 503, "{}", reply.text),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    works_again(&tenant, &mcp, Duration::from_secs(10)).await;
    assert_ne!(tollgate.postgres_pid(), before, "another server");
    let rows = tenant.calls(&format!("key_id={}&outcome=ok", key.id)).await;
    for id in &acknowledged {
        assert_eq!(rows.iter().filter(|row| row["llm_request_id"] == id.as_str()).count(), 1, "{id}");
    }
    assert!(
        recorder.tagged("meanwhile").len() <= rows.iter().filter(|row| row["arguments"]["tag"] == "meanwhile").count(),
        "each has its row"
    );
}
