//! Leases of budgets: whatever workers, crashes, sweepers and sealers do, and in whatever order, a limit holds to the pico, and in the
//! end what a budget says was spent is the sum of its calls' rows.

mod support;

use std::collections::HashMap;

use sqlx::{PgPool, Row};
use tollgate_domain::{
    Budget, BudgetId, Outcome, Picos, TenantId, TimeZone, WorkerId,
    budget::{BudgetScope, Enforcement, Period, Window},
    ids,
    rate::{Measure, Per, RateLimit},
};
use tollgate_store::{
    Actor, Store,
    audit::{AuditError, AuditWriter, Completion, Entry, Intent, Resolution},
    budgets,
    counters::Counters,
    rates, sealer,
    spend::{self, Granted, Wanted},
};
use uuid::Uuid;

use support::{QUEUE, Who, closes, now, opens, seal_all, tenant};

async fn budget(store: &Store, tenant: TenantId, limit: i64, thresholds: Vec<u8>) -> (Budget, Window) {
    let budget = Budget {
        id: BudgetId::mint(now()),
        name: "b".to_owned(),
        scope: BudgetScope::default(),
        limit: Picos(limit),
        period: Period::Month,
        rolling_days: None,
        enforcement: Enforcement::Hard,
        thresholds,
    };
    let mut change = store.change(tenant, Actor::system("test"), now()).await.unwrap();
    budgets::create(&mut change, &budget, 10).await.unwrap();
    change.commit().await.unwrap();
    let window = budget.window(TimeZone::UTC, now());
    (budget, window)
}

fn wanted(tenant: TenantId, budget: &Budget, window: Window, need: i64, want: i64) -> Wanted {
    let floor = ids::floor(now() - chrono::TimeDelta::minutes(1));
    Wanted { tenant, budget: budget.id, window, at: now(), need: Picos(need), waiting: Picos(need), want: Picos(want), floor }
}

/// What a budget's windows say: granted, spent.
async fn stands(pool: &PgPool, budget: BudgetId) -> (i128, i128) {
    let row = sqlx::query(
        "SELECT COALESCE(sum(granted), 0)::text, COALESCE(sum(spent), 0)::text FROM budget_windows WHERE budget_id = $1",
    );
    let row = row.bind(budget.uuid()).fetch_one(pool).await.unwrap();
    (row.get::<String, _>(0).parse().unwrap(), row.get::<String, _>(1).parse().unwrap())
}

async fn sum_of_rows(pool: &PgPool, tenant: TenantId) -> i128 {
    let sum = sqlx::query_scalar::<_, String>("SELECT COALESCE(sum(amount_picos), 0)::text FROM tool_calls WHERE tenant_id = $1");
    sum.bind(tenant.uuid()).fetch_one(pool).await.unwrap().parse().unwrap()
}

