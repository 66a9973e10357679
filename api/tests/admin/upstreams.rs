//! Upstreams, their tools and prices, with a stand-in for the worker at the other side of the database.

use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::task::JoinHandle;
use tollgate_boot::{Config, config::Program};
use tollgate_domain::{
    Secrets, TenantId, UpstreamId, WorkerId,
    tool::{DefinitionHash, UpstreamState},
};
use tollgate_store::{
    Store, sync,
    tools::{Discovered, record_discovery},
};

use crate::world::World;

/// What the upstream of the stand-in says.
#[derive(Clone)]
pub enum Peer {
    Lists(Vec<Value>),
    Refuses(&'static str),
}

/// Discovers new upstreams and answers synchronisations until it is dropped.
pub struct Worker(JoinHandle<()>);

impl Drop for Worker {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub fn worker(world: &World, peer: Peer) -> Worker {
    let (pool, now) = (world.pool.clone(), tollgate_domain::Clock::now(&*world.clock));
    Worker(tokio::spawn(async move {
        let store = Store::from_pool(pool.clone());
        loop {
            let new: Vec<(uuid::Uuid, uuid::Uuid)> =
                sqlx::query_as("SELECT tenant_id, upstream_id FROM upstreams WHERE discovered_at IS NULL")
                    .fetch_all(&pool)
                    .await
                    .unwrap();
            for (tenant, upstream) in new {
                look(&store, tenant.into(), upstream.into(), &peer, now).await;
            }
            for asked in sync::open_requests(&store).await.unwrap() {
                let answer = look(&store, asked.tenant, asked.upstream_id, &peer, now).await;
                sync::answer(&store, asked.tenant, asked.sync_id, answer, now).await.unwrap();
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }))
}

async fn look(store: &Store, tenant: TenantId, upstream: UpstreamId, peer: &Peer, now: chrono::DateTime<chrono::Utc>) -> Value {
    let worker = WorkerId::from_uuid(uuid::Uuid::from_u128(1));
    match peer {
        Peer::Refuses(why) => {
            sync::record_status(store, tenant, upstream, worker, UpstreamState::Error, Some(why), None, now).await.unwrap();
            json!({"error": why})
        }
        Peer::Lists(tools) => {
            let found = tools
                .iter()
                .map(|t| Discovered {
                    name: t["name"].as_str().unwrap().to_owned(),
                    definition_text: t.to_string(),
                    sha256: DefinitionHash::of(t).unwrap(),
                })
                .collect();
            let seen = record_discovery(store, tenant, upstream, found, now).await.unwrap();
            sync::record_status(
                store,
                tenant,
                upstream,
                worker,
                UpstreamState::Connected,
                None,
                Some(json!({"name": "peer"})),
                now,
            )
            .await
            .unwrap();
            json!({"added": seen.added, "changed": seen.changed, "removed": seen.removed})
        }
    }
}

pub fn tool(name: &str, description: &str) -> Value {
    json!({"name": name, "description": description, "annotations": {"readOnlyHint": true}, "inputSchema": {"type": "object"}})
}

pub fn http(name: &str) -> Value {
    let headers = json!({"Authorization": "Bearer s3cret"});
    json!({"name": name, "transport": {"type": "http", "url": "https://mcp.example.com/mcp", "headers": headers}, "exposure": "code"})
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn an_upstream_is_made_changed_and_deleted_and_its_secrets_never_come_out(pool: PgPool) {
    let world = World::new(pool).await;
    let tenant = world.tenant("acme").await;
    let _worker = worker(&world, Peer::Lists(vec![tool("a", "1"), tool("b", "1")]));
    let made = world.post(&world.root, &format!("{tenant}/upstreams"), http("crm")).await;
    assert_eq!((made.status.as_u16(), made.json["state"].as_str()), (201, Some("connected")), "{}", made.text);
    assert_eq!(made.json["tools"], json!({"approved": 2, "quarantined": 0}));
    assert_eq!(made.json["transport"]["headers"], json!({"authorization": "***"}));
    let path = format!("{tenant}/upstreams/{}", made.id());
    assert_eq!(made.headers["location"].to_str().unwrap(), path);
    world.post(&world.root, &format!("{tenant}/upstreams"), http("crm")).await.is(409, "conflict");

    let sealed: Vec<u8> = sqlx::query_scalar("SELECT sealed_headers FROM upstreams").fetch_one(&world.pool).await.unwrap();
    let purpose = tollgate_store::upstreams::headers_purpose(made.id().parse().unwrap());
    let opened = Secrets::from_bytes([7; 32]).vault.open(&purpose, &sealed).unwrap();
    assert_eq!(opened, br#"{"authorization":"Bearer s3cret"}"#);
    for place in ["SELECT string_agg(u::text, '') FROM upstreams u", "SELECT string_agg(e::text, '') FROM admin_events e"] {
        let text: String = sqlx::query_scalar(place).fetch_one(&world.pool).await.unwrap();
        assert!(!text.contains("s3cret"), "{place}");
    }

    let patch = |url: &str| json!({"transport": {"type": "http", "url": url, "headers": {"authorization": "***"}}});
    let etag = made.etag();
    let stolen = world.call(&world.root, "PATCH", &path, Some(patch("https://evil.example/mcp")), &[("if-match", &etag)]).await;
    assert_eq!(stolen.is(422, "invalid").pointer(), "/transport/headers/authorization");
    let moved = world.call(&world.root, "PATCH", &path, Some(patch("https://mcp.example.com/v2")), &[("if-match", &etag)]).await;
    assert_eq!(
        (moved.status.as_u16(), moved.json["transport"]["url"].as_str()),
        (200, Some("https://mcp.example.com/v2")),
        "{}",
        moved.text
    );
    let sealed: Vec<u8> = sqlx::query_scalar("SELECT sealed_headers FROM upstreams").fetch_one(&world.pool).await.unwrap();
    assert_eq!(Secrets::from_bytes([7; 32]).vault.open(&purpose, &sealed).unwrap(), opened);
    world.call(&world.root, "PATCH", &path, Some(json!({"timeout_ms": 5})), &[("if-match", &etag)]).await.is(412, "stale");
    world.call(&world.root, "PATCH", &path, Some(json!({"name": "x"})), &[("if-match", "*")]).await.is(422, "invalid");

    assert_eq!(world.get(&world.root, &format!("{tenant}/upstreams")).await.json["items"][0]["id"], made.json["id"]);
    assert_eq!(world.call(&world.root, "DELETE", &path, None, &[("if-match", "*")]).await.status, 204);
    world.get(&world.root, &path).await.is(404, "not_found");
    assert_eq!(world.get(&world.root, &format!("{tenant}/tools")).await.json["items"], json!([]));
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn t35_programs_come_from_the_operator_alone(pool: PgPool) {
    let program = Program { name: "files".into(), command: "/bin/true".into(), args: vec![], env: Default::default(), cwd: None };
    let world = World::with_config(pool, Config { programs: vec![program], ..Config::default() }).await;
    let tenant = world.tenant("acme").await;
    let _worker = worker(&world, Peer::Refuses("it does not answer"));
    let path = format!("{tenant}/upstreams");
    let new = |transport: Value| json!({"name": "fs", "transport": transport, "exposure": "classic"});
    let unknown = world.post(&world.root, &path, new(json!({"type": "stdio", "program": "sh"}))).await;
    assert_eq!(unknown.is(422, "invalid").pointer(), "/transport/program");
    assert!(unknown.text.contains("it lists files"), "{}", unknown.text);
    let command = new(json!({"type": "stdio", "program": "files", "command": "sh"}));
    world.post(&world.root, &path, command).await.is(422, "invalid");
    let sse = new(json!({"type": "sse", "url": "https://example.com/sse"}));
    world.post(&world.root, &path, sse).await.is(422, "unsupported_transport");
    let made = world.post(&world.root, &path, new(json!({"type": "stdio", "program": "files"}))).await;
    assert_eq!(
        (made.status.as_u16(), made.json["state"].as_str(), made.json["error"].as_str()),
        (201, Some("error"), Some("it does not answer"))
    );
    let synced = world.call(&world.root, "POST", &format!("{path}/{}/sync", made.id()), None, &[]).await;
    assert!(synced.is(502, "upstream_unreachable").text.contains("it does not answer"));
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn t01_only_what_was_read_is_approved(pool: PgPool) {
    let world = World::new(pool).await;
    let tenant = world.tenant("acme").await;
    let first = worker(&world, Peer::Lists(vec![tool("a", "1")]));
    let made = world.post(&world.root, &format!("{tenant}/upstreams"), http("crm")).await;
    drop(first);
    let _second = worker(&world, Peer::Lists(vec![tool("a", "2"), tool("b", "1")]));
    let sync = format!("{tenant}/upstreams/{}/sync", made.id());
    let synced = world.call(&world.root, "POST", &sync, None, &[("idempotency-key", "k")]).await;
    assert_eq!(synced.json, json!({"added": ["b"], "changed": ["a"], "removed": []}), "{}", synced.text);
    let again = world.call(&world.root, "POST", &sync, None, &[("idempotency-key", "k")]).await;
    assert_eq!((again.json, again.headers["idempotency-replayed"].to_str().unwrap()), (synced.json, "true"));

    let listed = world.get(&world.root, &format!("{tenant}/tools?upstream_id={}&status=quarantined", made.id())).await;
    let a = &listed.json["items"][0];
    assert_eq!((&a["name"], &a["annotations"]), (&json!("a"), &json!({"readOnlyHint": true})), "{}", listed.text);
    let path = format!("{tenant}/tools/{}", a["id"].as_str().unwrap());
    let read = world.get(&world.root, &path).await;
    assert_eq!(read.json["changes"], json!([{"pointer": "/description", "before": "1", "after": "2"}]), "{}", read.text);
    assert_eq!((&read.json["definition"], &read.json["approved_definition"]), (&tool("a", "2"), &tool("a", "1")));

    let old = json!({"definition_sha256": a["approved_sha256"]});
    world.post(&world.root, &format!("{path}/approve"), old).await.is(409, "conflict");
    world.post(&world.root, &format!("{path}/approve"), json!({"definition_sha256": "x"})).await.is(422, "invalid");
    let operator = world.token(&tenant, "operator").await;
    let now = json!({"definition_sha256": a["definition_sha256"]});
    world.post(&operator, &format!("{path}/approve"), now.clone()).await.is(403, "forbidden");
    assert_eq!(world.post(&world.root, &format!("{path}/approve"), now).await.json["status"], "approved");
    let taken = world.call(&operator, "POST", &format!("{path}/quarantine"), None, &[]).await;
    assert_eq!((&taken.json["status"], &taken.json["approved_sha256"]), (&json!("quarantined"), &Value::Null));
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn prices_are_set_for_now_or_later(pool: PgPool) {
    let world = World::new(pool).await;
    let tenant = world.tenant("acme").await;
    let _worker = worker(&world, Peer::Lists(vec![tool("a", "1")]));
    let upstream = world.post(&world.root, &format!("{tenant}/upstreams"), http("crm")).await.id();
    let finance = world.token(&tenant, "finance").await;
    let path = format!("{tenant}/prices");
    let set = world.post(&finance, &path, json!({"upstream_id": upstream, "amount": "0.0020", "unit": "call"})).await;
    assert_eq!((set.status.as_u16(), set.json["amount"].as_str()), (201, Some("0.002")), "{}", set.text);
    world.post(&finance, &path, json!({"upstream_id": upstream, "amount": "1", "unit": "call"})).await.is(409, "conflict");
    let past = json!({"upstream_id": upstream, "amount": "1", "unit": "call", "effective_from": "2020-01-01T00:00:00Z"});
    assert_eq!(world.post(&finance, &path, past).await.is(422, "invalid").pointer(), "/effective_from");
    for (amount, pointer) in [("1e3", "/amount"), ("-1", "/amount"), ("0.0000000000001", "/amount")] {
        let refused = world.post(&finance, &path, json!({"upstream_id": upstream, "amount": amount, "unit": "call"})).await;
        assert_eq!(refused.is(422, "invalid").pointer(), pointer);
    }
    world.post(&finance, &path, json!({"amount": "1", "unit": "call"})).await.is(422, "invalid");
    let card = world.get(&finance, &format!("{tenant}/rate-card")).await;
    let rate = &card.json["items"][0];
    assert_eq!((&rate["tool_name"], &rate["amount"], &rate["price_of"]), (&json!("a"), &json!("0.002"), &json!("upstream")));
    assert_eq!(world.get(&finance, &format!("{path}/{}", set.id())).await.json, set.json);
    assert_eq!(world.get(&finance, &format!("{path}?upstream_id={upstream}")).await.json["items"].as_array().unwrap().len(), 1);
}
