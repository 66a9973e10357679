//! Sinks and anchors: real receivers that fail in every way, and what has reached them in the end.

use std::{
    collections::{BTreeSet, HashMap},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use aws_lc_rs::hmac;
use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, UdpSocket},
};
use tollgate_api::{
    App,
    audit::followers::{self, Pace},
};
use tollgate_boot::{Config, Shutdown};
use tollgate_domain::{
    CallId, Clock, Currency, Decision, KeyId, LlmRequestId, Origin, Outcome, Picos, Secrets, SystemClock, TenantId, WorkerId,
    policy::Reason, price::Quote,
};
use tollgate_evidence::{
    line::{self, Kind, Line},
    seal::SignedSeal,
};
use tollgate_store::{
    Actor, Store,
    audit::{AuditWriter, Completion, Entry, Intent, QueueLimits},
    events, log,
    payload::Payload,
    sealer, seals,
};

use crate::world::World;

const PACE: Pace = Pace {
    look: Duration::from_millis(20),
    patience: Duration::from_millis(700),
    first_pause: Duration::from_millis(20),
    longest_pause: Duration::from_millis(100),
};

/// The followers of one process.
struct Process(Shutdown);

impl Process {
    fn start(pool: &PgPool, config: &Config) -> Self {
        let shutdown = Shutdown::new();
        let app = App::new(
            Store::from_pool(pool.clone()),
            Arc::new(config.clone()),
            Secrets::from_bytes([7; 32]),
            Arc::new(SystemClock),
        );
        followers::start(&app, &shutdown, PACE).unwrap();
        Self(shutdown)
    }

    async fn stop(self) {
        self.0.trigger("the test goes on");
        assert_eq!(self.0.drain(Duration::from_secs(10)).await, tollgate_boot::shutdown::Drained::Clean);
    }
}

fn config(text: &str) -> Config {
    Config::parse(text, Path::new("/t.toml")).unwrap()
}

fn now() -> chrono::DateTime<chrono::Utc> {
    SystemClock.now()
}

fn id_of(tenant: &str) -> TenantId {
    tenant.rsplit('/').next().unwrap().parse().unwrap()
}

/// Write calls: `(arguments, refused)` each.
async fn record_calls(store: &Store, tenant: TenantId, calls: Vec<(String, bool)>) {
    let audit = AuditWriter::start(store, QueueLimits { entries: 4096, bytes: 1 << 30 });
    for (arguments, refused) in calls {
        let id = CallId::mint(now());
        let intent = Intent {
            tenant,
            id,
            request: LlmRequestId::mint(now()),
            origin: Origin::Minted,
            place: None,
            key: KeyId::mint(now()),
            team: None,
            upstream: None,
            tool: None,
            tool_name: "find_customer".into(),
            definition: None,
            decision: if refused { Decision::Denied } else { Decision::Permitted },
            reason: refused.then_some(Reason::UnknownTool),
            approval: None,
            quote: Quote { price_id: None, amount: Picos(0), applied: None },
            leases: Vec::new(),
            currency: Currency::USD,
            worker: WorkerId::mint(now()),
            arguments: Payload::whole(arguments.into_bytes()),
            at: now(),
        };
        audit.before(Entry { intent: Some(intent), ..Entry::default() }).await.unwrap();
        if !refused {
            let result = Some(Payload::whole(&b"{ \"ok\": 1.0,\n \"ok\": 2 }"[..]));
            let latency = Duration::from_millis(1);
            let end = Completion { tenant, id, outcome: Outcome::Ok, error: None, latency, amount: Picos(0), result, at: now() };
            audit.after(Entry { completions: vec![end], ..Entry::default() }).await.unwrap();
        }
    }
}

async fn note(store: &Store, tenant: TenantId, count: usize) {
    for n in 0..count {
        events::note(store, tenant, &Actor::system("test"), now(), "noun.verb", "x", &json!({ "n": n })).await.unwrap();
    }
}