/// A worker's leases are no longer renewed.
async fn expire(pool: &PgPool, worker: WorkerId) {
    let expire = sqlx::query(
        "UPDATE budget_leases SET expires_at = clock_timestamp() - interval '1 s' WHERE worker_id = $1 AND closed_at IS NULL",
    );
    expire.bind(worker.uuid()).execute(pool).await.unwrap();
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn t58_a_call_cannot_draw_from_a_lease_that_has_ended_and_its_neighbours_do_not_suffer(pool: PgPool) {
    let store = Store::from_pool(pool.clone());
    let who = Who::new(tenant(&pool).await);
    let (budget, window) = budget(&store, who.tenant, 1000, vec![]).await;
    let audit = AuditWriter::start(&store, QUEUE);
    audit.before(Entry { request: Some(who.request()), ..Entry::default() }).await.unwrap();
    let lease = |need| {
        let (store, wanted) = (store.clone(), wanted(who.tenant, &budget, window, need, need));
        async move { spend::lease(&store, who.worker, &wanted).await.unwrap() }
    };
    let (closed, expired, open) = (lease(100).await, lease(100).await, lease(100).await);
    spend::close(&store, closed.lease, Some(Picos(0))).await.unwrap();
    let past = "UPDATE budget_leases SET expires_at = clock_timestamp() - interval '1 ms' WHERE lease_id = $1";
    sqlx::query(past).bind(expired.lease).execute(&pool).await.unwrap();

    let calls = [vec![closed.lease], vec![open.lease], vec![open.lease, expired.lease], vec![], vec![Uuid::new_v4()]];
    let mut tasks = Vec::new();
    for leases in calls {
        let intent = Intent { leases, ..who.intent("{}") };
        let audit = audit.clone();
        tasks.push(tokio::spawn(async move { (intent.id, audit.before(opens(intent)).await) }));
    }
    let mut answers = Vec::new();
    for task in tasks {
        answers.push(task.await.unwrap());
    }
    let ended = Err(AuditError::LeaseEnded);
    assert_eq!(answers.iter().map(|(_, answer)| *answer).collect::<Vec<_>>(), [ended, Ok(()), ended, Ok(()), ended]);
    for (call, answer) in answers {
        let there = sqlx::query_scalar::<_, bool>("SELECT EXISTS (SELECT FROM tool_call_events WHERE call_id = $1)");
        assert_eq!(there.bind(call.uuid()).fetch_one(&pool).await.unwrap(), answer.is_ok());
    }
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn t58_near_the_limit_slices_shrink_and_none_is_granted_beyond_it(pool: PgPool) {
    let store = Store::from_pool(pool.clone());
    let tenant = tenant(&pool).await;
    let (budget, window) = budget(&store, tenant, 1600, vec![]).await;
    let worker = WorkerId::mint(now());
    let take = |need, want| {
        let (store, wanted) = (store.clone(), wanted(tenant, &budget, window, need, want));
        async move { spend::lease(&store, worker, &wanted).await.unwrap() }
    };
    assert_eq!(take(1, 10_000).await.amount, Picos(100));
    assert_eq!(take(1, 10_000).await.amount, Picos(93));
    assert_eq!(take(700, 10_000).await.amount, Picos(700));
    assert_eq!(take(707, 1).await.amount, Picos(707));
    let none = take(1, 1).await;
    assert_eq!((none.amount, none.remaining), (Picos(0), Picos(0)));
    assert_eq!(stands(&pool, budget.id).await, (1600, 0));
    // What others hold is told, so that they can be asked for it; what one holds oneself is not.
    let other = spend::lease(&store, WorkerId::mint(now()), &wanted(tenant, &budget, window, 1, 1)).await.unwrap();
    assert_eq!((none.idle, other.idle), (0, 1600));

    // At once, from everywhere.
    let (second, window) = small(&store, tenant).await;
    let mut tasks = Vec::new();
    for n in 0..40_i64 {
        let (store, wanted) = (store.clone(), wanted(tenant, &second, window, 7 + n % 3, 30));
        tasks.push(tokio::spawn(async move { spend::lease(&store, WorkerId::mint(now()), &wanted).await.unwrap().amount.0 }));
    }
    let mut granted = 0;
    for task in tasks {
        granted += task.await.unwrap();
    }
    assert!(granted <= 100, "{granted}");
    assert_eq!(stands(&pool, second.id).await.0, i128::from(granted));
}

async fn small(store: &Store, tenant: TenantId) -> (Budget, Window) {
    budget(store, tenant, 100, vec![]).await
}

/// Dice that fall the same way each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: i64) -> i64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % below.unsigned_abs()) as i64
    }
}

/// One open call: its intent, what it was opened at, whether the sweeper has resolved it.
struct Open {
    intent: Intent,
    resolved: bool,
}

/// A worker as the database sees it: leases, and what is left of each.
struct Worker {
    id: WorkerId,
    leases: HashMap<BudgetId, Vec<(Granted, i64)>>,
}

impl Worker {
    fn new() -> Self {
        Self { id: WorkerId::mint(now()), leases: HashMap::new() }
    }
}

