//! What a tenant decides about its trail: settings, and erasures.

use serde_json::{Value, json};
use sqlx::PgPool;

use crate::{
    trail::record,
    world::{Reply, Trail, World},
};

async fn patch(world: &World, token: &str, path: &str, body: Value) -> Reply {
    let tag = world.get(&world.root, path).await.etag();
    world.call(token, "PATCH", path, Some(body), &[("if-match", &tag)]).await
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn settings_are_read_changed_and_reset(pool: PgPool) {
    let world = World::new(pool).await;
    let tenant = world.tenant("acme").await;
    let path = format!("{tenant}/audit/settings");
    let (admin, auditor) = (world.token(&tenant, "admin").await, world.token(&tenant, "auditor").await);
    let first = world.get(&auditor, &path).await;
    let defaults = json!({
        "durability": "strict", "payload_limit_bytes": null, "redaction": {"paths": [], "detectors": [], "patterns": []},
        "retention_days": null, "legal_hold": false, "updated_at": null,
    });
    assert_eq!(first.json, defaults, "{}", first.text);
    assert!(first.etag().ends_with(".0\""), "{}", first.etag());
    assert_ne!(first.etag(), world.get(&admin, &tenant).await.etag(), "the tenant's own is another");

    let redaction = json!({"paths": ["$.pin"], "detectors": ["email"], "patterns": [{"name": "order", "regex": "ORD-[0-9]+"}]});
    let body = json!({
        "durability": "relaxed", "payload_limit_bytes": 1024, "redaction": redaction, "retention_days": 90, "legal_hold": true,
    });
    let changed = patch(&world, &admin, &path, body).await;
    assert_eq!(changed.status, 200, "{}", changed.text);
    assert_eq!((&changed.json["redaction"], &changed.json["retention_days"]), (&redaction, &json!(90)));
    assert_eq!(world.get(&auditor, &path).await.json, changed.json);
    assert!(changed.json["updated_at"].is_string());
    // What has been read in between is stale, and what was never read is not taken.
    world.call(&admin, "PATCH", &path, Some(json!({})), &[("if-match", &first.etag())]).await.is(412, "stale");
    world.call(&admin, "PATCH", &path, Some(json!({})), &[]).await.is(428, "if_match_required");

    // Left out stays, null resets, an object takes the old one's place.
    let changed = patch(&world, &admin, &path, json!({"retention_days": null, "redaction": {"detectors": ["iban"]}})).await;
    let expected = json!({"paths": [], "detectors": ["iban"], "patterns": []});
    assert_eq!((&changed.json["redaction"], &changed.json["retention_days"]), (&expected, &json!(null)), "{}", changed.text);
    assert_eq!((&changed.json["payload_limit_bytes"], &changed.json["durability"]), (&json!(1024), &json!("relaxed")));
    patch(&world, &admin, &path, json!({"retention_days": 30, "legal_hold": false, "payload_limit_bytes": null})).await;

    for role in ["operator", "auditor", "finance"] {
        let token = world.token(&tenant, role).await;
        patch(&world, &token, &path, json!({"legal_hold": false})).await.is(403, "forbidden");
        let read = world.get(&token, &path).await;
        assert_eq!(read.status, if role == "finance" { 403 } else { 200 }, "{role}");
    }
    let events = world.get(&auditor, &format!("{tenant}/admin-events?limit=100")).await;
    let of = |action: &str| -> Vec<Value> {
        let all = events.json["items"].as_array().unwrap();
        all.iter().filter(|event| event["action"] == action).map(|event| event["detail"].clone()).collect()
    };
    assert_eq!((of("audit.legal_hold.set").len(), of("audit.legal_hold.lift").len()), (1, 1));
    assert_eq!(of("audit.retention.shorten"), [json!({"from": null, "to": 30}), json!({"from": null, "to": 90})]);
    let updates = of("audit.settings.update");
    assert_eq!(updates.len(), 3, "newest first");
    assert_eq!(updates[2]["redaction"]["to"], redaction);
    assert_eq!(
        updates[0],
        json!({
            "retention_days": {"from": null, "to": 30}, "legal_hold": {"from": true, "to": false}, "payload_limit_bytes": {"from": 1024, "to": null},
        })
    );
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_proof_says_what_is_not_sealed_yet_and_when_to_ask_again(pool: PgPool) {
    let world = World::new(pool).await;
    let tenant = world.tenant("acme").await;
    let trail = Trail::new(&world, &tenant);
    let ask = async |call: &str| world.get(&world.root, &format!("{tenant}/tool-calls/{call}/proof")).await;
    let count = |reply: &Reply| (reply.json["proofs"].as_array().unwrap().len(), reply.json["unsealed"].as_u64().unwrap());
    let open = trail.open().await;
    let fresh = ask(&open.to_string()).await;
    assert_eq!((count(&fresh), fresh.headers["retry-after"].to_str().unwrap()), ((0, 1), "2"));
    trail.seal().await;
    trail.close(open).await;
    let half = ask(&open.to_string()).await;
    assert_eq!((count(&half), half.headers.contains_key("retry-after")), ((1, 1), true));
    world.pass(chrono::Duration::minutes(10));
    let old = ask(&open.to_string()).await;
    assert_eq!((count(&old), old.headers.contains_key("retry-after")), ((1, 1), false), "soon will not help");
    trail.seal().await;
    let whole = ask(&open.to_string()).await;
    assert_eq!((count(&whole), whole.headers.contains_key("retry-after")), ((2, 0), false));
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn t41_settings_take_what_they_know_and_can_be(pool: PgPool) {
    let world = World::new(pool).await;
    let path = format!("{}/audit/settings", world.tenant("acme").await);
    for field in ["id", "tenant_id", "version", "created_at", "updated_at", "limit", "tag"] {
        let refused = patch(&world, &world.root, &path, json!({field: null})).await;
        assert_eq!(refused.is(422, "invalid").pointer(), format!("/{field}"), "{}", refused.text);
    }
    for (body, pointer) in [
        (json!({"durability": "eventual"}), "/durability"),
        (json!({"payload_limit_bytes": -1}), "/payload_limit_bytes"),
        (json!({"payload_limit_bytes": 3_000_000_000_u64}), "/payload_limit_bytes"),
        (json!({"retention_days": 0}), "/retention_days"),
        (json!({"retention_days": 36_501}), "/retention_days"),
        (json!({"retention_days": "30"}), "/retention_days"),
        (json!({"redaction": {"paths": ["$.ok", "$["]}}), "/redaction/paths/1"),
        (json!({"redaction": {"detectors": ["nonsense"]}}), "/redaction/detectors/0"),
        (json!({"redaction": {"patterns": [{"name": "x", "regex": "("}]}}), "/redaction/patterns/0/regex"),
        (json!({"redaction": {"patterns": [{"name": "x"}]}}), "/redaction/patterns/0/regex"),
        (json!({"redaction": {"pattern": []}}), "/redaction/pattern"),
        (json!({"redaction": {"patterns": [{"name": "x", "regex": "a", "flags": "i"}]}}), "/redaction/patterns/0/flags"),
    ] {
        let refused = patch(&world, &world.root, &path, body.clone()).await;
        assert_eq!(refused.is(422, "invalid").pointer(), pointer, "{body}: {}", refused.text);
    }
    assert_eq!(world.count("SELECT count(*) FROM audit_settings").await, 0, "nothing was written");
    assert_eq!(world.count("SELECT count(*) FROM admin_events WHERE action LIKE 'audit.%'").await, 0);
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn an_erasure_leaves_the_row_and_a_record(pool: PgPool) {
    let world = World::new(pool).await;
    let (tenant, other) = (world.tenant("acme").await, world.tenant("other").await);
    let call = record(&world, &tenant).await;
    let path = format!("{tenant}/audit/erasures");
    let (admin, auditor) = (world.token(&tenant, "admin").await, world.token(&tenant, "auditor").await);
    let body = |dry_run: bool| json!({"reason": "asked for", "selection": {"call_ids": [call.id]}, "dry_run": dry_run});
    let read = async || world.get(&auditor, &format!("{tenant}/tool-calls/{}", call.id)).await.json;
    assert!(read().await["arguments_form"].is_null() && read().await["arguments"]["a"] == 2);

    world.post(&auditor, &path, body(false)).await.is(403, "forbidden");
    let foreseen = world.post(&admin, &path, body(true)).await;
    assert_eq!(
        (foreseen.status.as_u16(), &foreseen.json),
        (200, &json!({"calls": 1, "runs": 1, "requests": 0, "under_legal_hold": 0})),
        "{}",
        foreseen.text
    );
    assert_eq!(world.get(&auditor, &path).await.json["items"], json!([]), "a rehearsal is no erasure");
    patch(&world, &admin, &format!("{tenant}/audit/settings"), json!({"legal_hold": true})).await;
    let held = world.post(&admin, &path, body(false)).await;
    assert!(held.is(409, "conflict").text.contains("legal hold"));
    assert_eq!(
        world.post(&admin, &path, body(true)).await.json,
        json!({"calls": 1, "runs": 1, "requests": 0, "under_legal_hold": 2})
    );
    patch(&world, &admin, &format!("{tenant}/audit/settings"), json!({"legal_hold": false})).await;

    let again = [("idempotency-key", "once")];
    let made = world.call(&admin, "POST", &path, Some(body(false)), &again).await;
    assert_eq!(made.status, 201, "{}", made.text);
    assert_eq!((&made.json["calls"], &made.json["runs"], &made.json["reason"]), (&json!(1), &json!(1), &json!("asked for")));
    assert!(made.id().starts_with("era_") && made.json["by"].as_str().unwrap().starts_with("svc_"));
    assert_eq!(made.headers["location"].to_str().unwrap(), format!("{path}/{}", made.id()));
    assert_eq!(
        world.call(&admin, "POST", &path, Some(body(false)), &again).await.json,
        made.json,
        "answered again, not done again"
    );
    assert_eq!(world.get(&auditor, &format!("{path}/{}", made.id())).await.json, made.json);
    assert_eq!(world.get(&auditor, &path).await.json["items"], json!([made.json]));
    world.get(&world.root, &format!("{other}/audit/erasures/{}", made.id())).await.is(404, "not_found");
    assert_eq!(world.count("SELECT count(*) FROM admin_events WHERE action = 'audit.erase'").await, 1);

    let row = read().await;
    assert_eq!((&row["arguments"], &row["arguments_form"], &row["id"]), (&json!(null), &json!("erased"), &json!(call.id)));
    assert_eq!((&row["outcome"], &row["result_form"]), (&json!("ok"), &json!(null)), "it had no result to erase");
    assert_eq!(world.get(&auditor, &format!("{tenant}/script-runs/{}", call.run)).await.json["source"], json!(null));
    let line: Value = serde_json::from_str(&world.get(&auditor, &format!("{tenant}/audit/export")).await.text).unwrap();
    assert_eq!(line["arguments_form"], "erased");
    let csv = world.get(&auditor, &format!("{tenant}/audit/export?format=csv")).await.text;
    assert!(csv.contains(",,erased,,,"), "{csv}");
    let event: Value =
        serde_json::from_str(&world.get(&auditor, &format!("{tenant}/audit/export?format=ocsf")).await.text).unwrap();
    assert_eq!(event["unmapped"]["arguments_form"], "erased");
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_selection_names_one_thing_and_keeps_no_text(pool: PgPool) {
    let world = World::new(pool).await;
    let (tenant, other) = (world.tenant("acme").await, world.tenant("other").await);
    let stranger = record(&world, &other).await;
    let path = format!("{tenant}/audit/erasures");
    let (from, to) = ("2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z");
    let id = json!([stranger.id]);
    for (selection, pointer) in [
        (json!({}), "/selection"),
        (json!({"call_ids": id, "key_id": stranger.key}), "/selection"),
        (json!({"call_ids": []}), "/selection/call_ids"),
        (json!({"call_ids": id, "from": from}), "/selection/from"),
        (json!({"call_ids": id}), "/selection/call_ids/0"),
        (json!({"key_id": stranger.key}), "/selection/key_id"),
        (json!({"key_id": stranger.key, "from": to, "to": from}), "/selection/from"),
        (json!({"contains": "ada@example.com", "to": to}), "/selection/from"),
        (json!({"contains": "ada@example.com", "from": from}), "/selection/to"),
        (json!({"contains": " ad ", "from": from, "to": to}), "/selection/contains"),
        (json!({"contains": "ada@example.com", "from": "2026-01-01T00:00:00Z", "to": to}), "/selection/to"),
        (json!({"team_id": "team_1"}), "/selection/team_id"),
    ] {
        for dry_run in [true, false] {
            let body = json!({"reason": "r", "selection": selection, "dry_run": dry_run});
            let refused = world.post(&world.root, &path, body.clone()).await;
            assert_eq!(refused.is(422, "invalid").pointer(), pointer, "{body}: {}", refused.text);
        }
    }
    let good = json!({"contains": "Ada@Example.com", "from": from, "to": to});
    for reason in ["", "  ", &"x".repeat(501)] {
        let refused = world.post(&world.root, &path, json!({"reason": reason, "selection": good})).await;
        assert_eq!(refused.is(422, "invalid").pointer(), "/reason");
    }
    let made = world.post(&world.root, &path, json!({"reason": "r", "selection": good})).await;
    assert_eq!((made.status.as_u16(), &made.json["calls"]), (201, &json!(0)), "{}", made.text);
    assert_eq!(made.json["selection"]["contains"], "[not kept]");
    for table in ["audit_erasures", "admin_events", "idempotency_keys"] {
        let sql = format!("SELECT count(*) FROM {table} t WHERE t::text ILIKE '%example.com%'");
        let rows: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(&world.pool).await.unwrap();
        assert_eq!(rows, 0, "{table}");
    }
}
