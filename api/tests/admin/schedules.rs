//! Cost reports that are delivered by themselves.

use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use aws_lc_rs::hmac;
use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use chrono::{DateTime, Duration, Utc};
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::{net::TcpListener, sync::Semaphore};
use tollgate_api::report_schedules::runner::Runner;
use tollgate_boot::Config;
use tollgate_domain::tool::sha256;

use crate::{
    exports::{folder, process},
    world::{Reply, Trail, World},
};

pub const SECRET: &str = "sixteen characters";

/// A receiver: what it answers, and what it was sent.
#[derive(Clone)]
pub struct Receiver {
    status: Arc<Mutex<StatusCode>>,
    heard: Arc<Mutex<Vec<(HeaderMap, Bytes)>>>,
    /// A request is answered when it has one.
    leave: Arc<Semaphore>,
    pub config: Config,
}

impl Receiver {
    pub async fn start() -> Self {
        Self::of(|url| {
            format!("[[report.webhook]]\nname = 'books'\nurl = '{url}'\nsecret = '{SECRET}'\nheaders = {{ x-from = 'us' }}\n")
        })
        .await
    }

    /// With the configuration that names its address.
    pub async fn of(config: impl FnOnce(&str) -> String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let text = config(&format!("http://{}/reports", listener.local_addr().unwrap()));
        let receiver = Self {
            status: Arc::new(Mutex::new(StatusCode::OK)),
            heard: Arc::default(),
            leave: Arc::new(Semaphore::new(1_000)),
            config: Config::parse(&text, Path::new("tollgate.toml")).unwrap(),
        };
        let router = Router::new().route("/reports", post(Self::take)).with_state(receiver.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        receiver
    }

    async fn take(State(receiver): State<Self>, headers: HeaderMap, body: Bytes) -> StatusCode {
        receiver.heard.lock().unwrap().push((headers, body));
        receiver.leave.acquire().await.unwrap().forget();
        *receiver.status.lock().unwrap()
    }

    pub fn answers(&self, status: StatusCode) {
        *self.status.lock().unwrap() = status;
    }

    pub fn heard(&self) -> Vec<(HeaderMap, Bytes)> {
        self.heard.lock().unwrap().clone()
    }
}

pub async fn set(world: &World, tenant: &str, body: Value) -> Reply {
    let made = world.post(&world.root, &format!("{tenant}/report-schedules"), body).await;
    assert_eq!(made.status, 201, "{}", made.text);
    made
}

pub async fn patch(world: &World, path: &str, body: Value) -> Reply {
    world.call(&world.root, "PATCH", path, Some(body), &[("if-match", "*")]).await
}

pub fn go_to(world: &World, at: &str) {
    let at: DateTime<Utc> = at.parse().unwrap();
    world.pass(at - tollgate_domain::Clock::now(&*world.clock));
}

pub async fn events(world: &World, action: &str) -> Vec<Value> {
    let detail = "SELECT detail FROM admin_events WHERE action = $1 ORDER BY event_id";
    sqlx::query_scalar(detail).bind(action).fetch_all(&world.pool).await.unwrap()
}

/// Name, state, attempts.
pub async fn deliveries(world: &World, schedule: &str) -> Vec<Value> {
    let page = world.get(&world.root, &format!("{schedule}/deliveries")).await;
    assert_eq!(page.status, 200, "{}", page.text);
    page.json["items"].as_array().unwrap().iter().map(|d| json!([d["name"], d["state"], d["attempts"]])).collect()
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_month_is_told_once_in_the_tenants_zone_by_whichever_runner(pool: PgPool) {
    let (config, root) = folder("reports");
    let world = World::with_config(pool, config).await;
    let tenant = world.tenant("acme").await;
    assert_eq!(patch(&world, &tenant, json!({"time_zone": "Europe/Berlin"})).await.status, 200);
    let finance = world.token(&tenant, "finance").await;
    let ask = json!({"name": "Books", "every": "month", "group_by": "key,day", "format": "csv", "destination": "lake"});
    let made = world.post(&finance, &format!("{tenant}/report-schedules"), ask).await;
    assert_eq!(made.status, 201, "{}", made.text);
    let (start, due) = ("2026-10-31T23:00:00Z", "2026-11-30T23:15:00Z");
    assert_eq!((&made.json["next_period_start"], &made.json["next_due_at"]), (&json!(start), &json!(due)));
    let path = format!("{tenant}/report-schedules/{}", made.id());
    let trail = Trail::new(&world, &tenant);
    trail.calls(3).await;
    trail.seal().await;

    let runners = [process(&world).await, process(&world).await].map(|(_, app)| Runner::new(app).unwrap());
    go_to(&world, "2026-11-30T23:14:59Z");
    assert_eq!(runners[0].round().await.unwrap(), 0, "it waits for what is sealed late");
    go_to(&world, due);
    let (a, b) = tokio::join!(runners[0].round(), runners[1].round());
    assert_eq!(a.unwrap() + b.unwrap(), 1);
    for runner in &runners {
        assert_eq!(runner.round().await.unwrap(), 0, "and no second time");
    }
    assert_eq!(deliveries(&world, &path).await, [json!(["2026-11", "delivered", 1])]);
    let id = tenant.rsplit('/').next().unwrap();
    let file = std::fs::read(root.join(id).join("reports").join(made.id()).join("2026-11.csv")).unwrap();
    let query = format!("{tenant}/reports/costs?group_by=key,day&format=csv&from={start}&to=2026-11-30T23:00:00Z");
    let text = world.get(&world.root, &query).await.text;
    assert_eq!(std::str::from_utf8(&file).unwrap(), text);
    assert!(text.contains(",3,0,0.006,"), "{text}");
    let shown = world.get(&finance, &path).await.json;
    assert_eq!(shown["next_period_start"], "2026-11-30T23:00:00Z");
    let last = &shown["last_deliveries"][0];
    let hash: String = sha256(&file).iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!((&last["bytes"], &last["sha256"]), (&json!(file.len()), &json!(hash)));
    assert_eq!((&last["period_start"], &last["next_try_at"]), (&json!(start), &Value::Null));
    let told = events(&world, "report.delivered").await;
    assert_eq!((told.len(), &told[0]["name"]), (1, &json!("2026-11")));

    // Three months later, in another zone: none is left out and none overlaps.
    assert_eq!(patch(&world, &tenant, json!({"time_zone": "America/New_York"})).await.status, 200);
    go_to(&world, "2027-02-10T00:00:00Z");
    assert_eq!(runners[1].round().await.unwrap(), 3);
    let page = world.get(&world.root, &format!("{path}/deliveries?limit=3")).await.json;
    let names: Vec<_> = page["items"].as_array().unwrap().iter().map(|d| d["name"].clone()).collect();
    assert_eq!(names, ["2027-01", "2026-12", "2026-11-30T230000Z"]);
    for pair in page["items"].as_array().unwrap().windows(2) {
        assert_eq!(pair[0]["period_start"], pair[1]["period_end"]);
    }
    let token = page["next_page"].as_str().unwrap();
    let rest = world.get(&world.root, &format!("{path}/deliveries?limit=3&page_token={token}")).await.json;
    assert_eq!((&rest["items"][0]["name"], &rest["next_page"]), (&json!("2026-11"), &Value::Null));
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_webhook_that_fails_is_tried_again_for_a_day(pool: PgPool) {
    let receiver = Receiver::start().await;
    let world = World::with_config(pool, receiver.config.clone()).await;
    let tenant = world.tenant("acme").await;
    let made = set(&world, &tenant, json!({"every": "day", "format": "json", "webhook": "books"})).await;
    let path = format!("{tenant}/report-schedules/{}", made.id());
    let runner = Runner::new(world.app.clone()).unwrap();
    receiver.answers(StatusCode::INTERNAL_SERVER_ERROR);
    go_to(&world, "2026-11-19T00:15:00Z");
    assert_eq!((runner.round().await.unwrap(), runner.round().await.unwrap()), (1, 0), "it pauses");
    assert_eq!(deliveries(&world, &path).await, [json!(["2026-11-18", "waiting", 1])]);
    let last = world.get(&world.root, &path).await.json["last_deliveries"][0].clone();
    assert_eq!(last["error"], "the receiver answered 500");
    assert_eq!(last["next_try_at"], "2026-11-19T00:16:00Z");
    receiver.answers(StatusCode::NO_CONTENT);
    world.pass(Duration::minutes(1));
    assert_eq!((runner.round().await.unwrap(), runner.round().await.unwrap()), (1, 0));
    assert_eq!(deliveries(&world, &path).await, [json!(["2026-11-18", "delivered", 2])]);

    let heard = receiver.heard();
    assert_eq!((heard.len(), &heard[0].1), (2, &heard[1].1));
    let key = format!("{}/2026-11-18", made.id());
    for (headers, body) in &heard {
        let header = |name: &str| headers[name].to_str().unwrap();
        assert_eq!(
            (header("idempotency-key"), header("x-from"), header("content-type")),
            (key.as_str(), "us", "application/json")
        );
        assert_eq!(header("x-tollgate-period-start"), "2026-11-18T00:00:00Z");
        assert_eq!(header("x-tollgate-report-name"), "2026-11-18.json");
        assert!(tenant.ends_with(header("x-tollgate-tenant")));
        let hash: String = sha256(body).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!((header("x-tollgate-sha256"), header("x-tollgate-still-open")), (hash.as_str(), "0"));
        let signed = [
            "x-tollgate-timestamp",
            "idempotency-key",
            "x-tollgate-tenant",
            "x-tollgate-report-schedule",
            "x-tollgate-report-name",
        ];
        let signed = signed.iter().chain(&["x-tollgate-period-start", "x-tollgate-period-end", "x-tollgate-sha256"]);
        let mut message: Vec<u8> = signed.flat_map(|name| [header(name).as_bytes(), b"."].concat()).collect();
        message.extend_from_slice(body);
        let tag = tollgate_evidence::hash::from_hex(header("x-tollgate-signature").strip_prefix("sha256=").unwrap()).unwrap();
        hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes()), &message, &tag).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(body).unwrap()["total"]["calls"], 0);
    }

