//! What is kept of the trail: redacted, cut by size, dropped by month, erased on purpose; and that all else stays as it was.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

mod support;

use std::collections::BTreeMap;

use chrono::{DateTime, Datelike, Days, Months, NaiveDate, TimeDelta, Utc};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgPool};
use tollgate_domain::{Durability, KeyId, Outcome, Picos, TenantId};
use tollgate_evidence::merkle;
use tollgate_store::{
    Actor, PageRequest, Store, StoreError,
    audit::AuditWriter,
    calls::{self, Form},
    costs::rollup,
    erasures::{self, Counts, Selection},
    log,
    payload::{self, Payload},
    requests,
    retention::{self, Retired},
    seals,
    settings::{self, AuditSettings, TrailPolicy},
};

use support::{
    QUEUE, Who, count,
    runs::{erase, forwarded, fresh, opening, record, rules},
    seal_all, tenant,
};

const SECRET: &str = "ada@example.com";

fn stored(payload: &Payload) -> Option<&str> {
    payload.stored().map(|bytes| std::str::from_utf8(bytes).unwrap())
}

async fn set(store: &Store, tenant: TenantId, change: impl FnOnce(&mut AuditSettings)) {
    let mut open = store.change(tenant, Actor::system("test"), support::now()).await.unwrap();
    let mut settings = settings::lock(&mut open).await.unwrap();
    change(&mut settings);
    settings::put(&mut open, settings).await.unwrap();
    open.commit().await.unwrap();
}

/// How many lines of a tenant's log hash to their leaves; all do, unless the index of a seal is gone.
async fn proved(store: &Store, tenant: TenantId) -> usize {
    let mut tx = store.tenant(tenant).await.unwrap();
    let mut sound = 0;
    for signed in seals::from(&mut tx, tenant, 1, 1_000).await.unwrap() {
        let Some(entries) = seals::entries(&mut tx, tenant, signed.seal.sequence).await.unwrap() else { continue };
        for ((place, leaf), line) in entries.iter().zip(log::lines(&mut tx, tenant, &entries).await.unwrap()) {
            let line = line.unwrap_or_else(|| panic!("{place:?} is not there"));
            assert_eq!(merkle::leaf(&line), *leaf, "{}", String::from_utf8_lossy(&line));
            sound += 1;
        }
    }
    sound
}

const PARTITIONED: [&str; 9] = [
    "llm_requests",
    "llm_forwards",
    "llm_request_ends",
    "script_run_starts",
    "script_run_ends",
    "script_payloads",
    "script_journal",
    "tool_call_events",
    "tool_call_payloads",
];

/// All of a tenant's partitioned rows, as one hash a table.
async fn digest(pool: &PgPool, tenant: TenantId) -> BTreeMap<&'static str, (i64, Option<String>)> {
    let mut all = BTreeMap::new();
    for table in PARTITIONED {
        let sql = format!("SELECT count(*), md5(string_agg(t::text, '|' ORDER BY t::text)) FROM {table} t WHERE tenant_id = $1");
        all.insert(table, sqlx::query_as(AssertSqlSafe(sql)).bind(tenant.uuid()).fetch_one(pool).await.unwrap());
    }
    all
}

fn rows(digest: &BTreeMap<&'static str, (i64, Option<String>)>) -> i64 {
    digest.values().map(|(rows, _)| rows).sum()
}

// ---------------------------------------------------------------- redaction and size

#[tokio::test]
async fn a_payload_is_kept_as_the_rules_say() {
    let none = rules(json!({}));
    assert_eq!(stored(&none.payload(SECRET.as_bytes()).await), Some(SECRET));
    let trail =
        rules(json!({"paths": ["$.pin"], "detectors": ["email"], "patterns": [{"name": "order", "regex": "ORD-[0-9]+"}]}));
    let document = r#"{ "pin": 1234, "to":"ada@example.com", "note":"ORD-77", "n":1.0 }"#;
    let kept = trail.payload(document.as_bytes()).await;
    let expected = r#"{ "pin": "[redacted]", "to":"[redacted:email]", "note":"[redacted:order]", "n":1.0 }"#;
    assert_eq!(stored(&kept), Some(expected));
    assert_eq!(stored(&trail.payload(&b"{\"n\":1}"[..]).await), Some("{\"n\":1}"));
    assert_eq!(stored(&trail.payload(&b"{\"n\":"[..]).await), None, "not JSON: the paths cannot tell what is in it");
    assert_eq!(stored(&trail.text("x = \"ada@example.com\"").await), Some("x = \"[redacted:email]\""));
    assert_eq!(trail.words("Ada <ada@example.com>".to_owned()).await, "Ada <[redacted:email]>");
    assert_eq!(trail.message("no such order: ORD-1").await, "no such order: [redacted:order]");
    // As long as it takes to go to another thread.
    let long = format!("[{}\"{SECRET}\"]", "\"x\",".repeat(100_000));
    let kept = trail.payload(long.as_bytes()).await;
    assert_eq!(stored(&kept), Some(long.replace(SECRET, "[redacted:email]").as_str()));
}

