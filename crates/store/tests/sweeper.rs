//! What a dead worker leaves open is resolved once, and a living one's calls are its own.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

mod support;

use futures::future::join_all;
use sqlx::PgPool;
use tollgate_domain::{
    Decision, Outcome, Picos, PriceId, ScriptRunId, WorkerId, ids,
    policy::Reason,
    price::{Applied, Quote, Unit, Volume},
};
use tollgate_evidence::{batch, line::Kind};
use tollgate_store::{
    Store,
    audit::{AuditWriter, Entry, Intent, NewRun, RunEnd, ScriptPlace},
    payload::{self, Payload},
    waiting::{self, Claim},
    workers,
};

use support::{QUEUE, Who, closes, count, opens, row, tamper, tenant};

/// So many calls, and no run.
fn swept(calls: usize) -> workers::Swept {
    workers::Swept { calls, requests: 0, runs: Vec::new() }
}

struct Crash {
    store: Store,
    audit: AuditWriter,
    who: Who,
}

async fn crash(pool: &PgPool) -> Crash {
    let store = Store::from_pool(pool.clone());
    Crash { audit: AuditWriter::start(&store, QUEUE), who: Who::new(tenant(pool).await), store }
}

impl Crash {
    async fn open(&self, intent: Intent) -> Intent {
        self.audit.before(opens(intent.clone())).await.unwrap();
        intent
    }

    /// A worker that beat a moment ago with this as its oldest open call.
    async fn beat(&self, worker: WorkerId, oldest: uuid::Uuid) {
        workers::heartbeat(&self.store, worker, oldest).await.unwrap();
    }

    async fn age(&self, worker: WorkerId, seconds: f64) {
        sqlx::query("UPDATE workers SET heartbeat_at = clock_timestamp() - make_interval(secs => $2) WHERE worker_id = $1")
            .bind(worker.uuid())
            .bind(seconds)
            .execute(self.store.pool())
            .await
            .unwrap();
    }

    async fn sweep(&self) -> Option<workers::Swept> {
        workers::sweep(&self.store, &self.audit, WorkerId::from_uuid(uuid::Uuid::nil())).await.unwrap()
    }