struct Play {
    pool: PgPool,
    store: Store,
    audit: AuditWriter,
    who: Who,
    budgets: Vec<(Budget, Window)>,
    workers: Vec<Worker>,
    open: Vec<Open>,
    dice: Dice,
    refused: usize,
}

impl Play {
    async fn step(&mut self) {
        match self.dice.roll(100) {
            0..45 => self.call().await,
            45..80 => self.complete().await,
            80..84 => self.give_back().await,
            84..87 => self.crash().await,
            87..91 => drop(spend::reap(&self.store).await.unwrap()),
            91..96 => self.resolve().await,
            // Others go on writing: nobody waits until nothing is left.
            _ => drop(sealer::round(&self.store, now()).await.unwrap()),
        }
    }

    /// Draw from every budget, as a worker's wallet does, and write the row.
    async fn call(&mut self) {
        let at = self.dice.roll(self.workers.len() as i64) as usize;
        let amount = 1 + self.dice.roll(1_000);
        let mut leases = Vec::new();
        for (budget, window) in &self.budgets {
            let worker = &mut self.workers[at];
            let held = worker.leases.entry(budget.id).or_default();
            let lease = match held.iter_mut().find(|(_, left)| *left >= amount) {
                Some((lease, left)) => {
                    *left -= amount;
                    lease.lease
                }
                None => {
                    let want = wanted(self.who.tenant, budget, *window, amount, amount * 8);
                    let granted = spend::lease(&self.store, worker.id, &want).await.unwrap();
                    if granted.amount.0 < amount {
                        self.refused += 1;
                        // All or nothing: what the others gave stays drawn until the lease is closed by its rows.
                        return self.forget(at).await;
                    }
                    held.push((granted, granted.amount.0 - amount));
                    granted.lease
                }
            };
            leases.push(lease);
        }
        let quote = tollgate_domain::price::Quote { price_id: None, amount: Picos(amount), applied: None };
        let intent = Intent { leases, quote, worker: self.workers[at].id, ..self.who.intent("{}") };
        match self.audit.before(opens(intent.clone())).await {
            Ok(()) => self.open.push(Open { intent, resolved: false }),
            Err(AuditError::LeaseEnded) => self.workers[at] = Worker::new(),
            Err(error) => panic!("{error}"),
        }
    }

    async fn complete(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let open = self.open.swap_remove(self.dice.roll(self.open.len() as i64) as usize);
        let amount = Picos(self.dice.roll(open.intent.quote.amount.0 + 1));
        let mut completion = self.who.completion(open.intent.id, Outcome::Ok, b"{}");
        completion.amount = amount;
        self.audit.after(closes(completion)).await.unwrap();
    }

    /// Close a worker's leases by what is read from the rows: it does not know what it has drawn.
    async fn forget(&mut self, at: usize) {
        for (lease, _) in std::mem::take(&mut self.workers[at].leases).into_values().flatten() {
            spend::close(&self.store, lease.lease, None).await.unwrap();
        }
    }

    async fn give_back(&mut self) {
        let at = self.dice.roll(self.workers.len() as i64) as usize;
        for (lease, left) in std::mem::take(&mut self.workers[at].leases).into_values().flatten() {
            let drawn = Picos(lease.amount.0 - left);
            spend::close(&self.store, lease.lease, Some(drawn)).await.unwrap();
            // An answer that was lost: it is closed once.
            spend::close(&self.store, lease.lease, Some(Picos(0))).await.unwrap();
        }
    }

    /// A worker that does not renew; it may not be dead, and its next call finds out.
    async fn crash(&mut self) {
        let at = self.dice.roll(self.workers.len() as i64) as usize;
        expire(&self.pool, self.workers[at].id).await;
        if self.dice.roll(2) == 0 {
            self.workers[at] = Worker::new();
        }
    }

