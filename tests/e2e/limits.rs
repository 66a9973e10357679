//! Limits through the whole gateway: calls under way, counters in Redis and in memory, and what a key is told of its quota.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    harness::{Key, Mcp, Options, Recorder, Redis, Reply, Tenant, Tollgate, http_client, text, until},
    second_worker::Worker,
};

/// No worker serves by a configuration that was confirmed longer ago than a second.
async fn known() {
    tokio::time::sleep(Duration::from_millis(1_200)).await;
}

/// A call on a task of its own.
fn begin(mcp: &Mcp, tag: &str) -> tokio::task::JoinHandle<reqwest::Result<Reply>> {
    let (mcp, tag) = (mcp.clone(), tag.to_owned());
    tokio::spawn(async move { mcp.try_call("rec__echo", json!({"tag": tag})).await })
}

async fn made(mcp: &Mcp, tag: &str) -> Result<(), String> {
    let reply = mcp.call("rec__echo", json!({"tag": tag})).await;
    if reply.result()["isError"] == true { Err(reply.content_text()) } else { Ok(()) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t60_no_more_calls_are_under_way_than_may_be_whoever_leaves_or_dies() {
    let up = Tollgate::start(Options::default()).await;
    let recorder = Recorder::start();
    let tenant = Tenant::new(&up, "Abreast").await;
    let upstream = tenant.upstream("rec", recorder.transport(), "classic").await;
    let (key, mcp) = tenant.open(&[&upstream]).await;
    let second = Worker::start(&up).await;
    let other = Mcp::new(&second.url, &key.secret);
    let body = json!({"name": "Three", "scope": {"key_id": key.id}, "max": 3, "unit": "concurrent"});
    let limit = tenant.post("rate-limits", body).await.expect(201);
    assert_eq!((&limit["unit"], &limit["per"]), (&json!("concurrent"), &Value::Null));
    known().await;
    for mcp in [&mcp, &other] {
        made(mcp, "warm").await.expect("a call");
    }

    recorder.hold();
    let before = recorder.calls().len();
    let calls: Vec<_> = (0..12).map(|n| begin(if n % 2 == 0 { &mcp } else { &other }, &format!("rush.{n}"))).collect();
    let mut under_way = Vec::new();
    let mut refused = 0;
    until("nine are refused", Duration::from_secs(20), async || {
        (calls.iter().filter(|call| call.is_finished()).count() == 9).then_some(())
    })
    .await;
    for call in calls {
        if !call.is_finished() {
            under_way.push(call);
            continue;
        }
        let reply = call.await.expect("a task").expect("an answer");
        refused += 1;
        assert!(reply.content_text().contains("limit \"Three\" lets 3 calls be under way at once"), "{}", reply.text);
        assert_eq!((reply.header("retry-after"), reply.header("ratelimit-remaining")), (Some("1"), Some("0")));
    }
    assert_eq!((under_way.len(), refused), (3, 9));
    until("the three have reached the upstream", Duration::from_secs(20), async || {
        (recorder.calls().len() == before + 3).then_some(())
    })
    .await;
    let explain = tenant.get(&format!("keys/{}/explain?tool=rec.echo", key.id)).await.ok();
    assert_eq!((&explain["reason"], &explain["rate_limits"][0]["remaining"]), (&json!("rate_limited"), &json!(0)));

    // Whoever asked goes away. In the newer era that ends the call, and its place is free; in the older the call goes on.
    let modern = begin(&mcp.modern(), "left");
    assert!(modern.await.expect("a task").expect("an answer").content_text().contains("at once"));
    recorder.release();
    for call in under_way {
        assert_ne!(call.await.expect("a task").expect("an answer").result()["isError"], true);
    }
    recorder.hold();
    let all = async |mcp: &Mcp, tag: &str| {
        let received = recorder.calls().len();
        let mut begun = Vec::new();
        let until = std::time::Instant::now() + Duration::from_secs(30);
        // Places come back a moment after the calls that had them have been answered.
        while recorder.calls().len() < received + 3 {
            assert!(std::time::Instant::now() < until, "{tag}: no place came back");
            begun.push(begin(mcp, tag));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        begun
    };
    let left = all(&mcp.modern(), "left").await;
    assert!(made(&mcp, "no room").await.is_err());
    for call in &left {
        call.abort();
    }
    let dying = all(&other, "on the one that dies").await;
    assert!(made(&mcp, "no room").await.is_err());
    second.process.kill();
    // What it had under way ends when it has said nothing for a while, and not before.
    assert!(made(&mcp, "no room").await.is_err());
    let again = all(&mcp, "after its death").await;
    recorder.release();
    for call in dying.into_iter().chain(again) {
        drop(call.await);
    }
    let rows = tenant.list("tool-calls?outcome=denied").await;
    assert!(rows.len() >= 13 && rows.iter().all(|row| row["reason"] == "rate_limited"), "{rows:?}");
}

/// Calls that fit the budget.
const FIT: usize = 150;

/// Call until the budget refuses: what was answered, and how often no call was made because nobody could count it.
async fn spender(mcp: Mcp, me: usize, uncounted: Arc<AtomicUsize>, made: Arc<AtomicUsize>, end: Arc<AtomicBool>) {
    for n in 0.. {
        if end.load(Ordering::Relaxed) {
            return;
        }
        let Ok(reply) = mcp.try_call("rec__echo", json!({"tag": format!("{me}.{n}")})).await else { return };
        if reply.status != 200 {
            assert_eq!(reply.status, 503, "{}", reply.text);
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        }
        if reply.result()["isError"] != true {
            made.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(30)).await;
            continue;
        }
        let told = reply.content_text();
        if told.contains("does not fit a budget") {
            return;
        }
        assert!(told.contains("Redis, which does not answer"), "{told}");
        assert!(reply.header("retry-after").is_some());
        uncounted.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t61_a_redis_that_is_killed_stops_calls_until_it_is_back_and_no_budget_is_touched_by_it() {
    let mut redis = Redis::start().await;
    let env = BTreeMap::from([("REDIS_URL".to_owned(), redis.url())]);
    let up = Tollgate::start(Options { env, ..Options::default() }).await;
    let recorder = Recorder::start();
    let tenant = Tenant::new(&up, "Redis").await;
    let upstream = tenant.upstream("rec", recorder.transport(), "classic").await;
    tenant.price_upstream(&upstream.id, "0.001").await;
    let (key, mcp) = tenant.open(&[&upstream]).await;
    let rate = json!({"scope": {"key_id": key.id}, "max": 100_000, "per": "hour"});
    tenant.post("rate-limits", rate).await.expect(201);
    tenant.post("rate-limits", json!({"scope": {"tenant": true}, "max": 50, "unit": "concurrent"})).await.expect(201);
    let limit = "0.15";
    let budget = json!({"scope": {"key_id": key.id}, "limit": limit, "period": "total", "thresholds": []});
    let budget = tenant.post("budgets", budget).await.expect(201);
    known().await;

    let [uncounted, answered]: [Arc<AtomicUsize>; 2] = Default::default();
    let end = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..8)
        .map(|me| tokio::spawn(spender(mcp.clone(), me, Arc::clone(&uncounted), Arc::clone(&answered), Arc::clone(&end))))
        .collect();
    until("a third of it is spent", Duration::from_secs(60), async || (recorder.calls().len() > FIT / 3).then_some(())).await;
    redis.kill();
    until("calls are refused", Duration::from_secs(30), async || (uncounted.load(Ordering::Relaxed) > 8).then_some(())).await;
    let received = recorder.calls().len();
    assert!(received < FIT, "the budget was spent before Redis died: the test proves nothing");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(recorder.calls().len() <= received + 8, "calls went on that nobody counted");
    // An admin hears why as well.
    let explain = tenant.get(&format!("keys/{}/explain?tool=rec.echo", key.id)).await;
    assert_eq!(explain.status, 503);
    assert!(explain.text.contains("Redis"), "{}", explain.text);
    redis.again().await;
    until("calls are made again", Duration::from_secs(30), async || (recorder.calls().len() > received + 8).then_some(())).await;
    // Once more, so that it is found in every state.
    redis.kill();
    redis.again().await;
    until("all callers have met the budget", Duration::from_secs(90), async || {
        callers.iter().all(tokio::task::JoinHandle::is_finished).then_some(())
    })
    .await;
    end.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.expect("a caller");
    }
    assert_eq!((recorder.calls().len(), answered.load(Ordering::Relaxed)), (FIT, FIT), "to the last call, and not one more");
    until("it is settled", Duration::from_secs(30), async || {
        let window = tenant.get(&format!("budgets/{}", text(&budget, "id"))).await.ok()["window"].clone();
        (window["spent"] == limit && window["reserved"] == "0" && window["remaining"] == "0").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counters_in_memory_are_for_one_process_alone() {
    let config = "[limits]\ncounters = \"memory\"\n".to_owned();
    let up = Tollgate::start(Options { config, ..Options::default() }).await;
    let recorder = Recorder::start();
    let tenant = Tenant::new(&up, "Memory").await;
    let upstream = tenant.upstream("rec", recorder.transport(), "classic").await;
    let (key, mcp) = tenant.open(&[&upstream]).await;
    tenant.post("rate-limits", json!({"scope": {"key_id": key.id}, "max": 2, "per": "day"})).await.expect(201);
    known().await;
    assert_eq!(made(&mcp, "one").await, Ok(()));
    assert_eq!(made(&mcp, "two").await, Ok(()));
    let refused = made(&mcp, "three").await.expect_err("it is used up");
    assert!(refused.contains("(2 a day) is used up"), "{refused}");
    let explain = tenant.get(&format!("keys/{}/explain?tool=rec.echo", key.id)).await.ok();
    assert_eq!(explain["rate_limits"][0]["remaining"], 0, "the other door looks at the same counters");
    let settings = up.scratch().join("tollgate.toml");
    let output = std::process::Command::new(crate::harness::binary("tollgate"))
        .args(["api", "--listen", "127.0.0.1:0", "--database-url", &up.database_url(), "--config"])
        .arg(settings)
        .env("TOLLGATE_SECRET", "YmVuY2htYXJrLWJlbmNobWFyay1iZW5jaG1hcmsuLi4=")
        .output()
        .expect("tollgate api");
    let told = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success() && told.contains("for `tollgate up` alone"), "{told}");
}

/// What `GET /v1/quota` answers to this secret.
async fn quota(up: &Tollgate, secret: &str) -> (u16, Value) {
    let ask = http_client().get(format!("{}/v1/quota", up.gateway_url)).bearer_auth(secret);
    let answer = ask.send().await.expect("an answer");
    (answer.status().as_u16(), answer.json().await.expect("JSON"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_told_its_own_quota_and_nothing_of_others() {
    let up = Tollgate::shared().await;
    let recorder = Recorder::start();
    let tenant = Tenant::new(up, "Quota").await;
    let upstream = tenant.upstream("rec", recorder.transport(), "classic").await;
    let hidden = tenant.upstream("hidden", recorder.transport(), "classic").await;
    tenant.price_upstream(&upstream.id, "0.002").await;
    let group = tenant.group(&[&upstream]).await;
    let (mine, other): (Key, Key) = (tenant.key(&[&group]).await, tenant.key(&[&group]).await);
    let total =
        |name: &str, scope: Value| json!({"name": name, "scope": scope, "limit": "1", "period": "total", "thresholds": []});
    for (name, scope) in [
        ("Mine", json!({"key_id": mine.id})),
        ("Theirs", json!({"key_id": other.id})),
        ("All", json!({"tenant": true})),
        ("Unseen", json!({"upstream_id": hidden.id})),
        ("Seen", json!({"tool_id": upstream.tool_id("echo")})),
    ] {
        tenant.post("budgets", total(name, scope)).await.expect(201);
    }
    for (name, scope, max) in [("Hourly", json!({"key_id": mine.id}), 10), ("Theirs too", json!({"key_id": other.id}), 10)] {
        tenant.post("rate-limits", json!({"name": name, "scope": scope, "max": max, "per": "hour"})).await.expect(201);
    }
    tenant
        .post("rate-limits", json!({"name": "Abreast", "scope": {"tenant": true}, "max": 7, "unit": "concurrent"}))
        .await
        .expect(201);
    tenant
        .post(
            "rate-limits",
            json!({"name": "Tokens", "scope": {"tenant": true}, "max": 5_000_000, "unit": "token", "per": "day"}),
        )
        .await
        .expect(201);
    known().await;
    made(&tenant.mcp(&mine), "a").await.expect("a call");
    for n in 0..3 {
        made(&tenant.mcp(&other), &format!("b.{n}")).await.expect("a call");
    }

    let told = until("what was spent is settled, and what was kept ready has gone back", Duration::from_secs(30), async || {
        let (status, told) = quota(up, &mine.secret).await;
        assert_eq!(status, 200, "{told}");
        let settled = told["budgets"][0]["spent"] == "0.002" && told["budgets"][0]["reserved"] == "0";
        (settled && told["budgets"][1]["remaining"] == "0.992").then_some(told)
    })
    .await;
    assert_eq!((&told["key_id"], &told["currency"], &told["time_zone"]), (&json!(mine.id), &json!("USD"), &json!("UTC")));
    assert_eq!((&told["spend"]["amount"], &told["spend"]["calls"]), (&json!("0.002"), &json!(1)));
    let names = |list: &str| told[list].as_array().expect("a list").iter().map(|one| text(one, "name")).collect::<Vec<_>>();
    assert_eq!(names("budgets"), ["Mine", "All", "Seen"]);
    assert_eq!(names("rate_limits"), ["Hourly", "Abreast", "Tokens"]);
    let all = &told["budgets"][1];
    // What others have spent is not said beside what is left.
    assert_eq!((&all["shared"], &all["limit"]), (&json!(true), &json!("1")));
    assert!(all.get("spent").is_none() && all.get("reserved").is_none(), "{all}");
    let hourly = &told["rate_limits"][0];
    assert_eq!((&hourly["limit"], &hourly["remaining"], &hourly["per"]), (&json!(10), &json!(9), &json!("hour")));
    assert!((1..=360).contains(&hourly["reset_seconds"].as_u64().expect("seconds")), "{hourly}");
    let text = told.to_string();
    assert!(!text.contains(&other.id) && !text.contains("Theirs") && !text.contains("Unseen"), "{text}");

    let (status, refused) = quota(up, &other.secret.replace("tg_", "xx_")).await;
    assert_eq!((status, &refused["code"]), (401, &json!("unauthenticated")));
    let page = http_client()
        .get(format!("{}/v1/quota", up.gateway_url))
        .bearer_auth(&mine.secret)
        .header("origin", "https://evil.example");
    assert_eq!(page.send().await.expect("an answer").status().as_u16(), 403);
}