#[tokio::test]
async fn rules_that_cannot_be_read_keep_nothing() {
    for broken in [json!("x"), json!({"paths": ["$["]}), json!({"unknown": []}), json!({"detectors": ["no such"]})] {
        let trail = rules(broken.clone());
        assert_eq!(stored(&trail.payload(&b"{}"[..]).await), None, "{broken}");
        assert_eq!(stored(&trail.text("x = 1").await), None);
        assert_eq!(trail.words(SECRET.to_owned()).await, "[redacted]");
        // And are read anew once they are others.
        let mended = TrailPolicy::new(&AuditSettings::default(), Some(&trail));
        assert_eq!(stored(&mended.payload(&b"{}"[..]).await), Some("{}"));
        let same = AuditSettings { redaction: broken, durability: Durability::Relaxed, ..AuditSettings::default() };
        let taken = TrailPolicy::new(&same, Some(&trail));
        assert_eq!((stored(&taken.payload(&b"{}"[..]).await), taken.durability), (None, Durability::Relaxed));
    }
}

#[tokio::test]
async fn what_does_not_fit_leaves_its_hash_alone() {
    let cut = |redaction| AuditSettings { payload_limit_bytes: Some(20), redaction, ..AuditSettings::default() };
    let trail = TrailPolicy::new(&cut(json!({})), None);
    assert_eq!(stored(&trail.payload(&b"\"12345678901234567\""[..]).await).map(str::len), Some(19));
    assert_eq!(stored(&trail.payload(&b"\"1234567890123456789\""[..]).await), None);
    assert_eq!(trail.message("a message of an upstream that is long").await, "[omitted]");
    assert_eq!(trail.words("words of the gateway itself stay".to_owned()).await, "words of the gateway itself stay");
    // What counts is what would be stored.
    let trail = TrailPolicy::new(&cut(json!({"paths": ["$[0]"]})), None);
    assert_eq!(stored(&trail.payload(&b"[\"1234567890123456789\"]"[..]).await), Some("[\"[redacted]\"]"));
    assert_eq!(stored(&trail.payload(&b"[1,\"123456789012\"]"[..]).await), None, "markers may be longer");
    let nothing = TrailPolicy::new(&AuditSettings { payload_limit_bytes: Some(0), ..AuditSettings::default() }, None);
    assert_eq!(stored(&nothing.payload(&b"1"[..]).await), None);
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn rows_say_in_which_form_their_payloads_are(pool: PgPool) {
    let store = Store::from_pool(pool.clone());
    let who = Who::new(tenant(&pool).await);
    let audit = AuditWriter::start(&store, QUEUE);
    let long = "x".repeat(50);
    let limited =
        AuditSettings { payload_limit_bytes: Some(40), redaction: json!({"detectors": ["email"]}), ..AuditSettings::default() };
    let trail = TrailPolicy::new(&limited, None);
    let (whole, whole_run) = record(&who, &audit, &trail, "{}", "short").await;
    let (redacted, redacted_run) = record(&who, &audit, &trail, "{\"to\":\"ada@example.com\"}", SECRET).await;
    let (omitted, omitted_run) = record(&who, &audit, &trail, &format!("[\"{long}\"]"), &long).await;
    seal_all(&store).await;
    assert!(proved(&store, who.tenant).await >= 18, "the log commits to what was kept and what was not");

    let mut tx = store.tenant(who.tenant).await.unwrap();
    for (id, form, arguments, result) in [
        (whole, None, Some("{}"), Some("\"short\"")),
        (redacted, Some(Form::Redacted), Some("{\"to\":\"[redacted:email]\"}"), Some("\"[redacted:email]\"")),
        (omitted, Some(Form::Omitted), None, None),
    ] {
        let call = calls::get(&mut tx, who.tenant, id).await.unwrap();
        assert_eq!((call.arguments_form, call.result_form), (form, form), "{id}");
        assert_eq!((call.arguments.as_deref(), call.result.as_deref()), (arguments, result));
    }
    for (id, source, texts) in [
        (whole_run, Some("short"), Some("\"short\"")),
        (redacted_run, Some("[redacted:email]"), Some("\"[redacted:email]\"")),
        (omitted_run, None, None),
    ] {
        let run = calls::get_run(&mut tx, who.tenant, id).await.unwrap();
        assert_eq!(run.source.as_deref(), source);
        for text in [&run.result, &run.logs, &run.error, &run.journal[0].entry] {
            assert_eq!(text.as_deref(), texts);
        }
    }
    // An open call has no result, in whatever form.
    let open = opening(&who);
    audit.before(support::opens(open.clone())).await.unwrap();
    assert_eq!(calls::get(&mut tx, who.tenant, open.id).await.unwrap().result_form, None);
}

// ---------------------------------------------------------------- retention

fn this_month() -> NaiveDate {
    support::now().date_naive().with_day(1).unwrap()
}

/// The first moment at which `days` of retention no longer cover this month.
fn expiry(days: u64) -> DateTime<Utc> {
    let next = this_month().checked_add_months(Months::new(1)).unwrap();
    next.and_hms_opt(0, 0, 0).unwrap().and_utc() + Days::new(days)
}

/// The index, triggers and constraints of this month's partitions are those of any other month's.
async fn partitions_are_whole(pool: &PgPool) {
    let (this, next) = (this_month().format("%Y%m"), this_month().checked_add_months(Months::new(1)).unwrap());
    for table in PARTITIONED {
        let shape = async |month: String| -> (i64, i64, i64, i64) {
            let part = format!("{table}_p{month}");
            let sql = "SELECT (SELECT count(*) FROM pg_index x JOIN pg_inherits i ON i.inhrelid = x.indexrelid WHERE x.indrelid = $1::regclass),
                              (SELECT count(*) FROM pg_trigger t WHERE t.tgrelid = $1::regclass AND t.tgparentid <> 0),
                              (SELECT count(*) FROM pg_constraint c WHERE c.conrelid = $1::regclass),
                              (SELECT count(*) FROM pg_inherits i WHERE i.inhrelid = $1::regclass)";
            sqlx::query_as(sql).bind(part).fetch_one(pool).await.unwrap()
        };
        assert_eq!(shape(this.to_string()).await, shape(next.format("%Y%m").to_string()).await, "{table}");
    }
    let left = "SELECT count(*) FROM pg_class WHERE relname ~ '_(kept|old)$' AND relkind IN ('r', 'p')";
    assert_eq!(count(pool, left).await, 0);
    assert_eq!(count(pool, "SELECT count(*) FROM pg_constraint WHERE conname = 'tollgate_month'").await, 0);
}

/// An approval that was used, one that waits, and a turn of a run, all of this month.
async fn decided_and_driven(pool: &PgPool, who: &Who) {
    for state in ["used", "pending"] {
        let id: uuid::Uuid = fresh();
        sqlx::query(
            "INSERT INTO approvals (tenant_id, approval_id, state, key_id, tool_id, upstream_id, upstream_name, tool_name, call_id,
                                    llm_request_id, arguments_hmac, policy, confirmations, requested_at, expires_at)
             VALUES ($1, $2, $3, $4, $2, $2, 'crm', 'wipe', $2, $2, '', '', 1, now(), now() + interval '1 day')",
        )
        .bind(who.tenant.uuid())
        .bind(id)
        .bind(state)
        .bind(who.key.uuid())
        .execute(pool)
        .await
        .unwrap();
        if state == "used" {
            let said = "INSERT INTO approval_confirmations VALUES ($1, $2, 'ann', 'Ann', 'approve', NULL, now())";
            sqlx::query(said).bind(who.tenant.uuid()).bind(id).execute(pool).await.unwrap();
        }
    }
    let turn = "INSERT INTO script_run_turns VALUES ($1, $2, 1, $2, 'crashed', 0, now())";
    sqlx::query(turn).bind(who.tenant.uuid()).bind(fresh::<uuid::Uuid>()).execute(pool).await.unwrap();
}