    /// The sweeper takes a call's worker for dead; the truth may still come.
    async fn resolve(&mut self) {
        let Some(open) = self.open.iter_mut().find(|open| !open.resolved) else { return };
        open.resolved = true;
        let (tenant, id) = (open.intent.tenant, open.intent.id);
        // What is charged then may be less than the quote, and less than the truth.
        let amount = Picos(self.dice.roll(open.intent.quote.amount.0 + 1));
        let resolutions = vec![Resolution { tenant, id, amount, at: now() }];
        self.audit.before(Entry { resolutions, ..Entry::default() }).await.unwrap();
    }

    async fn check(&self) {
        let rows = sum_of_rows(&self.pool, self.who.tenant).await;
        for (budget, _) in &self.budgets {
            let (granted, spent) = stands(&self.pool, budget.id).await;
            assert!(granted <= i128::from(budget.limit.0), "{granted} of {}", budget.limit.0);
            assert!(spent <= granted && rows <= granted, "spent {spent}, rows {rows}, granted {granted}");
        }
    }
}

/// A number of the environment, for longer plays than every test run has time for.
#[expect(clippy::disallowed_methods, reason = "a test's own settings")]
fn from_environment(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

/// One tenant's play: so many steps, then everyone completes what is open.
async fn play(pool: PgPool, audit: AuditWriter, (operations, seed): (usize, u64)) -> Play {
    let store = Store::from_pool(pool.clone());
    let who = Who::new(tenant(&pool).await);
    let scale = i64::try_from(operations).unwrap();
    let budgets = vec![
        budget(&store, who.tenant, 80 * scale, vec![50, 100]).await,
        budget(&store, who.tenant, 60 * scale, vec![]).await,
        budget(&store, who.tenant, 1_000 * scale, vec![]).await,
    ];
    audit.before(Entry { request: Some(who.request()), ..Entry::default() }).await.unwrap();
    let workers = (0..3).map(|_| Worker::new()).collect();
    let mut play = Play { pool, store, audit, who, budgets, workers, open: vec![], dice: Dice(seed), refused: 0 };
    for n in 0..operations {
        play.step().await;
        // It reads all rows there are.
        if n % (operations / 100).max(50) == 0 {
            play.check().await;
        }
    }
    assert!(play.refused > 10, "the limit was never reached: {}", play.refused);
    while !play.open.is_empty() {
        play.complete().await;
    }
    play
}

/// `TOLLGATE_OPERATIONS` steps in all, of `TOLLGATE_PLAYERS` tenants side by side.
#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn t59_the_ledger_is_the_sum_of_the_rows_whatever_happens(pool: PgPool) {
    let players = from_environment("TOLLGATE_PLAYERS", 2).max(1);
    let operations = from_environment("TOLLGATE_OPERATIONS", 4_000) / players;
    let store = Store::from_pool(pool.clone());
    let audit = AuditWriter::start(&store, QUEUE);
    let plays = (0..players).map(|n| {
        let seed = 7 + 2_654_435_761 * u64::try_from(n).unwrap();
        tokio::spawn(play(pool.clone(), audit.clone(), (operations, seed)))
    });
    let plays: Vec<_> = plays.collect();
    let mut played = Vec::new();
    for play in plays {
        played.push(play.await.unwrap());
    }
    let expire = "UPDATE budget_leases SET expires_at = clock_timestamp() - interval '1 s'";
    sqlx::query(expire).execute(&pool).await.unwrap();
    while spend::reap(&store).await.unwrap() > 0 {}
    seal_all(&store).await;
    for play in &played {
        let rows = sum_of_rows(&pool, play.who.tenant).await;
        for (budget, _) in &play.budgets {
            // Settled and remaining make up the limit, and settled is the trail.
            assert_eq!(stands(&pool, budget.id).await, (rows, rows));
        }
    }
    let open = "SELECT count(*) FROM budget_leases WHERE closed_at IS NULL";
    assert_eq!(support::count(&pool, open).await, 0);
    let alerts = "SELECT count(*) FROM admin_events WHERE action = 'budget.threshold'";
    let alerts = usize::try_from(support::count(&pool, alerts).await).unwrap();
    assert_eq!(alerts, players, "half of each first budget, once");
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn t58_what_a_call_may_still_turn_out_to_cost_stays_held_until_nobody_can_say_so(pool: PgPool) {
    let store = Store::from_pool(pool.clone());
    let who = Who::new(tenant(&pool).await);
    let (budget, window) = budget(&store, who.tenant, 100, vec![]).await;
    let audit = AuditWriter::start(&store, QUEUE);
    audit.before(Entry { request: Some(who.request()), ..Entry::default() }).await.unwrap();
    let mut calls = Vec::new();
    for _ in 0..2 {
        let granted = spend::lease(&store, who.worker, &wanted(who.tenant, &budget, window, 50, 50)).await.unwrap();
        let quote = tollgate_domain::price::Quote { price_id: None, amount: Picos(50), applied: None };
        let intent = Intent { leases: vec![granted.lease], quote, ..who.intent("{}") };
        audit.before(opens(intent.clone())).await.unwrap();
        spend::close(&store, granted.lease, None).await.unwrap();
        let resolutions = vec![Resolution { tenant: who.tenant, id: intent.id, amount: Picos(1), at: now() }];
        audit.before(Entry { resolutions, ..Entry::default() }).await.unwrap();
        calls.push(intent.id);
    }
    seal_all(&store).await;
    assert_eq!(stands(&pool, budget.id).await, (100, 2));
    let none = spend::lease(&store, who.worker, &wanted(who.tenant, &budget, window, 1, 1)).await.unwrap();
    assert_eq!(none.amount, Picos(0), "a late truth could be as much as was quoted");
    // One of the two workers was not dead.
    let truth = Completion { amount: Picos(50), ..who.completion(calls[0], Outcome::Ok, b"{}") };
    audit.after(closes(truth)).await.unwrap();
    seal_all(&store).await;
    assert_eq!(stands(&pool, budget.id).await, (100, 51));
    sqlx::query("SELECT tollgate_forget_leases(1)").execute(&pool).await.unwrap();
    assert_eq!(stands(&pool, budget.id).await, (100, 51), "the other may still turn up");
    sqlx::query("SELECT tollgate_forget_leases(0)").execute(&pool).await.unwrap();
    assert_eq!(stands(&pool, budget.id).await, (51, 51));
    assert_eq!(sum_of_rows(&pool, who.tenant).await, 51);
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn what_a_refused_intent_carries_has_happened_and_is_written(pool: PgPool) {
    let store = Store::from_pool(pool.clone());
    let who = Who::new(tenant(&pool).await);
    let audit = AuditWriter::start(&store, QUEUE);
    audit.before(Entry { request: Some(who.request()), ..Entry::default() }).await.unwrap();
    let before = who.intent("{}");
    audit.before(opens(before.clone())).await.unwrap();
    let next = Intent { leases: vec![Uuid::new_v4()], ..who.intent("{}") };
    let entry = Entry {
        completions: vec![who.completion(before.id, Outcome::Ok, b"{}")],
        intent: Some(next.clone()),
        ..Entry::default()
    };
    let refused = audit.intent(entry).await;
    assert!(matches!(refused, Err((AuditError::LeaseEnded, None))), "{refused:?}");
    assert_eq!(support::row(&pool, before.id).await.0.as_deref(), Some("ok"));
    let there = sqlx::query_scalar::<_, bool>("SELECT EXISTS (SELECT FROM tool_call_events WHERE call_id = $1)");
    assert!(!there.bind(next.id.uuid()).fetch_one(&pool).await.unwrap());
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn t58_parts_of_a_rolling_budget_count_together_whoever_asks_first(pool: PgPool) {
    let store = Store::from_pool(pool.clone());
    let tenant = tenant(&pool).await;
    for _ in 0..5 {
        let rolling = Budget { period: Period::Rolling, rolling_days: Some(7), ..budget(&store, tenant, 100, vec![]).await.0 };
        let part = chrono::TimeDelta::days(7) / 48;
        let mut tasks = Vec::new();
        for n in 0..30 {
            let at = now() + part * (n % 3);
            let window = rolling.window(TimeZone::UTC, at);
            let wanted = Wanted { at, ..wanted(tenant, &rolling, window, 9, 9) };
            let store = store.clone();
            tasks.push(tokio::spawn(async move { spend::lease(&store, WorkerId::mint(now()), &wanted).await.unwrap().amount.0 }));
        }
        let mut granted = 0;
        for task in tasks {
            granted += task.await.unwrap();
        }
        assert_eq!(granted, 99);
        assert_eq!(stands(&pool, rolling.id).await.0, 99);
    }
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn t58_another_time_zone_is_no_second_limit(pool: PgPool) {
    let store = Store::from_pool(pool.clone());
    let tenant = tenant(&pool).await;
    let (budget, window) = budget(&store, tenant, 100, vec![]).await;
    let at = window.starts_at + chrono::TimeDelta::days(10);
    let ask = |window, at, need| {
        let (store, wanted) = (store.clone(), Wanted { at, ..wanted(tenant, &budget, window, need, need) });
        async move { spend::lease(&store, WorkerId::mint(now()), &wanted).await.unwrap() }
    };
    assert_eq!(ask(window, at, 100).await.amount, Picos(100));
    let berlin = budget.window("Europe/Berlin".parse().unwrap(), at);
    assert_ne!(berlin.starts_at, window.starts_at);
    let refused = ask(berlin, at, 1).await;
    assert_eq!((refused.amount, refused.until), (Picos(0), window.ends_at));
    // The next period is that of the new zone.
    let next = budget.window("Europe/Berlin".parse().unwrap(), window.ends_at);
    let granted = ask(next, window.ends_at, 1).await;
    assert_eq!((granted.amount, granted.until), (Picos(1), next.ends_at));
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_rate_limit_is_exact_and_begins_anew_when_it_is_changed(pool: PgPool) {
    let store = Store::from_pool(pool.clone());
    let tenant = tenant(&pool).await;
    let id = tollgate_domain::RateLimitId::mint(now());
    let measure = Measure::Calls(Per::Day);
    let limit = RateLimit { id, name: "l".to_owned(), scope: BudgetScope::default(), max: 100, measure, version: 1 };
    let counters = Counters::postgres(store.clone());
    let change = || store.change(tenant, Actor::system("test"), now());
    let mut write = change().await.unwrap();
    let row = rates::create(&mut write, &limit, 10).await.unwrap();
    write.commit().await.unwrap();
    let mut tasks = Vec::new();
    for n in 0..30 {
        let (counters, limit) = (counters.clone(), limit.clone());
        tasks.push(tokio::spawn(async move {
            let taken = counters.take(tenant, &limit, &vec![1; 1 + n % 7]).await.unwrap();
            taken.iter().filter(|taken| taken.taken).count()
        }));
    }
    let mut taken = 0;
    for task in tasks {
        taken += task.await.unwrap();
    }
    assert_eq!(taken, 100, "all that were asked for are more, and none comes back within the test");
    let none = counters.take(tenant, &limit, &[1; 3]).await.unwrap();
    assert!(none.iter().all(|none| !none.taken && none.remaining == 0 && none.wait.as_secs() > 800), "{none:?}");
    counters.settle(tenant, &limit, -2).await.unwrap();
    assert_eq!(counters.standing(tenant, &limit).await.unwrap().remaining, 2);
    let mut write = change().await.unwrap();
    let changed = rates::RateLimitRow { limit: RateLimit { measure: Measure::Calls(Per::Second), ..limit.clone() }, ..row };
    let changed = rates::update(&mut write, changed).await.unwrap();
    write.commit().await.unwrap();
    let anew = counters.take(tenant, &changed.limit, &[1; 100]).await.unwrap();
    assert!(anew.iter().all(|taken| taken.taken));
}
