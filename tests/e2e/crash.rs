//! kill -9 of a worker in the middle of everything: what the upstream has heard of has its row, once, and in the end every
//! row says how its call ended. `TOLLGATE_CRASHES` raises the number of kills.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::json;
use sqlx::PgPool;
use tollgate_store::payload;

use crate::{
    harness::{Mcp, Options, Recorder, Tenant, Tollgate, all_sealed, every_row_is_sealed_once, until, verify},
    second_worker::Worker,
};

const CALLERS: usize = 64;
const SCRIPTS: usize = 4;

fn crashes() -> usize {
    #[expect(clippy::disallowed_methods, reason = "a setting of the tests")]
    let asked = std::env::var("TOLLGATE_CRASHES").ok();
    asked.map_or(20, |text| text.parse().expect("TOLLGATE_CRASHES is a number"))
}

/// What the clients of one worker have seen until it died.
#[derive(Default)]
struct Seen {
    /// Tags whose answer arrived.
    answered: Mutex<BTreeSet<String>>,
    in_flight: AtomicUsize,
    stop: AtomicBool,
}

/// Call until the connection breaks. Every call has a tag of its own.
async fn caller(mcp: Mcp, round: usize, me: usize, seen: Arc<Seen>) {
    for n in 0.. {
        if seen.stop.load(Ordering::Relaxed) {
            return;
        }
        let tag = format!("{round}.{me}.{n}");
        seen.in_flight.fetch_add(1, Ordering::SeqCst);
        let reply = if me < SCRIPTS {
            let code = format!("a = code.echo(tag=\"{tag}\")\nb = code.slow(tag=\"{tag}.s\", ms=20)\nresult = 1");
            mcp.try_call("executeToolCode", json!({"code": code})).await
        } else if n % 3 == 0 {
            mcp.try_call("rec__slow", json!({"tag": tag, "ms": (me * 7) % 40})).await
        } else {
            mcp.try_call("rec__echo", json!({"tag": tag})).await
        };
        seen.in_flight.fetch_sub(1, Ordering::SeqCst);
        match reply {
            Ok(reply) if reply.status == 200 => {
                let result = reply.result();
                if result["isError"] != true {
                    seen.answered.lock().expect("lock").insert(tag);
                }
            }
            Ok(reply) => panic!("{} {}", reply.status, reply.text),
            Err(_) => return,
        }
    }
}

struct Row {
    outcome: Option<String>,
    amount: Option<i64>,
}

/// All rows by the tag in their arguments.
async fn rows(pool: &PgPool) -> BTreeMap<String, Vec<Row>> {
    type Stored = (Option<String>, Option<i64>, Vec<u8>);
    let found: Vec<Stored> = sqlx::query_as(
        "SELECT c.outcome, c.amount_picos, p.body FROM tool_calls c
         JOIN tool_call_payloads p ON p.tenant_id = c.tenant_id AND p.call_id = c.call_id AND p.kind = 0",
    )
    .fetch_all(pool)
    .await
    .expect("the rows");
    let mut rows: BTreeMap<String, Vec<Row>> = BTreeMap::new();
    for (outcome, amount, body) in found {
        let arguments: serde_json::Value = serde_json::from_slice(&payload::unpack(&body).expect("a payload")).expect("JSON");
        rows.entry(arguments["tag"].as_str().expect("a tag").to_owned()).or_default().push(Row { outcome, amount });
    }
    rows
}

fn of_script(tag: &str) -> bool {
    tag.split('.').nth(1).is_some_and(|me| me.parse::<usize>().is_ok_and(|me| me < SCRIPTS))
}

