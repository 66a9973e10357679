//! A door over one fresh database, and a clock that the test sets.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{HeaderMap, Request, StatusCode, header},
};
use chrono::{DateTime, Duration, Utc};
use serde_json::{Value, json};
use sqlx::PgPool;
use tollgate_api::{
    App,
    audit::stream::{Pace, Streams},
    router,
};
use tollgate_boot::Config;
use tollgate_domain::{
    ApprovalId, CallId, Clock, Decision, KeyId, LlmRequestId, Origin, Outcome, Picos, PlatformTokenId, Secret, SecretKind,
    Secrets, TenantId, WorkerId, ids, policy::Reason, price::Quote,
};
use tollgate_store::{
    Store,
    audit::{AuditWriter, Completion, Entry, Intent, QueueLimits, ScriptPlace},
    auth,
    payload::Payload,
    sealer,
};
use tower::ServiceExt;

#[derive(Debug)]
pub struct TestClock(Mutex<DateTime<Utc>>);

impl Clock for TestClock {
    fn now(&self) -> DateTime<Utc> {
        *self.0.lock().unwrap()
    }
}

pub struct World {
    pub router: Router,
    pub app: App,
    pub pool: PgPool,
    pub clock: Arc<TestClock>,
    /// The platform token.
    pub root: String,
}

#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
    pub json: Value,
}

impl Reply {
    pub fn code(&self) -> &str {
        self.json["code"].as_str().unwrap_or("")
    }

    pub fn pointer(&self) -> &str {
        self.json["errors"][0]["pointer"].as_str().unwrap_or("")
    }

    pub fn etag(&self) -> String {
        self.headers[header::ETAG].to_str().unwrap().to_owned()
    }

    pub fn id(&self) -> String {
        self.json["id"].as_str().unwrap_or_else(|| panic!("no id in {}", self.text)).to_owned()
    }

    /// The status and the problem's code, in one.
    #[track_caller]
    pub fn is(&self, status: u16, code: &str) -> &Self {
        assert_eq!((self.status.as_u16(), self.code()), (status, code), "{}", self.text);
        self
    }
}

impl World {
    pub async fn new(pool: PgPool) -> Self {
        Self::with_config(pool, Config::default()).await
    }

    pub async fn with_config(pool: PgPool, config: Config) -> Self {
        Self::with_patience(pool, config, Pace::default().stall).await
    }

    /// With streams that are cut when nothing is read for so long.
    pub async fn with_patience(pool: PgPool, config: Config, stall: std::time::Duration) -> Self {
        let now = DateTime::from_timestamp(1_795_000_000, 0).unwrap();
        let clock = Arc::new(TestClock(Mutex::new(now)));
        let secrets = Secrets::from_bytes([7; 32]);
        let store = Store::from_pool(pool.clone());
        let id = PlatformTokenId::mint(now);
        let root = Secret::generate(SecretKind::Platform, id.uuid());
        auth::put_platform_token(&store, id, &root.hash(&secrets.pepper), now).await.unwrap();
        let mut app = App::new(store, Arc::new(config), secrets, Arc::clone(&clock) as _);
        let ms = std::time::Duration::from_millis;
        app.streams = Arc::new(Streams::new(Pace { poll: ms(20), beat: ms(200), recheck: ms(300), stall }));
        Self { router: router(app.clone()), app, pool, clock, root: root.reveal().to_owned() }
    }

    pub fn pass(&self, time: Duration) {
        *self.clock.0.lock().unwrap() += time;
    }

    pub async fn send(&self, request: Request<Body>) -> Reply {
        let answer = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = answer.into_parts();
        // Not every file is text.
        let text = String::from_utf8_lossy(&to_bytes(body, 64 << 20).await.unwrap()).into_owned();
        let json = serde_json::from_str(&text).unwrap_or(Value::Null);
        Reply { status: parts.status, headers: parts.headers, text, json }
    }

