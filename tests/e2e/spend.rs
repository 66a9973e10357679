//! Budgets through the whole gateway: to the pico, whoever calls, wherever, and whatever dies meanwhile.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use sqlx::{PgPool, Row};
use tollgate_domain::{
    Budget, BudgetId, CallId, Clock, KeyId, Picos, SystemClock, TenantId, TimeZone, WorkerId,
    budget::{BudgetScope, Enforcement, Period, Spender},
};
use tollgate_store::Store;
use tollgate_worker::spend::{Short, Wallets};

use crate::{
    harness::{Mcp, Options, Recorder, Tenant, Tollgate, until},
    second_worker::Worker,
};

async fn budget(tenant: &Tenant, body: Value) -> Value {
    tenant.post("budgets", body).await.expect(201)
}

/// How a budget stands: spent, reserved, remaining.
async fn stands(tenant: &Tenant, id: &Value) -> [String; 3] {
    let window = tenant.get(&format!("budgets/{}", id.as_str().expect("an id"))).await.ok()["window"].clone();
    ["spent", "reserved", "remaining"].map(|field| window[field].as_str().expect("an amount").to_owned())
}

async fn calls(mcp: &Mcp, tag: &str, count: usize) -> Vec<String> {
    let mut answers = Vec::new();
    for n in 0..count {
        let result = mcp.call("rec__echo", json!({"tag": format!("{tag}.{n}")})).await.result();
        let text = result["content"][0]["text"].as_str().unwrap_or_default().to_owned();
        answers.push(if result["isError"] == true { text } else { "ok".to_owned() });
    }
    answers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_does_not_fit_is_refused_with_what_is_left_and_is_a_row() {
    let up = Tollgate::start(Options::default()).await;
    let recorder = Recorder::start();
    let tenant = Tenant::new(&up, "Budget").await;
    let classic = tenant.upstream("rec", recorder.transport(), "classic").await;
    let code = tenant.upstream("code", recorder.transport(), "code").await;
    for upstream in [&classic, &code] {
        tenant.price_upstream(&upstream.id, "0.002").await;
    }
    let (key, _) = tenant.open(&[&classic, &code]).await;
    let month =
        budget(&tenant, json!({"name": "Reading", "scope": {"key_id": key.id}, "limit": "0.005", "period": "month"})).await;
    let whole =
        json!({"name": "All", "scope": {"tenant": true}, "limit": "1", "period": "rolling", "rolling_days": 7, "thresholds": []});
    let whole = budget(&tenant, whole).await;
    let mcp = Mcp::new(&up.gateway_url, &key.secret);
    // No worker serves by a configuration that was confirmed longer ago than a second.
    tokio::time::sleep(Duration::from_millis(1_200)).await;

    let explain = async |tool: &str| tenant.get(&format!("keys/{}/explain?tool={tool}", key.id)).await.ok();
    let free = explain("rec__echo").await;
    assert_eq!(
        (&free["decision"], &free["amount"], &free["budgets"][0]["remaining"]),
        (&json!("permitted"), &json!("0.002"), &json!("0.005"))
    );
    let absent = explain("rec.nothing").await;
    assert_eq!((&absent["decision"], &absent["reason"]), (&json!("denied"), &json!("unknown_tool")));
    let answers = calls(&mcp, "a", 3).await;
    assert_eq!(answers[..2], ["ok", "ok"]);
    let refusal = &answers[2];
    assert!(refusal.contains("of budget \"Reading\" 0.001 of 0.005 is left, and the call may cost 0.002"), "{refusal}");
    assert!(refusal.contains("there is room again from 20"), "{refusal}");
    // A script's calls draw from the same, and the script reads why.
    let script =
        mcp.script("try:\n    code.echo(tag=\"s\")\n    result = \"made\"\nexcept ToolError as e:\n    result = str(e)").await;
    assert!(script.to_string().contains("does not fit a budget"), "{script}");
    assert_eq!(recorder.tags().len(), 2, "a refused call does not reach its upstream");
    let rows = tenant.list("tool-calls?outcome=denied").await;
    assert_eq!(rows.len(), 2);
    assert!(rows.iter().all(|row| row["reason"] == "budget_exhausted" && row["amount"] == "0"), "{rows:?}");

    until("both calls are settled", Duration::from_secs(20), async || {
        (stands(&tenant, &month["id"]).await == ["0.004", "0", "0.001"]).then_some(())
    })
    .await;
    until("what was kept ready for more has gone back", Duration::from_secs(20), async || {
        (stands(&tenant, &whole["id"]).await == ["0.004", "0", "0.996"]).then_some(())
    })
    .await;
    let spent = explain("code.echo").await;
    assert_eq!(
        (&spent["decision"], &spent["reason"], &spent["budgets"][0]["fits"]),
        (&json!("denied"), &json!("budget_exhausted"), &json!(false))
    );
    assert!(spent["explanation"].as_str().expect("a text").contains("0.001 of 0.005 is left"), "{spent}");
    // The threshold of 80 percent was passed once; it is told in the admin events.
    let events = tenant.list("admin-events").await;
    let told: Vec<&Value> = events.iter().filter(|event| event["action"] == "budget.threshold").collect();
    assert_eq!(told.len(), 1, "{events:?}");
    assert_eq!((&told[0]["detail"]["threshold_percent"], &told[0]["detail"]["spent"]), (&json!(80), &json!("0.004")));

    // A call that the upstream never got is free, and what was held for it comes back.
    tenant.patch(&format!("budgets/{}", month["id"].as_str().expect("an id")), json!({"limit": "0.006"})).await.ok();
    recorder.stop();
    until("a call fails at the upstream", Duration::from_secs(20), async || {
        let answers = calls(&mcp, "b", 1).await;
        (answers[0] != "ok" && !answers[0].contains("budget")).then_some(())
    })
    .await;
    until("it is settled as free", Duration::from_secs(20), async || {
        (stands(&tenant, &month["id"]).await == ["0.004", "0", "0.002"]).then_some(())
    })
    .await;
    recorder.resume();
    until("the upstream is back", Duration::from_secs(30), async || {
        let answers = calls(&mcp, "c", 1).await;
        (answers[0] == "ok").then_some(())
    })
    .await;
    assert!(calls(&mcp, "d", 1).await[0].contains("0 of 0.006 is left"));
    tenant.delete(&format!("budgets/{}", month["id"].as_str().expect("an id"))).await.expect(204);
    until("a deleted budget holds nobody", Duration::from_secs(5), async || (calls(&mcp, "e", 1).await == ["ok"]).then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_that_refuses_a_call_does_not_use_up_its_approval() {
    let up = Tollgate::start(Options::default()).await;
    let recorder = Recorder::start();
    let tenant = Tenant::new(&up, "Approved").await;
    let classic = tenant.upstream("rec", recorder.transport(), "classic").await;
    tenant.price_upstream(&classic.id, "0.001").await;
    let group = json!({
        "name": "asked",
        "members": [{"upstream_id": classic.id, "tools": ["*"]}],
        "approval": [{"upstream_id": classic.id, "tools": ["echo"], "confirmations": 1}],
    });
    let group = tenant.post("tool-groups", group).await.expect(201);
    let key = tenant.key_with(json!({"name": "asked", "tool_group_ids": [group["id"]]})).await;
    let mcp = tenant.mcp(&key);
    let limited = budget(&tenant, json!({"scope": {"tenant": true}, "limit": "0", "period": "total", "thresholds": []})).await;
    let path = format!("budgets/{}", limited["id"].as_str().expect("an id"));
    let call = async || mcp.call("rec__echo", json!({"tag": "once"})).await.content_text();
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    // People are not asked about a call that could not be made.
    assert!(call().await.contains("does not fit a budget"));
    assert!(tenant.list("approvals").await.is_empty());
    let limit = async |limit: &str| {
        tenant.patch(&path, json!({"limit": limit})).await.ok();
        tokio::time::sleep(Duration::from_millis(1_200)).await;
    };
    limit("0.001").await;
    assert!(call().await.contains("waits for a decision"));
    let waiting = tenant.list("approvals?state=pending").await;
    let approve = format!("approvals/{}/approve", waiting[0]["id"].as_str().expect("an id"));
    tenant.post(&approve, json!({"reason": null})).await.ok();
    limit("0").await;
    assert!(call().await.contains("does not fit a budget"));
    limit("0.001").await;
    assert_eq!(recorder.tagged("once").len(), 0);
    call().await;
    assert_eq!(recorder.tagged("once").len(), 1, "the approval was still there for it");
}

/// Calls that fit the limit.
const LIMIT: usize = 600;
const CALLERS: usize = 1_000;

/// Call until the budget refuses or the worker dies.
async fn spender(mcp: Mcp, me: usize, answered: Arc<AtomicUsize>) {
    for n in 0.. {
        let Ok(reply) = mcp.try_call("rec__echo", json!({"tag": format!("{me}.{n}.{}", uuid::Uuid::new_v4())})).await else {
            return;
        };
        if reply.status != 200 {
            // Full queues refuse; the caller tries again.
            assert_eq!(reply.status, 503, "{}", reply.text);
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        }
        let result = reply.result();
        if result["isError"] != true {
            answered.fetch_add(1, Ordering::Relaxed);
        } else if result.to_string().contains("does not fit a budget") {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t58_a_thousand_callers_on_four_workers_one_of_which_dies_never_pass_the_limit() {
    let up = Tollgate::start(Options::default()).await;
    let recorder = Recorder::start();
    let tenant = Tenant::new(&up, "Crowd").await;
    let classic = tenant.upstream("rec", recorder.transport(), "classic").await;
    tenant.price_upstream(&classic.id, "0.001").await;
    let (key, _) = tenant.open(&[&classic]).await;
    let limit = "0.6".to_owned();
    let total = budget(&tenant, json!({"scope": {"key_id": key.id}, "limit": limit, "period": "total"})).await;
    let workers = [Worker::start(&up).await, Worker::start(&up).await, Worker::start(&up).await];
    let urls = [&up.gateway_url, &workers[0].url, &workers[1].url, &workers[2].url];
    for url in urls {
        let mcp = Mcp::new(url, &key.secret);
        until("the worker reaches the upstream", Duration::from_secs(20), async || {
            let reply = mcp.try_request("tools/list", json!({})).await.ok()?;
            reply.text.contains("rec__echo").then_some(())
        })
        .await;
    }
    let answered = Arc::new(AtomicUsize::new(0));
    let callers: Vec<_> =
        (0..CALLERS).map(|me| tokio::spawn(spender(Mcp::new(urls[me % 4], &key.secret), me, Arc::clone(&answered)))).collect();
    until("half of it is spent", Duration::from_secs(60), async || (recorder.calls().len() > LIMIT / 2).then_some(())).await;
    workers[0].process.kill();
    for caller in callers {
        caller.await.expect("a caller");
    }
    let received = recorder.calls().len();
    assert!(received <= LIMIT, "{received} calls reached the upstream");
    assert!(answered.load(Ordering::Relaxed) <= received);

    // What the dead worker held comes back, and is spent to the last pico.
    let mcp = Mcp::new(urls[0], &key.secret);
    until("the limit is spent", Duration::from_secs(120), async || {
        let _ = calls(&mcp, "late", 5).await;
        (stands(&tenant, &total["id"]).await == [limit.clone(), "0".to_owned(), "0".to_owned()]).then_some(())
    })
    .await;
    assert!(recorder.calls().len() <= LIMIT);
    let report = tenant.get("reports/costs").await.ok();
    assert_eq!(report["total"]["amount"], limit, "the ledger is the sum of the rows: {report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rate_limit_holds_over_all_workers_and_says_when_to_come_back() {
    let up = Tollgate::start(Options::default()).await;
    let recorder = Recorder::start();
    let tenant = Tenant::new(&up, "Rates").await;
    let classic = tenant.upstream("rec", recorder.transport(), "classic").await;
    let (key, mcp) = tenant.open(&[&classic]).await;
    let second = Worker::start(&up).await;
    let other = Mcp::new(&second.url, &key.secret);
    let body = json!({"name": "Hourly", "scope": {"key_id": key.id}, "max": 20, "per": "hour"});
    let limit = tenant.post("rate-limits", body).await.expect(201);
    let listed = tenant.list("rate-limits").await;
    assert_eq!((listed.len(), &listed[0]["max"], &listed[0]["per"]), (1, &json!(20), &json!("hour")));
    for mcp in [&mcp, &other] {
        until("the worker knows of the limit", Duration::from_secs(10), async || {
            let reply = mcp.call("rec__echo", json!({"tag": format!("warm.{}", uuid::Uuid::new_v4())})).await;
            reply.header("ratelimit-limit").map(|limit| assert_eq!(limit, "20"))
        })
        .await;
    }
    let before = tenant.list("tool-calls?outcome=ok").await.len();
    let tasks: Vec<_> = (0..60)
        .map(|n| {
            let mcp = if n % 2 == 0 { mcp.clone() } else { other.clone() };
            tokio::spawn(async move { mcp.call("rec__echo", json!({"tag": format!("rush.{n}")})).await })
        })
        .collect();
    let (mut made, mut refused) = (0, 0);
    for task in tasks {
        let reply = task.await.expect("a call");
        if reply.result()["isError"] == true {
            refused += 1;
            let text = reply.content_text();
            assert!(text.contains("rate limit \"Hourly\" (20 a hour) is used up; try again in "), "{text}");
            let after: u64 = reply.header("retry-after").expect("Retry-After").parse().expect("seconds");
            assert!((1..=3_600 * 3).contains(&after), "{after}");
            assert_eq!(reply.header("ratelimit-remaining"), Some("0"));
        } else {
            made += 1;
        }
    }
    // Those that were counted before the limit was known everywhere do not matter: 18 to 20 are left, and none comes back within the test.
    assert!((15..=20).contains(&made) && made + refused == 60, "{made} made, {refused} refused, {before} before");
    let rows = tenant.list("tool-calls?outcome=denied").await;
    assert_eq!(rows.len(), refused);
    assert!(rows.iter().all(|row| row["reason"] == "rate_limited"));
    let path = format!("rate-limits/{}", limit["id"].as_str().expect("an id"));
    tenant.patch(&path, json!({"max": 1_000})).await.ok();
    until("the wider limit lets calls in", Duration::from_secs(10), async || {
        (calls(&mcp, "wide", 1).await == ["ok"]).then_some(())
    })
    .await;
    tenant.delete(&path).await.expect(204);
}

/// A clock that began at some time when the test did, and runs faster.
#[derive(Debug)]
struct Fast {
    began: std::time::Instant,
    at: DateTime<Utc>,
}

const FASTER: u32 = 2;

impl Clock for Fast {
    fn now(&self) -> DateTime<Utc> {
        self.at + TimeDelta::from_std(self.began.elapsed() * FASTER).expect("a time")
    }
}

/// Calls that fit one day.
const A_DAY: i64 = 700;

/// Call for ten seconds of the clock's: when each call was opened that was let through, and what it drew from.
async fn over_midnight(
    wallets: Wallets,
    clock: Arc<Fast>,
    tenant: TenantId,
    budget: Budget,
    me: u64,
) -> Vec<(DateTime<Utc>, uuid::Uuid)> {
    let midnight = clock.at + TimeDelta::seconds(5);
    let spender = Spender { team: None, key: KeyId::mint(clock.now()), upstream: None, tool: None };
    let mut made = Vec::new();
    for n in 0_u64.. {
        let at = clock.now();
        if at > midnight + TimeDelta::seconds(5) {
            break;
        }
        // Some come late to their own lease: the day may have ended since they were opened.
        tokio::time::sleep(Duration::from_millis((me * 7 + n * 3) % 40)).await;
        let of = (tenant, TimeZone::UTC, std::slice::from_ref(&budget));
        match wallets.reserve(of, (CallId::mint(at).uuid(), at), &spender, Picos(1)).await {
            Ok(hold) => {
                let leases = hold.leases();
                assert_eq!(leases.len(), 1, "from one day, not from two");
                made.push((at, leases[0]));
                hold.written();
            }
            Err(Short::Exhausted(short)) => {
                let next = if at < midnight { midnight } else { midnight + TimeDelta::days(1) };
                assert_eq!(short.resets_at, Some(next), "{short}");
            }
            Err(short @ Short::Unavailable) => panic!("{short}"),
        }
    }
    made
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t59_calls_around_midnight_draw_from_the_day_in_which_they_were_opened() {
    let up = Tollgate::start(Options::default()).await;
    let tenant = Tenant::new(&up, "Midnight").await;
    let made = json!({"scope": {"tenant": true}, "limit": "0.0000000007", "period": "day", "thresholds": []});
    let made = as_drawn_from(&tenant, made).await;
    let store = Store::from_pool(PgPool::connect(&up.database_url()).await.expect("the database"));
    let tomorrow = (SystemClock.now() + TimeDelta::days(1)).date_naive().and_time(chrono::NaiveTime::MIN).and_utc();
    let clock = Arc::new(Fast { began: std::time::Instant::now(), at: tomorrow - TimeDelta::seconds(5) });
    let mut keeping = Vec::new();
    let mut tasks = Vec::new();
    let mut wallets = Vec::new();
    for _ in 0..3 {
        let one = Wallets::new(store.clone(), WorkerId::mint(SystemClock.now()), clock.clone());
        keeping.push(tokio::spawn(one.clone().keep()));
        for me in 0..8 {
            tasks.push(tokio::spawn(over_midnight(one.clone(), clock.clone(), tenant_id(&tenant), made.clone(), me)));
        }
        wallets.push(one);
    }
    let mut calls = Vec::new();
    for task in tasks {
        calls.extend(task.await.expect("a caller"));
    }
    keeping.iter().for_each(tokio::task::JoinHandle::abort);
    for one in wallets {
        one.close().await;
    }
    let leases = sqlx::query("SELECT lease_id, starts_at, closed_at IS NOT NULL FROM budget_leases WHERE budget_id = $1");
    let leases: std::collections::HashMap<uuid::Uuid, (DateTime<Utc>, bool)> = leases
        .bind(made.id.uuid())
        .fetch_all(store.pool())
        .await
        .expect("leases")
        .iter()
        .map(|row| (row.get(0), (row.get(1), row.get(2))))
        .collect();
    let (mut before, mut after) = (0, 0);
    for (at, lease) in calls {
        let (starts_at, closed) = leases[&lease];
        assert!(starts_at <= at && at < starts_at + TimeDelta::days(1), "a call of {at} drew from the day of {starts_at}");
        assert!(closed);
        *if at < tomorrow { &mut before } else { &mut after } += 1;
    }
    // Each day is spent to the last call, and what is granted of it is what its calls drew.
    assert_eq!((before, after), (A_DAY, A_DAY));
    let windows =
        sqlx::query_scalar::<_, i64>("SELECT granted::bigint FROM budget_windows WHERE budget_id = $1 ORDER BY starts_at");
    assert_eq!(windows.bind(made.id.uuid()).fetch_all(store.pool()).await.expect("windows"), [A_DAY, A_DAY]);
}

fn tenant_id(tenant: &Tenant) -> TenantId {
    tenant.id.parse().expect("an id")
}

/// As the call path knows it.
async fn as_drawn_from(tenant: &Tenant, body: Value) -> Budget {
    let made = budget(tenant, body).await;
    Budget {
        id: made["id"].as_str().and_then(|id| id.parse::<BudgetId>().ok()).expect("an id"),
        name: "Day".to_owned(),
        scope: BudgetScope::default(),
        limit: Picos(A_DAY),
        period: Period::Day,
        rolling_days: None,
        enforcement: Enforcement::Hard,
        thresholds: Vec::new(),
    }
}