async fn asked_and_driven(pool: &PgPool, who: &Who) -> Vec<(String, i64)> {
    let sql = "SELECT what, count(*) FROM (SELECT state AS what FROM approvals WHERE tenant_id = $1
               UNION ALL SELECT 'confirmed' FROM approval_confirmations WHERE tenant_id = $1
               UNION ALL SELECT 'turn' FROM script_run_turns WHERE tenant_id = $1) AS all_of_it GROUP BY what ORDER BY what";
    sqlx::query_as(sql).bind(who.tenant.uuid()).fetch_all(pool).await.unwrap()
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_month_goes_for_those_who_let_it_go_and_stays_for_all_others(pool: PgPool) {
    let store = Store::from_pool(pool.clone());
    let audit = AuditWriter::start(&store, QUEUE);
    let trail = rules(json!({}));
    let (gone, held, longer, never) = (
        Who::new(tenant(&pool).await),
        Who::new(tenant(&pool).await),
        Who::new(tenant(&pool).await),
        Who::new(tenant(&pool).await),
    );
    for who in [&gone, &held, &longer, &never] {
        record(who, &audit, &trail, "{\"a\":1}", "text").await;
        record(who, &audit, &trail, "{}", "text").await;
        forwarded(who, &audit, &trail, "text").await;
    }
    for who in [&gone, &never] {
        decided_and_driven(&pool, who).await;
    }
    set(&store, gone.tenant, |s| s.retention_days = Some(30)).await;
    set(&store, held.tenant, |s| (s.retention_days, s.legal_hold) = (Some(1), true)).await;
    set(&store, longer.tenant, |s| s.retention_days = Some(31)).await;
    seal_all(&store).await;
    let before: Vec<_> =
        [digest(&pool, held.tenant).await, digest(&pool, longer.tenant).await, digest(&pool, never.tenant).await].into();
    let lines = (proved(&store, gone.tenant).await, proved(&store, held.tenant).await);
    for who in [&gone, &held, &longer, &never] {
        rollup::build(&store, who.tenant).await.unwrap();
    }

    let early = retention::run(&store, expiry(30) - TimeDelta::milliseconds(1)).await.unwrap();
    assert_eq!((early, rows(&digest(&pool, gone.tenant).await) > 0), (vec![], true), "to its last instant");
    // A deleted tenant's settings stand.
    sqlx::query("UPDATE tenants SET deleted_at = now() WHERE tenant_id = $1")
        .bind(gone.tenant.uuid())
        .execute(&pool)
        .await
        .unwrap();
    let retired = retention::run(&store, expiry(30)).await.unwrap();
    assert_eq!(retired, [Retired { tenant: gone.tenant, month: this_month() }]);
    assert_eq!(rows(&digest(&pool, gone.tenant).await), 0);
    assert_eq!(asked_and_driven(&pool, &gone).await, [("pending".to_owned(), 1)], "what waits stays, and all else goes");
    let kept = ["confirmed", "pending", "turn", "used"].map(|what| (what.to_owned(), 1));
    assert_eq!(asked_and_driven(&pool, &never).await, kept);
    let after: Vec<_> =
        [digest(&pool, held.tenant).await, digest(&pool, longer.tenant).await, digest(&pool, never.tenant).await].into();
    assert_eq!(after, before, "to the byte");
    assert!(rows(&after[0]) >= 20);
    partitions_are_whole(&pool).await;
    assert_eq!(retention::run(&store, expiry(30)).await.unwrap(), [], "once");

    // The chain of seals is whole; the index of what has gone is not needed any more.
    seal_all(&store).await;
    let mut tx = store.tenant(gone.tenant).await.unwrap();
    let sealed = seals::from(&mut tx, gone.tenant, 1, 100).await.unwrap();
    assert!(seals::entries(&mut tx, gone.tenant, 1).await.unwrap().is_none());
    assert!(seals::consistency(&mut tx, gone.tenant, 1, u64::try_from(sealed.len()).unwrap()).await.unwrap().holds());
    drop(tx);
    assert!(proved(&store, held.tenant).await >= lines.1 && lines.0 > 0);

    // What says that it happened.
    let said: Vec<(uuid::Uuid, Value)> =
        sqlx::query_as("SELECT tenant_id, detail FROM admin_events WHERE action = 'audit.retire'")
            .fetch_all(&pool)
            .await
            .unwrap();
    assert_eq!(said, [(gone.tenant.uuid(), json!({"month": this_month().format("%Y-%m").to_string()}))]);
    assert_eq!(proved(&store, gone.tenant).await, 1, "and is in the log itself");

    // The month is as good as any: written to, guarded, read by its tenant alone, and dropped again.
    let (late, other) = (opening(&gone), opening(&held));
    audit.before(support::opens(late)).await.unwrap();
    audit.before(support::opens(other)).await.unwrap();
    assert_eq!(count(&pool, "SELECT count(*) FROM tool_call_events_default").await, 0);
    for table in PARTITIONED {
        for target in [table.to_owned(), format!("{table}_p{}", this_month().format("%Y%m"))] {
            for sql in [format!("DELETE FROM {target}"), format!("UPDATE {target} SET tenant_id = tenant_id")] {
                let refused = sqlx::query(AssertSqlSafe(sql.clone())).execute(&pool).await.unwrap_err().to_string();
                assert!(refused.contains("the audit trail is append-only"), "{sql}: {refused}");
            }
        }
    }
    let mut tx = store.tenant(held.tenant).await.unwrap();
    let seen: i64 =
        sqlx::query_scalar("SELECT count(DISTINCT tenant_id) FROM tool_call_events").fetch_one(&mut *tx).await.unwrap();
    assert_eq!(seen, 1);
    let part = format!("SELECT count(*) FROM tool_call_events_p{}", this_month().format("%Y%m"));
    assert!(sqlx::query(AssertSqlSafe(part)).execute(&mut *tx).await.unwrap_err().to_string().contains("permission denied"));
    drop(tx);
    assert_eq!(retention::run(&store, expiry(30)).await.unwrap(), [Retired { tenant: gone.tenant, month: this_month() }]);
    // A hold that is lifted lets go of what it held.
    set(&store, held.tenant, |s| s.legal_hold = false).await;
    let retired = retention::run(&store, expiry(31)).await.unwrap();
    assert_eq!(retired.iter().map(|r| r.tenant).collect::<std::collections::BTreeSet<_>>(), [held.tenant, longer.tenant].into());
    assert_eq!(digest(&pool, never.tenant).await, before[2]);
    partitions_are_whole(&pool).await;
    // With nobody left to keep it, the month is no table any more.
    set(&store, never.tenant, |s| s.retention_days = Some(1)).await;
    assert_eq!(retention::run(&store, expiry(31)).await.unwrap().len(), 1);
    let name = format!("SELECT count(*) FROM pg_class WHERE relname LIKE '%_p{}'", this_month().format("%Y%m"));
    let tables: i64 = sqlx::query_scalar(AssertSqlSafe(name)).fetch_one(&pool).await.unwrap();
    assert_eq!(tables, 0);
    assert_eq!(retention::run(&store, expiry(400)).await.unwrap(), [], "empty months are nobody's");
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_drop_that_must_wait_does_nothing_and_says_nothing(pool: PgPool) {
    let store = Store::from_pool(pool.clone());
    let audit = AuditWriter::start(&store, QUEUE);
    let who = Who::new(tenant(&pool).await);
    record(&who, &audit, &rules(json!({})), "{}", "text").await;
    set(&store, who.tenant, |s| s.retention_days = Some(1)).await;
    let before = digest(&pool, who.tenant).await;
    let events = "SELECT count(*) FROM admin_events WHERE action = 'audit.retire'";
    rollup::build(&store, who.tenant).await.unwrap();

    // Somebody reads for long.
    let mut reader = pool.begin().await.unwrap();
    sqlx::query("SELECT count(*) FROM tool_call_events").execute(&mut *reader).await.unwrap();
    let started = std::time::Instant::now();
    retention::run(&store, expiry(1)).await.unwrap_err();
    assert!(started.elapsed() < std::time::Duration::from_secs(10));
    audit.before(support::opens(opening(&who))).await.unwrap();
    reader.rollback().await.unwrap();
    // Another does the same, or a hold is about to be taken.
    let mut other = pool.begin().await.unwrap();
    sqlx::query("SELECT pg_advisory_xact_lock_shared(7420001)").execute(&mut *other).await.unwrap();
    assert_eq!(retention::run(&store, expiry(1)).await.unwrap(), []);
    other.rollback().await.unwrap();
    assert_eq!((count(&pool, events).await, rows(&digest(&pool, who.tenant).await)), (0, rows(&before) + 2));
    partitions_are_whole(&pool).await;

    assert_eq!(retention::run(&store, expiry(1)).await.unwrap().len(), 1);
    assert_eq!((count(&pool, events).await, rows(&digest(&pool, who.tenant).await)), (1, 0));
}

// ---------------------------------------------------------------- erasure

/// Whether a text stands anywhere in a tenant's rows: in words, or packed in bytes.
async fn stands_somewhere(pool: &PgPool, tenant: TenantId, text: &str) -> Vec<String> {
    let tables: Vec<(String, Vec<String>)> = sqlx::query_as(
        "SELECT c.relname::text, array_agg(a.attname::text) FILTER (WHERE a.atttypid = 'bytea'::regtype)
         FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
         WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
         GROUP BY c.relname HAVING bool_or(a.attname = 'tenant_id') AND bool_or(a.atttypid = 'bytea'::regtype)",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    assert!(tables.len() > 10, "{tables:?}");
    let mut found = Vec::new();
    let packed = payload::pack(text.as_bytes());
    let within = |bytes: &[u8], part: &[u8]| bytes.windows(part.len()).any(|window| window == part);
    for (table, columns) in tables {
        for column in columns {
            let sql = format!("SELECT {column} FROM {table} WHERE tenant_id = $1 AND {column} IS NOT NULL");
            let values: Vec<Vec<u8>> = sqlx::query_scalar(AssertSqlSafe(sql)).bind(tenant.uuid()).fetch_all(pool).await.unwrap();
            for value in values {
                let plain = payload::unpack(&value).unwrap_or_default();
                if within(&value, text.as_bytes()) || within(&plain, text.as_bytes()) || within(&value, &packed) {
                    found.push(format!("{table}.{column}"));
                }
            }
        }
    }
    let all: Vec<String> = sqlx::query_scalar(
        "SELECT c.relname::text FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id'
         WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    for table in all {
        let sql = format!("SELECT count(*) FROM {table} t WHERE tenant_id = $1 AND strpos(t::text, $2) > 0");
        let rows: i64 = sqlx::query_scalar(AssertSqlSafe(sql)).bind(tenant.uuid()).bind(text).fetch_one(pool).await.unwrap();
        found.extend((rows > 0).then_some(table));
    }
    found
}

fn contains(text: &str) -> Selection {
    let (from, to) = (support::now() - TimeDelta::hours(1), support::now() + TimeDelta::hours(1));
    Selection::Contains { text: text.to_owned(), from, to }
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn what_is_erased_is_gone_from_every_table_and_the_log_still_holds(pool: PgPool) {
    let store = Store::from_pool(pool.clone());
    let audit = AuditWriter::start(&store, QUEUE);
    let trail = rules(json!({}));
    let (who, other) = (Who::new(tenant(&pool).await), Who::new(tenant(&pool).await));
    let (call, run) = record(&who, &audit, &trail, r#"{"to":["ADA\u0040Example.com"]}"#, SECRET).await;
    let (bystander, bystanding) = record(&who, &audit, &trail, "{\"to\":1}", "somebody@else.example").await;
    record(&other, &audit, &trail, "{}", SECRET).await;
    seal_all(&store).await;
    let (lines, others) = (proved(&store, who.tenant).await, digest(&pool, other.tenant).await);
    let places = stands_somewhere(&pool, who.tenant, SECRET).await;
    assert!(places.contains(&"tool_call_payloads.body".to_owned()) && places.contains(&"script_payloads.body".to_owned()));

    let selection = contains(SECRET);
    let mut tx = store.tenant(who.tenant).await.unwrap();
    let selected = erasures::select(&mut tx, who.tenant, &selection).await.unwrap();
    let foreseen = erasures::count(&mut tx, who.tenant, &selected).await.unwrap();
    drop(tx);
    assert_eq!(foreseen, Counts { calls: 1, runs: 1, requests: 0 });
    assert!(!stands_somewhere(&pool, who.tenant, SECRET).await.is_empty(), "nothing has happened yet");

    let erasure = erase(&store, who.tenant, &selection).await.unwrap();
    assert_eq!((erasure.counts, erasure.by.as_str()), (foreseen, "test"));
    assert_eq!(stands_somewhere(&pool, who.tenant, SECRET).await, Vec::<String>::new());
    seal_all(&store).await;
    assert_eq!(proved(&store, who.tenant).await, lines + 1, "every row is there, and the erasure");
    assert_eq!(digest(&pool, other.tenant).await, others, "another tenant's, with the same words");

    let mut tx = store.tenant(who.tenant).await.unwrap();
    let row = calls::get(&mut tx, who.tenant, call).await.unwrap();
    assert_eq!(
        (row.arguments, row.arguments_form, row.result, row.result_form),
        (None, Some(Form::Erased), None, Some(Form::Erased))
    );
    let texts = calls::get_run(&mut tx, who.tenant, run).await.unwrap();
    assert_eq!((texts.source, texts.result, texts.logs, texts.error), (None, None, None, None));
    assert_eq!((texts.journal.len(), texts.journal[0].entry.clone()), (1, None));
    let row = calls::get(&mut tx, who.tenant, bystander).await.unwrap();
    assert_eq!((row.arguments.as_deref(), row.arguments_form, row.result_form), (Some("{\"to\":1}"), None, None));
    assert!(calls::get_run(&mut tx, who.tenant, bystanding).await.unwrap().source.is_some());
    // What was lost otherwise does not say that it was erased.
    let listed = erasures::list(&mut tx, who.tenant, PageRequest { limit: 10, after: None }).await.unwrap().items;
    assert_eq!((listed.len(), listed[0].id, listed[0].counts), (1, erasure.id, foreseen));
    assert_eq!(erasures::get(&mut tx, who.tenant, erasure.id).await.unwrap().selection, selection.described());
    drop(tx);
    let mut tx = store.tenant(other.tenant).await.unwrap();
    assert!(matches!(erasures::get(&mut tx, other.tenant, erasure.id).await, Err(StoreError::NotFound)));
    drop(tx);
    support::tamper(&pool, "DELETE FROM tool_call_payloads").await;
    let mut tx = store.tenant(who.tenant).await.unwrap();
    let row = calls::get(&mut tx, who.tenant, bystander).await.unwrap();
    assert_eq!((row.arguments, row.arguments_form), (None, None));
    drop(tx);

    let event: (String, Value) =
        sqlx::query_as("SELECT target_id, detail FROM admin_events WHERE action = 'audit.erase'").fetch_one(&pool).await.unwrap();
    assert_eq!(event.0, erasure.id.to_string());
    assert_eq!((&event.1["calls"], &event.1["runs"], &event.1["reason"]), (&json!(1), &json!(1), &json!("asked for")));
    let named: Vec<uuid::Uuid> =
        sqlx::query_scalar("SELECT DISTINCT row_id FROM audit_erased ORDER BY 1").fetch_all(&pool).await.unwrap();
    let mut expected = vec![call.uuid(), run.uuid()];
    expected.sort();
    assert_eq!(named, expected);
    assert_eq!(erase(&store, who.tenant, &selection).await.unwrap().counts, Counts { calls: 0, runs: 0, requests: 0 }, "once");
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn calls_and_keys_are_erased_by_name_and_nobody_elses(pool: PgPool) {
    let store = Store::from_pool(pool.clone());
    let audit = AuditWriter::start(&store, QUEUE);
    let trail = rules(json!({}));
    let (who, other) = (Who::new(tenant(&pool).await), Who::new(tenant(&pool).await));
    for of in [&who, &other] {
        sqlx::query("INSERT INTO virtual_keys (tenant_id, key_id, name, hash, created_at, updated_at) VALUES ($1, $2, 'n', '', now(), now())")
            .bind(of.tenant.uuid())
            .bind(of.key.uuid())
            .execute(&pool)
            .await
            .unwrap();
    }
    let (first, _) = record(&who, &audit, &trail, "{}", "one").await;
    let (second, _) = record(&who, &audit, &trail, "{}", "two").await;
    let (stranger, _) = record(&other, &audit, &trail, "{}", "three").await;
    let another_key = Who { key: KeyId::mint(support::now()), ..who.clone() };
    let (kept, _) = record(&another_key, &audit, &trail, "{}", "four").await;
    let others = digest(&pool, other.tenant).await;

    // Another's call is no call, and takes the rest with it.
    let refused = erase(&store, who.tenant, &Selection::Calls(vec![first, stranger])).await.unwrap_err();
    assert!(matches!(&refused, StoreError::Invalid { pointer, .. } if pointer == "/selection/call_ids/1"), "{refused}");
    let key = |of: &Who| Selection::Key { key: of.key, from: None, to: None };
    let refused = erase(&store, who.tenant, &key(&other)).await.unwrap_err();
    assert!(matches!(&refused, StoreError::Invalid { pointer, .. } if pointer == "/selection/key_id"), "{refused}");
    // And the role that erases sees one tenant, whatever it is asked.
    let mut tx = store.tenant(who.tenant).await.unwrap();
    sqlx::query("SET LOCAL ROLE tollgate_eraser").execute(&mut *tx).await.unwrap();
    let reach =
        sqlx::query("DELETE FROM tool_call_payloads WHERE call_id = $1").bind(stranger.uuid()).execute(&mut *tx).await.unwrap();
    assert_eq!(reach.rows_affected(), 0);
    let refused = sqlx::query("DELETE FROM tool_call_events").execute(&mut *tx).await.unwrap_err().to_string();
    assert!(refused.contains("permission denied"), "{refused}");
    drop(tx);

    // A hold stops all of it, and what it stopped is whole.
    set(&store, who.tenant, |s| s.legal_hold = true).await;
    let before = digest(&pool, who.tenant).await;
    let refused = erase(&store, who.tenant, &Selection::Calls(vec![first])).await.unwrap_err();
    assert!(matches!(refused, StoreError::Conflict(_)), "{refused}");
    assert_eq!(digest(&pool, who.tenant).await, before);
    assert_eq!(count(&pool, "SELECT count(*) FROM audit_erasures").await, 0);
    set(&store, who.tenant, |s| s.legal_hold = false).await;

    assert_eq!(
        erase(&store, who.tenant, &Selection::Calls(vec![first])).await.unwrap().counts,
        Counts { calls: 1, runs: 1, requests: 0 }
    );
    let past = Selection::Key { key: who.key, from: None, to: Some(support::now() - TimeDelta::days(1)) };
    assert_eq!(erase(&store, who.tenant, &past).await.unwrap().counts, Counts { calls: 0, runs: 0, requests: 0 });
    assert_eq!(
        erase(&store, who.tenant, &key(&who)).await.unwrap().counts,
        Counts { calls: 1, runs: 1, requests: 0 },
        "what was left of it"
    );
    let mut tx = store.tenant(who.tenant).await.unwrap();
    assert_eq!(calls::get(&mut tx, who.tenant, second).await.unwrap().result_form, Some(Form::Erased));
    assert_eq!(calls::get(&mut tx, who.tenant, kept).await.unwrap().result_form, None);
    assert_eq!(digest(&pool, other.tenant).await, others);
}

/// A call that is open when it is erased may be erased again for what came after.
#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn an_open_call_can_be_erased_twice(pool: PgPool) {
    let store = Store::from_pool(pool.clone());
    let audit = AuditWriter::start(&store, QUEUE);
    let who = Who::new(tenant(&pool).await);
    let open = opening(&who);
    audit.before(support::opens(open.clone())).await.unwrap();
    let selection = Selection::Calls(vec![open.id]);
    let first = erase(&store, who.tenant, &selection).await.unwrap();
    audit.after(support::closes(who.completion(open.id, Outcome::Ok, SECRET.as_bytes()))).await.unwrap();
    let form = async || {
        let mut tx = store.tenant(who.tenant).await.unwrap();
        let row = calls::get(&mut tx, who.tenant, open.id).await.unwrap();
        (row.arguments_form, row.result_form)
    };
    assert_eq!(form().await, (Some(Form::Erased), None));
    let second = erase(&store, who.tenant, &selection).await.unwrap();
    assert_eq!(second.counts, Counts { calls: 1, runs: 0, requests: 0 });
    assert_eq!(form().await, (Some(Form::Erased), Some(Form::Erased)));
    let named: Vec<(i16, uuid::Uuid)> =
        sqlx::query_as("SELECT part, erasure_id FROM audit_erased ORDER BY part").fetch_all(&pool).await.unwrap();
    assert_eq!(named, [(0, first.id.uuid()), (1, second.id.uuid())], "each part by the erasure that took it");
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_request_to_a_model_is_kept_shown_and_erased_like_a_call(pool: PgPool) {
    let store = Store::from_pool(pool.clone());
    let who = Who::new(tenant(&pool).await);
    let audit = AuditWriter::start(&store, QUEUE);
    let whole = forwarded(&who, &audit, &rules(json!({})), SECRET).await;
    let redacted = forwarded(&who, &audit, &rules(json!({"detectors": ["email"]})), SECRET).await;
    seal_all(&store).await;
    assert_eq!(proved(&store, who.tenant).await, 4, "a line for each beginning and each end");
    let mut tx = store.tenant(who.tenant).await.unwrap();
    for (id, text) in [(whole, format!("\"{SECRET}\"")), (redacted, "\"[redacted:email]\"".to_owned())] {
        let texts = requests::texts(&mut tx, who.tenant, id).await.unwrap();
        assert_eq!((texts.prompt.as_deref(), texts.answer.as_deref()), (Some(text.as_str()), Some(text.as_str())));
    }
    let row = requests::get(&mut tx, who.tenant, whole).await.unwrap().forward.unwrap();
    assert_eq!((row.outcome.as_deref(), row.usage.input, row.usage.cached_input, row.amount), (Some("ok"), 5, 1, Some(Picos(7))));
    drop(tx);
    let (from, to) = (support::now() - TimeDelta::days(1), support::now() + TimeDelta::days(1));
    let erased = erase(&store, who.tenant, &Selection::Contains { text: SECRET.to_owned(), from, to }).await.unwrap();
    assert_eq!(erased.counts, Counts { calls: 0, runs: 0, requests: 1 }, "the other has not got it");
    let mut tx = store.tenant(who.tenant).await.unwrap();
    let texts = requests::texts(&mut tx, who.tenant, whole).await.unwrap();
    assert_eq!((texts.prompt, texts.answer), (None, None));
    drop(tx);
    seal_all(&store).await;
    assert_eq!(proved(&store, who.tenant).await, 5, "the rows stand, and the erasure beside them");
}