    fn run(&self) -> NewRun {
        NewRun {
            tenant: self.who.tenant,
            id: ScriptRunId::mint(support::now()),
            request: self.who.request,
            key: self.who.key,
            team: None,
            source: Payload::whole(&b"result = 1"[..]),
            catalog: payload::pack(b"{}").into(),
            catalog_sha256: [0; 32],
            engine: "e".to_owned(),
            limits: "{}".to_owned(),
            route: None,
            worker: self.who.worker,
            at: support::now(),
        }
    }
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_dead_workers_open_calls_end_as_unknown_and_cost_what_was_quoted(pool: PgPool) {
    let c = crash(&pool).await;
    let alive = Who { worker: WorkerId::mint(support::now()), ..c.who.clone() };
    let second_tenant = Who { worker: c.who.worker, ..Who::new(tenant(&pool).await) };
    let mut older = c.who.intent("{}");
    older.id = tollgate_domain::CallId::mint(support::now() - chrono::TimeDelta::minutes(5));
    let older = c.open(older).await;
    let begin = ids::floor(support::now());

    let open: Vec<_> = join_all((0..3).map(|_| c.open(c.who.intent("{}")))).await;
    let foreign = c.open(second_tenant.intent("{}")).await;
    let closed = c.open(c.who.intent("{}")).await;
    c.audit.after(closes(c.who.completion(closed.id, Outcome::Ok, b"{}"))).await.unwrap();
    let mut denied = c.who.intent("{}");
    (denied.decision, denied.reason) = (Decision::Denied, Some(Reason::NotInScope));
    let denied = c.open(denied).await;
    let others = c.open(alive.intent("{}")).await;
    c.beat(c.who.worker, begin).await;
    c.beat(alive.worker, begin).await;

    assert_eq!(c.sweep().await, None, "both live");
    c.age(c.who.worker, 9.0).await;
    assert_eq!(c.sweep().await, None, "late is not dead");
    c.age(c.who.worker, 11.0).await;
    assert_eq!(c.sweep().await, Some(swept(4)));
    assert_eq!(c.sweep().await, None, "it is forgotten");

    for call in open.iter().chain([&foreign]) {
        let (outcome, error, amount, closed) = row(&pool, call.id).await;
        assert_eq!((outcome.as_deref(), amount, closed), (Some("unknown"), Some(2_000_000_000), true));
        assert!(error.unwrap().contains("the worker ended before"));
    }
    assert_eq!(row(&pool, closed.id).await.0.as_deref(), Some("ok"));
    assert_eq!(row(&pool, denied.id).await.0.as_deref(), Some("denied"));
    assert_eq!(row(&pool, others.id).await.0, None, "a living worker's call");
    assert_eq!(row(&pool, older.id).await.0, None, "below what the worker said it had closed, the sweeper does not look");
    assert_eq!(count(&pool, "SELECT count(*) FROM tool_call_events WHERE kind = 2").await, 4);
    assert_eq!(count(&pool, "SELECT count(*) FROM workers").await, 1);
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn concurrent_sweeps_resolve_once(pool: PgPool) {
    let c = crash(&pool).await;
    let begin = ids::floor(support::now());
    let workers: Vec<Who> = (0..3).map(|_| Who { worker: WorkerId::mint(support::now()), ..c.who.clone() }).collect();
    for who in &workers {
        join_all((0..50).map(|_| c.open(who.intent("{}")))).await;
        c.beat(who.worker, begin).await;
        c.age(who.worker, 60.0).await;
    }
    let mut swept = 0;
    for _ in 0..4 {
        // Two at a time: each needs two connections, and a test has five.
        for result in join_all((0..2).map(|_| c.sweep())).await.into_iter().flatten() {
            swept += result.calls;
        }
    }
    assert_eq!(swept, 150, "each call was resolved by one sweep");
    assert_eq!(count(&pool, "SELECT count(*) FROM tool_call_events WHERE kind = 2").await, 150);
    assert_eq!(count(&pool, "SELECT count(*) FROM tool_calls WHERE outcome = 'unknown'").await, 150);
}

/// The database goes away under a sweep whose rows wait to be written, and another sweep finds the same worker before they are.
#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn two_sweeps_of_one_worker_sign_the_same_lines(pool: PgPool) {
    let c = crash(&pool).await;
    let begin = ids::floor(support::now());
    join_all((0..3).map(|_| c.open(c.who.intent("{}")))).await;
    c.beat(c.who.worker, begin).await;
    c.age(c.who.worker, 60.0).await;
    sqlx::query("CREATE TABLE kept AS TABLE workers").execute(&pool).await.unwrap();
    assert_eq!(c.sweep().await, Some(swept(3)));
    tamper(&pool, "DELETE FROM tool_call_events WHERE kind = 2").await;
    tamper(&pool, "INSERT INTO workers SELECT * FROM kept").await;
    assert_eq!(c.sweep().await, Some(swept(3)));

    let batches: Vec<Vec<u8>> = sqlx::query_scalar("SELECT entries FROM audit_batches").fetch_all(&pool).await.unwrap();
    let entries = batches.iter().flat_map(|packed| batch::unpack(packed).unwrap());
    let resolutions = entries.filter(|entry| entry.place.kind == Kind::CallResolution);
    let mut leaves: Vec<_> = resolutions.map(|entry| (entry.place.id, entry.leaf.0)).collect();
    assert_eq!(leaves.len(), 6, "both were signed");
    leaves.sort_unstable();
    leaves.dedup();
    assert_eq!(leaves.len(), 3, "the same lines");
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_sweep_that_dies_half_way_is_done_again(pool: PgPool) {
    let c = crash(&pool).await;
    let begin = ids::floor(support::now());
    let calls = join_all((0..4).map(|_| c.open(c.who.intent("{}")))).await;
    c.beat(c.who.worker, begin).await;
    c.age(c.who.worker, 60.0).await;
    // What is left when the sweeper's process ends between its two commits: two resolutions, and the worker still in the register.
    for call in &calls[..2] {
        sqlx::query("INSERT INTO tool_call_events (tenant_id, call_id, kind, at, outcome, amount_picos) VALUES ($1, $2, 2, now(), 'unknown', 7)")
            .bind(c.who.tenant.uuid())
            .bind(call.id.uuid())
            .execute(&pool)
            .await
            .unwrap();
    }
    assert_eq!(c.sweep().await, Some(swept(2)));
    assert_eq!(row(&pool, calls[0].id).await.2, Some(7), "the first resolution stands");
    assert_eq!(count(&pool, "SELECT count(*) FROM tool_calls WHERE outcome = 'unknown'").await, 4);
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_dead_workers_runs_are_taken_over_by_one(pool: PgPool) {
    let c = crash(&pool).await;
    let begin = ids::floor(support::now());
    let (running, done) = (c.run(), c.run());
    for run in [&running, &done] {
        c.audit.before(Entry { run: Some(run.clone()), ..Entry::default() }).await.unwrap();
    }
    let end = RunEnd {
        tenant: c.who.tenant,
        id: done.id,
        state: "done",
        ticks: 3,
        result: Some(Payload::whole(&b"1"[..])),
        logs: Payload::whole(&b"[]"[..]),
        error: None,
        may_call: None,
        at: support::now(),
    };
    c.audit.after(Entry { end: Some(end), ..Entry::default() }).await.unwrap();
    let mut nested = c.who.intent("{}");
    nested.place = Some(ScriptPlace { run: running.id, sequence: 1 });
    let nested = c.open(nested).await;
    c.beat(c.who.worker, begin).await;
    c.age(c.who.worker, 60.0).await;
    let claim = Claim { tenant: c.who.tenant, run: running.id, turn: 1 };
    assert_eq!(
        c.sweep().await,
        Some(workers::Swept { calls: 1, requests: 0, runs: vec![claim] }),
        "what has ended is nobody's any more"
    );
    assert_eq!(c.sweep().await, None);
    assert_eq!(row(&pool, nested.id).await.0.as_deref(), Some("unknown"));
    assert!(!waiting::is_ours(&c.store, Claim { turn: 0, ..claim }).await.unwrap(), "it was the dead worker's");
    assert!(waiting::is_ours(&c.store, claim).await.unwrap());

    // What the next driver finds.
    let kept = waiting::load(&c.store, claim).await.unwrap();
    assert_eq!(
        (kept.source.as_deref(), kept.journal.as_deref(), kept.open),
        (Some("result = 1"), Some(&[][..]), vec![(1, nested.id)])
    );
    assert!(!kept.ended && kept.stuck == 1 && kept.key == c.who.key);

    // It dies as well, and so does the one after it: a turn is found by the worker who has it, however old the run is.
    let mut driver = WorkerId::from_uuid(uuid::Uuid::nil());
    for turn in 2..4 {
        let next = WorkerId::mint(support::now());
        c.beat(driver, ids::floor(support::now() + chrono::TimeDelta::hours(1))).await;
        c.age(driver, 60.0).await;
        let taken = workers::sweep(&c.store, &c.audit, next).await.unwrap().unwrap();
        assert_eq!(taken.runs, [Claim { turn, ..claim }]);
        driver = next;
    }
    assert_eq!(waiting::load(&c.store, Claim { turn: 3, ..claim }).await.unwrap().stuck, 3, "it got no further");
    // A run that waits for people is nobody's, whoever dies.
    waiting::suspend(&c.store, c.who.tenant, running.id, c.who.key, support::now()).await.unwrap();
    c.beat(driver, begin).await;
    c.age(driver, 60.0).await;
    assert_eq!(c.sweep().await, Some(swept(0)));
    let found = waiting::state_of(&c.store, c.who.tenant, c.who.key, running.id).await.unwrap();
    assert_eq!(found, ("waiting_approval".to_owned(), false));
}

/// More than one sweep takes: the rest is the next one's, for calls and for runs.
#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_sweep_leaves_nothing_behind_however_much_there_is(pool: PgPool) {
    let c = crash(&pool).await;
    let begin = ids::floor(support::now());
    for batch in 0..2 {
        let all: i64 = 450 * batch;
        // What happened stays, also for a superuser's DELETE; a month that is dropped is gone.
        sqlx::query("TRUNCATE tool_call_events, script_run_starts, script_run_ends, script_run_turns")
            .execute(&pool)
            .await
            .unwrap();
        let (calls, runs) = if batch == 0 { (5_500, 3) } else { (3, all) };
        sqlx::query(
            "INSERT INTO tool_call_events (tenant_id, call_id, kind, at, llm_request_id, key_id, tool_name, decision, worker_id, quoted_picos)
             SELECT $1, overlay($2::text placing substr(gen_random_uuid()::text, 15) from 15)::uuid, 0, now(), $1, $1, 't', 'permitted', $3, 5 FROM generate_series(1, $4)",
        )
        .bind(c.who.tenant.uuid())
        .bind(tollgate_domain::CallId::mint(support::now()).uuid())
        .bind(c.who.worker.uuid())
        .bind(calls)
        .execute(&pool)
        .await
        .unwrap();
        sqlx::query(
            "INSERT INTO script_run_starts (tenant_id, script_run_id, llm_request_id, key_id, catalog_sha256, engine, worker_id, opened_at)
             SELECT $1, overlay($2::text placing substr(gen_random_uuid()::text, 15) from 15)::uuid, $1, $1, '', 'e', $3, now() FROM generate_series(1, $4)",
        )
        .bind(c.who.tenant.uuid())
        .bind(ScriptRunId::mint(support::now()).uuid())
        .bind(c.who.worker.uuid())
        .bind(runs)
        .execute(&pool)
        .await
        .unwrap();
        c.beat(c.who.worker, begin).await;
        c.age(c.who.worker, 60.0).await;
        let (mut swept_calls, mut swept_runs) = (0, 0);
        while let Some(swept) = c.sweep().await {
            assert!(swept.calls <= 5_000 && swept.runs.len() <= 200, "{swept:?}");
            swept_calls += swept.calls;
            swept_runs += swept.runs.len();
        }
        assert_eq!((swept_calls, swept_runs), (usize::try_from(calls).unwrap(), usize::try_from(runs).unwrap()));
        assert_eq!(count(&pool, "SELECT count(*) FROM tool_calls WHERE outcome IS NULL").await, 0);
        assert_eq!(count(&pool, "SELECT count(*) FROM script_run_turns").await, runs);
    }
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_worker_that_was_only_late_comes_back_and_one_that_retires_is_forgotten(pool: PgPool) {
    let c = crash(&pool).await;
    let begin = ids::floor(support::now());
    let call = c.open(c.who.intent("{}")).await;
    c.beat(c.who.worker, begin).await;
    c.age(c.who.worker, 60.0).await;
    assert_eq!(c.sweep().await, Some(swept(1)));
    // It was cut off: it beats again and closes its call.
    c.beat(c.who.worker, begin).await;
    c.audit.after(closes(c.who.completion(call.id, Outcome::Ok, b"{}"))).await.unwrap();
    assert_eq!(row(&pool, call.id).await.0.as_deref(), Some("ok"));
    let late = c.open(c.who.intent("{}")).await;
    c.age(c.who.worker, 60.0).await;
    assert_eq!(c.sweep().await, Some(swept(1)), "what it opened after its return");
    assert_eq!(row(&pool, late.id).await.0.as_deref(), Some("unknown"));

    c.beat(c.who.worker, begin).await;
    workers::retire(&c.store, c.who.worker).await.unwrap();
    assert_eq!(count(&pool, "SELECT count(*) FROM workers").await, 0);
    assert_eq!(c.sweep().await, None);
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn of_what_nobody_measured_a_dead_workers_call_costs_one_unit_and_its_row_says_by_which_price(pool: PgPool) {
    let c = crash(&pool).await;
    let begin = ids::floor(support::now());
    let mut cost = Vec::new();
    for (unit, amount, bound, charged) in [
        (Unit::Call, 7, 7, 7),
        (Unit::SuccessfulCall, 7, 7, 7),
        (Unit::Kb, 7, 700, 7),
        (Unit::Second, 7, 700, 7),
        (Unit::Kb, 7, 3, 3),
    ] {
        let volume = Some(Volume { call: 1_001, tier: 2 });
        let applied = Applied { unit, amount: Picos(amount), volume };
        let quote = Quote { price_id: Some(PriceId::mint(support::now())), amount: Picos(bound), applied: Some(applied) };
        cost.push((c.open(Intent { quote, ..c.who.intent("{}") }).await, charged));
    }
    c.beat(c.who.worker, begin).await;
    c.age(c.who.worker, 11.0).await;
    assert_eq!(c.sweep().await, Some(swept(5)));
    let mut tx = c.store.tenant(c.who.tenant).await.unwrap();
    for (intent, charged) in cost {
        let row = tollgate_store::calls::get(&mut tx, c.who.tenant, intent.id).await.unwrap();
        assert_eq!((row.outcome, row.amount), (Some(Outcome::Unknown), Some(Picos(charged))));
        assert_eq!((row.price_id, row.applied), (intent.quote.price_id, intent.quote.applied));
    }
}
