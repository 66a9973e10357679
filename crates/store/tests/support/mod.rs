//! Tenants and audit entries for the tests beside this folder.

#![allow(dead_code, reason = "each test binary uses its part")]

pub mod runs;

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tollgate_domain::{
    CallId, Currency, Decision, KeyId, LlmRequestId, Origin, Outcome, Picos, TenantId, ToolId, UpstreamId, WorkerId,
    price::Quote, tool::DefinitionHash,
};
use tollgate_store::{
    Store,
    audit::{Completion, Entry, Intent, NewRequest, QueueLimits},
    payload::Payload,
    sealer,
};

/// Room for everything.
pub const QUEUE: QueueLimits = QueueLimits { entries: 4096, bytes: 1 << 30 };

#[expect(clippy::disallowed_methods, reason = "a test's own clock")]
pub fn now() -> DateTime<Utc> {
    Utc::now()
}

pub async fn tenant(pool: &PgPool) -> TenantId {
    let id = TenantId::mint(now());
    sqlx::query(
        "INSERT INTO tenants (tenant_id, name, slug, currency, created_at, updated_at) VALUES ($1, 't', $2, 'USD', now(), now())",
    )
    .bind(id.uuid())
    .bind(id.to_string())
    .execute(pool)
    .await
    .unwrap();
    id
}

/// A pool of its own, whose connections can be told from the test's.
pub async fn pool(options: &PgConnectOptions, name: &str, connections: u32) -> PgPool {
    PgPoolOptions::new().max_connections(connections).connect_with(options.clone().application_name(name)).await.unwrap()
}

/// One caller, whose calls differ by their arguments alone.
#[derive(Debug, Clone)]
pub struct Who {
    pub tenant: TenantId,
    pub request: LlmRequestId,
    pub key: KeyId,
    pub upstream: UpstreamId,
    pub tool: ToolId,
    pub worker: WorkerId,
}

impl Who {
    pub fn new(tenant: TenantId) -> Self {
        Self {
            tenant,
            request: LlmRequestId::mint(now()),
            key: KeyId::mint(now()),
            upstream: UpstreamId::mint(now()),
            tool: ToolId::mint(now()),
            worker: WorkerId::mint(now()),
        }
    }

    pub fn request(&self) -> NewRequest {
        NewRequest {
            tenant: self.tenant,
            id: self.request,
            key: self.key,
            team: None,
            origin: Origin::Minted,
            method: "tools/call",
            model: None,
            client: None,
            prompt_tokens_avoided: None,
            at: now(),
            forward: None,
        }
    }

    pub fn intent(&self, arguments: impl AsRef<[u8]>) -> Intent {
        let at = now();
        Intent {
            tenant: self.tenant,
            id: CallId::mint(at),
            request: self.request,
            origin: Origin::Minted,
            place: None,
            key: self.key,
            team: None,
            upstream: Some((self.upstream, "crm".to_owned())),
            tool: Some(self.tool),
            tool_name: "find_customer".to_owned(),
            definition: Some(DefinitionHash([7; 32])),
            decision: Decision::Permitted,
            reason: None,
            approval: None,
            quote: Quote { price_id: None, amount: Picos(2_000_000_000), applied: None },
            leases: Vec::new(),
            currency: "USD".parse::<Currency>().unwrap(),
            worker: self.worker,
            arguments: Payload::whole(arguments.as_ref()),
            at,
        }
    }

    pub fn completion(&self, id: CallId, outcome: Outcome, result: &[u8]) -> Completion {
        Completion {
            tenant: self.tenant,
            id,
            outcome,
            error: None,
            latency: Duration::from_micros(1234),
            amount: Picos(2_000_000_000),
            result: Some(Payload::whole(result)),
            at: now(),
        }
    }
}

pub fn opens(intent: Intent) -> Entry {
    Entry { intent: Some(intent), ..Entry::default() }
}

pub fn closes(completion: Completion) -> Entry {
    Entry { completions: vec![completion], ..Entry::default() }
}

/// Seal whatever waits; what the rounds did.
pub async fn seal_all(store: &Store) -> sealer::Round {
    let mut all = sealer::Round::default();
    loop {
        let round = sealer::round(store, now()).await.unwrap();
        let done = round.entries == 0 && !round.more;
        all.entries += round.entries;
        all.seals.extend(round.seals);
        all.anomalies.extend(round.anomalies);
        if done {
            return all;
        }
    }
}

/// What `tool_calls` says of one call: outcome, error, amount, whether it is closed.
pub async fn row(pool: &PgPool, id: CallId) -> (Option<String>, Option<String>, Option<i64>, bool) {
    sqlx::query_as("SELECT outcome, error, amount_picos, closed_at IS NOT NULL FROM tool_calls WHERE call_id = $1")
        .bind(id.uuid())
        .fetch_one(pool)
        .await
        .unwrap()
}

pub async fn count(pool: &PgPool, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(pool).await.unwrap()
}

/// What a superuser can do who wants to: past the triggers, whatever the grants.
pub async fn tamper(pool: &PgPool, sql: &str) -> u64 {
    let mut tx = pool.begin().await.unwrap();
    sqlx::query("SET LOCAL session_replication_role = replica").execute(&mut *tx).await.unwrap();
    let done = sqlx::query(sqlx::AssertSqlSafe(sql.to_owned())).execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    done.rows_affected()
}
