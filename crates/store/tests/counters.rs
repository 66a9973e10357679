//! Rate limits are counted alike in Postgres, in Redis and in memory: whatever is asked, at whatever time, all three answer as
//! `domain::rate` says.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

#[path = "support/redis.rs"]
mod redis;
mod support;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgPool;
use tollgate_domain::{
    Clock, RateLimitId, TenantId,
    budget::BudgetScope,
    rate::{Claim, Measure, Meter, Per, RateLimit, SLOT_LIFE_US, Slots, Taken},
};
use tollgate_store::{Actor, Store, StoreError, counters::Counters, rates};
use uuid::Uuid;

use redis::Redis;
use support::{now, tenant};

#[derive(Debug)]
struct Hand(Mutex<DateTime<Utc>>);

impl Clock for Hand {
    fn now(&self) -> DateTime<Utc> {
        *self.0.lock().unwrap()
    }
}

impl Hand {
    fn turn(&self, micros: i64) {
        let mut now = self.0.lock().unwrap();
        *now += TimeDelta::microseconds(micros);
    }

    fn micros(&self) -> i64 {
        self.now().timestamp_micros()
    }
}

/// Dice that fall the same way each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }

    fn small(&mut self, below: u64) -> u32 {
        u32::try_from(self.roll(below)).unwrap()
    }
}

struct Three {
    tenant: TenantId,
    clock: Arc<Hand>,
    kept: Vec<Counters>,
    limits: Vec<RateLimit>,
    _redis: Redis,
}

impl Three {
    async fn new(pool: &PgPool, measures: &[(u32, Measure)]) -> Self {
        let store = Store::from_pool(pool.clone());
        let tenant = tenant(pool).await;
        let mut limits = Vec::new();
        let mut change = store.change(tenant, Actor::system("test"), now()).await.unwrap();
        for (max, measure) in measures {
            let limit = limit(*max, *measure);
            rates::create(&mut change, &limit, 100).await.unwrap();
            limits.push(limit);
        }
        change.commit().await.unwrap();
        let clock = Arc::new(Hand(Mutex::new(now())));
        let redis = Redis::start();
        let kept = vec![
            Counters::postgres(store).with_clock(clock.clone()),
            Counters::redis(&redis.url()).unwrap().with_clock(clock.clone()),
            Counters::memory(clock.clone()),
        ];
        Self { tenant, clock, kept, limits, _redis: redis }
    }

    /// The one answer of all three.
    async fn take(&self, limit: &RateLimit, weights: &[u32]) -> Vec<Taken> {
        let mut answers = Vec::new();
        for kept in &self.kept {
            answers.push((kept.name(), kept.take(self.tenant, limit, weights).await.unwrap()));
        }
        one(answers)
    }

    async fn settle(&self, limit: &RateLimit, difference: i64) {
        for kept in &self.kept {
            kept.settle(self.tenant, limit, difference).await.unwrap();
        }
    }

    async fn standing(&self, limit: &RateLimit) -> Taken {
        let mut answers = Vec::new();
        for kept in &self.kept {
            answers.push((kept.name(), kept.standing(self.tenant, limit).await.unwrap()));
        }
        one(answers)
    }
}

