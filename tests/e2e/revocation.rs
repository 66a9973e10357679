//! T44, T49: a key that ends, ends everywhere within a second; and a worker that cannot know whether it has, serves nobody.
//!
//! "Within a second" is judged by when a request was *sent*: one that is sent a second after the admin had the answer is refused,
//! however slow the machine is. That is what the worker's lease promises, whatever notices get lost.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use sqlx::PgPool;

use crate::{
    harness::{Key, Mcp, Options, Recorder, Tenant, Tollgate, in_millis, text, until},
    second_worker::Worker,
};

const PROMISE: Duration = Duration::from_secs(1);

struct Two {
    up: Tollgate,
    second: Worker,
    tenant: Tenant,
    group: String,
    _recorder: Recorder,
}

impl Two {
    async fn start() -> Self {
        let up = Tollgate::start(Options::default()).await;
        let second = Worker::start(&up).await;
        let (tenant, recorder) = (Tenant::new(&up, "Revocation").await, Recorder::start());
        let upstream = tenant.upstream("rec", recorder.transport(), "classic").await;
        let group = tenant.group(&[&upstream]).await.id;
        Self { up, second, tenant, group, _recorder: recorder }
    }

    async fn key(&self) -> Key {
        self.tenant.key_with(json!({"name": "key", "tool_group_ids": [self.group]})).await
    }

    fn doors(&self, secret: &str) -> [Mcp; 2] {
        [Mcp::new(&self.up.gateway_url, secret), Mcp::new(&self.second.url, secret)]
    }

    /// Both workers know the key and let it in.
    async fn works(&self, secret: &str) {
        for door in self.doors(secret) {
            assert!(!door.tool_names().await.is_empty());
        }
    }

    /// Ask both workers without pause. Answers when the last request was sent that was still let in, measured from `since`.
    async fn last_admitted(&self, secret: &str, since: Instant) -> Duration {
        let ask = async |door: Mcp| {
            let (mut last, mut refused) = (Duration::ZERO, 0);
            // Some more after the first refusal: what is refused once stays refused.
            while refused < 20 {
                let sent = since.elapsed();
                let reply = door.request("tools/list", json!({})).await;
                match reply.status {
                    200 => {
                        assert_eq!(refused, 0, "refused, and let in again");
                        last = sent;
                    }
                    401 => refused += 1,
                    other => panic!("{other}: {}", reply.text),
                }
                assert!(sent < Duration::from_secs(20), "still let in");
            }
            last
        };
        let [one, two] = self.doors(secret);
        let (one, two) = tokio::join!(ask(one), ask(two));
        one.max(two)
    }

