//! The audit writer: what it acknowledged is there, once, byte by byte; what it cannot write it refuses, and nothing else.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures::future::join_all;
use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tollgate_domain::{
    CallId, Decision, LlmRequestId, Origin, Outcome, Picos, ScriptRunId,
    llm::{Counted, Mode},
    llm_price::Usage,
    policy::Reason,
    tool::sha256,
};
use tollgate_store::{
    Store,
    audit::{AuditError, AuditWriter, Entry, Forward, JournalRow, LlmEnd, NewRequest, NewRun, QueueLimits, ScriptPlace},
    payload::{self, Payload},
};
use uuid::Uuid;

use support::{QUEUE, Who, closes, count, opens, row, tenant};

/// JSON as upstreams and models write it; all of it is evidence.
fn odd() -> Vec<Vec<u8>> {
    let mut odd: Vec<Vec<u8>> = [
        r#"{}"#,
        r#" { "b" :1, "a":1,  "a":2 } "#,
        r#"{"nul":"\u0000","escape":"\u001b[2J","lone":"\ud800"}"#,
        r#"{"big":123456789012345678901234567890,"tiny":1e-400,"huge":1e400,"zero":-0.0}"#,
        "{\"text\":\"żółw 🐢 \u{202e}abc\u{feff}\"}",
        r#"{"sql":"'); DROP TABLE tool_call_events; --"}"#,
        "null",
    ]
    .into_iter()
    .map(|text| text.as_bytes().to_vec())
    .collect();
    odd.push(format!("{}{}", "[".repeat(500), "]".repeat(500)).into_bytes());
    odd.push(format!("{{\"long\":\"{}\"}}", "ab".repeat(1 << 20)).into_bytes());
    // Not UTF-8: the store does not judge evidence.
    odd.push(b"\"\xff\xfe\0\"".to_vec());
    odd
}

async fn payload_of(pool: &PgPool, id: CallId, kind: i16) -> (Vec<u8>, i32) {
    let (body, size): (Vec<u8>, i32) =
        sqlx::query_as("SELECT body, size FROM tool_call_payloads WHERE call_id = $1 AND kind = $2")
            .bind(id.uuid())
            .bind(kind)
            .fetch_one(pool)
            .await
            .unwrap();
    (payload::unpack(&body).unwrap(), size)
}

/// Holds the table: whoever inserts waits for the end of this transaction.
async fn hold(pool: &PgPool) -> sqlx::Transaction<'static, sqlx::Postgres> {
    let mut tx = pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE tool_call_events IN ACCESS EXCLUSIVE MODE").execute(&mut *tx).await.unwrap();
    tx
}

