//! What an earlier release has recorded comes over whole.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

mod support;

use sqlx::PgPool;
use tollgate_domain::{ScriptRunId, TenantId};
use tollgate_store::{Store, calls, payload};

/// A run that has ended, one that was swept, and one that runs, with sources of every awkward length.
#[sqlx::test(migrations = false)]
async fn script_runs_of_the_release_before_keep_their_texts(pool: PgPool) {
    let mut all: Vec<_> = tollgate_store::MIGRATOR.iter().collect();
    all.sort_by_key(|migration| migration.version);
    sqlx::raw_sql(all[0].sql.clone()).execute(&pool).await.unwrap();
    let tenant = TenantId::mint(support::now());
    sqlx::query("INSERT INTO tenants (tenant_id, name, slug, currency, created_at, updated_at) VALUES ($1, 't', 't', 'USD', now(), now())")
        .bind(tenant.uuid())
        .execute(&pool)
        .await
        .unwrap();
    let sources = ["", "result = 1", &"żółw 🐢".repeat(40), &"x".repeat(65_535), &"y".repeat(65_536)];
    let mut runs = Vec::new();
    for (number, source) in sources.iter().enumerate() {
        let run = ScriptRunId::mint(support::now());
        let ended = number % 3;
        sqlx::query(
            "INSERT INTO script_runs (tenant_id, script_run_id, llm_request_id, key_id, state, source, catalog, catalog_sha256, engine, worker_id,
               opened_at, result, logs, error, ticks, closed_at)
             VALUES ($1, $2, $1, $1, $3, $4, $5, '\\x01', 'e', $1, now(), $6, $7, $8, $9, $10)",
        )
        .bind(tenant.uuid())
        .bind(run.uuid())
        .bind(["done", "failed", "running"][ended])
        .bind(source)
        .bind(payload::pack(b"{}"))
        .bind((ended == 0).then(|| payload::pack(b"7")))
        .bind((ended == 0).then(|| payload::pack(b"[\"x\"]")))
        .bind((ended == 1).then(|| payload::pack(b"{\"kind\":\"sandbox\"}")))
        .bind((ended == 0).then_some(5i64))
        .bind((ended < 2).then(support::now))
        .execute(&pool)
        .await
        .unwrap();
        sqlx::query("INSERT INTO script_journal (tenant_id, script_run_id, sequence, call_id, entry) VALUES ($1, $2, 1, $1, $3)")
            .bind(tenant.uuid())
            .bind(run.uuid())
            .bind(payload::pack(b"{\"sequence\":1}"))
            .execute(&pool)
            .await
            .unwrap();
        runs.push((run, (*source).to_owned(), ended));
    }
    for migration in &all[1..] {
        sqlx::raw_sql(migration.sql.clone()).execute(&pool).await.unwrap_or_else(|e| panic!("{}: {e}", migration.version));
    }
    let store = Store::from_pool(pool.clone());
    let mut tx = store.tenant(tenant).await.unwrap();
    for (id, source, ended) in runs {
        let run = calls::get_run(&mut tx, tenant, id).await.unwrap();
        assert_eq!(run.source.as_deref(), Some(source.as_str()), "{} bytes", source.len());
        assert_eq!(run.run.state, ["done", "failed", "running"][ended]);
        assert_eq!((run.result.is_some(), run.logs.is_some(), run.error.is_some()), (ended == 0, ended == 0, ended == 1));
        assert_eq!(run.journal[0].entry.as_deref(), Some("{\"sequence\":1}"));
    }
    assert_eq!(support::count(&pool, "SELECT count(*) FROM script_catalogs").await, 1);
    let astray = "SELECT count(*) FROM script_payloads_default";
    assert_eq!(support::count(&pool, astray).await, 0, "in the partition of their month");
}
