//! Agent loops that wait for people: whose one is, and that nobody else does anything about it.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

mod support;

use chrono::TimeDelta;
use futures::future::join_all;
use sqlx::PgPool;
use tollgate_domain::{ApprovalId, CallId, LlmRequestId, ScriptRunId, WorkerId};
use tollgate_store::{
    Store, StoreError,
    audit::AuditWriter,
    loops::{self, Claim, Ending, LoopState, Standing, Suspended},
    workers,
};
use uuid::Uuid;

use support::{QUEUE, Who, opens, tenant};

struct World {
    pool: PgPool,
    store: Store,
    who: Who,
    root: LlmRequestId,
}

impl World {
    async fn new(pool: PgPool) -> Self {
        let (store, who) = (Store::from_pool(pool.clone()), Who::new(tenant(&pool).await));
        Self { pool, store, who, root: LlmRequestId::mint(support::now()) }
    }

    fn put(&self) -> Suspended {
        Suspended {
            tenant: self.who.tenant,
            root: self.root,
            key: self.who.key,
            request: self.root,
            turn: 1,
            settings: "{}".to_owned(),
            calls: "[]".to_owned(),
            progress: "{}".to_owned(),
            approvals: Vec::new(),
            runs: Vec::new(),
        }
    }

    async fn put_down(&self, put: &Suspended) {
        loops::put_down(&self.store, put, support::now()).await.unwrap();
    }

    async fn suspend(&self, put: &Suspended, claim: Claim) -> bool {
        loops::suspend(&self.store, put, claim, (support::now(), None)).await.unwrap()
    }

    async fn take(&self, worker: WorkerId) -> Option<Claim> {
        loops::claim_decided(&self.store, worker, 9).await.unwrap().pop().map(|(claim, _)| claim)
    }

    async fn listen(&self, worker: WorkerId) -> Result<Result<(Claim, Standing), Standing>, StoreError> {
        loops::listen(&self.store, (self.who.tenant, self.who.key), self.root, worker).await
    }

    async fn standing(&self) -> Standing {
        let mut tx = self.store.tenant(self.who.tenant).await.unwrap();
        loops::standing(&mut tx, self.who.tenant, self.root, None).await.unwrap().unwrap()
    }

    async fn sql(&self, sql: &'static str) {
        sqlx::query(sql).execute(&self.pool).await.unwrap();
    }
}