async fn seal(store: &Store) {
    loop {
        let round = sealer::round(store, now()).await.unwrap();
        if round.entries == 0 && !round.more {
            return;
        }
    }
}

/// What a sink of all rows has to get, in order: from the log itself.
async fn expected(store: &Store, tenant: TenantId) -> Vec<String> {
    let mut tx = store.tenant(tenant).await.unwrap();
    let mut ids = Vec::new();
    for signed in seals::from(&mut tx, tenant, 1, 1_000_000).await.unwrap() {
        let entries = seals::entries(&mut tx, tenant, signed.seal.sequence).await.unwrap().unwrap();
        for line in log::lines(&mut tx, tenant, &entries).await.unwrap() {
            match line::parse(&line.unwrap()).unwrap() {
                Line::CallIntent(intent) if intent.outcome.is_some() => ids.push(intent.id.to_string()),
                Line::CallCompletion(end) => ids.push(end.id.to_string()),
                Line::AdminEvent(event) => ids.push(event.id.to_string()),
                other => assert_eq!(other.place().kind, Kind::CallIntent),
            }
        }
    }
    ids
}

async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    for _ in 0..1500 {
        if let Some(found) = look().await {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("never came: {what}");
}

async fn in_time<T>(coming: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), coming).await.expect("it never came")
}

// ---------------------------------------------------------------- a receiver of webhooks

#[derive(Debug, Clone, Copy, PartialEq)]
enum Mood {
    Takes,
    /// Takes the rows, and its answer says that it did not.
    TakesAndFails,
    Fails,
    Hangs,
    Redirects,
}

#[derive(Default)]
struct Heard {
    moods: HashMap<String, Mood>,
    /// Requests of each mood.
    asked: Vec<(String, Mood)>,
    taken: Vec<(HeaderMap, Bytes)>,
    redirected: usize,
}

#[derive(Clone, Default)]
struct Receiver(Arc<Mutex<Heard>>);

impl Receiver {
    async fn start(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let elsewhere = async |State(Self(heard)): State<Self>| {
            heard.lock().unwrap().redirected += 1;
            StatusCode::OK
        };
        let router = Router::new().route("/rows", post(Self::take)).route("/elsewhere", post(elsewhere).get(elsewhere));
        let router = router.with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        format!("http://{address}/rows")
    }