    async fn revoke(&self, key: &Key) -> Instant {
        self.tenant.post(&format!("keys/{}/revoke", key.id), json!({})).await.ok();
        Instant::now()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t44_a_key_that_ends_is_refused_by_every_worker_within_a_second() {
    let two = Two::start().await;
    // While other changes keep the workers reloading.
    let stop = Arc::new(AtomicBool::new(false));
    let noise: Vec<_> = (0..2)
        .map(|n| {
            let (tenant, stop) = (two.tenant.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut made = 0;
                while !stop.load(Ordering::Relaxed) {
                    tenant.post("teams", json!({"name": format!("noise {n} {made}")})).await.expect(201);
                    made += 1;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                made
            })
        })
        .collect();
    let mut worst = Duration::ZERO;
    for _ in 0..8 {
        let key = two.key().await;
        two.works(&key.secret).await;
        let revoked = two.revoke(&key).await;
        worst = worst.max(two.last_admitted(&key.secret, revoked).await);
    }
    assert!(worst < PROMISE, "revoked: still let in {worst:?} later");

    let key = two.key().await;
    two.works(&key.secret).await;
    let rotated = two.tenant.post(&format!("keys/{}/rotate", key.id), json!({})).await.expect(200);
    let since = Instant::now();
    let last = two.last_admitted(&key.secret, since).await;
    assert!(last < PROMISE, "rotated: the old secret is let in {last:?} later");
    two.works(&text(&rotated, "secret")).await;

    let key = two.key().await;
    two.works(&key.secret).await;
    let rotated = two.tenant.post(&format!("keys/{}/rotate", key.id), json!({"overlap_seconds": 2})).await.expect(200);
    let since = Instant::now();
    two.works(&text(&rotated, "secret")).await;
    two.works(&key.secret).await;
    let last = two.last_admitted(&key.secret, since).await;
    assert!(last < Duration::from_secs(2) + PROMISE, "overlap of 2 s: let in {last:?} later");
    assert!(last > Duration::from_millis(500), "the overlap was none: {last:?}");
    two.works(&text(&rotated, "secret")).await;

    let expires = json!({"name": "short", "tool_group_ids": [two.group], "expires_at": in_millis(2500)});
    let (key, since) = (two.tenant.key_with(expires).await, Instant::now());
    two.works(&key.secret).await;
    let last = two.last_admitted(&key.secret, since).await;
    assert!(last < Duration::from_millis(2500) + PROMISE, "expired after 2.5 s: let in {last:?} later");

    stop.store(true, Ordering::Relaxed);
    let mut made = 0;
    for task in noise {
        made += task.await.expect("noise");
    }
    assert!(made > 20, "{made} changes beside");
    eprintln!("the slowest of 8 revocations: a request sent {worst:?} later was let in");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t44_without_any_notice_the_poll_alone_keeps_the_promise() {
    let two = Two::start().await;
    let pool = PgPool::connect(&two.up.database_url()).await.expect("the database");
    // The same function without its notice.
    let body: String =
        sqlx::query_scalar("SELECT pg_get_functiondef('tollgate_touch'::regproc)").fetch_one(&pool).await.expect("the function");
    assert_eq!(body.matches("PERFORM pg_notify(").count(), 1, "{body}");
    let silent = body.replace("PERFORM pg_notify(", "PERFORM concat(");
    sqlx::query(sqlx::AssertSqlSafe(silent)).execute(&pool).await.expect("a silent function");
    for _ in 0..4 {
        let key = two.key().await;
        two.works(&key.secret).await;
        let revoked = two.revoke(&key).await;
        let last = two.last_admitted(&key.secret, revoked).await;
        assert!(last < PROMISE, "let in {last:?} after its revocation");
    }
    // A tenant that is deleted takes all its keys with it.
    let (one, another) = (two.key().await, two.key().await);
    two.works(&one.secret).await;
    two.works(&another.secret).await;
    two.tenant.admin.delete(&format!("/v1/tenants/{}", two.tenant.id)).await.ok();
    let since = Instant::now();
    for key in [one, another] {
        let last = two.last_admitted(&key.secret, since).await;
        assert!(last < PROMISE, "the tenant is gone, its key let in {last:?} later");
    }
}

/// A script takes its time; a key that ends meanwhile ends it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t44_a_script_makes_no_call_after_its_key_has_ended() {
    let tenant = Tenant::new(Tollgate::shared().await, "Long script").await;
    let recorder = Recorder::start();
    let upstream = tenant.upstream("rec", recorder.transport(), "code").await;
    let (key, mcp) = tenant.open(&[&upstream]).await;
    let running = tokio::spawn(async move {
        mcp.call("executeToolCode", json!({"code": "for i in range(40): rec.slow(tag=str(i), ms=100)\nresult = 1"}))
            .await
            .result()
    });
    until("the script has called", Duration::from_secs(20), async || (recorder.calls().len() >= 3).then_some(())).await;
    tenant.post(&format!("keys/{}/revoke", key.id), json!({})).await.ok();
    let revoked = Instant::now();
    let answer = running.await.expect("the script's client");
    let late = recorder.calls().iter().filter(|call| call.at > revoked + PROMISE).count();
    assert_eq!(late, 0, "calls more than a second after the revocation: {answer}");
    assert_eq!(answer["structuredContent"]["state"], "failed", "{answer}");
    let error = &answer["structuredContent"]["error"];
    assert!(error["message"].as_str().is_some_and(|why| why.contains("key")), "it says why: {error}");
    let run = tenant.get(&format!("script-runs/{}", text(&answer["structuredContent"], "script_run_id"))).await.expect(200);
    assert_eq!((&run["state"], &run["error"]["message"]), (&json!("failed"), &error["message"]), "{run}");
    assert!(tenant.list("tool-calls").await.iter().all(|row| row["outcome"] == "ok"), "what had begun was ended and recorded");
}

/// What a group loses, a script that runs loses too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_makes_no_call_of_a_tool_that_was_taken_away_meanwhile() {
    let tenant = Tenant::new(Tollgate::shared().await, "Narrowed script").await;
    let recorder = Recorder::start();
    let upstream = tenant.upstream("rec", recorder.transport(), "code").await;
    let group = tenant.group(&[&upstream]).await;
    let key = tenant.key(&[&group]).await;
    let mcp = tenant.mcp(&key);
    let code = "gone = []\nfor i in range(30):\n    r = try_call(rec.slow, tag=str(i), ms=100)\n    if not r[\"ok\"]: gone.append(r[\"error\"])\nresult = gone";
    let running = tokio::spawn(async move { mcp.call("executeToolCode", json!({"code": code})).await.result() });
    until("the script has called", Duration::from_secs(20), async || (recorder.calls().len() >= 3).then_some(())).await;
    let members = json!({"members": [{"upstream_id": upstream.id, "tools": ["echo"]}]});
    tenant.patch(&format!("tool-groups/{}", group.id), members).await.expect(200);
    let narrowed = Instant::now();
    let answer = running.await.expect("the script's client");
    let late = recorder.calls().iter().filter(|call| call.at > narrowed + PROMISE).count();
    assert_eq!(late, 0, "calls more than a second after the tool was taken away: {answer}");
    let gone = answer["structuredContent"]["result"].as_array().expect("a list").clone();
    assert!(!gone.is_empty() && gone.iter().all(|why| why == "Unknown tool"), "{answer}");
    let denied = tenant.calls("outcome=denied").await;
    assert_eq!(denied.len(), gone.len());
    assert!(denied.iter().all(|row| row["reason"] == "not_in_scope" && row["script_run_id"].is_string()), "{denied:?}");
}

#[tokio::test]
async fn t49_whatever_is_wrong_with_a_key_the_answer_is_the_same() {
    let tollgate = Tollgate::shared().await;
    let tenant = Tenant::new(tollgate, "Uniform").await;
    let recorder = Recorder::start();
    let upstream = tenant.upstream("rec", recorder.transport(), "classic").await;
    let (good, mcp) = tenant.open(&[&upstream]).await;
    assert!(!mcp.tool_names().await.is_empty());
    let (revoked, rotated, expired) = (
        tenant.key(&[]).await,
        tenant.key(&[]).await,
        tenant.key_with(json!({"name": "e", "tool_group_ids": [], "expires_at": in_millis(300)})).await,
    );
    tenant.post(&format!("keys/{}/revoke", revoked.id), json!({})).await.ok();
    tenant.post(&format!("keys/{}/rotate", rotated.id), json!({})).await.ok();
    tokio::time::sleep(PROMISE).await;
    let flipped = |at: usize| {
        let mut text = good.secret.clone().into_bytes();
        text[at] = if text[at] == b'a' { b'b' } else { b'a' };
        String::from_utf8(text).expect("ASCII")
    };
    let admin_token = tollgate.admin_token.clone();
    let secrets = [
        revoked.secret,
        rotated.secret,
        expired.secret,
        "tg_live_x".to_owned(),
        String::new(),
        "x".repeat(5000),
        admin_token,
        flipped(good.secret.len() - 1),
        flipped(good.secret.len() - 12),
        flipped(10),
        good.secret.to_uppercase(),
        format!("{}0", good.secret),
    ];
    let mut answers = Vec::new();
    for secret in &secrets {
        let reply = tollgate.mcp(secret).request("tools/list", json!({})).await;
        assert_eq!(reply.status, 401, "{secret}: {}", reply.text);
        let mut names: Vec<_> =
            reply.headers.keys().filter(|name| *name != "date").map(|name| name.as_str().to_owned()).collect();
        names.sort();
        answers.push((reply.text.clone(), names, reply.header("www-authenticate").map(str::to_owned)));
    }
    let none = Mcp::keyless(&tollgate.gateway_url).request("tools/list", json!({})).await;
    assert!(answers.iter().all(|(text, ..)| *text == none.text), "{answers:?}");
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert!(!mcp.tool_names().await.is_empty(), "the good one still works");
}

/// Processes whose parent is `pid`.
fn children(pid: i32) -> Vec<i32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let parent = |child: i32| {
        let stat = std::fs::read_to_string(Path::new("/proc").join(child.to_string()).join("stat")).ok()?;
        // pid (name) state parent ..
        stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse::<i32>().ok()
    };
    let all = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    all.filter(|child| parent(*child) == Some(pid)).collect()
}

