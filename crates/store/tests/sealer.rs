//! The log: every row gets one place, in an order that holds; what was changed on the way is said; proofs hold and forgeries do not.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

mod support;

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::future::join_all;
use serde_json::json;
use sqlx::PgPool;
use tollgate_domain::{CallId, Outcome, ScriptRunId, TenantId};
use tollgate_evidence::{
    line::{self, Kind, Line, Place},
    merkle,
    sign::{KeyRing, Signer},
};
use tollgate_store::{
    Actor, PageRequest, Store,
    audit::{AuditWriter, Entry, JournalRow, NewRun, Resolution, RunEnd, RunResolution, ScriptPlace},
    events, log,
    payload::{self, Payload},
    sealer, seals,
};

use support::{QUEUE, Who, closes, count, opens, seal_all, tamper, tenant};

/// A tenant's whole log, by position; each line checked against its leaf.
async fn read(store: &Store, tenant: TenantId) -> Vec<(Place, Vec<u8>)> {
    let mut tx = store.tenant(tenant).await.unwrap();
    let mut found = Vec::new();
    for signed in seals::from(&mut tx, tenant, 1, 1_000_000).await.unwrap() {
        assert_eq!(signed.seal.first, u64::try_from(found.len()).unwrap(), "positions have no gap");
        assert!(signed.is_signed_by(store.keys().signer().public()));
        let entries = seals::entries(&mut tx, tenant, signed.seal.sequence).await.unwrap().unwrap();
        assert_eq!(entries.len(), signed.seal.count as usize);
        let leaves: Vec<_> = entries.iter().map(|(_, leaf)| *leaf).collect();
        assert_eq!(merkle::root(&leaves), signed.seal.root);
        for ((place, leaf), line) in entries.iter().zip(log::lines(&mut tx, tenant, &entries).await.unwrap()) {
            let line = line.unwrap_or_else(|| panic!("{place:?} is not there"));
            assert_eq!(merkle::leaf(&line), *leaf, "{}", String::from_utf8_lossy(&line));
            found.push((*place, line));
        }
    }
    found
}