    async fn take(State(Self(heard)): State<Self>, headers: HeaderMap, body: Bytes) -> Response {
        let sent: Value = serde_json::from_slice(&body).unwrap();
        let tenant = sent["tenant_id"].as_str().or(sent["seal"]["tenant_id"].as_str()).unwrap().to_owned();
        let mood = {
            let mut heard = heard.lock().unwrap();
            let mood = heard.moods.get(&tenant).copied().unwrap_or(Mood::Takes);
            heard.asked.push((tenant, mood));
            if matches!(mood, Mood::Takes | Mood::TakesAndFails) {
                heard.taken.push((headers, body));
            }
            mood
        };
        match mood {
            Mood::Takes => StatusCode::NO_CONTENT.into_response(),
            Mood::TakesAndFails | Mood::Fails => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
            Mood::Hangs => std::future::pending().await,
            Mood::Redirects => (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, "/elsewhere")]).into_response(),
        }
    }

    fn mood(&self, tenant: TenantId, mood: Mood) {
        self.0.lock().unwrap().moods.insert(tenant.to_string(), mood);
    }

    /// Wait until a tenant's rows have met this mood twice.
    async fn meets(&self, tenant: TenantId, mood: Mood) {
        self.mood(tenant, mood);
        let met = async || {
            let heard = self.0.lock().unwrap();
            (heard.asked.iter().filter(|asked| **asked == (tenant.to_string(), mood)).count() >= 2).then_some(())
        };
        eventually(&format!("{mood:?}"), met).await;
    }

    fn bodies(&self, tenant: TenantId) -> Vec<Value> {
        let heard = self.0.lock().unwrap();
        let all = heard.taken.iter().map(|(_, body)| serde_json::from_slice::<Value>(body).unwrap());
        all.filter(|body| body["tenant_id"] == json!(tenant)).collect()
    }

    /// The ids of the rows of one tenant as they first came.
    fn rows(&self, tenant: TenantId) -> Vec<String> {
        let mut seen = BTreeSet::new();
        let rows = self.bodies(tenant).into_iter().flat_map(|body| body["rows"].as_array().unwrap().clone());
        rows.map(|row| row["id"].as_str().unwrap().to_owned()).filter(|id| seen.insert(id.clone())).collect()
    }
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn every_row_reaches_a_webhook_in_order_through_failures_and_a_restart(pool: PgPool) {
    let world = World::new(pool.clone()).await;
    let (tenant, other) = (id_of(&world.tenant("acme").await), id_of(&world.tenant("other").await));
    let store = Store::from_pool(pool.clone());
    let receiver = Receiver::default();
    let url = receiver.start().await;
    let secret = "a secret of some length";
    let config = config(&format!(
        "[[audit.sink]]\nname = 'siem'\nfrom_start = true\nwebhook = {{ url = '{url}', secret = '{secret}', headers = {{ authorization = 'Splunk t' }} }}\n"
    ));
    let small = |n: usize| (0..n).map(|n| (format!("{{\"n\":{n}}}"), n % 3 == 0)).collect::<Vec<_>>();
    record_calls(&store, tenant, small(30)).await;
    note(&store, tenant, 5).await;
    note(&store, other, 3).await;
    seal(&store).await;

    receiver.mood(tenant, Mood::Fails);
    let process = Process::start(&pool, &config);
    let competitor = Process::start(&pool, &config);
    // One whose deliveries fail holds up nobody else.
    receiver.meets(tenant, Mood::Hangs).await;
    let theirs = expected(&store, other).await;
    eventually("the other tenant's rows", async || (receiver.rows(other) == theirs).then_some(())).await;
    let sent: usize = receiver.bodies(other).iter().map(|body| body["rows"].as_array().unwrap().len()).sum();
    assert_eq!(sent, theirs.len(), "two processes share the work, and nothing comes twice without need");
    assert_eq!(receiver.rows(tenant), Vec::<String>::new());
    receiver.meets(tenant, Mood::Redirects).await;
    assert_eq!(receiver.0.lock().unwrap().redirected, 0, "a redirect is not followed");
    receiver.meets(tenant, Mood::TakesAndFails).await;
    process.stop().await;
    competitor.stop().await;

    // What is written while nobody delivers, large rows and many.
    record_calls(&store, tenant, (0..3).map(|n| (format!("\"{}\"", n.to_string().repeat(700_000)), false)).collect()).await;
    note(&store, tenant, 520).await;
    record_calls(&store, tenant, small(8)).await;
    seal(&store).await;
    receiver.mood(tenant, Mood::Takes);
    let process = Process::start(&pool, &config);
    let wanted = expected(&store, tenant).await;
    eventually("all rows", async || (receiver.rows(tenant).len() == wanted.len()).then_some(())).await;
    process.stop().await;
    assert_eq!(receiver.rows(tenant), wanted);

    // Positions join: each request begins where one before it ended, or repeats it.
    let mut reached = 0;
    for body in receiver.bodies(tenant) {
        let (from, to) = (body["from"].as_u64().unwrap(), body["to"].as_u64().unwrap());
        assert!(from <= reached && from < to, "{from}..{to} after {reached}");
        reached = reached.max(to);
        assert!(body["rows"].as_array().unwrap().len() <= 500);
    }
    let heard = receiver.0.lock().unwrap();
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    for (headers, body) in &heard.taken {
        assert!(body.len() <= 1 << 20, "{}", body.len());
        let text = |name: &str| headers[name].to_str().unwrap().to_owned();
        let signed = [text("x-tollgate-timestamp").as_bytes(), b".", body].concat();
        let hex = text("x-tollgate-signature").strip_prefix("sha256=").unwrap().to_owned();
        hmac::verify(&key, &signed, &tollgate_evidence::hash::from_hex(&hex).unwrap()).unwrap();
        assert_eq!((text("authorization"), text("content-type")), ("Splunk t".to_owned(), "application/json".to_owned()));
    }
    let verbatim =
        heard.taken.iter().any(|(_, body)| String::from_utf8_lossy(body).contains(r#""result":{ "ok": 1.0,  "ok": 2 }"#));
    assert!(verbatim, "as the exports show it");
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_new_follower_begins_at_the_end_and_with_the_beginning_of_what_comes_later(pool: PgPool) {
    let world = World::new(pool.clone()).await;
    let tenant = id_of(&world.tenant("acme").await);
    let store = Store::from_pool(pool.clone());
    note(&store, tenant, 3).await;
    seal(&store).await;
    let receiver = Receiver::default();
    let url = receiver.start().await;
    let config = config(&format!(
        "[[audit.sink]]\nname = 'siem'\nrows = 'admin_events'\ntenants = ['{tenant}', 'late']\nwebhook = {{ url = '{url}' }}\n"
    ));
    let process = Process::start(&pool, &config);
    let places = "SELECT count(*) FROM audit_followers";
    eventually("its registration", async || (world.count(places).await > 0).then_some(())).await;
    let before = expected(&store, tenant).await.len();
    let (late, unnamed) = (id_of(&world.tenant("late").await), id_of(&world.tenant("unnamed").await));
    record_calls(&store, tenant, vec![("{}".into(), false)]).await;
    note(&store, tenant, 1).await;
    note(&store, unnamed, 1).await;
    seal(&store).await;
    let all = expected(&store, late).await;
    assert!(!all.is_empty(), "a tenant's making is an event");
    eventually("the late tenant's rows", async || (receiver.rows(late) == all).then_some(())).await;
    let wanted: Vec<String> =
        expected(&store, tenant).await.split_off(before).into_iter().filter(|id| !id.starts_with("call_")).collect();
    eventually("the new rows", async || (receiver.rows(tenant) == wanted).then_some(())).await;
    assert_eq!(wanted.len(), 1);
    assert_eq!(receiver.rows(unnamed), Vec::<String>::new());
    process.stop().await;
}

// ---------------------------------------------------------------- syslog

/// The messages of one octet-counted run.
fn unframe(mut bytes: &[u8]) -> Vec<String> {
    let mut messages = Vec::new();
    while !bytes.is_empty() {
        let space = bytes.iter().position(|byte| *byte == b' ').unwrap();
        let length: usize = std::str::from_utf8(&bytes[..space]).unwrap().parse().unwrap();
        let (message, rest) = bytes[space + 1..].split_at(length);
        messages.push(String::from_utf8(message.to_vec()).unwrap());
        bytes = rest;
    }
    messages
}

/// Parameters of the structured data, and the JSON behind it, of a message after RFC 5424.
fn parse(message: &str) -> (HashMap<String, String>, Value) {
    let (head, data) = message.split_once(" [").unwrap();
    let fields: Vec<&str> = head.split(' ').collect();
    let [priority, time, host, app, process, kind] = fields[..] else { panic!("{head}") };
    let priority: u16 = priority.strip_prefix('<').unwrap().strip_suffix(">1").unwrap().parse().unwrap();
    assert_eq!(priority / 8, 13);
    chrono::DateTime::parse_from_rfc3339(time).unwrap();
    assert_eq!((host, app, process), ("-", "tollgate", "-"));
    let (data, body) = data.split_once("] ").unwrap();
    let mut parameters: HashMap<String, String> = data
        .split(' ')
        .skip(1)
        .map(|pair| pair.split_once('=').unwrap())
        .map(|(name, value)| (name.to_owned(), value.trim_matches('"').to_owned()))
        .collect();
    parameters.insert("kind".into(), kind.into());
    (parameters, serde_json::from_str(body).unwrap())
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn rows_come_as_syslog_and_again_when_the_receiver_dies(pool: PgPool) {
    let world = World::new(pool.clone()).await;
    let tenant = id_of(&world.tenant("acme").await);
    let store = Store::from_pool(pool.clone());
    record_calls(
        &store,
        tenant,
        vec![("{\n\"a\":1}".into(), false), ("{}".into(), true), (format!("\"{}\"", "x".repeat(100_000)), false)],
    )
    .await;
    note(&store, tenant, 2).await;
    seal(&store).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let datagrams = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (tcp, udp) = (listener.local_addr().unwrap(), datagrams.local_addr().unwrap());
    let config = config(&format!(
        "[[audit.sink]]\nname = 'tcp'\nfrom_start = true\ntenants = ['acme']\nsyslog = {{ address = '{tcp}', protocol = 'tcp' }}\n\
         [[audit.sink]]\nname = 'udp'\nfrom_start = true\ntenants = ['acme']\nrows = 'calls'\nformat = 'ocsf'\nsyslog = {{ address = '{udp}', protocol = 'udp' }}\n"
    ));
    let process = Process::start(&pool, &config);
    // It dies with most of it unread, twice: the messages come again.
    for _ in 0..2 {
        let (mut stream, _) = in_time(listener.accept()).await.unwrap();
        let mut some = [0; 10];
        stream.read_exact(&mut some).await.unwrap();
    }
    let (mut stream, _) = in_time(listener.accept()).await.unwrap();
    let mut bytes = Vec::new();
    in_time(stream.read_to_end(&mut bytes)).await.unwrap();
    drop(stream);
    let messages = unframe(&bytes);
    let wanted = expected(&store, tenant).await;
    let mut ids = Vec::new();
    for message in &messages {
        assert!(!message.contains('\n'));
        let (parameters, row) = parse(message);
        assert_eq!((row["id"].as_str(), row["tenant_id"].as_str()), (Some(&*parameters["id"]), Some(&*parameters["tenant"])));
        assert_eq!(parameters["kind"] == "tool_call", parameters["id"].starts_with("call_"));
        assert!(message.starts_with("<108>") == (row["outcome"] == "denied"), "{message:.60}");
        ids.push(parameters["id"].clone());
    }
    assert_eq!(ids, wanted);
    let standing = "SELECT count(*) FROM audit_followers WHERE follower = 'tcp' AND position > 0 AND last_error IS NULL";
    eventually("its acknowledgement", async || (world.count(standing).await > 0).then_some(())).await;

    let (mut told, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
    while told.len() < 3 {
        let length = in_time(datagrams.recv(&mut buffer)).await.unwrap();
        let (parameters, event) = parse(std::str::from_utf8(&buffer[..length]).unwrap());
        assert_eq!((&event["class_uid"], event["metadata"]["uid"].as_str()), (&json!(6003), Some(&*parameters["id"])));
        told.push(parameters["id"].clone());
    }
    assert_eq!(told, wanted.into_iter().filter(|id| id.starts_with("call_")).collect::<Vec<_>>(), "also what fits no datagram");
    process.stop().await;
}

// ---------------------------------------------------------------- anchors

struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("tollgate-followers-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn in_file(&self, tenant: TenantId) -> Vec<SignedSeal> {
        let text = std::fs::read_to_string(self.0.join("heads.ndjson")).unwrap_or_default();
        let seals = text.lines().map(|line| serde_json::from_str::<SignedSeal>(line).unwrap());
        seals.filter(|signed| signed.seal.tenant_id == tenant).collect()
    }

    fn in_bucket(&self, tenant: TenantId) -> Vec<SignedSeal> {
        let folder = self.0.join("bucket").join(tenant.to_string());
        let Ok(objects) = std::fs::read_dir(folder) else { return Vec::new() };
        // What is still being written lies beside its place, under a name with a mark in it.
        let whole = |path: &PathBuf| !path.to_string_lossy().contains('#');
        let mut paths: Vec<PathBuf> = objects.map(|entry| entry.unwrap().path()).filter(whole).collect();
        paths.sort();
        paths.iter().map(|path| serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What an anchor holds, checked with nothing but the public key.
fn chain(store: &Store, seals: &[SignedSeal]) {
    for (signed, sequence) in seals.iter().zip(1..) {
        assert_eq!(signed.seal.sequence, sequence);
        assert!(signed.is_signed_by(store.keys().signer().public()));
    }
    for pair in seals.windows(2) {
        assert_eq!((pair[1].seal.previous, pair[1].seal.first), (pair[0].seal.hash(), pair[0].seal.end()));
    }
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn anchors_hold_every_seal_and_give_away_who_rewrites_history(pool: PgPool) {
    let world = World::new(pool.clone()).await;
    let tenant = id_of(&world.tenant("acme").await);
    let store = Store::from_pool(pool.clone());
    let (folder, notary) = (Folder::new(), Receiver::default());
    let url = notary.start().await;
    let place = folder.0.display();
    let config = config(&format!(
        "[[audit.anchor]]\nname = 'file'\nfrom_start = true\nfile = '{place}/heads.ndjson'\n\
         [[audit.anchor]]\nname = 'bucket'\nfrom_start = true\nbucket = {{ url = 'file://{place}/bucket' }}\n\
         [[audit.anchor]]\nname = 'notary'\nurl = '{url}'\n"
    ));
    for _ in 0..3 {
        note(&store, tenant, 2).await;
        seal(&store).await;
    }
    let process = Process::start(&pool, &config);
    let given = || -> Vec<SignedSeal> {
        let heard = notary.0.lock().unwrap();
        let all = heard.taken.iter().map(|(_, body)| serde_json::from_slice::<SignedSeal>(body).unwrap());
        all.filter(|signed| signed.seal.tenant_id == tenant).collect()
    };
    eventually("the newest seal", async || (!given().is_empty()).then_some(())).await;
    for _ in 0..4 {
        note(&store, tenant, 3).await;
        seal(&store).await;
    }
    let mut tx = store.tenant(tenant).await.unwrap();
    let all = seals::from(&mut tx, tenant, 1, 1000).await.unwrap();
    assert!(all.len() >= 7);
    eventually("all seals", async || {
        let there = [folder.in_file(tenant).len(), folder.in_bucket(tenant).len()] == [all.len(); 2];
        (there && given().last() == all.last()).then_some(())
    })
    .await;
    process.stop().await;
    for anchored in [folder.in_file(tenant), folder.in_bucket(tenant)] {
        chain(&store, &anchored);
        assert_eq!(anchored, all);
    }
    assert_eq!(given(), all[all.len() - 5..], "one that is new begins with the newest");
    let anchored = all[3].clone();
    let mut proof = seals::consistency(&mut tx, tenant, 4, all.len() as u64).await.unwrap();
    proof.from = anchored.clone();
    assert!(proof.holds());
    drop(tx);

    // Whoever has the database and the key can write another history that is in order by itself.
    let mut tx = pool.begin().await.unwrap();
    for sql in [
        "SET LOCAL session_replication_role = replica",
        "DELETE FROM audit_seals",
        "DELETE FROM audit_entries",
        "DELETE FROM audit_nodes",
        "UPDATE audit_followers SET position = 0",
    ] {
        sqlx::query(sql).execute(&mut *tx).await.unwrap();
    }
    tx.commit().await.unwrap();
    for _ in 0..all.len() {
        note(&store, tenant, 1).await;
        seal(&store).await;
    }
    let mut tx = store.tenant(tenant).await.unwrap();
    chain(&store, &seals::from(&mut tx, tenant, 1, 1000).await.unwrap());
    let mut proof = seals::consistency(&mut tx, tenant, 4, all.len() as u64).await.unwrap();
    assert!(proof.holds());
    proof.from = anchored;
    assert!(!proof.holds(), "but it does not continue what was anchored");
    // And the anchor does not take it.
    let process = Process::start(&pool, &config);
    let said =
        "SELECT count(*) FROM audit_followers WHERE follower = 'bucket' AND position = 0 AND last_error LIKE '%was rewritten%'";
    eventually("the anchor's refusal", async || (world.count(said).await > 0).then_some(())).await;
    process.stop().await;
    assert_eq!(folder.in_bucket(tenant), all);
}

// ---------------------------------------------------------------- what the API tells

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn t56_followers_are_listed_without_where_they_are_and_nobody_can_name_one(pool: PgPool) {
    let receiver = Receiver::default();
    let url = receiver.start().await;
    let config = config(&format!(
        "[[audit.sink]]\nname = 'siem'\ntenants = ['acme']\nwebhook = {{ url = '{url}?token=hunter2', secret = 'hunter2-hunter2-hunter2' }}\n\
         [[audit.sink]]\nname = 'dead'\nfrom_start = true\nsyslog = {{ address = '127.0.0.1:1', protocol = 'tcp' }}\n\
         [[audit.anchor]]\nname = 'notary'\nurl = '{url}?token=hunter2'\n"
    ));
    let world = World::with_config(pool.clone(), config.clone()).await;
    let (tenant, other) = (world.tenant("acme").await, world.tenant("other").await);
    let auditor = world.token(&tenant, "auditor").await;
    let path = format!("{tenant}/audit/followers");
    let before = world.get(&auditor, &path).await;
    let names: Vec<_> =
        before.json["items"].as_array().unwrap().iter().map(|item| (item["name"].as_str(), item["kind"].as_str())).collect();
    assert_eq!(names, [(Some("siem"), Some("webhook")), (Some("dead"), Some("syslog")), (Some("notary"), Some("anchor"))]);
    assert_eq!((&before.json["items"][0]["position"], &before.json["items"][0]["lag"]), (&Value::Null, &Value::Null));

    let store = Store::from_pool(pool.clone());
    seal(&store).await;
    let process = Process::start(&pool, &config);
    let listed = eventually("a failure that is shown", async || {
        let listed = world.get(&auditor, &path).await;
        let items = &listed.json["items"];
        (items[1]["last_error"].is_string() && items[2]["lag"] == 0 && items[0]["lag"] == 0).then_some(listed)
    })
    .await;
    process.stop().await;
    let dead = &listed.json["items"][1];
    assert_eq!((&dead["last_error"], &dead["position"]), (&json!("the receiver cannot be reached"), &json!(0)));
    assert!(dead["lag"].as_u64().unwrap() > 0 && dead["failing_since"].is_string(), "{dead}");
    for secret in ["hunter2", "127.0.0.1", "http://"] {
        assert!(!listed.text.contains(secret), "{secret} in {}", listed.text);
    }
    let theirs = world.get(&world.root, &format!("{other}/audit/followers")).await;
    let names: Vec<_> = theirs.json["items"].as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["dead", "notary"], "whose rows go there, alone");

    assert_eq!(world.get(&auditor, &format!("{path}?url=x")).await.is(422, "invalid").pointer(), "?url");
    let finance = world.token(&tenant, "finance").await;
    world.get(&finance, &path).await.is(403, "forbidden");
    for method in ["POST", "PUT", "PATCH", "DELETE"] {
        let body = json!({"name": "mine", "webhook": {"url": "https://evil.example/"}});
        world.call(&world.root, method, &path, Some(body), &[]).await.is(405, "method_not_allowed");
    }
}