async fn number(pool: &PgPool, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(pool).await.expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drill_kill_9_of_a_worker_leaves_no_call_without_its_row() {
    let up = Tollgate::start(Options::default()).await;
    let recorder = Recorder::start();
    // What is open at a crash is not made again.
    recorder.change(|tools| tools.iter_mut().for_each(|tool| tool["annotations"] = json!({"readOnlyHint": false})));
    let tenant = Tenant::new(&up, "Crash").await;
    let classic = tenant.upstream("rec", recorder.transport(), "classic").await;
    let code = tenant.upstream("code", recorder.transport(), "code").await;
    tenant.price_upstream(&classic.id, "0.001").await;
    let (key, _) = tenant.open(&[&classic, &code]).await;
    let pool = PgPool::connect(&up.database_url()).await.expect("the database");

    let (started, rounds) = (Instant::now(), crashes());
    let (mut answered, mut in_flight) = (BTreeSet::new(), 0);
    for round in 0..rounds {
        let worker = Worker::start(&up).await;
        let mcp = Mcp::new(&worker.url, &key.secret);
        until("the worker reaches the upstream", Duration::from_secs(20), async || {
            let tags = [
                ("rec__echo", format!("warm.{round}.{}", uuid::Uuid::new_v4())),
                ("rec__echo", format!("warm.{round}.{}", uuid::Uuid::new_v4())),
            ];
            for (tool, tag) in tags {
                let reply = mcp.try_call(tool, json!({"tag": tag})).await.ok()?;
                (reply.status == 200 && reply.result()["isError"] != true).then_some(())?;
            }
            Some(())
        })
        .await;
        let seen = Arc::new(Seen::default());
        let before = recorder.calls().len();
        // Every other time the upstream answers nobody: all callers wait for it at the moment of the kill.
        let held = round % 2 == 0;
        if held {
            recorder.hold();
        }
        let callers: Vec<_> = (0..CALLERS).map(|me| tokio::spawn(caller(mcp.clone(), round, me, Arc::clone(&seen)))).collect();
        let enough = if held { CALLERS } else { 3 * CALLERS + 17 * round };
        until("enough calls are under way", Duration::from_secs(30), async || {
            (recorder.calls().len() >= before + enough.min(6 * CALLERS) && seen.in_flight.load(Ordering::SeqCst) >= 50)
                .then_some(())
        })
        .await;
        in_flight += seen.in_flight.load(Ordering::SeqCst);
        worker.process.kill();
        seen.stop.store(true, Ordering::Relaxed);
        recorder.release();
        for caller in callers {
            caller.await.expect("a caller");
        }
        answered.append(&mut seen.answered.lock().expect("lock"));
    }
    // Answers on their way to a dead process have arrived or never will.
    tokio::time::sleep(Duration::from_millis(200)).await;

    let received = recorder.tags();
    let found = rows(&pool).await;
    // Runs that others have taken over go on between the two readings.
    let by_now = recorder.tags();
    // Some of the first dead have been swept meanwhile.
    let open = found.values().flatten().filter(|row| matches!(row.outcome.as_deref(), None | Some("unknown"))).count();
    eprintln!(
        "{rounds} kills in {:?}: {} calls received, {} rows, {} answered, {in_flight} in flight at the kills, {open} rows left open",
        started.elapsed(),
        received.len(),
        found.len(),
        answered.len(),
    );
    for (tag, times) in &received {
        assert_eq!(*times, 1, "{tag} reached the upstream more than once");
        assert!(found.contains_key(tag), "{tag} reached the upstream and has no row");
    }
    for (tag, rows) in &found {
        assert_eq!(rows.len(), 1, "{tag} has {} rows", rows.len());
        if rows[0].outcome.as_deref() == Some("ok") {
            assert!(by_now.contains_key(tag), "{tag} is said to have gone well and never reached the upstream");
        }
    }
    for tag in &answered {
        assert_eq!(found.get(tag).and_then(|rows| rows[0].outcome.as_deref()), Some("ok"), "{tag} was answered");
    }

    assert!(in_flight >= 50 * rounds && open >= 25 * rounds, "{in_flight} in flight, {open} open: the kills hit too little");

    // A worker that lives finds what the dead have left.
    until("the dead workers' calls are resolved", Duration::from_secs(40), async || {
        let open = number(&pool, "SELECT count(*) FROM tool_calls WHERE outcome IS NULL").await;
        let running = number(&pool, "SELECT count(*) FROM script_runs WHERE state = 'running'").await;
        let workers = number(&pool, "SELECT count(*) FROM workers").await;
        (open == 0 && running == 0 && workers == 1).then_some(())
    })
    .await;
    let resolved = rows(&pool).await;
    // Runs that were between two calls have gone on.
    let gone_on = resolved.keys().filter(|tag| !found.contains_key(*tag)).count();
    assert!(resolved.keys().all(|tag| found.contains_key(tag) || of_script(tag)), "only scripts go on");
    eprintln!("{gone_on} calls were made by runs that others took over");
    for (tag, before) in &found {
        let after = &resolved[tag];
        assert_eq!(after.len(), 1, "{tag}");
        if matches!(before[0].outcome.as_deref(), None | Some("unknown")) {
            assert_eq!(after[0].outcome.as_deref(), Some("unknown"), "{tag}");
            let quoted = if of_script(tag) { 0 } else { 1_000_000_000 };
            assert_eq!(after[0].amount, Some(quoted), "{tag} is charged as quoted");
        } else {
            assert_eq!(after[0].outcome, before[0].outcome, "{tag}");
        }
    }
    assert_eq!(number(&pool, "SELECT count(*) FROM tool_call_events WHERE kind = 2").await, i64::try_from(open).expect("small"));
    let failed = tenant.list("script-runs").await.into_iter().filter(|run| run["state"] == "failed").count();
    assert!(failed >= rounds, "{failed} runs failed with their workers");

    // Whatever the dead had committed has its place in the log, once, and so has what the sweeper wrote behind it.
    all_sealed(&pool, Duration::from_secs(30)).await;
    let sealed = every_row_is_sealed_once(&pool).await;
    let bundle = up.scratch().join("crash.tar.zst");
    tenant.bundle(&bundle).await;
    let told = verify(&bundle, &["--replay"]);
    eprintln!("{sealed} rows are sealed once; {}", told.sound());
}