    pub async fn call(&self, token: &str, method: &str, path: &str, body: Option<Value>, headers: &[(&str, &str)]) -> Reply {
        let mut request = Request::builder().method(method).uri(path);
        if !token.is_empty() {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = match body {
            Some(json) => {
                request = request.header(header::CONTENT_TYPE, "application/json");
                Body::from(json.to_string())
            }
            None => Body::empty(),
        };
        self.send(request.body(body).unwrap()).await
    }

    pub async fn get(&self, token: &str, path: &str) -> Reply {
        self.call(token, "GET", path, None, &[]).await
    }

    pub async fn post(&self, token: &str, path: &str, body: Value) -> Reply {
        self.call(token, "POST", path, Some(body), &[]).await
    }

    /// A tenant and its path.
    pub async fn tenant(&self, name: &str) -> String {
        let made = self.post(&self.root, "/v1/tenants", json!({"name": name})).await;
        assert_eq!(made.status, 201, "{}", made.text);
        format!("/v1/tenants/{}", made.id())
    }

    /// A service token of this role.
    pub async fn token(&self, tenant: &str, role: &str) -> String {
        let made = self.post(&self.root, &format!("{tenant}/service-tokens"), json!({"name": role, "role": role})).await;
        assert_eq!(made.status, 201, "{}", made.text);
        made.json["secret"].as_str().unwrap().to_owned()
    }

    pub async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.unwrap()
    }
}

/// Calls of one tenant, written and sealed as the worker and its sealer do.
pub struct Trail {
    store: Store,
    audit: AuditWriter,
    tenant: TenantId,
    pub key: KeyId,
    now: DateTime<Utc>,
}

impl Trail {
    pub fn new(world: &World, tenant: &str) -> Self {
        let store = world.app.store.clone();
        let audit = AuditWriter::start(&store, QueueLimits { entries: 4096, bytes: 1 << 30 });
        let now = world.clock.now();
        Self { store, audit, tenant: tenant.rsplit('/').next().unwrap().parse().unwrap(), key: KeyId::mint(now), now }
    }

    fn intent(&self, id: CallId) -> Intent {
        Intent {
            tenant: self.tenant,
            id,
            request: LlmRequestId::mint(self.now),
            origin: Origin::Minted,
            place: None,
            key: self.key,
            team: None,
            upstream: None,
            tool: None,
            tool_name: "find_customer".to_owned(),
            definition: None,
            decision: Decision::Permitted,
            reason: None,
            approval: None,
            quote: Quote { price_id: None, amount: Picos(2_000_000_000), applied: None },
            leases: Vec::new(),
            currency: "USD".parse().unwrap(),
            worker: WorkerId::mint(self.now),
            arguments: Payload::whole(&b"{\n\"a\": 1}"[..]),
            at: self.now,
        }
    }

    pub async fn open(&self) -> CallId {
        // Minted ids never go back in one process, in which other tests live years later.
        static CALLS: AtomicU64 = AtomicU64::new(0);
        let id = ids::floor(self.now).as_u128() | 7 << 76 | 2 << 62 | u128::from(CALLS.fetch_add(1, Ordering::Relaxed));
        let id = CallId::from_uuid(uuid::Uuid::from_u128(id));
        self.audit.before(Entry { intent: Some(self.intent(id)), ..Entry::default() }).await.unwrap();
        id
    }

    /// A call that waits for people.
    pub async fn hold(&self, id: CallId, approval: ApprovalId, place: Option<ScriptPlace>) {
        let held = Intent {
            decision: Decision::Held,
            reason: Some(Reason::ApprovalRequired),
            approval: Some(approval),
            arguments: Payload::whole(&br#"{"all":true}"#[..]),
            place,
            ..self.intent(id)
        };
        self.audit.before(Entry { intent: Some(held), ..Entry::default() }).await.unwrap();
    }

    pub async fn close(&self, id: CallId) {
        let completion = Completion {
            tenant: self.tenant,
            id,
            outcome: Outcome::Ok,
            error: None,
            latency: std::time::Duration::from_micros(1234),
            amount: Picos(2_000_000_000),
            result: Some(Payload::whole(&b"[1]"[..])),
            at: self.now,
        };
        self.audit.after(Entry { completions: vec![completion], ..Entry::default() }).await.unwrap();
    }

    pub async fn call(&self) -> CallId {
        let id = self.open().await;
        self.close(id).await;
        id
    }

    pub async fn calls(&self, n: usize) -> Vec<String> {
        let mut calls = Vec::new();
        for _ in 0..n {
            calls.push(self.call().await.to_string());
        }
        calls
    }

    pub async fn seal(&self) {
        while sealer::round(&self.store, self.now).await.unwrap().entries > 0 {}
    }
}