/// Wait until so many statements wait for the lock.
async fn blocked(pool: &PgPool, writers: i64) {
    let until = Instant::now() + Duration::from_secs(5);
    while count(pool, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")
        .await
        < writers
    {
        assert!(Instant::now() < until, "the writers do not reach the table");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn what_queues_during_a_commit_is_the_next_batch(_: PgPoolOptions, options: PgConnectOptions) {
    let pool = support::pool(&options, "writer", 4).await;
    let who = Who::new(tenant(&pool).await);
    let audit = AuditWriter::start(&Store::from_pool(pool.clone()), QUEUE);
    let intents: Vec<_> = (0..2000).map(|n| who.intent(format!("{{\"n\":{n}}}"))).collect();
    let started = Instant::now();
    let written = join_all(intents.iter().map(|intent| audit.before(opens(intent.clone())))).await;
    assert!(written.iter().all(Result::is_ok));
    let ended = join_all(intents.iter().map(|i| audit.after(closes(who.completion(i.id, Outcome::Ok, b"{}"))))).await;
    assert!(ended.iter().all(Result::is_ok));
    eprintln!("4,000 entries in {:?}", started.elapsed());
    assert_eq!(count(&pool, "SELECT count(*) FROM tool_calls WHERE outcome = 'ok' AND amount_picos = 2000000000").await, 2000);
    assert_eq!(count(&pool, "SELECT count(*) FROM tool_call_payloads").await, 4000);
    let commits = count(&pool, "SELECT count(DISTINCT xmin::text) FROM tool_call_events").await;
    assert!(commits < 200, "{commits} commits for 4,000 entries: no group commit");
    for (n, intent) in intents.iter().enumerate().step_by(197) {
        assert_eq!(payload_of(&pool, intent.id, 0).await.0, format!("{{\"n\":{n}}}").into_bytes());
    }
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn payloads_come_back_byte_by_byte(pool: PgPool) {
    let who = Who::new(tenant(&pool).await);
    let audit = AuditWriter::start(&Store::from_pool(pool.clone()), QUEUE);
    let texts = odd();
    // All at once: an odd one must not spoil its neighbours' batch.
    let calls: Vec<_> = texts.iter().map(|text| who.intent(text)).collect();
    assert!(join_all(calls.iter().map(|c| audit.before(opens(c.clone())))).await.iter().all(Result::is_ok));
    let ends =
        calls.iter().zip(texts.iter().rev()).map(|(call, text)| audit.after(closes(who.completion(call.id, Outcome::Ok, text))));
    assert!(join_all(ends).await.iter().all(Result::is_ok));
    for (call, (text, answer)) in calls.iter().zip(texts.iter().zip(texts.iter().rev())) {
        assert_eq!(payload_of(&pool, call.id, 0).await, (text.clone(), i32::try_from(text.len()).unwrap()));
        assert_eq!(payload_of(&pool, call.id, 1).await.0, *answer);
        let committed: (Vec<u8>, Vec<u8>, Vec<u8>, Vec<u8>) = sqlx::query_as(
            "SELECT arguments_sha256, a.salt, result_sha256, r.salt FROM tool_calls t
             JOIN tool_call_payloads a ON a.call_id = t.call_id AND a.kind = 0
             JOIN tool_call_payloads r ON r.call_id = t.call_id AND r.kind = 1 WHERE t.call_id = $1",
        )
        .bind(call.id.uuid())
        .fetch_one(&pool)
        .await
        .unwrap();
        let of = |salt: &[u8], bytes: &[u8]| sha256(&[salt, bytes].concat()).to_vec();
        assert_eq!((committed.1.len(), committed.3.len()), (16, 16));
        assert_ne!(committed.1, committed.3, "a salt of its own");
        assert_eq!((&committed.0, &committed.2), (&of(&committed.1, text), &of(&committed.3, answer)));
    }
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn nul_in_what_people_and_peers_say_is_no_poison(pool: PgPool) {
    let who = Who::new(tenant(&pool).await);
    let audit = AuditWriter::start(&Store::from_pool(pool.clone()), QUEUE);
    let mut call = who.intent("{}");
    call.tool_name = "a\0b".to_owned();
    let mut end = who.completion(call.id, Outcome::UpstreamError, b"{}");
    end.error = Some("\0the upstream's words\0".to_owned());
    let request = tollgate_store::audit::NewRequest {
        client: Some("client\0 1.0".to_owned()),
        model: Some("m\0".to_owned()),
        ..who.request()
    };
    let entry = Entry { request: Some(request), intent: Some(call.clone()), completions: vec![end], ..Entry::default() };
    assert_eq!(audit.before(entry).await, Ok(()));
    assert_eq!(row(&pool, call.id).await.1.as_deref(), Some("\u{fffd}the upstream's words\u{fffd}"));
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn refused_calls_are_rows_that_say_how_they_ended(pool: PgPool) {
    let who = Who::new(tenant(&pool).await);
    let audit = AuditWriter::start(&Store::from_pool(pool.clone()), QUEUE);
    for (decision, reason, outcome) in
        [(Decision::Denied, Reason::NotInScope, "denied"), (Decision::Held, Reason::ApprovalRequired, "held")]
    {
        let mut call = who.intent("{}");
        (call.decision, call.reason) = (decision, Some(reason));
        assert_eq!(audit.before(opens(call.clone())).await, Ok(()));
        assert_eq!(row(&pool, call.id).await, (Some(outcome.to_owned()), Some(reason.told().to_owned()), Some(0), true));
        let stored: (String, String) = sqlx::query_as("SELECT decision, reason FROM tool_calls WHERE call_id = $1")
            .bind(call.id.uuid())
            .fetch_one(&pool)
            .await
            .unwrap();
        assert_eq!(stored, (decision.as_str().to_owned(), reason.as_str().to_owned()));
    }
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_row_that_postgres_refuses_falls_alone(_: PgPoolOptions, options: PgConnectOptions) {
    let pool = support::pool(&options, "poison", 8).await;
    sqlx::query("ALTER TABLE tool_call_events ADD CONSTRAINT no_poison CHECK (tool_name <> 'poison')")
        .execute(&pool)
        .await
        .unwrap();
    let who = Who::new(tenant(&pool).await);
    let audit = AuditWriter::start(&Store::from_pool(pool.clone()), QUEUE);

    // Both writers wait for the table, so that everything after them is one batch.
    let held = hold(&pool).await;
    let first: Vec<_> = (0..2).map(|_| who.intent("{}")).collect();
    let mut waiting = Vec::new();
    for (n, intent) in first.into_iter().enumerate() {
        let audit = audit.clone();
        waiting.push(tokio::spawn(async move { audit.before(opens(intent)).await }));
        blocked(&pool, i64::try_from(n).unwrap() + 1).await;
    }
    let batch: Vec<_> = (0..60)
        .map(|n| {
            let mut intent = who.intent(format!("{{\"n\":{n}}}"));
            match n {
                20 => intent.tool_name = "poison".to_owned(),
                // Text that Postgres cannot hold, in a column that is not cleaned because only the server writes it.
                40 => intent.upstream = Some((who.upstream, "a\0b".to_owned())),
                _ => {}
            }
            intent
        })
        .collect();
    let written = batch.iter().map(|intent| {
        let (audit, entry, done) = (audit.clone(), opens(intent.clone()), intent.id);
        tokio::spawn(async move {
            (
                done,
                if entry.intent.as_ref().is_some_and(|i| i.arguments.len() % 2 == 0) {
                    audit.before(entry).await
                } else {
                    audit.after(entry).await
                },
            )
        })
    });
    let written: Vec<_> = written.collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    held.rollback().await.unwrap();
    for (n, task) in written.into_iter().enumerate() {
        let (id, result) = task.await.unwrap();
        let poison = n == 20 || n == 40;
        assert_eq!(result, if poison { Err(AuditError::Unavailable) } else { Ok(()) }, "entry {n}");
        let there: i64 = sqlx::query_scalar("SELECT count(*) FROM tool_calls WHERE call_id = $1")
            .bind(id.uuid())
            .fetch_one(&pool)
            .await
            .unwrap();
        assert_eq!(there, i64::from(!poison), "entry {n}");
    }
    for task in waiting {
        assert_eq!(task.await.unwrap(), Ok(()));
    }
    // Nothing of a refused entry stands, its payload neither.
    assert_eq!(count(&pool, "SELECT count(*) FROM tool_call_payloads").await, 60);
    // And the writer goes on.
    assert_eq!(audit.before(opens(who.intent("{}"))).await, Ok(()));
}

/// What has happened is not given up because the disk is full, or cannot be written at all.
#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_disk_that_fails_is_waited_for(pool: PgPool) {
    let who = Who::new(tenant(&pool).await);
    let audit = AuditWriter::start(&Store::from_pool(pool.clone()), QUEUE);
    for (code, tries) in [("53100", 6), ("58030", 12)] {
        // A sequence goes on although its transaction does not.
        for sql in [
            "CREATE SEQUENCE IF NOT EXISTS tries".to_owned(),
            format!(
                "CREATE OR REPLACE FUNCTION disk() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
                   IF nextval('tries') <= {tries} THEN RAISE EXCEPTION 'the disk' USING ERRCODE = '{code}'; END IF; RETURN NULL; END $$"
            ),
            "CREATE OR REPLACE TRIGGER disk AFTER INSERT ON tool_call_events FOR EACH STATEMENT EXECUTE FUNCTION disk()".to_owned(),
        ] {
            sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&pool).await.unwrap();
        }
        let call = who.intent("{}");
        let entry = Entry { intent: Some(call.clone()), ..closes(who.completion(call.id, Outcome::Ok, b"{}")) };
        assert_eq!(audit.after(entry).await, Ok(()), "{code}");
        assert!(count(&pool, "SELECT last_value FROM tries").await > tries, "{code}: it was tried until it went well");
        assert_eq!(row(&pool, call.id).await.0.as_deref(), Some("ok"));
    }
}

/// The connections of the writer are cut again and again, in the middle of what they do.
#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn cut_connections_lose_and_double_nothing_acknowledged(_: PgPoolOptions, options: PgConnectOptions) {
    let pool = support::pool(&options, "judge", 2).await;
    let victim = support::pool(&options, "victim", 6).await;
    let who = Who::new(tenant(&pool).await);
    let audit = AuditWriter::start(&Store::from_pool(victim), QUEUE);
    let stop = Arc::new(AtomicBool::new(false));
    let tasks: Vec<_> = (0..24)
        .map(|task| {
            let (who, audit, stop) = (who.clone(), audit.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                let (mut sent, mut opened, mut closed) = (Vec::new(), Vec::new(), Vec::new());
                while !stop.load(Ordering::Relaxed) {
                    let intent = who.intent(format!("{{\"task\":{task},\"n\":{}}}", sent.len()));
                    sent.push(intent.id);
                    if audit.before(opens(intent.clone())).await.is_ok() {
                        opened.push(intent.id);
                        if audit.after(closes(who.completion(intent.id, Outcome::Ok, b"[1]"))).await.is_ok() {
                            closed.push(intent.id);
                        }
                    }
                }
                (sent, opened, closed)
            })
        })
        .collect();
    let (until, mut cuts) = (Instant::now() + Duration::from_secs(3), 0);
    while Instant::now() < until {
        cuts += count(
            &pool,
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'victim'",
        )
        .await;
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
    stop.store(true, Ordering::Relaxed);
    let (mut sent, mut opened, mut closed) = (Vec::new(), Vec::new(), Vec::new());
    for task in tasks {
        let (s, o, c) = task.await.unwrap();
        sent.extend(s);
        opened.extend(o);
        closed.extend(c);
    }
    eprintln!("{cuts} connections cut; {} sent, {} opened, {} closed", sent.len(), opened.len(), closed.len());
    assert!(cuts > 20 && closed.len() > 100, "{cuts} cuts, {} calls", closed.len());
    let ids = |calls: &[CallId]| calls.iter().map(|c| c.uuid()).collect::<Vec<_>>();
    for (kind, acknowledged) in [(0_i16, &opened), (1, &closed)] {
        let there: i64 = sqlx::query_scalar("SELECT count(*) FROM tool_call_events WHERE kind = $1 AND call_id = ANY($2)")
            .bind(kind)
            .bind(ids(acknowledged))
            .fetch_one(&pool)
            .await
            .unwrap();
        assert_eq!(usize::try_from(there).unwrap(), acknowledged.len(), "kind {kind}: acknowledged and not there");
    }
    let foreign: i64 = sqlx::query_scalar("SELECT count(*) FROM tool_call_events WHERE call_id <> ALL($1)")
        .bind(ids(&sent))
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(foreign, 0);
    assert_eq!(
        count(&pool, "SELECT count(*) FROM (SELECT FROM tool_calls GROUP BY call_id HAVING count(*) > 1) d").await,
        0,
        "one call is one row"
    );
    let bodies = "SELECT count(*) FROM tool_call_events e LEFT JOIN tool_call_payloads p USING (tenant_id, call_id, kind) WHERE p.body IS NULL";
    assert_eq!(count(&pool, bodies).await, 0, "an event without its payload");
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_full_queue_refuses_what_has_not_begun_and_keeps_what_has(_: PgPoolOptions, options: PgConnectOptions) {
    let pool = support::pool(&options, "full", 8).await;
    let who = Who::new(tenant(&pool).await);
    let audit = AuditWriter::start(&Store::from_pool(pool.clone()), QueueLimits { entries: 64, ..QUEUE });
    let held = hold(&pool).await;
    // Fill both writers and the queue behind them, one batch at a time.
    let refused = Arc::new(AtomicUsize::new(0));
    let tasks: Vec<_> = (0..3000)
        .map(|_| {
            let (audit, entry, refused) = (audit.clone(), opens(who.intent("{}")), Arc::clone(&refused));
            tokio::spawn(async move {
                let result = audit.before(entry).await;
                refused.fetch_add(usize::from(result == Err(AuditError::Overloaded)), Ordering::SeqCst);
                result
            })
        })
        .collect();
    let until = Instant::now() + Duration::from_secs(5);
    while refused.load(Ordering::SeqCst) < 3000 - 64 - 2 * 1000 {
        assert!(Instant::now() < until, "only {refused:?} were refused");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (happened, what) = (who.intent("{}"), audit.clone());
    let id = happened.id;
    let patient = tokio::spawn(async move { what.after(opens(happened)).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!patient.is_finished(), "what has happened waits for a place");
    held.rollback().await.unwrap();
    let results: Vec<_> = join_all(tasks).await.into_iter().map(Result::unwrap).collect();
    let written = results.iter().filter(|r| r.is_ok()).count();
    let refused = results.iter().filter(|r| **r == Err(AuditError::Overloaded)).count();
    assert_eq!(written + refused, 3000, "neither written nor refused at once");
    assert!(written >= 64, "{written}");
    assert_eq!(patient.await.unwrap(), Ok(()));
    assert_eq!(
        count(&pool, "SELECT count(*) FROM tool_calls").await,
        i64::try_from(written).unwrap() + 1,
        "what was refused is not there"
    );
    assert!(row(&pool, id).await.0.is_none());
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_commit_that_does_not_come_is_an_error_and_the_past_is_written_all_the_same(
    _: PgPoolOptions,
    options: PgConnectOptions,
) {
    let pool = support::pool(&options, "slow", 8).await;
    let who = Who::new(tenant(&pool).await);
    let audit = AuditWriter::start(&Store::from_pool(pool.clone()), QUEUE);
    let open = who.intent("{}");
    assert_eq!(audit.before(opens(open.clone())).await, Ok(()));
    let held = hold(&pool).await;
    let started = Instant::now();
    // Two that occupy the writers, then two that wait behind them.
    let mut first = Vec::new();
    for n in 1..=2 {
        let (audit, entry) = (audit.clone(), opens(who.intent("{}")));
        first.push(tokio::spawn(async move { audit.before(entry).await }));
        blocked(&pool, n).await;
    }
    let abandoned = who.intent("{}");
    let (before, after) =
        tokio::join!(audit.before(opens(abandoned.clone())), audit.after(closes(who.completion(open.id, Outcome::Ok, b"{}"))));
    assert_eq!((before, after), (Err(AuditError::Unavailable), Err(AuditError::Unavailable)));
    assert!(started.elapsed() >= Duration::from_secs(9), "{:?}", started.elapsed());
    for task in first {
        assert_eq!(task.await.unwrap(), Err(AuditError::Unavailable));
    }
    held.rollback().await.unwrap();
    let until = Instant::now() + Duration::from_secs(5);
    while row(&pool, open.id).await.0.is_none() {
        assert!(Instant::now() < until, "the completion was given up");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let there: i64 = sqlx::query_scalar("SELECT count(*) FROM tool_calls WHERE call_id = $1")
        .bind(abandoned.id.uuid())
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(there, 0, "nobody waited for it any more, and nothing had happened");
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn the_same_entry_twice_is_one_row_and_the_first_counts(pool: PgPool) {
    let who = Who::new(tenant(&pool).await);
    let audit = AuditWriter::start(&Store::from_pool(pool.clone()), QUEUE);
    let place = ScriptPlace { run: ScriptRunId::mint(support::now()), sequence: 1 };
    let run = NewRun {
        tenant: who.tenant,
        id: place.run,
        request: who.request,
        key: who.key,
        team: None,
        source: Payload::whole(&b"result = 1"[..]),
        catalog: payload::pack(b"{}").into(),
        catalog_sha256: [0; 32],
        engine: "e".to_owned(),
        limits: "{}".to_owned(),
        route: None,
        worker: who.worker,
        at: support::now(),
    };
    let mut intent = who.intent("{\"first\":true}");
    intent.place = Some(place);
    let entry = Entry {
        request: Some(who.request()),
        run: Some(run),
        completions: vec![who.completion(intent.id, Outcome::Ok, b"1")],
        journal: vec![JournalRow { tenant: who.tenant, place, call: Some(intent.id), entry: Payload::whole(&b"{}"[..]) }],
        intent: Some(intent.clone()),
        ..Entry::default()
    };
    let mut again = entry.clone();
    again.completions[0].outcome = Outcome::Timeout;
    if let Some(intent) = &mut again.intent {
        intent.arguments = Payload::whole(&b"{\"first\":false}"[..]);
    }
    assert_eq!(audit.before(entry.clone()).await, Ok(()));
    // Alone, and twice within one batch.
    assert!(join_all([again.clone(), again, entry].map(|e| audit.after(e))).await.iter().all(Result::is_ok));
    for (table, rows) in [
        ("SELECT count(*) FROM llm_requests", 1),
        ("SELECT count(*) FROM script_runs", 1),
        ("SELECT count(*) FROM script_journal", 1),
        ("SELECT count(*) FROM tool_call_events", 2),
        ("SELECT count(*) FROM tool_call_payloads", 2),
        ("SELECT count(*) FROM tool_calls", 1),
    ] {
        assert_eq!(count(&pool, table).await, rows, "{table}");
    }
    assert_eq!(row(&pool, intent.id).await.0.as_deref(), Some("ok"));
    assert_eq!(payload_of(&pool, intent.id, 0).await.0, b"{\"first\":true}");
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn one_row_of_up_to_three_events(pool: PgPool) {
    let who = Who::new(tenant(&pool).await);
    let audit = AuditWriter::start(&Store::from_pool(pool.clone()), QUEUE);
    let calls: Vec<_> = (0..4).map(|_| who.intent("{}")).collect();
    for call in &calls {
        assert_eq!(audit.before(opens(call.clone())).await, Ok(()));
    }
    let resolve = async |id: CallId| {
        sqlx::query("INSERT INTO tool_call_events (tenant_id, call_id, kind, at, outcome, error, amount_picos) VALUES ($1, $2, 2, now(), 'unknown', 'gone', 77)")
            .bind(who.tenant.uuid())
            .bind(id.uuid())
            .execute(&pool)
            .await
            .unwrap();
    };
    let [open, closed, resolved, late] = [0, 1, 2, 3].map(|n| calls[n].id);
    audit.after(closes(who.completion(closed, Outcome::ToolError, b"{}"))).await.unwrap();
    resolve(resolved).await;
    resolve(late).await;
    assert_eq!(row(&pool, late).await.0.as_deref(), Some("unknown"));
    // The worker was cut off and not dead: what it says is the truth.
    audit.after(closes(who.completion(late, Outcome::Ok, b"{}"))).await.unwrap();
    assert_eq!(row(&pool, open).await, (None, None, None, false));
    assert_eq!(row(&pool, closed).await, (Some("tool_error".to_owned()), None, Some(2_000_000_000), true));
    assert_eq!(row(&pool, resolved).await, (Some("unknown".to_owned()), Some("gone".to_owned()), Some(77), true));
    let (outcome, _, amount, _) = row(&pool, late).await;
    assert_eq!((outcome.as_deref(), amount), (Some("ok"), Some(2_000_000_000)));
    assert_eq!(count(&pool, "SELECT count(*) FROM tool_calls").await, 4);
}

fn asked(who: &Who, leases: Vec<Uuid>) -> NewRequest {
    let id = LlmRequestId::mint(support::now());
    let forward = Forward {
        root: id,
        turn: 1,
        mode: Mode::Manual,
        streaming: false,
        worker: who.worker,
        refused: None,
        tools: (0, 0),
        quoted: Picos(7),
        leases,
        currency: "USD".parse().unwrap(),
        prompt: Payload::whole(&b"{\"model\":\"m\"}"[..]),
    };
    NewRequest { id, origin: Origin::Llm, method: "/v1/chat/completions", forward: Some(forward), ..who.request() }
}

fn answered(request: &NewRequest) -> LlmEnd {
    LlmEnd {
        tenant: request.tenant,
        id: request.id,
        outcome: Outcome::Ok,
        error: None,
        provider: None,
        model: Some("m".to_owned()),
        attempts: "[]".to_owned(),
        counted: Counted::Reported,
        usage: Usage { input: 3, output: 2, ..Usage::default() },
        price: None,
        amount: Picos(5),
        latency: Duration::from_millis(1),
        first_token: None,
        finish_reason: None,
        answer: Some(Payload::whole(&b"{\"a\":1}"[..])),
        at: support::now(),
    }
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn requests_of_models_are_written_whole_alone_and_beside_calls(pool: PgPool) {
    let who = Who::new(tenant(&pool).await);
    let audit = AuditWriter::start(&Store::from_pool(pool.clone()), QUEUE);
    let (alone, beside) = (asked(&who, Vec::new()), asked(&who, Vec::new()));
    audit.before(Entry { request: Some(alone.clone()), ..Entry::default() }).await.unwrap();
    audit.before(Entry { request: Some(beside.clone()), ..opens(who.intent("{}")) }).await.unwrap();
    audit.after(Entry { llm_ends: vec![answered(&alone)], ..Entry::default() }).await.unwrap();
    let call = who.intent("{}");
    audit.before(opens(call.clone())).await.unwrap();
    let ends = Entry { llm_ends: vec![answered(&beside)], ..closes(who.completion(call.id, Outcome::Ok, b"{}")) };
    audit.after(ends).await.unwrap();
    // One that is written twice is there once.
    audit.after(Entry { llm_ends: vec![answered(&alone)], ..Entry::default() }).await.unwrap();
    for request in [&alone, &beside] {
        let whole: (i64, i64, Vec<i16>, i64) = sqlx::query_as(
            "SELECT amount_picos, output_tokens,
               (SELECT array_agg(part ORDER BY part) FROM script_payloads p WHERE p.script_run_id = l.llm_request_id),
               (SELECT count(DISTINCT x::text) FROM (SELECT xmin FROM llm_requests WHERE llm_request_id = l.llm_request_id
                  UNION ALL SELECT xmin FROM llm_forwards WHERE llm_request_id = l.llm_request_id
                  UNION ALL SELECT xmin FROM script_payloads WHERE script_run_id = l.llm_request_id AND part = 5) n(x))
             FROM llm_calls l WHERE llm_request_id = $1 AND outcome = 'ok'",
        )
        .bind(request.id.uuid())
        .fetch_one(&pool)
        .await
        .unwrap();
        assert_eq!(whole, (5, 2, vec![5, 6], 1), "its beginning is of one commit");
    }
    assert_eq!(count(&pool, "SELECT count(*) FROM llm_request_ends").await, 2);
    assert_eq!(count(&pool, "SELECT count(*) FROM audit_batches").await, 6, "each is signed, the repetition too");
    let late = asked(&who, vec![Uuid::from_u128(1)]);
    let refused = audit.before(Entry { request: Some(late.clone()), ..Entry::default() }).await;
    assert_eq!(refused, Err(AuditError::LeaseEnded), "what it draws from has ended");
    assert_eq!(count(&pool, "SELECT count(*) FROM llm_requests WHERE origin = 'llm'").await, 2, "nothing of it stands");
}