/// Stops Postgres and all its servers where they stand, and lets them go on when dropped.
struct Frozen(Vec<i32>);

impl Frozen {
    fn new(postmaster: i32) -> Self {
        signal(postmaster, Signal::STOP);
        let mut all = vec![postmaster];
        all.extend(children(postmaster));
        all.iter().for_each(|pid| signal(*pid, Signal::STOP));
        Self(all)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.0.iter().rev().for_each(|pid| signal(*pid, Signal::CONT));
    }
}

fn signal(pid: i32, signal: Signal) {
    // A server that has ended meanwhile is none.
    let _ = Pid::from_raw(pid).map(|pid| kill_process(pid, signal));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drill_a_worker_that_is_cut_off_from_postgres_serves_nobody_and_comes_back() {
    let two = Two::start().await;
    let key = two.key().await;
    two.works(&key.secret).await;
    let calls = two._recorder.calls().len();
    let frozen = Frozen::new(two.up.postgres_pid());
    assert!(frozen.0.len() > 5, "{:?}", frozen.0);
    // What it knew is good for a second, and nothing that is sent after that gets further than the door.
    tokio::time::sleep(PROMISE).await;
    for door in two.doors(&key.secret) {
        for _ in 0..2 {
            let sent = Instant::now();
            let reply = door.call("rec__echo", json!({"tag": "cut-off"})).await;
            assert_eq!(reply.status, 503, "{}", reply.text);
            assert_eq!(reply.header("retry-after"), Some("1"));
            assert!(reply.text.contains("cannot write its audit trail or confirm its configuration"), "{}", reply.text);
            assert!(sent.elapsed() < Duration::from_secs(6), "it says so soon: {:?}", sent.elapsed());
        }
    }
    assert_eq!(two._recorder.calls().len(), calls, "no call without its row");
    drop(frozen);
    for door in two.doors(&key.secret) {
        until("it serves again", Duration::from_secs(15), async || {
            (door.request("tools/list", json!({})).await.status == 200).then_some(())
        })
        .await;
        let reply = door.call("rec__echo", json!({"tag": "back"})).await;
        assert_eq!(reply.structured()["echo"]["tag"], "back");
    }
    assert!(two._recorder.tagged("cut-off").is_empty());
    // Revocation works as before.
    let revoked = two.revoke(&key).await;
    assert!(two.last_admitted(&key.secret, revoked).await < PROMISE);
}