fn worker() -> WorkerId {
    WorkerId::mint(support::now())
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn one_of_many_takes_it_and_an_older_claim_does_nothing_more(pool: PgPool) {
    let world = World::new(pool).await;
    world.put_down(&world.put()).await;
    world.put_down(&Suspended { turn: 9, ..world.put() }).await;
    assert_eq!(world.standing().await.turn, 1, "a loop is put down for the first time once");
    assert_eq!(loops::waiting_of(&world.store, world.who.tenant, world.who.key).await.unwrap(), 1);
    let taken = join_all((0..8).map(|_| world.take(worker()))).await;
    let claims: Vec<Claim> = taken.into_iter().flatten().collect();
    let [first] = claims[..] else { panic!("{claims:?}") };
    assert_eq!(world.standing().await.state, LoopState::Going);

    // It is put down again and taken by another one: what the first still does is nothing.
    assert!(world.suspend(&Suspended { turn: 2, ..world.put() }, first).await);
    let second = world.take(worker()).await.unwrap();
    assert!(second.number > first.number);
    let ends = Ending::Failed("{}");
    assert!(!loops::step(&world.store, first, &world.put(), true).await.unwrap());
    assert!(!world.suspend(&world.put(), first).await);
    assert!(!loops::end(&world.store, first, (&ends, "{}"), support::now()).await.unwrap());
    assert_eq!((world.standing().await.state, world.standing().await.turn), (LoopState::Going, 2));

    let last = LlmRequestId::mint(support::now());
    let done = Ending::Done { request: last, turn: 3 };
    assert!(loops::end(&world.store, second, (&done, r#"{"turns":3}"#), support::now()).await.unwrap());
    let standing = world.standing().await;
    assert_eq!((standing.state, standing.request, standing.turn), (LoopState::Done, last, 3));
    assert!(world.take(worker()).await.is_none(), "what has ended is over");
    assert!(!loops::end(&world.store, second, (&ends, "{}"), support::now()).await.unwrap());
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn it_waits_for_each_of_its_approvals_and_runs(pool: PgPool) {
    let world = World::new(pool).await;
    let (approval, run) = (ApprovalId::mint(support::now()), ScriptRunId::mint(support::now()));
    sqlx::query(
        "INSERT INTO approvals (tenant_id, approval_id, state, key_id, tool_id, upstream_id, upstream_name, tool_name, call_id, llm_request_id,
           arguments_hmac, policy, confirmations, requested_at, expires_at) VALUES ($1, $2, 'pending', $1, $1, $1, 'u', 't', $1, $1, '', '', 1, now(), now())",
    )
    .bind(world.who.tenant.uuid())
    .bind(approval.uuid())
    .execute(&world.pool)
    .await
    .unwrap();
    world.put_down(&Suspended { approvals: vec![approval], runs: vec![run], ..world.put() }).await;
    assert!(world.take(worker()).await.is_none());
    world.sql("UPDATE approvals SET state = 'approved'").await;
    assert!(world.take(worker()).await.is_none(), "its run has not ended");
    assert!(world.standing().await.undecided);
    sqlx::query(
        "INSERT INTO script_run_ends (tenant_id, script_run_id, kind, at, state, ticks) VALUES ($1, $2, 1, now(), 'done', 1)",
    )
    .bind(world.who.tenant.uuid())
    .bind(run.uuid())
    .execute(&world.pool)
    .await
    .unwrap();
    assert!(!world.standing().await.undecided);
    assert!(world.take(worker()).await.is_some());
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_caller_that_waits_goes_first_and_only_the_keys_own(pool: PgPool) {
    let world = World::new(pool).await;
    assert!(matches!(world.listen(worker()).await, Err(StoreError::NotFound)));
    let approval = ApprovalId::mint(support::now());
    let put = Suspended { approvals: vec![approval], ..world.put() };
    sqlx::query(
        "INSERT INTO approvals (tenant_id, approval_id, state, key_id, tool_id, upstream_id, upstream_name, tool_name, call_id, llm_request_id,
           arguments_hmac, policy, confirmations, requested_at, expires_at) VALUES ($1, $2, 'pending', $1, $1, $1, 'u', 't', $1, $1, '', '', 1, now(), now())",
    )
    .bind(world.who.tenant.uuid())
    .bind(approval.uuid())
    .execute(&world.pool)
    .await
    .unwrap();
    world.put_down(&put).await;
    let standing = world.listen(worker()).await.unwrap().unwrap_err();
    assert!(standing.undecided && standing.state == LoopState::Waiting);
    world.sql("UPDATE approvals SET state = 'approved'").await;
    assert!(world.take(worker()).await.is_none(), "somebody waits for it");
    let foreign =
        loops::listen(&world.store, (world.who.tenant, support::Who::new(world.who.tenant).key), world.root, worker()).await;
    assert!(matches!(foreign, Err(StoreError::NotFound)));
    let (claim, _) = world.listen(worker()).await.unwrap().unwrap();

    // And who has waited and gone stands in nobody's way.
    world.suspend(&put, claim).await;
    world.sql("UPDATE agent_loops SET listened_until = clock_timestamp() + interval '1 hour'").await;
    assert!(world.take(worker()).await.is_none());
    world.sql("UPDATE agent_loops SET listened_until = clock_timestamp() - interval '1 second'").await;
    assert!(world.take(worker()).await.is_some());
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_dead_workers_loop_waits_again_and_counts_who_died_over_it(pool: PgPool) {
    let world = World::new(pool).await;
    let audit = AuditWriter::start(&world.store, QUEUE);
    world.put_down(&world.put()).await;
    for died in 1..=2 {
        let dead = worker();
        workers::heartbeat(&world.store, dead, Uuid::max()).await.unwrap();
        let claim = world.take(dead).await.unwrap();
        world.sql("UPDATE workers SET heartbeat_at = clock_timestamp() - interval '1 hour'").await;
        assert!(workers::sweep(&world.store, &audit, worker()).await.unwrap().is_some());
        let standing = world.standing().await;
        assert_eq!((standing.state, standing.stuck), (LoopState::Waiting, died));
        assert!(!loops::step(&world.store, claim, &world.put(), true).await.unwrap(), "it lives after all, and has lost it");
    }
    let claim = world.take(worker()).await.unwrap();
    assert!(loops::step(&world.store, claim, &world.put(), true).await.unwrap());
    assert_eq!(world.standing().await.stuck, 0, "it got further");

    loops::end(&world.store, claim, (&Ending::Failed("{}"), "{}"), support::now()).await.unwrap();
    workers::housekeeping(&world.store, support::now()).await.unwrap();
    assert_eq!(world.standing().await.state, LoopState::Failed);
    workers::housekeeping(&world.store, support::now() + TimeDelta::days(31)).await.unwrap();
    let mut tx = world.store.tenant(world.who.tenant).await.unwrap();
    assert!(loops::standing(&mut tx, world.who.tenant, world.root, None).await.unwrap().is_none());
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_claim_that_never_reached_its_worker_is_given_back(pool: PgPool) {
    let world = World::new(pool).await;
    world.put_down(&world.put()).await;
    let own = worker();
    workers::heartbeat(&world.store, own, Uuid::max()).await.unwrap();
    let claim = world.take(own).await.unwrap();
    let lost = async |worker, known: &[LlmRequestId]| loops::release_lost(&world.store, worker, known).await.unwrap();
    assert_eq!(lost(own, &[]).await, 0, "it may be on its way");
    world.sql("UPDATE agent_loops SET taken_at = clock_timestamp() - interval '1 minute'").await;
    assert_eq!((lost(own, &[world.root]).await, lost(worker(), &[]).await), (0, 0), "it is known, and its worker is there");
    assert_eq!(lost(own, &[]).await, 1);
    assert_eq!(world.standing().await.state, LoopState::Waiting);
    assert!(!world.suspend(&world.put(), claim).await);

    // And of a worker that has been forgotten.
    world.take(worker()).await.unwrap();
    world.sql("UPDATE agent_loops SET taken_at = clock_timestamp() - interval '1 minute'").await;
    assert_eq!(lost(own, &[]).await, 1);
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn what_would_not_go_rests_and_is_counted_until_it_gets_further(pool: PgPool) {
    let world = World::new(pool).await;
    world.put_down(&world.put()).await;
    let claim = world.take(worker()).await.unwrap();
    let until = Some(support::now() + TimeDelta::days(36_500));
    assert!(loops::suspend(&world.store, &world.put(), claim, (support::now(), until)).await.unwrap());
    assert!(world.take(worker()).await.is_none(), "it rests");
    assert_eq!(world.standing().await.tries, 1);
    // Whoever waits for it is not made to.
    let (claim, standing) = world.listen(worker()).await.unwrap().unwrap();
    assert_eq!(standing.tries, 1);
    assert!(loops::step(&world.store, claim, &world.put(), false).await.unwrap());
    assert_eq!(world.standing().await.tries, 1);
    assert!(loops::step(&world.store, claim, &world.put(), true).await.unwrap());
    assert_eq!(world.standing().await.tries, 0);
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn by_hand_only_a_call_of_the_loop_takes_it_over(pool: PgPool) {
    let world = World::new(pool).await;
    world.put_down(&Suspended { calls: r#"[{"id": "t1", "name": "crm__pay"}]"#.to_owned(), ..world.put() }).await;
    for (tool, state) in [("crm__find", LoopState::Waiting), ("crm__pay", LoopState::Failed)] {
        loops::take_over(&world.store, world.who.tenant, (world.root, tool), support::now()).await.unwrap();
        assert_eq!(world.standing().await.state, state, "{tool}");
    }
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn calls_that_nobody_has_named_are_seen(pool: PgPool) {
    let world = World::new(pool).await;
    let audit = AuditWriter::start(&world.store, QUEUE);
    let intent = world.who.intent("{}");
    let (call, request) = (intent.id, intent.request);
    audit.before(opens(intent)).await.unwrap();
    let strays = async |known: &[CallId]| {
        let known: Vec<Uuid> = known.iter().map(|id| id.uuid()).collect();
        let mut tx = world.store.tenant(world.who.tenant).await.unwrap();
        loops::has_strays(&mut tx, world.who.tenant, request, &known).await.unwrap()
    };
    assert!(strays(&[]).await);
    assert!(!strays(&[call]).await);
}
