//! Calls flow while the database is killed, stopped and out of disk: what an upstream has heard of is in the trail, once; what a
//! client was told is what the trail says; and the log that comes out of it verifies. `TOLLGATE_SOAK_SECONDS` lengthens it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use sqlx::PgPool;
use tollgate_store::payload;

use crate::harness::{
    Cluster, Mcp, Options, Recorder, Reply, Tenant, Tollgate, all_sealed, every_row_is_sealed_once, text, until, verify,
};

const CALLERS: usize = 24;
/// So many of them run scripts.
const SCRIPTS: usize = 4;
/// Between two outages.
const CALM: Duration = Duration::from_secs(3);
/// What is promised is 10 s; a machine that is busy with other tests as well may take its time.
const RESUMES_WITHIN: Duration = Duration::from_secs(30);

fn seconds() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "a setting of the tests")]
    let asked = std::env::var("TOLLGATE_SOAK_SECONDS").ok();
    asked.map_or(30, |text| text.parse().expect("TOLLGATE_SOAK_SECONDS is a number"))
}

/// What the clients have seen.
#[derive(Default)]
struct Seen {
    /// The exact result by tag.
    results: Mutex<BTreeMap<String, String>>,
    /// Script runs that were answered, with what they said.
    runs: Mutex<BTreeMap<String, Value>>,
    refused: AtomicUsize,
    answered: AtomicUsize,
    slowest: Mutex<Duration>,
    stop: AtomicBool,
}

impl Seen {
    fn answered(&self) -> usize {
        self.answered.load(Ordering::SeqCst)
    }

    fn took(&self, time: Duration) {
        let mut slowest = self.slowest.lock().expect("lock");
        *slowest = time.max(*slowest);
    }

    fn refused(&self) -> usize {
        self.refused.load(Ordering::SeqCst)
    }
}

/// A refusal says what to do, in words and in headers.
fn check_refusal(reply: &Reply) {
    assert_eq!((reply.status, reply.header("retry-after")), (503, Some("1")), "{}", reply.text);
    let message = text(&reply.error(), "message");
    assert!(message.contains("makes no calls") && message.contains("try again"), "{message}");
}

