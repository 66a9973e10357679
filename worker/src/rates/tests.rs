use std::sync::atomic::{AtomicU32, Ordering};

use chrono::{DateTime, TimeDelta, Utc};
use tollgate_domain::{Clock, KeyId, ToolId, budget::BudgetScope, rate::Measure};
use uuid::Uuid;

use super::*;

#[derive(Debug)]
struct Hand(Mutex<DateTime<Utc>>);

impl Clock for Hand {
    fn now(&self) -> DateTime<Utc> {
        *self.0.lock().unwrap()
    }
}

struct Desk {
    rates: Rates,
    clock: Arc<Hand>,
    tenant: TenantId,
    spender: Spender,
}

impl Desk {
    fn new() -> Self {
        let clock = Arc::new(Hand(Mutex::new("2026-11-28T12:00:00Z".parse().unwrap())));
        let rates = Rates::new(Counters::memory(clock.clone()), Uuid::from_u128(1).into());
        let spender = Spender { team: None, key: Uuid::from_u128(2).into(), upstream: None, tool: None };
        Self { rates, clock, tenant: Uuid::from_u128(3).into(), spender }
    }

    async fn enter(&self, limits: &[RateLimit]) -> Result<Vec<Slot>, Slow> {
        self.rates.enter(self.tenant, limits, &self.spender, &Told::default()).await
    }

    async fn take(&self, limits: &[RateLimit], tokens: u32) -> Result<(), Slow> {
        self.rates.take(self.tenant, limits, &self.spender, tokens, &Told::default()).await
    }

    async fn left(&self, limit: &RateLimit) -> u64 {
        self.rates.standing(self.tenant, limit).await.unwrap().remaining
    }
}

fn limit(id: u128, max: u32, measure: Measure) -> RateLimit {
    let name = format!("l{id}");
    RateLimit { id: Uuid::from_u128(id).into(), name, scope: BudgetScope::default(), max, measure, version: 1 }
}

#[tokio::test]
async fn tokens_are_taken_before_and_corrected_behind() {
    let desk = Desk::new();
    let limits = [limit(1, 100, Measure::Tokens(Per::Minute)), limit(2, 1, Measure::Calls(Per::Day))];
    desk.take(&limits, 60).await.unwrap();
    let refused = desk.take(&limits, 60).await.unwrap_err().to_string();
    assert_eq!(refused, "rate limit \"l1\" (100 tokens a minute) is used up; try again in 12 s");
    // It used 10: of what it did not use others can have.
    desk.rates.correct(desk.tenant, &limits, &desk.spender, -50).await;
    desk.take(&limits, 60).await.unwrap();
    assert_eq!(desk.left(&limits[0]).await, 30);
    // It used a thousand more: nobody has any until that is made up for.
    desk.rates.correct(desk.tenant, &limits, &desk.spender, 1_000).await;
    assert!(desk.take(&limits, 1).await.is_err());
    *desk.clock.0.lock().unwrap() += TimeDelta::minutes(11);
    desk.take(&limits, 100).await.unwrap();
    // Tokens are no calls.
    assert_eq!(desk.left(&limits[1]).await, 1);
}

#[tokio::test]
async fn a_call_that_one_limit_refuses_counts_under_none() {
    let desk = Desk::new();
    let limits =
        [limit(1, 10, Measure::Calls(Per::Hour)), limit(2, 2, Measure::Calls(Per::Hour)), limit(3, 5, Measure::Concurrent)];
    let told = Told::default();
    let mut slots = Vec::new();
    for _ in 0..2 {
        slots.push(desk.rates.enter(desk.tenant, &limits, &desk.spender, &told).await.unwrap());
    }
    let refused = desk.rates.enter(desk.tenant, &limits, &desk.spender, &told).await;
    assert!(matches!(refused, Err(Slow::Limited { max: 2, .. })), "{refused:?}");
    let standing = told.get().unwrap();
    assert_eq!((standing.limit, standing.remaining, standing.retry_after), (2, 0, Some(Duration::from_secs(1_800))));
    assert_eq!((desk.left(&limits[0]).await, desk.left(&limits[1]).await), (8, 0));
    // What it had under way it gives back a moment later.
    while desk.left(&limits[2]).await != 3 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn those_who_are_refused_together_are_told_to_come_one_after_the_other() {
    let limit = limit(1, 60, Measure::Calls(Per::Minute));
    let pace = limit.pace().unwrap();
    let refused = pace.standing(false, pace.room(), 1);
    let waits: Vec<_> = stagger(&limit, &[1; 3], vec![refused; 3]).into_iter().map(|taken| taken.wait.as_secs()).collect();
    assert_eq!(waits, [1, 2, 3]);
}

#[tokio::test]
async fn what_names_a_tool_does_not_cover_a_request_to_a_model() {
    let desk = Desk::new();
    let tool = ToolId::from(Uuid::from_u128(9));
    let named =
        RateLimit { scope: BudgetScope { tool: Some(tool), ..BudgetScope::default() }, ..limit(1, 1, Measure::Calls(Per::Day)) };
    let other = BudgetScope { key: Some(KeyId::from(Uuid::from_u128(7))), ..BudgetScope::default() };
    let other = RateLimit { scope: other, ..limit(2, 1, Measure::Calls(Per::Day)) };
    for _ in 0..3 {
        desk.enter(&[named.clone(), other.clone()]).await.unwrap();
    }
    let call = Spender { tool: Some(tool), ..desk.spender };
    let told = Told::default();
    desk.rates.enter(desk.tenant, std::slice::from_ref(&named), &call, &told).await.unwrap();
    assert!(desk.rates.enter(desk.tenant, &[named], &call, &told).await.is_err());
}

/// One that is under way, as the test counts.
struct Counted(Arc<AtomicU32>);

impl Counted {
    fn of(under_way: Arc<AtomicU32>) -> Self {
        let now = under_way.fetch_add(1, Ordering::SeqCst) + 1;
        assert!(now <= 7, "{now} are under way");
        Self(under_way)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_place_is_lost_whoever_gives_up_waiting_for_one() {
    let desk = Arc::new(Desk::new());
    let limits = Arc::new([limit(1, 7, Measure::Concurrent)]);
    let under_way = Arc::new(AtomicU32::new(0));
    let mut begun = 0;
    for round in 0..200_u64 {
        let tasks: Vec<_> = (0..12_u64)
            .map(|n| {
                let (desk, limits, under_way) = (Arc::clone(&desk), Arc::clone(&limits), Arc::clone(&under_way));
                tokio::spawn(async move {
                    let Ok(slots) = desk.enter(limits.as_slice()).await else { return false };
                    let counted = Counted::of(under_way);
                    tokio::time::sleep(Duration::from_micros((n * 37 + round) % 300)).await;
                    // In this order, also where the task is stopped.
                    drop(counted);
                    drop(slots);
                    true
                })
            })
            .collect();
        for (n, task) in tasks.into_iter().enumerate() {
            if n % 5 == 4 {
                task.abort();
            }
            begun += u32::from(task.await.unwrap_or(false));
        }
    }
    assert!(begun > 400, "{begun}");
    let began = std::time::Instant::now();
    while desk.left(&limits[0]).await != 7 {
        assert!(began.elapsed() < Duration::from_secs(10), "{} of 7 came back", desk.left(&limits[0]).await);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