    // The next one is never taken.
    receiver.answers(StatusCode::SERVICE_UNAVAILABLE);
    go_to(&world, "2026-11-20T00:15:00Z");
    let mut tries = 0;
    for _ in 0..24 * 60 {
        tries += runner.round().await.unwrap();
        if !events(&world, "report.failed").await.is_empty() {
            break;
        }
        world.pass(Duration::minutes(5));
    }
    // The last round has begun with the day after it.
    tries -= 1;
    assert_eq!(deliveries(&world, &path).await[1], json!(["2026-11-19", "failed", tries]));
    assert!((8..=16).contains(&tries), "{tries}");
    let failed = events(&world, "report.failed").await;
    assert_eq!((&failed[0]["error"], &failed[0]["attempts"]), (&json!("the receiver answered 503"), &json!(tries)));
    assert_eq!(tollgate_domain::Clock::now(&*world.clock).to_rfc3339(), "2026-11-21T00:15:00+00:00", "a day after the first");
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn what_is_disabled_waits_and_what_is_deleted_goes_nowhere(pool: PgPool) {
    let receiver = Receiver::start().await;
    let world = World::with_config(pool, receiver.config.clone()).await;
    let tenant = world.tenant("acme").await;
    let ask = json!({"every": "day", "format": "focus", "webhook": "books", "enabled": false});
    let made = set(&world, &tenant, ask).await;
    assert_eq!(made.json["next_due_at"], Value::Null);
    let path = format!("{tenant}/report-schedules/{}", made.id());
    let runner = Runner::new(world.app.clone()).unwrap();
    go_to(&world, "2026-11-20T01:00:00Z");
    assert_eq!(runner.round().await.unwrap(), 0);
    // A change holds for what is not delivered yet.
    let changed = patch(&world, &path, json!({"enabled": true, "format": "parquet", "group_by": "tool"})).await;
    assert_eq!((changed.status.as_u16(), &changed.json["format"]), (200, &json!("parquet")), "{}", changed.text);
    assert_eq!(runner.round().await.unwrap(), 2);
    assert!(receiver.heard().iter().all(|(_, body)| body.starts_with(b"PAR1")));
    assert_eq!(deliveries(&world, &path).await, [json!(["2026-11-19", "delivered", 1]), json!(["2026-11-18", "delivered", 1])]);

    // Disabled between two tries.
    receiver.answers(StatusCode::BAD_GATEWAY);
    world.pass(Duration::days(1));
    assert_eq!(runner.round().await.unwrap(), 1);
    patch(&world, &path, json!({"enabled": false})).await;
    receiver.answers(StatusCode::OK);
    world.pass(Duration::hours(1));
    assert_eq!(runner.round().await.unwrap(), 0);
    patch(&world, &path, json!({"enabled": true})).await;
    assert_eq!(runner.round().await.unwrap(), 1);

    // Deleted while the receiver thinks: what it has taken is told all the same.
    receiver.leave.forget_permits(1_000);
    world.pass(Duration::days(1));
    let before = receiver.heard().len();
    let delivering = tokio::spawn({
        let runner = runner.clone();
        async move { runner.round().await.unwrap() }
    });
    while receiver.heard().len() == before {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let rival = Runner::new(process(&world).await.1).unwrap();
    assert_eq!(rival.round().await.unwrap(), 0, "it is in hand");
    assert_eq!(world.call(&world.root, "DELETE", &path, None, &[("if-match", "*")]).await.status, 204);
    receiver.leave.add_permits(1_000);
    assert_eq!(delivering.await.unwrap(), 1);
    assert_eq!(events(&world, "report.delivered").await.len(), 4);
    world.get(&world.root, &format!("{path}/deliveries")).await.is(404, "not_found");
    world.pass(Duration::days(3));
    assert_eq!(runner.round().await.unwrap(), 0);
    // Nor does a deleted tenant's.
    set(&world, &tenant, json!({"every": "week", "format": "csv", "webhook": "books"})).await;
    assert_eq!(world.call(&world.root, "DELETE", &tenant, None, &[("if-match", "*")]).await.status, 204);
    world.pass(Duration::days(30));
    assert_eq!(runner.round().await.unwrap(), 0);
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_runner_that_died_is_missed_after_a_while(pool: PgPool) {
    let receiver = Receiver::start().await;
    let world = World::with_config(pool, receiver.config.clone()).await;
    let tenant = world.tenant("acme").await;
    let made = set(&world, &tenant, json!({"every": "week", "format": "csv", "webhook": "books"})).await;
    let path = format!("{tenant}/report-schedules/{}", made.id());
    let runner = Runner::new(world.app.clone()).unwrap();
    // It begins a delivery and dies.
    receiver.leave.forget_permits(1_000);
    go_to(&world, "2026-11-23T00:15:00Z");
    let dying = tokio::spawn({
        let runner = runner.clone();
        async move { runner.round().await }
    });
    while receiver.heard().is_empty() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    dying.abort();
    assert!(dying.await.unwrap_err().is_cancelled());
    receiver.leave.add_permits(1_000);
    assert_eq!(runner.round().await.unwrap(), 0);
    world.pass(Duration::minutes(10));
    assert_eq!(runner.round().await.unwrap(), 1);
    assert_eq!(deliveries(&world, &path).await, [json!(["2026-W47", "delivered", 2])]);
    let keys: Vec<_> = receiver.heard().iter().map(|(headers, _)| headers["idempotency-key"].clone()).collect();
    assert_eq!((keys.len(), &keys[0]), (2, &keys[1]));
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_schedule_names_what_there_is(pool: PgPool) {
    let receiver = Receiver::start().await;
    let world = World::with_config(pool, receiver.config.clone()).await;
    let tenant = world.tenant("acme").await;
    let at = format!("{tenant}/report-schedules");
    let good = json!({"every": "day", "format": "csv", "webhook": "books"});
    for (change, pointer) in [
        (json!({"webhook": "http://169.254.169.254/"}), "/webhook"),
        (json!({"webhook": null}), "/destination"),
        (json!({"webhook": null, "destination": "nowhere"}), "/destination"),
        (json!({"destination": "nowhere"}), "/destination"),
        (json!({"format": "xlsx"}), "/format"),
        (json!({"group_by": "tool,hour,day"}), "/group_by"),
        (json!({"top": 0}), "/top"),
        (json!({"top": 5, "format": "focus"}), "/top"),
        (json!({"name": ""}), "/name"),
        (json!({"every": "hour"}), "/every"),
    ] {
        let mut body = good.clone();
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let refused = world.post(&world.root, &at, body).await;
        assert_eq!(refused.is(422, "invalid").pointer(), pointer, "{}", refused.text);
    }
    let made = set(&world, &tenant, good.clone()).await;
    let path = format!("{at}/{}", made.id());
    assert_eq!(patch(&world, &path, json!({"destination": "nowhere"})).await.is(422, "invalid").pointer(), "/destination");
    let changed = patch(&world, &path, json!({"outcome": "ok", "top": 3})).await.json;
    assert_eq!((&changed["outcome"], &changed["top"]), (&json!("ok"), &json!(3)));
    assert_eq!(patch(&world, &path, json!({"outcome": null})).await.json["outcome"], Value::Null);
    let stale = world.call(&world.root, "PATCH", &path, Some(json!({})), &[("if-match", &made.etag())]).await;
    assert_eq!(stale.status, 412);
    for _ in 1..50 {
        set(&world, &tenant, good.clone()).await;
    }
    world.post(&world.root, &at, good).await.is(409, "conflict");
    assert_eq!(world.get(&world.root, &format!("{at}?limit=1000")).await.json["items"].as_array().unwrap().len(), 50);
}