async fn caller(mcp: Mcp, me: usize, seen: Arc<Seen>) {
    for n in 0.. {
        if seen.stop.load(Ordering::Relaxed) {
            return;
        }
        let (tag, started) = (format!("{me}.{n}"), Instant::now());
        let reply = if me < SCRIPTS {
            let code = format!(
                "a = code.echo(tag=\"{tag}\")\nb, c = parallel([lambda: code.echo(tag=\"{tag}.b\"), lambda: code.slow(tag=\"{tag}.c\", ms=10)])\nprint(\"{tag}\")\nresult = a[\"echo\"][\"tag\"]"
            );
            mcp.call("executeToolCode", json!({"code": code})).await
        } else if n % 4 == 0 {
            mcp.call("rec__slow", json!({"tag": tag, "ms": (me * 7) % 40})).await
        } else {
            mcp.call("rec__echo", json!({"tag": tag})).await
        };
        if reply.status == 200 {
            let result = reply.result();
            assert_ne!(result["isError"], true, "{result}");
            if me < SCRIPTS {
                let run = result["structuredContent"].clone();
                assert_eq!((&run["state"], &run["result"]), (&json!("done"), &json!(tag)), "{run}");
                seen.runs.lock().expect("lock").insert(text(&run, "script_run_id"), run);
            } else {
                seen.results.lock().expect("lock").insert(tag, reply.result_text());
            }
            seen.answered.fetch_add(1, Ordering::SeqCst);
        } else {
            check_refusal(&reply);
            seen.refused.fetch_add(1, Ordering::SeqCst);
        }
        seen.took(started.elapsed());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outage {
    Killed,
    Stopped,
    Full,
}

impl Outage {
    /// Break the database, and mend it.
    async fn happen(self, cluster: &mut Cluster, seen: &Seen) {
        let refused = seen.refused();
        let some_are_refused = async |limit| {
            until("calls are refused", limit, async || (seen.refused() > refused).then_some(())).await;
        };
        match self {
            Self::Killed => cluster.kill().await,
            Self::Stopped => {
                cluster.stop();
                some_are_refused(Duration::from_secs(40)).await;
            }
            Self::Full => {
                let begin = Instant::now();
                // Postgres frees what it can do without and takes it again: so it is taken from it until it can go no further.
                while seen.refused() == refused && !cluster.has_ended() {
                    assert!(begin.elapsed() < Duration::from_secs(60), "a full disk refuses no call");
                    cluster.fill();
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                cluster.fill();
                some_are_refused(Duration::from_secs(40)).await;
                assert!(cluster.output().contains("No space left on device"), "{}", cluster.output());
                cluster.free();
            }
        }
        cluster.run().await;
    }
}

/// What each outage cost: from the database's return to the next answered call.
async fn outages(cluster: &mut Cluster, seen: &Seen) -> Vec<(Outage, Duration, Duration)> {
    let (begin, mut met) = (Instant::now(), Vec::new());
    for outage in [Outage::Killed, Outage::Stopped, Outage::Killed, Outage::Full].into_iter().cycle() {
        let flowing = seen.answered();
        tokio::time::sleep(CALM).await;
        assert!(seen.answered() > flowing, "no calls flow before {outage:?}");
        let broken = Instant::now();
        outage.happen(cluster, seen).await;
        let (down, back, answered) = (broken.elapsed(), Instant::now(), seen.answered());
        until("calls are answered again", RESUMES_WITHIN, async || (seen.answered() > answered).then_some(())).await;
        met.push((outage, down, back.elapsed()));
        let all = met.iter().map(|(outage, ..)| outage).collect::<BTreeSet<_>>().len() == 3;
        if all && begin.elapsed() >= Duration::from_secs(seconds()) {
            break;
        }
    }
    met
}

/// What the trail says of each call, by the tag in its arguments.
struct Stored {
    rows: usize,
    outcome: Option<String>,
    result: Option<String>,
}

async fn stored(pool: &PgPool) -> BTreeMap<String, Stored> {
    type Row = (Vec<u8>, Option<String>, Option<Vec<u8>>);
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT a.body, c.outcome, r.body FROM tool_calls c
         JOIN tool_call_payloads a ON a.tenant_id = c.tenant_id AND a.call_id = c.call_id AND a.kind = 0
         LEFT JOIN tool_call_payloads r ON r.tenant_id = c.tenant_id AND r.call_id = c.call_id AND r.kind = 1",
    )
    .fetch_all(pool)
    .await
    .expect("the rows");
    let plain = |body: &[u8]| String::from_utf8(payload::unpack(body).expect("a payload")).expect("UTF-8");
    let mut found: BTreeMap<String, Stored> = BTreeMap::new();
    for (arguments, outcome, result) in rows {
        let arguments: Value = serde_json::from_str(&plain(&arguments)).expect("JSON");
        let result = result.as_deref().map(plain);
        let row = Stored { rows: 0, outcome, result };
        found.entry(text(&arguments, "tag")).or_insert(row).rows += 1;
    }
    found
}

/// Nothing that was heard or said is missing, and nothing is there twice.
async fn check_calls(pool: &PgPool, recorder: &Recorder, seen: &Seen) -> usize {
    let (received, found) = (recorder.tags(), stored(pool).await);
    for (tag, times) in &received {
        assert_eq!(*times, 1, "{tag} reached the upstream more than once");
        assert!(found.contains_key(tag), "{tag} reached the upstream and has no row");
    }
    for (tag, row) in &found {
        assert_eq!(row.rows, 1, "{tag} has {} rows", row.rows);
        assert_eq!(received.contains_key(tag), row.outcome.as_deref() == Some("ok"), "{tag}: {:?}", row.outcome);
    }
    for (tag, result) in seen.results.lock().expect("lock").iter() {
        assert_eq!(found.get(tag).and_then(|row| row.result.as_ref()), Some(result), "{tag}: what the client was told");
    }
    found.len()
}

/// The runs that clients were told of say the same in the API.
async fn check_runs(tenant: &Tenant, seen: &Seen) {
    let runs = seen.runs.lock().expect("lock").clone();
    for (id, told) in &runs {
        let stored = tenant.get(&format!("script-runs/{id}")).await.expect(200);
        for field in ["state", "result", "logs"] {
            assert_eq!(stored[field], told[field], "{id}: {stored}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn audit_soak_no_outage_of_the_database_loses_doubles_or_unproves_a_row() {
    // A call takes about 3 KiB of disk with its log; a longer run gets room for more of them.
    let mut cluster = Cluster::start(192 + 2 * seconds()).await;
    let up = Tollgate::start(Options { args: vec!["--database-url".to_owned(), cluster.url()], ..Options::default() }).await;
    let recorder = Recorder::start();
    let tenant = Tenant::new(&up, "Soak").await;
    let classic = tenant.upstream("rec", recorder.transport(), "classic").await;
    let code = tenant.upstream("code", recorder.transport(), "code").await;
    tenant.price_upstream(&classic.id, "0.001").await;
    let (_, mcp) = tenant.open(&[&classic, &code]).await;

    let (seen, started) = (Arc::new(Seen::default()), Instant::now());
    let callers: Vec<_> = (0..CALLERS).map(|me| tokio::spawn(caller(mcp.clone(), me, Arc::clone(&seen)))).collect();
    let met = outages(&mut cluster, &seen).await;
    tokio::time::sleep(CALM).await;
    seen.stop.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.expect("a caller");
    }
    let flowed = started.elapsed();

    let pool = PgPool::connect(&cluster.url()).await.expect("the database");
    until("every call and run is closed", Duration::from_secs(60), async || {
        let open = "SELECT (SELECT count(*) FROM tool_calls WHERE outcome IS NULL)
                         + (SELECT count(*) FROM script_runs WHERE state = 'running')";
        (sqlx::query_scalar::<_, i64>(open).fetch_one(&pool).await.ok()? == 0).then_some(())
    })
    .await;
    let sealing = Instant::now();
    all_sealed(&pool, Duration::from_secs(60)).await;
    let sealed = sealing.elapsed();
    let calls = check_calls(&pool, &recorder, &seen).await;
    check_runs(&tenant, &seen).await;
    let rows = every_row_is_sealed_once(&pool).await;
    let said = up.process.output();
    assert!(!said.contains("the database refuses an audit row"), "{said}");

    let bundle = up.scratch().join("soak.tar.zst");
    tenant.bundle(&bundle).await;
    let verdict = verify(&bundle, &["--replay", "--json"]);
    let report = verdict.report();
    assert!(verdict.code == Some(0) && report["findings"] == json!([]), "{report:#}");
    assert!(report["replayed"].as_u64() >= u64::try_from(seen.runs.lock().expect("lock").len()).ok(), "{report}");

    for (outage, down, resumed) in &met {
        eprintln!("{outage:?}: away for {down:.1?}, the first call was answered {resumed:.2?} after its return");
    }
    eprintln!(
        "{flowed:.0?}: {} requests answered, {} refused, the slowest took {:.1?}; {calls} calls in the trail, {} heard by the upstream; {rows} rows sealed once, the last {sealed:.1?} after the calls; {} scripts replayed",
        seen.answered(),
        seen.refused(),
        seen.slowest.lock().expect("lock"),
        recorder.calls().len(),
        report["replayed"],
    );
}