/// One row of each kind, with what their columns can hold.
async fn one_of_each(who: &Who, store: &Store, audit: &AuditWriter) {
    let run = ScriptRunId::mint(support::now());
    let place = ScriptPlace { run, sequence: 1 };
    let mut nested = who.intent("{\"a\":1}");
    nested.place = Some(place);
    nested.tool_name = "nul\0\"quote\u{202e}".to_owned();
    let start = NewRun {
        tenant: who.tenant,
        id: run,
        request: who.request,
        key: who.key,
        team: None,
        source: Payload::whole(&b"result = 1"[..]),
        catalog: payload::pack(b"{}").into(),
        catalog_sha256: [9; 32],
        engine: "e".to_owned(),
        limits: "{}".to_owned(),
        route: None,
        worker: who.worker,
        at: support::now(),
    };
    let opening = Entry { request: Some(who.request()), run: Some(start), intent: Some(nested.clone()), ..Entry::default() };
    audit.before(opening).await.unwrap();
    let mut completion = who.completion(nested.id, Outcome::ToolError, b"[1]");
    completion.error = Some("no\0 \u{1b}[2J".to_owned());
    completion.result = Some(Payload::redacted(&b"secret"[..], &b"[redacted]"[..]));
    let end = RunEnd {
        tenant: who.tenant,
        id: run,
        state: "failed",
        ticks: 12,
        result: None,
        logs: Payload::omitted(&b"[]"[..]),
        error: Some(Payload::whole(&b"{}"[..])),
        may_call: None,
        at: support::now(),
    };
    let journal = JournalRow { tenant: who.tenant, place, call: Some(nested.id), entry: Payload::whole(&b"{}"[..]) };
    audit
        .after(Entry { completions: vec![completion], journal: vec![journal], end: Some(end), ..Entry::default() })
        .await
        .unwrap();

    let mut refused = who.intent("{}");
    (refused.decision, refused.reason) = (tollgate_domain::Decision::Denied, Some(tollgate_domain::policy::Reason::UnknownTool));
    (refused.tool, refused.upstream, refused.definition) = (None, None, None);
    audit.before(opens(refused)).await.unwrap();
    let lost = who.intent("{}");
    audit.before(opens(lost.clone())).await.unwrap();
    let resolution = Resolution { tenant: who.tenant, id: lost.id, amount: tollgate_domain::Picos(7), at: support::now() };
    let ended = RunResolution { tenant: who.tenant, id: ScriptRunId::mint(support::now()), at: support::now() };
    audit.after(Entry { resolutions: vec![resolution], run_resolutions: vec![ended], ..Entry::default() }).await.unwrap();
    let detail = json!({"z": [1, 2.5, -0.0, 1e21, "żó"], "a": {"b": null, "aa": true}});
    events::note(store, who.tenant, &Actor::system("test"), support::now(), "noun.verb", "target", &detail).await.unwrap();
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn every_kind_of_row_is_sealed_and_read_back_as_it_was_signed(pool: PgPool) {
    let store = Store::from_pool(pool.clone());
    let who = Who::new(tenant(&pool).await);
    let audit = AuditWriter::start(&store, QUEUE);
    one_of_each(&who, &store, &audit).await;
    let done = seal_all(&store).await;
    assert_eq!(done.anomalies, Vec::<String>::new());
    assert_eq!(count(&pool, "SELECT count(*) FROM audit_batches").await, 0);
    let log = read(&store, who.tenant).await;
    let kinds: HashSet<Kind> = log.iter().map(|(place, _)| place.kind).collect();
    assert_eq!(kinds.len(), 9, "{kinds:?}");
    assert_eq!(log.len(), 11);
    assert!(log.iter().all(|(_, line)| line::parse(line).is_some()), "in canonical form");
    // What nobody sealed twice has one place.
    let places: HashSet<Place> = log.iter().map(|(place, _)| *place).collect();
    assert_eq!(places.len(), log.len());
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_change_to_a_row_breaks_its_leaf(pool: PgPool) {
    let store = Store::from_pool(pool.clone());
    let who = Who::new(tenant(&pool).await);
    let audit = AuditWriter::start(&store, QUEUE);
    one_of_each(&who, &store, &audit).await;
    seal_all(&store).await;
    let columns: Vec<(String, String, String)> = sqlx::query_as(
        "SELECT c.relname::text, a.attname::text, format_type(a.atttypid, a.atttypmod) FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
         WHERE c.relname = ANY($1) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY 1, 2",
    )
    .bind(vec!["llm_requests", "script_run_starts", "script_run_ends", "script_journal", "tool_call_events", "admin_events"])
    .fetch_all(&pool)
    .await
    .unwrap();
    let sound = read(&store, who.tenant).await.len();
    let mut changed = 0;
    for (table, column, kind) in columns {
        // Who owns a row and which it is: a row under another name is one that is missing.
        let other = match kind.as_str() {
            "uuid" => "gen_random_uuid()".to_owned(),
            "text" if column == "limits" => format!("{column} || ' '"),
            "text" => format!("COALESCE({column}, '') || 'x'"),
            "bytea" => format!("sha256(COALESCE({column}, ''))"),
            "timestamp with time zone" => format!("{column} + interval '1 microsecond'"),
            "jsonb" => "'{\"other\": 1}'".to_owned(),
            "smallint" if column == "kind" => continue,
            // What a call draws from is how it is paid for, and no part of its line.
            "uuid[]" => continue,
            "smallint" => "1".to_owned(),
            _ => format!("COALESCE({column}, 0) + 1"),
        };
        let mut tx = pool.begin().await.unwrap();
        let rules: Vec<String> =
            sqlx::query_scalar("SELECT conname::text FROM pg_constraint WHERE conrelid = $1::regclass AND contype = 'c'")
                .bind(&table)
                .fetch_all(&mut *tx)
                .await
                .unwrap();
        let mut past = vec!["SET LOCAL session_replication_role = replica".to_owned()];
        past.extend(rules.iter().map(|rule| format!("ALTER TABLE {table} DROP CONSTRAINT {rule}")));
        past.push(format!("UPDATE {table} SET {column} = {other}"));
        for sql in past {
            sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&mut *tx).await.unwrap();
        }
        let mut rows = 0;
        for signed in seals::from(&mut tx, who.tenant, 1, 1000).await.unwrap() {
            let entries = seals::entries(&mut tx, who.tenant, signed.seal.sequence).await.unwrap().unwrap();
            let lines = log::lines(&mut tx, who.tenant, &entries).await.unwrap();
            rows += entries
                .iter()
                .zip(lines)
                .filter(|((_, leaf), line)| line.as_ref().is_some_and(|l| merkle::leaf(l) == *leaf))
                .count();
        }
        assert!(rows < sound, "{table}.{column} changed and nobody noticed");
        changed += 1;
        tx.rollback().await.unwrap();
    }
    assert!(changed > 60, "{changed}");
    assert_eq!(read(&store, who.tenant).await.len(), sound);
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_batch_that_was_edited_forged_or_taken_away_is_an_anomaly(pool: PgPool) {
    let store = Store::from_pool(pool.clone());
    let who = Who::new(tenant(&pool).await);
    let audit = AuditWriter::start(&store, QUEUE);
    let write = async || audit.before(opens(who.intent("{}"))).await.unwrap();
    write().await;
    assert_eq!(seal_all(&store).await.anomalies, Vec::<String>::new());
    for (sql, expected) in [
        (
            "UPDATE audit_batches SET entries = set_byte(entries, 40, get_byte(entries, 40) # 1)",
            "does not hold the rows that were signed",
        ),
        ("UPDATE audit_batches SET at = at + interval '1 s'", "is not signed by a key of this installation"),
        ("UPDATE audit_batches SET root = sha256(root)", "is not signed by a key of this installation"),
    ] {
        write().await;
        assert_eq!(tamper(&pool, sql).await, 1, "{sql}");
        let found = seal_all(&store).await.anomalies;
        assert!(found.iter().any(|text| text.contains(expected)), "{sql}: {found:?}");
    }
    // Both writer tasks have written before one batch of each goes missing.
    let before = count(&pool, "SELECT count(*) FROM admin_events WHERE action = 'audit.anomaly'").await;
    join_all((0..64).map(|_| write())).await;
    seal_all(&store).await;
    write().await;
    assert_eq!(tamper(&pool, "DELETE FROM audit_batches").await, 1);
    let mut found = Vec::new();
    for _ in 0..20 {
        join_all((0..8).map(|_| write())).await;
        found.extend(seal_all(&store).await.anomalies);
    }
    assert!(found.iter().any(|text| text.contains("something between them is missing")), "{found:?}");
    assert!(count(&pool, "SELECT count(*) FROM admin_events WHERE action = 'audit.anomaly'").await > before);
    // A whole installation's keys are another's: its batches are named, and sealed all the same.
    let forger = Signer::from_seed(&[66; 32]).unwrap();
    assert!(!KeyRing::new(forger, []).verifies(&store.keys().signer().public().key_id, b"x", &[0; 64]));
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn proofs_hold_for_every_call_and_from_every_seal_to_every_later_one(pool: PgPool) {
    let store = Store::from_pool(pool.clone());
    let who = Who::new(tenant(&pool).await);
    let audit = AuditWriter::start(&store, QUEUE);
    let mut calls = Vec::new();
    for round in 0..13 {
        for _ in 0..=round % 4 {
            let intent = who.intent("{}");
            audit.before(opens(intent.clone())).await.unwrap();
            calls.push(intent.id);
            if round % 3 != 0 {
                audit.after(closes(who.completion(intent.id, Outcome::Ok, b"1"))).await.unwrap();
            }
        }
        seal_all(&store).await;
    }
    let keys = store.keys().public_keys();
    let mut tx = store.tenant(who.tenant).await.unwrap();
    for call in &calls {
        let seals::CallProofs { proofs, unsealed } = seals::of_call(&mut tx, who.tenant, *call).await.unwrap();
        assert!(unsealed.is_empty());
        assert!(!proofs.is_empty());
        for proof in proofs {
            proof.check(keys).unwrap();
            let mut forged = proof.clone();
            forged.line = forged.line.replacen("USD", "EUR", 1).replacen("ok", "no", 1);
            assert_eq!(forged.check(keys), Err("the line is not under the seal's root"));
            let stranger = Signer::from_seed(&[5; 32]).unwrap();
            assert_eq!(proof.check(&[stranger.public().clone()]), Err("a seal is not signed by a known key"));
        }
    }
    let newest = seals::newest(&mut tx, who.tenant).await.unwrap().unwrap().seal.sequence;
    assert!(newest >= 13);
    for old in 1..=newest {
        for new in old..=newest {
            assert!(seals::consistency(&mut tx, who.tenant, old, new).await.unwrap().holds(), "{old} to {new}");
        }
    }
    let mut rewritten = seals::consistency(&mut tx, who.tenant, 3, newest).await.unwrap();
    rewritten.from.seal.tree.0[0] ^= 1;
    assert!(!rewritten.holds());
    let page = seals::list(&mut tx, who.tenant, PageRequest { limit: 5, after: None }).await.unwrap();
    assert_eq!((page.items.len(), page.items[0].seal.sequence), (5, newest));
    let rest = seals::list(&mut tx, who.tenant, PageRequest { limit: 1000, after: page.next }).await.unwrap();
    assert_eq!(rest.items[0].seal.sequence, newest - 5);
    // Another tenant's call is no call.
    let other = tenant(&pool).await;
    let mut tx = store.tenant(other).await.unwrap();
    assert!(matches!(seals::of_call(&mut tx, other, calls[0]).await, Err(tollgate_store::StoreError::NotFound)));
}

/// Many writers whose commits overlap and are late, several sealers, and a reader that goes on from where it was: it sees each
/// row once, a call's intent before its end, and all of them in the end.
#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_cursor_misses_nothing_under_concurrent_writers(
    _: sqlx::postgres::PgPoolOptions,
    options: sqlx::postgres::PgConnectOptions,
) {
    let pool = support::pool(&options, "cursor", 24).await;
    let store = Store::from_pool(pool.clone());
    let who = Arc::new(Who::new(tenant(&pool).await));
    let over = Arc::new(AtomicBool::new(false));
    let sealers: Vec<_> = (0..2)
        .map(|_| {
            let (store, over) = (store.clone(), Arc::clone(&over));
            tokio::spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    sealer::round(&store, support::now()).await.unwrap();
                    tokio::time::sleep(Duration::from_millis(3)).await;
                }
            })
        })
        .collect();
    let reader = {
        let (store, over, tenant) = (store.clone(), Arc::clone(&over), who.tenant);
        tokio::spawn(async move {
            let (mut next, mut seen) = (0u64, Vec::<Place>::new());
            loop {
                let last = over.load(Ordering::Relaxed);
                let mut tx = store.tenant(tenant).await.unwrap();
                while let Some(signed) = seals::at_position(&mut tx, tenant, next).await.unwrap() {
                    let entries = seals::entries(&mut tx, tenant, signed.seal.sequence).await.unwrap().unwrap();
                    let skip = usize::try_from(next - signed.seal.first).unwrap();
                    seen.extend(entries[skip..].iter().map(|(place, _)| *place));
                    next = signed.seal.end();
                }
                if last {
                    return seen;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
    };
    // Each its own writer: their transactions overlap and commit in any order.
    let written: Vec<CallId> = join_all((0..6).map(|_| {
        let (store, who) = (store.clone(), Arc::clone(&who));
        tokio::spawn(async move {
            let audit = AuditWriter::start(&store, QUEUE);
            let calls = join_all((0..100).map(async |_| {
                let intent = who.intent("{}");
                audit.before(opens(intent.clone())).await.unwrap();
                audit.after(closes(who.completion(intent.id, Outcome::Ok, b"1"))).await.unwrap();
                intent.id
            }));
            calls.await
        })
    }))
    .await
    .into_iter()
    .flat_map(Result::unwrap)
    .collect();
    while count(&pool, "SELECT count(*) FROM audit_batches").await > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    over.store(true, Ordering::Relaxed);
    let seen = reader.await.unwrap();
    for sealer in sealers {
        sealer.await.unwrap();
    }
    assert_eq!(seen.len(), 2 * written.len(), "each row once");
    let mut positions: BTreeMap<uuid::Uuid, Vec<Kind>> = BTreeMap::new();
    for place in &seen {
        positions.entry(place.id).or_default().push(place.kind);
    }
    for call in written {
        assert_eq!(positions[&call.uuid()], [Kind::CallIntent, Kind::CallCompletion], "{call}: all of it, the intent first");
    }
    assert_eq!(read(&store, who.tenant).await.len(), seen.len());
}

/// A change takes its transaction's number with its first write and its place in the chain with its last: the two orders differ.
#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn changes_that_overlap_are_one_sound_chain(pool: PgPool) {
    let store = Store::from_pool(pool.clone());
    let who = Who::new(tenant(&pool).await);
    let other = tenant(&pool).await;
    let mut early = store.change(who.tenant, Actor::system("early"), support::now()).await.unwrap();
    early.event("noun.verb", &"first to write", json!({})).await.unwrap();
    for _ in 0..3 {
        let mut late = store.change(other, Actor::system("late"), support::now()).await.unwrap();
        late.event("noun.verb", &"last to write", json!({})).await.unwrap();
        late.commit_quietly().await.unwrap();
    }
    early.commit_quietly().await.unwrap();
    let done = seal_all(&store).await;
    assert_eq!((done.entries, done.anomalies), (4, Vec::new()));
    let mut after = store.change(other, Actor::system("after"), support::now()).await.unwrap();
    after.event("noun.verb", &"later", json!({})).await.unwrap();
    after.commit_quietly().await.unwrap();
    assert_eq!(seal_all(&store).await.anomalies, Vec::<String>::new());
}

/// A row that was signed twice, as two sweeps around an outage may do, is read twice.
#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_row_that_was_signed_twice_is_in_the_log_twice_and_whole(pool: PgPool) {
    let store = Store::from_pool(pool.clone());
    let who = Who::new(tenant(&pool).await);
    let audit = AuditWriter::start(&store, QUEUE);
    let resolution = Resolution {
        tenant: who.tenant,
        id: CallId::mint(support::now()),
        amount: tollgate_domain::Picos(7),
        at: support::now(),
    };
    for _ in 0..2 {
        audit.after(Entry { resolutions: vec![resolution.clone()], ..Entry::default() }).await.unwrap();
    }
    seal_all(&store).await;
    assert_eq!(read(&store, who.tenant).await.len(), 2);
}

/// A batch whose commit was in doubt and that was sealed in between is not sealed again.
#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_batch_that_comes_twice_is_sealed_once(pool: PgPool) {
    let store = Store::from_pool(pool.clone());
    let who = Who::new(tenant(&pool).await);
    let audit = AuditWriter::start(&store, QUEUE);
    audit.before(opens(who.intent("{}"))).await.unwrap();
    sqlx::query("CREATE TABLE kept AS SELECT * FROM audit_batches").execute(&pool).await.unwrap();
    assert_eq!(seal_all(&store).await.entries, 1);
    sqlx::query("INSERT INTO audit_batches SELECT * FROM kept").execute(&pool).await.unwrap();
    let again = seal_all(&store).await;
    assert_eq!((again.entries, again.anomalies.len()), (0, 0));
    assert_eq!(count(&pool, "SELECT count(*) FROM audit_batches").await, 0);
    assert_eq!(read(&store, who.tenant).await.len(), 1);
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn what_has_happened_cannot_be_changed_by_the_application_nor_by_habit(pool: PgPool) {
    let store = Store::from_pool(pool.clone());
    let who = Who::new(tenant(&pool).await);
    let audit = AuditWriter::start(&store, QUEUE);
    one_of_each(&who, &store, &audit).await;
    seal_all(&store).await;
    for table in [
        "tool_call_events",
        "tool_call_payloads",
        "llm_requests",
        "script_run_starts",
        "script_run_ends",
        "script_journal",
        "script_payloads",
        "script_catalogs",
        "admin_events",
        "audit_seals",
        "audit_nodes",
    ] {
        for sql in [format!("UPDATE {table} SET tenant_id = tenant_id"), format!("DELETE FROM {table}")] {
            // A superuser is beyond grants; the trigger still stops what is not meant.
            let refused = sqlx::query(sqlx::AssertSqlSafe(sql.clone())).execute(&pool).await.unwrap_err().to_string();
            assert!(refused.contains("the audit trail is append-only"), "{sql}: {refused}");
            let mut tx = store.tenant(who.tenant).await.unwrap();
            let refused = sqlx::query(sqlx::AssertSqlSafe(sql.clone())).execute(&mut *tx).await.unwrap_err().to_string();
            assert!(refused.contains("permission denied"), "{sql}: {refused}");
        }
    }
}

#[test]
fn the_line_of_an_event_survives_the_database() {
    // jsonb reorders keys and rewrites numbers: the line is made from what both sides agree on.
    let (one, other) = (json!({"b": 1, "a": [1.0, 100]}), json!({"a": [1.0, 100], "b": 1}));
    assert_eq!(line::canonical(&one), line::canonical(&other));
    assert!(matches!(line::parse(b"{}"), None::<Line<'_>>));
}