fn one<T: PartialEq + std::fmt::Debug>(answers: Vec<(&'static str, T)>) -> T {
    for (name, answer) in &answers[1..] {
        assert_eq!(answer, &answers[0].1, "{name} and {}", answers[0].0);
    }
    answers.into_iter().next().unwrap().1
}

fn limit(max: u32, measure: Measure) -> RateLimit {
    RateLimit { id: RateLimitId::mint(now()), name: "l".to_owned(), scope: BudgetScope::default(), max, measure, version: 1 }
}

const MILLI: i64 = 1_000;

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn the_table_of_cases_is_answered_alike_by_all_three(pool: PgPool) {
    let three = Three::new(&pool, &[(4, Measure::Calls(Per::Second)), (100, Measure::Tokens(Per::Minute))]).await;
    let [calls, tokens] = &three.limits[..] else { unreachable!() };
    let ms = Duration::from_millis;
    // Microseconds that go by, what is asked; of the last that was asked: taken, remaining, wait, even.
    let cases: [(&RateLimit, i64, &[u32], (bool, u64, Duration, Duration)); 13] = [
        (calls, 0, &[1], (true, 3, ms(0), ms(250))),
        (calls, 0, &[1, 1, 1], (true, 0, ms(250), ms(1000))),
        (calls, 0, &[1], (false, 0, ms(250), ms(1000))),
        (calls, 249_999, &[1], (false, 0, Duration::from_micros(1), Duration::from_micros(750_001))),
        (calls, 1, &[1], (true, 0, ms(250), ms(1000))),
        (calls, 600 * MILLI, &[1, 1, 1], (false, 0, ms(150), ms(900))),
        (calls, 100_000 * MILLI, &[1; 5], (false, 0, ms(250), ms(1000))),
        // The clock is set back by a minute.
        (calls, -60_000 * MILLI, &[1], (false, 0, ms(250), ms(1000))),
        (tokens, 0, &[60], (true, 40, ms(0), ms(36_000))),
        (tokens, 0, &[41, 40], (true, 0, ms(600), ms(60_000))),
        (tokens, 0, &[41], (false, 0, ms(24_600), ms(60_000))),
        (tokens, 60_000 * MILLI, &[250], (true, 0, ms(90_600), ms(150_000))),
        (tokens, 149_000 * MILLI, &[1_000_000], (false, 98, ms(1_000), ms(1_000))),
    ];
    for (n, (limit, micros, weights, (taken, remaining, wait, even))) in cases.into_iter().enumerate() {
        three.clock.turn(micros);
        let answers = three.take(limit, weights).await;
        assert_eq!(answers.last(), Some(&Taken { taken, remaining, wait, even }), "case {n}");
    }
    three.settle(tokens, 5_000).await;
    assert_eq!(three.standing(tokens).await.even, Duration::from_secs(600), "no more is owed than ten times the limit");
    three.settle(tokens, -5_000).await;
    assert_eq!(three.standing(tokens).await, Taken { taken: true, remaining: 100, wait: ms(0), even: ms(0) });
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn whatever_is_asked_all_three_answer_as_the_model_does(pool: PgPool) {
    let three = Three::new(
        &pool,
        &[
            (1, Measure::Calls(Per::Day)),
            (7, Measure::Calls(Per::Second)),
            (999_999, Measure::Calls(Per::Second)),
            (60, Measure::Calls(Per::Minute)),
            (7_777_777, Measure::Tokens(Per::Day)),
            (90_000, Measure::Tokens(Per::Minute)),
            (100_000_000, Measure::Tokens(Per::Second)),
        ],
    )
    .await;
    let mut meters = vec![Meter::default(); three.limits.len()];
    let mut dice = Dice(41);
    let (mut taken, mut refused) = (0, 0);
    for n in 0..1_500 {
        let spread = [0, 3, 1_000, 200_000, 30_000_000][usize::try_from(dice.roll(5)).unwrap()];
        let back = if dice.roll(20) == 0 { -1 } else { 1 };
        three.clock.turn(back * i64::try_from(dice.roll(spread + 1)).unwrap());
        let at = usize::try_from(dice.roll(7)).unwrap();
        let (limit, pace) = (&three.limits[at], three.limits[at].pace().unwrap());
        let heaviest = if at < 4 { 1 } else { u64::from(limit.max) * 2 };
        match dice.roll(10) {
            0 => {
                let difference = i64::try_from(dice.roll(heaviest)).unwrap() - i64::try_from(heaviest / 2).unwrap();
                three.settle(limit, difference).await;
                meters[at].count(&pace, three.clock.micros(), difference, &[]);
            }
            1 => {
                let debt = meters[at].look(&pace, three.clock.micros());
                assert_eq!(three.standing(limit).await, pace.standing(true, debt, 1), "{n}: {limit:?}");
            }
            _ => {
                let few = 1 << dice.roll(6);
                let weights: Vec<u32> = (0..1 + dice.roll(few)).map(|_| 1 + dice.small(heaviest)).collect();
                let expected = meters[at].count(&pace, three.clock.micros(), 0, &weights).into_iter().zip(&weights);
                let expected: Vec<Taken> = expected.map(|((ok, debt), weight)| pace.standing(ok, debt, *weight)).collect();
                taken += expected.iter().filter(|answer| answer.taken).count();
                refused += expected.iter().filter(|answer| !answer.taken).count();
                assert_eq!(three.take(limit, &weights).await, expected, "{n}: {limit:?}, {weights:?}");
            }
        }
    }
    assert!(taken > 1_000 && refused > 1_000, "{taken} taken, {refused} refused");
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn calls_under_way_are_counted_alike_whoever_says_what_and_whenever(pool: PgPool) {
    let three = Three::new(&pool, &[(5, Measure::Concurrent)]).await;
    let limit = &three.limits[0];
    let mut model = Slots::default();
    let workers: Vec<Uuid> = (0..3).map(|_| Uuid::new_v4()).collect();
    let mut held = [0_u32; 3];
    let mut dice = Dice(7);
    let (mut begun, mut refused) = (0, 0);
    for n in 0..1_200_i64 {
        // Now and then a worker falls silent for long, or the clock is set back.
        let step = match dice.roll(40) {
            0 => SLOT_LIFE_US - 1_000_000,
            1 => -30_000_000,
            _ => i64::try_from(dice.roll(300_000)).unwrap(),
        };
        three.clock.turn(step);
        let at = usize::try_from(dice.roll(3)).unwrap();
        held[at] -= dice.small(u64::from(held[at]) + 1);
        // Every tenth arrives behind something later.
        let sequence = if dice.roll(10) == 0 { n - 5 } else { n };
        let claim = Claim { worker: workers[at], sequence, held: held[at], wanted: dice.small(4) };
        let expected = model.claim(limit.max, three.clock.micros(), &claim);
        let mut answers = Vec::new();
        for kept in &three.kept {
            answers.push((kept.name(), kept.claim(three.tenant, limit, &claim).await.unwrap()));
        }
        assert_eq!(one(answers), expected, "{n}: {claim:?}");
        if sequence == n {
            begun += expected.own - held[at];
            refused += claim.wanted - (expected.own - held[at]);
            held[at] = expected.own;
        }
        let left = limit.max.saturating_sub(model.look(three.clock.micros()));
        assert_eq!(three.standing(limit).await.remaining, u64::from(left), "{n}");
    }
    assert!(begun > 100 && refused > 100, "{begun} begun, {refused} refused");
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn an_edited_limit_begins_anew_wherever_it_is_counted(pool: PgPool) {
    let three = Three::new(&pool, &[(2, Measure::Calls(Per::Day))]).await;
    let store = Store::from_pool(pool.clone());
    assert!(!three.take(&three.limits[0], &[1, 1, 1]).await[2].taken);
    let mut change = store.change(three.tenant, Actor::system("test"), now()).await.unwrap();
    let row = rates::lock(&mut change, three.limits[0].id).await.unwrap();
    let edited = rates::update(&mut change, row).await.unwrap().limit;
    change.commit().await.unwrap();
    assert_eq!(edited.version, 2);
    let answers = three.take(&edited, &[1, 1, 1]).await;
    assert_eq!(answers.iter().map(|answer| answer.taken).collect::<Vec<_>>(), [true, true, false]);
}

#[tokio::test]
async fn a_redis_that_was_killed_is_known_to_be_away_and_begins_anew_when_it_is_back() {
    let mut redis = Redis::start();
    let counters = Counters::redis(&redis.url()).unwrap();
    let tenant = TenantId::mint(now());
    let limit = limit(3, Measure::Calls(Per::Day));
    let taken = async || counters.take(tenant, &limit, &[1; 5]).await.map(|all| all.iter().filter(|taken| taken.taken).count());
    assert_eq!(taken().await.unwrap(), 3);
    assert_eq!(taken().await.unwrap(), 0);
    redis.kill();
    let began = std::time::Instant::now();
    for _ in 0..3 {
        let away = taken().await;
        assert!(matches!(away, Err(StoreError::Redis(_))), "{away:?}");
    }
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    redis.run();
    let began = std::time::Instant::now();
    let back = loop {
        match taken().await {
            Ok(back) => break back,
            Err(error) => assert!(began.elapsed() < Duration::from_secs(10), "{error}"),
        }
    };
    assert_eq!(back, 3, "it knows nothing of what was before");
}

#[tokio::test]
async fn a_redis_that_hangs_keeps_nobody_waiting_for_long() {
    let redis = Redis::start();
    let counters = Counters::redis(&redis.url()).unwrap();
    let (tenant, limit) = (TenantId::mint(now()), limit(3, Measure::Calls(Per::Day)));
    counters.take(tenant, &limit, &[1]).await.unwrap();
    let signal = |name: &str| {
        let done = std::process::Command::new("sh").args(["-c", "kill -$1 $2", "sh", name, &redis.pid().to_string()]).status();
        assert!(done.unwrap().success());
    };
    signal("STOP");
    let began = std::time::Instant::now();
    let hangs = counters.take(tenant, &limit, &[1]).await;
    assert!(matches!(hangs, Err(StoreError::Redis(_))), "{hangs:?}");
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    signal("CONT");
    let began = std::time::Instant::now();
    while let Err(error) = counters.take(tenant, &limit, &[1]).await {
        assert!(began.elapsed() < Duration::from_secs(10), "{error}");
    }
}
