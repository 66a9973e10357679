//! Upstreams, tools, prices, the audit trail and its reports, against a real Postgres.

#![allow(clippy::unwrap_used, clippy::bool_assert_comparison, reason = "helpers of tests are tests")]

mod calls;
mod costs;
mod credits;
mod discovery;
mod llm_prices;
mod prices;
mod rollup_cases;
mod rollups;
#[path = "../support/mod.rs"]
mod support;
mod trail;
mod upstreams;

use std::sync::atomic::{AtomicU64, Ordering};

use chrono::{DateTime, Utc};
use sqlx::PgPool;
use tollgate_domain::{TenantId, UpstreamId, ids};
use uuid::Uuid;

/// The one "now" of these tests; the partitions of the month around it are made by [`tenant`].
pub fn now() -> DateTime<Utc> {
    "2026-11-15T12:30:00Z".parse().unwrap()
}

/// An id of any time: [`ids::mint`] never goes back behind the last one.
pub fn id_at<T: From<Uuid>>(at: DateTime<Utc>) -> T {
    static COUNT: AtomicU64 = AtomicU64::new(1);
    let count = u128::from(COUNT.fetch_add(1, Ordering::Relaxed));
    T::from(Uuid::from_u128(ids::floor(at).as_u128() | 0x7000_8000_0000_0000_0000 | count))
}

/// What a superuser can do who wants to: past the triggers, whatever the grants.
pub async fn tamper(pool: &PgPool, sql: &str) {
    let mut tx = pool.begin().await.unwrap();
    sqlx::query("SET LOCAL session_replication_role = replica").execute(&mut *tx).await.unwrap();
    sqlx::query(sqlx::AssertSqlSafe(sql.to_owned())).execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
}

pub async fn tenant(pool: &PgPool) -> TenantId {
    let id = TenantId::mint(now());
    sqlx::query("SELECT tollgate_ensure_partitions($1)").bind(now()).execute(pool).await.unwrap();
    sqlx::query(
        "INSERT INTO tenants (tenant_id, name, slug, currency, created_at, updated_at) VALUES ($1, 't', $2, 'USD', $3, $3)",
    )
    .bind(id.uuid())
    .bind(id.to_string())
    .bind(now())
    .execute(pool)
    .await
    .unwrap();
    id
}

pub async fn upstream(pool: &PgPool, tenant: TenantId, name: &str, tool_approval: &str) -> UpstreamId {
    let id = UpstreamId::mint(now());
    sqlx::query(
        r#"INSERT INTO upstreams (tenant_id, upstream_id, name, transport, exposure, binding, timeout_ms, sync_interval_s,
                                 tool_approval, created_at, updated_at)
           VALUES ($1, $2, $3, '{"type":"http","url":"http://x/"}', 'code', 'server', 1000, 300, $4, $5, $5)"#,
    )
    .bind(tenant.uuid())
    .bind(id.uuid())
    .bind(name)
    .bind(tool_approval)
    .bind(now())
    .execute(pool)
    .await
    .unwrap();
    id
}
