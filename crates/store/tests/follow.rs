//! The trail read onwards from a position: nothing is missed and nothing comes twice, however many write; and jobs that are
//! worked on by one runner at a time.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

mod support;

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use chrono::TimeDelta;
use futures::future::join_all;
use serde_json::json;
use sqlx::PgPool;
use tollgate_domain::{CallId, Decision, ExportJobId, LlmRequestId, Outcome, Picos, TenantId, ids, policy::Reason};
use tollgate_store::{
    Actor, PageRequest, Store, StoreError,
    audit::{AuditWriter, Entry, LlmResolution, NewRequest, Resolution},
    calls::CallFilter,
    events,
    export::{self, Rows},
    export_jobs::{self, JobFilter, Left, NewJob, Part},
    follow::{self, Follow, Start, Wanted, What},
    requests, sealer,
};

use support::{
    QUEUE, Who, closes, count, opens,
    runs::{forwarded, opened, rules},
    seal_all, tamper, tenant,
};

/// What is told to the end: ids in order, with the outcome that the row has by then.
async fn all(mut rows: Follow) -> Vec<(CallId, Outcome)> {
    let (mut found, mut before) = (Vec::new(), rows.position());
    while let Some(told) = rows.next().await.unwrap() {
        for told in told {
            assert!(told.next > before && told.next <= rows.position(), "positions grow with the rows");
            before = told.next;
            let call = told.what.call().unwrap();
            assert!(call.closed_at.is_some(), "{}: an open call was told of", call.id);
            found.push((call.id, call.outcome.unwrap()));
        }
    }
    assert_eq!(rows.position(), rows.end());
    found
}

async fn read(store: &Store, tenant: TenantId, start: Start) -> (Vec<CallId>, u64) {
    let rows = follow::open(store, tenant, Wanted::default(), start).await.unwrap();
    let end = rows.end();
    (all(rows).await.into_iter().map(|(id, _)| id).collect(), end)
}

async fn write(audit: &AuditWriter, who: &Who) -> CallId {
    let intent = who.intent("{}");
    audit.before(opens(intent.clone())).await.unwrap();
    audit.after(closes(who.completion(intent.id, Outcome::Ok, b"1"))).await.unwrap();
    intent.id
}

async fn refuse(audit: &AuditWriter, who: &Who) -> CallId {
    let mut refused = who.intent("{}");
    (refused.decision, refused.reason) = (Decision::Denied, Some(Reason::UnknownTool));
    (refused.tool, refused.upstream, refused.definition) = (None, None, None);
    audit.before(opens(refused.clone())).await.unwrap();
    refused.id
}

