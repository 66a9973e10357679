//! What may go wrong with reports that are delivered by themselves.

use axum::http::StatusCode;
use chrono::{DateTime, Duration, Utc};
use serde_json::{Value, json};
use sqlx::PgPool;
use tollgate_api::report_schedules::runner::Runner;
use tollgate_domain::{TenantId, ids};
use tollgate_store::report_schedules as schedules;

use crate::{
    schedules::{Receiver, deliveries, events, go_to, patch, set},
    world::{Trail, World},
};

fn id_of(tenant: &str) -> TenantId {
    tenant.rsplit('/').next().unwrap().parse().unwrap()
}

/// So many groups of keys at this time.
async fn credits(world: &World, tenant: &str, at: &str, count: i32) {
    let insert = sqlx::query(
        "INSERT INTO credits (tenant_id, credit_id, key_id, amount_picos, reason, created_at, created_by)
         SELECT $1, gen_random_uuid(), gen_random_uuid(), 1000000000, 'r', $2, 'x' FROM generate_series(1, $3)",
    );
    let at: DateTime<Utc> = at.parse().unwrap();
    insert.bind(id_of(tenant).uuid()).bind(at).bind(count).execute(&world.pool).await.unwrap();
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_period_waits_for_what_has_not_ended_and_says_for_what_it_did_not_wait(pool: PgPool) {
    let receiver = Receiver::start().await;
    let world = World::with_config(pool, receiver.config.clone()).await;
    let tenant = world.tenant("acme").await;
    let made = set(&world, &tenant, json!({"every": "day", "format": "json", "webhook": "books"})).await;
    let path = format!("{tenant}/report-schedules/{}", made.id());
    let runner = Runner::new(world.app.clone()).unwrap();
    let trail = Trail::new(&world, &tenant);
    let open = trail.open().await;
    go_to(&world, "2026-11-19T00:15:00Z");
    // What belongs to the next period is not waited for.
    let next = Trail::new(&world, &tenant);
    let later = next.open().await;
    runner.round().await.unwrap();
    assert_eq!(deliveries(&world, &path).await, [json!(["2026-11-18", "waiting", 0])]);
    let last = world.get(&world.root, &path).await.json["last_deliveries"][0].clone();
    assert_eq!(last["error"], "waits for calls and requests of its time that have not ended: 1");
    assert_eq!((&last["next_try_at"], receiver.heard().len()), (&json!("2026-11-19T00:20:00Z"), 0));
    trail.close(open).await;
    assert_eq!(runner.round().await.unwrap(), 0, "it is looked at now and then");
    world.pass(Duration::minutes(5));
    runner.round().await.unwrap();
    assert_eq!(deliveries(&world, &path).await, [json!(["2026-11-18", "delivered", 1])]);
    let heard = receiver.heard();
    let total = serde_json::from_slice::<Value>(&heard[0].1).unwrap()["total"].clone();
    assert_eq!((&total["calls"], &total["amount"]), (&json!(1), &json!("0.002")), "with what it came to");
    assert_eq!(heard[0].0["x-tollgate-still-open"], "0");

    // One that does not end is not waited for for ever; its day for tries begins when it is tried.
    go_to(&world, "2026-11-20T00:15:00Z");
    receiver.answers(StatusCode::BAD_GATEWAY);
    let mut looked = 0;
    while receiver.heard().len() == 1 {
        looked += runner.round().await.unwrap();
        world.pass(Duration::minutes(5));
    }
    assert_eq!(looked, 25, "every five minutes for two hours");
    receiver.answers(StatusCode::OK);
    runner.round().await.unwrap();
    let last = world.get(&world.root, &path).await.json["last_deliveries"][0].clone();
    let told = ["state", "attempts", "still_open", "delivered_at"].map(|name| &last[name]);
    assert_eq!(told, [&json!("delivered"), &json!(2), &json!(1), &json!("2026-11-20T02:20:00Z")], "{last}");
    assert_eq!(receiver.heard()[2].0["x-tollgate-still-open"], "1");
    assert_eq!(events(&world, "report.delivered").await[1]["still_open"], 1);
    next.close(later).await;
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_report_whose_runners_never_come_back_fails_after_its_day(pool: PgPool) {
    let receiver = Receiver::start().await;
    let world = World::with_config(pool, receiver.config.clone()).await;
    let tenant = world.tenant("acme").await;
    let made = set(&world, &tenant, json!({"every": "week", "format": "csv", "webhook": "books"})).await;
    let path = format!("{tenant}/report-schedules/{}", made.id());
    go_to(&world, "2026-11-23T00:15:00Z");
    let store = &world.app.store;
    schedules::open_due(store, tollgate_domain::Clock::now(&*world.clock)).await.unwrap();
    let mut killed = 0;
    while events(&world, "report.failed").await.is_empty() {
        let now = tollgate_domain::Clock::now(&*world.clock);
        let taken = schedules::take(store, ids::mint(now), (now, now + Duration::minutes(10)), &[]).await.unwrap();
        killed += u32::from(taken.is_some());
        assert!(killed < 100, "it is made for ever");
        world.pass(Duration::minutes(10));
    }
    assert!((5..20).contains(&killed), "{killed}: it pauses longer each time");
    assert_eq!(deliveries(&world, &path).await[0][1], "failed");
    let failed = events(&world, "report.failed").await;
    assert!(failed[0]["error"].as_str().unwrap().contains("its log says why"), "{failed:?}");
    assert!(tollgate_domain::Clock::now(&*world.clock).to_rfc3339().starts_with("2026-11-24T"), "a day after the first");

    // One more try on request, and this runner lives.
    let asked = world.post(&world.root, &format!("{path}/retry"), json!({})).await;
    assert_eq!(asked.status, 200, "{}", asked.text);
    assert_eq!(Runner::new(world.app.clone()).unwrap().round().await.unwrap(), 1);
    assert_eq!(deliveries(&world, &path).await[0][1], "delivered");
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn what_would_fail_again_fails_at_once_and_is_tried_again_when_asked_for(pool: PgPool) {
    let receiver = Receiver::start().await;
    let world = World::with_config(pool, receiver.config.clone()).await;
    let tenant = world.tenant("acme").await;
    credits(&world, &tenant, "2026-11-18T12:00:00Z", 10_001).await;
    let ask = json!({"every": "day", "format": "json", "group_by": "key", "webhook": "books"});
    let path = format!("{tenant}/report-schedules/{}", set(&world, &tenant, ask).await.id());
    let runner = Runner::new(world.app.clone()).unwrap();
    go_to(&world, "2026-11-19T00:15:00Z");
    runner.round().await.unwrap();
    let last = world.get(&world.root, &path).await.json["last_deliveries"][0].clone();
    assert_eq!((&last["state"], &last["attempts"]), (&json!("failed"), &json!(1)), "{last}");
    assert!(last["error"].as_str().unwrap().contains("more than 10000 groups"), "{last}");
    let retry = async |body: Value| world.post(&world.root, &format!("{path}/retry"), body).await;
    for name in ["2026-11-17", ""] {
        assert_eq!(retry(json!({"delivery": name})).await.is(422, "invalid").pointer(), "/delivery");
    }
    assert_eq!(patch(&world, &path, json!({"group_by": "day"})).await.status, 200);
    assert_eq!(retry(json!({"delivery": "2026-11-18"})).await.status, 200);
    assert_eq!(runner.round().await.unwrap(), 1);
    assert_eq!(deliveries(&world, &path).await, [json!(["2026-11-18", "delivered", 2])]);
    let told = events(&world, "report_schedule.retry").await;
    assert_eq!(told, [json!({"delivery": "2026-11-18", "reports": 1})]);
    // What was delivered is not delivered again.
    retry(json!({"delivery": "2026-11-18"})).await.is(422, "invalid");
    assert_eq!((retry(json!({})).await.status.as_u16(), runner.round().await.unwrap()), (200, 0));
    let other = world.tenant("other").await;
    let stranger = format!("{other}/report-schedules/{}/retry", path.rsplit('/').next().unwrap());
    world.post(&world.root, &stranger, json!({})).await.is(404, "not_found");
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_pause_takes_nothing_from_the_day_that_a_report_has(pool: PgPool) {
    let receiver = Receiver::start().await;
    let world = World::with_config(pool, receiver.config.clone()).await;
    let tenant = world.tenant("acme").await;
    let made = set(&world, &tenant, json!({"every": "month", "format": "csv", "webhook": "books"})).await;
    let path = format!("{tenant}/report-schedules/{}", made.id());
    let runner = Runner::new(world.app.clone()).unwrap();
    receiver.answers(StatusCode::BAD_GATEWAY);
    go_to(&world, "2026-12-01T00:15:00Z");
    assert_eq!(runner.round().await.unwrap(), 1);
    patch(&world, &path, json!({"enabled": false})).await;
    world.pass(Duration::days(3));
    patch(&world, &path, json!({"enabled": true})).await;
    assert_eq!(runner.round().await.unwrap(), 1);
    assert_eq!(deliveries(&world, &path).await, [json!(["2026-11", "waiting", 2])]);
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_change_that_was_acknowledged_holds_for_the_report_in_the_making(pool: PgPool) {
    let receiver = Receiver::start().await;
    let world = World::with_config(pool, receiver.config.clone()).await;
    let tenant = world.tenant("acme").await;
    let made = set(&world, &tenant, json!({"every": "day", "format": "csv", "webhook": "books"})).await;
    let path = format!("{tenant}/report-schedules/{}", made.id());
    let runner = Runner::new(world.app.clone()).unwrap();
    go_to(&world, "2026-11-19T00:15:00Z");
    // Reading takes long.
    let mut lock = world.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE credits IN ACCESS EXCLUSIVE MODE").execute(&mut *lock).await.unwrap();
    let making = tokio::spawn({
        let runner = runner.clone();
        async move { runner.round().await.unwrap() }
    });
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'credits'::regclass";
    let begun = std::time::Instant::now();
    while world.count(waits).await == 0 {
        assert!(begun.elapsed() < std::time::Duration::from_secs(30), "nobody reads");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert_eq!(patch(&world, &path, json!({"enabled": false})).await.status, 200);
    lock.rollback().await.unwrap();
    making.await.unwrap();
    assert_eq!(receiver.heard().len(), 0);
    assert_eq!(deliveries(&world, &path).await, [json!(["2026-11-18", "waiting", 0])]);
    patch(&world, &path, json!({"enabled": true})).await;
    assert_eq!(runner.round().await.unwrap(), 1);
    assert_eq!(deliveries(&world, &path).await, [json!(["2026-11-18", "delivered", 1])]);
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn tenants_take_turns_and_one_that_cannot_be_told_keeps_nobody(pool: PgPool) {
    let receiver = Receiver::start().await;
    let world = World::with_config(pool, receiver.config.clone()).await;
    let [many, one, broken] = [world.tenant("many").await, world.tenant("one").await, world.tenant("broken").await];
    let ask = json!({"every": "day", "format": "csv", "webhook": "books"});
    set(&world, &broken, ask.clone()).await;
    for _ in 0..3 {
        set(&world, &many, ask.clone()).await;
    }
    // The database has been moved to a machine that knows fewer time zones.
    let zone = "UPDATE tenants SET time_zone = 'Mars/Olympus' WHERE tenant_id = $1";
    sqlx::query(zone).bind(id_of(&broken).uuid()).execute(&world.pool).await.unwrap();
    sqlx::query("UPDATE report_schedules SET due_at = due_at - interval '1 hour' WHERE tenant_id = $1")
        .bind(id_of(&broken).uuid())
        .execute(&world.pool)
        .await
        .unwrap();
    let late = set(&world, &one, json!({"every": "day", "format": "csv", "webhook": "books", "enabled": false})).await;
    go_to(&world, "2026-11-19T00:15:00Z");
    let now = tollgate_domain::Clock::now(&*world.clock);
    assert_eq!(schedules::open_due(&world.app.store, now).await.unwrap(), 3);
    patch(&world, &format!("{one}/report-schedules/{}", late.id()), json!({"enabled": true})).await;
    world.pass(Duration::minutes(1));
    assert_eq!(Runner::new(world.app.clone()).unwrap().round().await.unwrap(), 4);
    let heard: Vec<String> =
        receiver.heard().iter().map(|(headers, _)| headers["x-tollgate-tenant"].to_str().unwrap().to_owned()).collect();
    let [many, one] = [&many, &one].map(|tenant| id_of(tenant).to_string());
    assert_eq!(heard, [many.clone(), one, many.clone(), many]);
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_clock_that_is_ahead_ends_no_period(pool: PgPool) {
    let receiver = Receiver::start().await;
    let world = World::with_config(pool, receiver.config.clone()).await;
    let tenant = world.tenant("acme").await;
    let today: DateTime<Utc> = sqlx::query_scalar("SELECT now()").fetch_one(&world.pool).await.unwrap();
    go_to(&world, &today.to_rfc3339());
    let made = set(&world, &tenant, json!({"every": "month", "format": "csv", "webhook": "books"})).await;
    let path = format!("{tenant}/report-schedules/{}", made.id());
    world.pass(Duration::days(365));
    let runner = tokio::spawn(Runner::new(world.app.clone()).unwrap().run());
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    world.pass(-Duration::days(365));
    let schedule = world.get(&world.root, &path).await.json;
    assert_eq!(schedule["next_period_start"], made.json["next_period_start"]);
    assert_eq!(schedule["last_deliveries"], json!([]));
    // With the right time, what has ended is told.
    sqlx::query("UPDATE report_schedules SET next_start = next_start - interval '62 days', due_at = due_at - interval '62 days'")
        .execute(&world.pool)
        .await
        .unwrap();
    let begun = std::time::Instant::now();
    while receiver.heard().is_empty() {
        assert!(begun.elapsed() < std::time::Duration::from_secs(30));
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    runner.abort();
}

/// In pieces, where it is large; and with a sentence of its own where it is too large.
#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_focus_data_set_may_be_large(pool: PgPool) {
    let world = World::new(pool).await;
    let tenant = world.tenant("acme").await;
    for day in ["2026-11-02T12:00:00Z", "2026-11-17T12:00:00Z"] {
        credits(&world, &tenant, day, 25_001).await;
    }
    let get = async |from: &str| {
        let path = format!("{tenant}/reports/costs?format=focus&from={from}&to=2026-12-01T00:00:00Z");
        world.get(&world.root, &path).await
    };
    let whole = get("2026-11-01T00:00:00Z").await;
    let days: Vec<bool> = whole.text.lines().skip(1).map(|line| line.contains(",2026-11-02T00:00:00Z,")).collect();
    assert_eq!((days.len(), days.iter().filter(|first| **first).count()), (50_002, 25_001), "{}", whole.status);
    assert!(days.is_sorted_by(|a, b| a >= b), "in the order of their time");
    credits(&world, &tenant, "2026-11-17T13:00:00Z", 25_000).await;
    let refused = get("2026-11-01T00:00:00Z").await;
    assert_eq!(refused.is(422, "invalid").pointer(), "?format");
    assert!(refused.text.contains("at most 200000 rows, and 50000 a day"), "{}", refused.text);
}