/// Many writers whose commits overlap, two sealers, and a collector that comes again and again with the cursor of the time before.
#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_collector_gets_every_call_once_under_concurrent_writers(
    _: sqlx::postgres::PgPoolOptions,
    options: sqlx::postgres::PgConnectOptions,
) {
    let pool = support::pool(&options, "follow", 24).await;
    let store = Store::from_pool(pool.clone());
    let who = Arc::new(Who::new(tenant(&pool).await));
    let over = Arc::new(AtomicBool::new(false));
    let sealers: Vec<_> = (0..2)
        .map(|_| {
            let (store, over) = (store.clone(), Arc::clone(&over));
            tokio::spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    sealer::round(&store, support::now()).await.unwrap();
                    tokio::time::sleep(Duration::from_millis(3)).await;
                }
            })
        })
        .collect();
    let collector = {
        let (store, over, tenant) = (store.clone(), Arc::clone(&over), who.tenant);
        tokio::spawn(async move {
            let (mut cursor, mut seen, mut rounds) = (Start::Oldest, Vec::new(), 0);
            loop {
                let last = over.load(Ordering::Relaxed);
                let (told, end) = read(&store, tenant, cursor).await;
                seen.extend(told);
                (cursor, rounds) = (Start::At(end), rounds + 1);
                if last {
                    return (seen, rounds);
                }
            }
        })
    };
    let written = join_all((0..6).map(|_| {
        let (store, who) = (store.clone(), Arc::clone(&who));
        tokio::spawn(async move {
            let audit = AuditWriter::start(&store, QUEUE);
            let calls = join_all((0..100).map(async |n| {
                // One in ten is refused, one in ten is never answered.
                match n % 10 {
                    0 => Some(refuse(&audit, &who).await),
                    1 => {
                        audit.before(opens(who.intent("{}"))).await.unwrap();
                        None
                    }
                    _ => Some(write(&audit, &who).await),
                }
            }));
            calls.await
        })
    }))
    .await;
    let written: BTreeSet<CallId> = written.into_iter().flat_map(Result::unwrap).flatten().collect();
    while count(&pool, "SELECT count(*) FROM audit_batches").await > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    over.store(true, Ordering::Relaxed);
    let (seen, rounds) = collector.await.unwrap();
    for sealer in sealers {
        sealer.await.unwrap();
    }
    assert_eq!(written.len(), 6 * 90);
    assert!(rounds > 3, "{rounds}");
    assert_eq!(seen.len(), written.len(), "each once");
    assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), written);
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_call_that_was_given_up_and_answered_after_all_comes_again(pool: PgPool) {
    let store = Store::from_pool(pool.clone());
    let who = Who::new(tenant(&pool).await);
    let audit = AuditWriter::start(&store, QUEUE);
    let lost = who.intent("{}");
    audit.before(opens(lost.clone())).await.unwrap();
    seal_all(&store).await;
    let (told, end) = read(&store, who.tenant, Start::Oldest).await;
    assert_eq!((told.len(), end), (0, 1), "an open call is not told of");
    let resolution = Resolution { tenant: who.tenant, id: lost.id, amount: Picos(7), at: support::now() };
    audit.after(Entry { resolutions: vec![resolution], ..Entry::default() }).await.unwrap();
    seal_all(&store).await;
    let rows = || follow::open(&store, who.tenant, Wanted::default(), Start::At(end));
    assert_eq!(all(rows().await.unwrap()).await, [(lost.id, Outcome::Unknown)]);
    audit.after(closes(who.completion(lost.id, Outcome::Ok, b"1"))).await.unwrap();
    seal_all(&store).await;
    // Read in one go it comes once, where it ended; for a collector in between it comes again.
    assert_eq!(all(rows().await.unwrap()).await, [(lost.id, Outcome::Ok)]);
    assert_eq!(read(&store, who.tenant, Start::At(2)).await, (vec![lost.id], 3));
    assert_eq!(all(rows().await.unwrap().with_batch(1)).await, [(lost.id, Outcome::Ok)], "however the rows fall into batches");
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn what_was_dropped_is_said_and_not_passed_over(pool: PgPool) {
    let store = Store::from_pool(pool.clone());
    let who = Who::new(tenant(&pool).await);
    let audit = AuditWriter::start(&store, QUEUE);
    let mut calls = Vec::new();
    for _ in 0..3 {
        calls.push(write(&audit, &who).await);
        seal_all(&store).await;
    }
    let open = async |start| follow::open(&store, who.tenant, Wanted::default(), start).await;
    let mut overtaken = open(Start::At(0)).await.unwrap();
    tamper(&pool, "DELETE FROM audit_entries WHERE sequence = 1").await;
    for (start, told) in [(Start::At(0), "has been dropped"), (Start::At(7), "beyond the end")] {
        let gone = open(start).await.unwrap_err().to_string();
        assert!(gone.contains(told), "{gone}");
    }
    assert!(matches!(overtaken.next().await, Err(StoreError::Gone(_))), "also when it goes meanwhile");
    assert_eq!(read(&store, who.tenant, Start::At(2)).await.0, calls[1..], "what comes after it is there");
    assert_eq!(read(&store, who.tenant, Start::Oldest).await.0, calls[1..]);
    // The month ended within the seal: its entries are there, a row is not.
    tamper(&pool, &format!("DELETE FROM tool_call_events WHERE call_id = '{}'", calls[1].uuid())).await;
    assert!(matches!(open(Start::At(2)).await.unwrap().next().await, Err(StoreError::Gone(_))));
    assert_eq!(read(&store, who.tenant, Start::Oldest).await.0, calls[2..]);
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn filters_windows_events_and_tenants_are_kept_apart(pool: PgPool) {
    let store = Store::from_pool(pool.clone());
    let (who, other) = (Who::new(tenant(&pool).await), Who::new(tenant(&pool).await));
    let colleague = Who { key: ids::mint(support::now()).into(), ..who.clone() };
    let audit = AuditWriter::start(&store, QUEUE);
    let mut calls = Vec::new();
    for n in 0..12 {
        calls.push(write(&audit, if n % 3 == 0 { &colleague } else { &who }).await);
        write(&audit, &other).await;
        if n == 5 {
            events::note(&store, who.tenant, &Actor::system("t"), support::now(), "a.b", "x", &json!({"n": n})).await.unwrap();
        }
        if n % 4 == 3 {
            seal_all(&store).await;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let told = async |calls: CallFilter| {
        let rows = follow::open(&store, who.tenant, Wanted { calls, ..Wanted::default() }, Start::Oldest).await.unwrap();
        all(rows.with_batch(3)).await.into_iter().map(|(id, _)| id).collect::<Vec<_>>()
    };
    assert_eq!(told(CallFilter::default()).await, calls);
    let own: Vec<CallId> = calls.iter().copied().step_by(3).collect();
    assert_eq!(told(CallFilter { key_id: Some(colleague.key), ..CallFilter::default() }).await, own);
    let at = |id: CallId| chrono::DateTime::from_timestamp_millis(i64::try_from(id.uuid().as_u128() >> 80).unwrap());
    let window = CallFilter { from: at(calls[5]), to: at(calls[10]), ..CallFilter::default() };
    assert_eq!(told(window).await, calls[5..10]);

    let mut rows = follow::open(&store, who.tenant, Wanted { events: true, ..Wanted::default() }, Start::Oldest).await.unwrap();
    let mut seen = Vec::new();
    while let Some(told) = rows.next().await.unwrap() {
        seen.extend(told.into_iter().map(|told| matches!(told.what, What::Event(event) if event.action == "a.b")));
    }
    assert_eq!(seen.iter().filter(|event| **event).count(), 1);
    assert_eq!(seen.iter().position(|event| *event), Some(6), "in its place: {seen:?}");
}

fn job() -> NewJob {
    NewJob {
        id: ExportJobId::mint(support::now()),
        format: "ndjson".to_owned(),
        destination: "d".to_owned(),
        path: String::new(),
        filter: JobFilter { outcome: Some(Outcome::Ok), ..JobFilter::default() },
        first: 3,
        until: 10,
        lenient: true,
    }
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_job_is_one_runners_until_that_falls_silent(pool: PgPool) {
    let store = Store::from_pool(pool.clone());
    let tenant = tenant(&pool).await;
    let now = support::now();
    let create = async |job: &NewJob| {
        let mut change = store.change(tenant, Actor::system("t"), now).await.unwrap();
        let made = export_jobs::create(&mut change, job).await;
        change.commit().await.unwrap();
        made
    };
    let first = job();
    assert_eq!(create(&first).await.unwrap().filter.0, first.filter);
    let take = async |at, silence| export_jobs::take(&store, ids::mint(now), at, at - TimeDelta::seconds(silence)).await.unwrap();
    let taken = take(now, 30).await.unwrap();
    assert_eq!((taken.tenant, taken.job), (tenant, first.id));
    assert_eq!(take(now + TimeDelta::seconds(29), 30).await, None, "its runner is at it");
    assert!(export_jobs::beat(&store, taken, now + TimeDelta::seconds(29)).await.unwrap());
    assert_eq!(take(now + TimeDelta::seconds(40), 30).await, None);
    let part = |number| Part { number, name: format!("part-{number}"), rows: 2, bytes: 20, sha256: vec![1; 32] };
    assert!(export_jobs::keep_part(&store, taken, &part(1), 5, now).await.unwrap());

    let next = take(now + TimeDelta::seconds(70), 30).await.unwrap();
    assert_eq!(next.job, first.id);
    // The one before comes back, and can do nothing any more.
    assert!(!export_jobs::beat(&store, taken, now).await.unwrap());
    assert!(!export_jobs::keep_part(&store, taken, &part(2), 7, now).await.unwrap());
    assert!(!export_jobs::leave(&store, taken, &Left::Failed("x".to_owned()), now).await.unwrap());
    assert!(export_jobs::keep_part(&store, next, &part(2), 8, now).await.unwrap());
    assert!(export_jobs::leave(&store, next, &Left::Queued, now).await.unwrap());
    let last = take(now, 30).await.unwrap();
    assert!(export_jobs::leave(&store, last, &Left::Done, now).await.unwrap());
    let (found, parts) = export_jobs::get(&store, tenant, first.id).await.unwrap();
    assert_eq!((found.state.as_str(), found.rows, found.bytes, found.parts, found.position), ("done", 4, 40, 2, 10));
    assert_eq!(parts.iter().map(|part| part.number).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(take(now + TimeDelta::days(1), 30).await, None, "done is done");

    // Ten at a time, of which one is cancelled; a cancelled one is nobody's.
    for _ in 0..export_jobs::MAX_OPEN {
        create(&job()).await.unwrap();
    }
    assert!(matches!(create(&job()).await, Err(StoreError::Conflict(_))));
    let running = take(now, 30).await.unwrap();
    let mut change = store.change(tenant, Actor::system("t"), now).await.unwrap();
    assert_eq!(export_jobs::cancel(&mut change, running.job).await.unwrap().state, "cancelled");
    assert!(matches!(export_jobs::cancel(&mut change, running.job).await, Err(StoreError::Conflict(_))));
    change.commit().await.unwrap();
    assert!(!export_jobs::beat(&store, running, now).await.unwrap());
    create(&job()).await.unwrap();
    let page = export_jobs::list(&store, tenant, PageRequest { limit: 100, after: None }).await.unwrap();
    let mut states: HashMap<String, usize> = HashMap::new();
    page.items.into_iter().for_each(|job| *states.entry(job.state).or_default() += 1);
    assert_eq!((states["queued"], states["cancelled"], states["done"]), (10, 1, 1));
}

/// Two runners that look at the same moment never take the same job.
#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn runners_that_look_at_once_take_different_jobs(pool: PgPool) {
    let store = Store::from_pool(pool.clone());
    let tenant = tenant(&pool).await;
    let now = support::now();
    for _ in 0..8 {
        let mut change = store.change(tenant, Actor::system("t"), now).await.unwrap();
        export_jobs::create(&mut change, &job()).await.unwrap();
        change.commit().await.unwrap();
    }
    let taken = join_all((0..8).map(async |_| {
        let mut mine = Vec::new();
        while let Some(taken) = export_jobs::take(&store, ids::mint(now), now, now - TimeDelta::seconds(30)).await.unwrap() {
            mine.push(taken.job);
        }
        mine
    }))
    .await
    .concat();
    // Passed over while another held it, one may be left for the next look, and is never taken twice.
    assert_eq!(taken.iter().collect::<BTreeSet<_>>().len(), taken.len());
    assert_eq!(taken.len(), 8);
}

/// Requests to models are told of where they ended; one whose worker died and that was answered after all, there; and those that were
/// made for calls, or refused, where they began.
#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn requests_are_told_of_where_they_were_closed(pool: PgPool) {
    let (store, who) = (Store::from_pool(pool.clone()), Who::new(tenant(&pool).await));
    let audit = AuditWriter::start(&store, QUEUE);
    let trail = rules(json!({}));
    let minted = {
        let request = LlmRequestId::mint(support::now());
        audit.before(Entry { request: Some(NewRequest { id: request, ..who.request() }), ..Entry::default() }).await.unwrap();
        request
    };
    let (refused, _) = opened(&who, &audit, &trail, "no", Some(Reason::BudgetExhausted)).await;
    let (late, late_end) = opened(&who, &audit, &trail, "late", None).await;
    let (dead, _) = opened(&who, &audit, &trail, "dead", None).await;
    let (open, _) = opened(&who, &audit, &trail, "open", None).await;
    let done = forwarded(&who, &audit, &trail, "done").await;
    let call = write(&audit, &who).await;
    seal_all(&store).await;
    let told = async |rows, start, batch| {
        let wanted = Wanted { rows, ..Wanted::default() };
        let mut read = follow::open(&store, who.tenant, wanted, start).await.unwrap().with_batch(batch);
        let mut ids = Vec::new();
        while let Some(told) = read.next().await.unwrap() {
            ids.extend(told.into_iter().map(|told| match told.what {
                What::Request(request) => request.id.uuid(),
                What::Call(call) => call.id.uuid(),
                What::Event(_) => panic!("nobody asked for events"),
            }));
        }
        (ids, Start::At(read.end()))
    };
    let u = |id: LlmRequestId| id.uuid();
    for batch in [1, 3, 500] {
        assert_eq!(told(Rows::LlmRequests, Start::Oldest, batch).await.0, [u(minted), u(refused), u(done)], "{batch}");
        assert_eq!(told(Rows::ToolCalls, Start::Oldest, batch).await.0, [call.uuid()]);
        assert_eq!(told(Rows::All, Start::Oldest, batch).await.0, [u(minted), u(refused), u(done), call.uuid()]);
    }
    let (_, here) = told(Rows::LlmRequests, Start::Oldest, 500).await;

    // Their worker is taken for dead; one of them lives.
    let resolved = |id| LlmResolution { tenant: who.tenant, id, amount: Picos(1), at: support::now() };
    audit.after(Entry { llm_resolutions: vec![resolved(late), resolved(dead)], ..Entry::default() }).await.unwrap();
    seal_all(&store).await;
    let (resolved, then) = told(Rows::LlmRequests, here, 500).await;
    assert_eq!(BTreeSet::from_iter(resolved), BTreeSet::from([u(late), u(dead)]));
    audit.after(Entry { llm_ends: vec![late_end], ..Entry::default() }).await.unwrap();
    seal_all(&store).await;
    assert_eq!(told(Rows::LlmRequests, then, 500).await.0, [u(late)], "it comes again with its truth");
    for batch in [1, 500] {
        let all = told(Rows::LlmRequests, Start::Oldest, batch).await.0;
        assert_eq!(all, [u(minted), u(refused), u(done), u(dead), u(late)], "and once for whoever reads from the beginning");
        assert!(!all.contains(&u(open)));
    }

    // The export of one moment has all of them, as they are listed.
    let (out, mut chunks) = tokio::sync::mpsc::channel(8);
    let failed = CallFilter { outcome: Some(Outcome::Ok), ..CallFilter::default() };
    for (filter, count) in [(CallFilter::default(), 6), (failed, 2)] {
        let export = export::open_as::<requests::LlmRequest>(&store, who.tenant, filter).await.unwrap();
        let run = tokio::spawn(export.run(out.clone()));
        let mut found = Vec::new();
        loop {
            let chunk = chunks.recv().await.unwrap().unwrap();
            if chunk.is_empty() {
                break;
            }
            found.extend(chunk.into_iter().map(|request| request.id.uuid()));
        }
        run.await.unwrap();
        assert!(found.is_sorted() && found.len() == count, "{found:?}");
    }
}
