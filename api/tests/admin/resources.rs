//! The resources, each in its own way.

use chrono::Duration;
use serde_json::json;
use sqlx::{PgPool, Row};

use crate::world::World;

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn t52_a_secret_is_shown_once_and_rests_nowhere(pool: PgPool) {
    let world = World::new(pool).await;
    let tenant = world.tenant("A").await;
    let keys = format!("{tenant}/keys");
    let headers = [("idempotency-key", "k")];
    let key = world.call(&world.root, "POST", &keys, Some(json!({"name": "x", "tool_group_ids": []})), &headers).await;
    let secret = key.json["secret"].as_str().unwrap().to_owned();
    assert!(secret.starts_with("tg_live_"));
    let rotated = world.post(&world.root, &format!("{keys}/{}/rotate", key.id()), json!({"overlap_seconds": 60})).await;
    let second = rotated.json["secret"].as_str().unwrap().to_owned();
    assert!(second != secret && rotated.json["previous_secret_expires_at"].is_string());
    let token = world.token(&tenant, "owner").await;
    for path in
        [keys.clone(), format!("{keys}/{}", key.id()), format!("{tenant}/service-tokens"), format!("{tenant}/admin-events")]
    {
        let text = world.get(&world.root, &path).await.text;
        for secret in [&secret, &second, &token] {
            assert!(!text.contains(&secret[40..]), "{path}");
        }
    }
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT table_name::text FROM information_schema.tables WHERE table_schema = 'public' AND table_type = 'BASE TABLE'",
    )
    .fetch_all(&world.pool)
    .await
    .unwrap();
    assert!(tables.len() > 20);
    for table in tables {
        let sql = format!("SELECT row_to_json(t)::text AS row FROM {table} t");
        for row in sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_all(&world.pool).await.unwrap() {
            let text: String = row.get("row");
            for secret in [&secret, &second, &token, &world.root] {
                let random = &secret[40..60];
                let hex: String = random.bytes().map(|b| format!("{b:02x}")).collect();
                assert!(!text.contains(random) && !text.contains(&hex), "{table}: {text}");
            }
        }
    }
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn keys_live_and_end(pool: PgPool) {
    let world = World::new(pool).await;
    let tenant = world.tenant("A").await;
    let (root, keys) = (&world.root, format!("{tenant}/keys"));
    let team = world.post(root, &format!("{tenant}/teams"), json!({"name": "t"})).await.id();
    let group = world.post(root, &format!("{tenant}/tool-groups"), json!({"name": "Support tools", "members": []})).await;
    assert_eq!(group.json["slug"], "support-tools");
    let group = group.id();
    let end = "2027-01-01T00:00:00Z";
    let body = json!({"name": "k", "team_id": team, "tool_group_ids": [group, group], "expires_at": end, "models": ["gpt-x"]});
    let key = world.post(root, &keys, body).await;
    assert_eq!(key.json["tool_group_ids"], json!([group]));
    let path = format!("{keys}/{}", key.id());

    let patch = json!({"team_id": null, "models": [], "expires_at": null});
    let patched = world.call(root, "PATCH", &path, Some(patch), &[("if-match", "*")]).await;
    assert_eq!(patched.json["team_id"], json!(null));
    assert_eq!(
        (&patched.json["models"], &patched.json["name"], &patched.json["tool_group_ids"]),
        (&json!([]), &json!("k"), &json!([group]))
    );
    let past = json!({"expires_at": "2020-01-01T00:00:00Z"});
    assert_eq!(
        world.call(root, "PATCH", &path, Some(past), &[("if-match", "*")]).await.is(422, "invalid").pointer(),
        "/expires_at"
    );

    // What is in use stays.
    let group_path = format!("{tenant}/tool-groups/{group}");
    world.call(root, "DELETE", &group_path, None, &[("if-match", "*")]).await.is(409, "conflict");
    let back = json!({"team_id": team});
    assert_eq!(world.call(root, "PATCH", &path, Some(back), &[("if-match", "*")]).await.status, 200);
    world.call(root, "DELETE", &format!("{tenant}/teams/{team}"), None, &[("if-match", "*")]).await.is(409, "conflict");
    let listed = world.get(root, &format!("{keys}?team_id={team}")).await;
    assert_eq!(listed.json["items"].as_array().unwrap().len(), 1);

    world.post(root, &format!("{path}/rotate"), json!({"overlap_seconds": 604_801})).await.is(422, "invalid");
    let revoked = world.call(root, "POST", &format!("{path}/revoke"), None, &[]).await;
    assert_eq!((revoked.status.as_u16(), &revoked.json["state"]), (200, &json!("revoked")), "{}", revoked.text);
    let again = world.call(root, "POST", &format!("{path}/revoke"), None, &[]).await;
    assert_eq!(again.json["revoked_at"], revoked.json["revoked_at"]);
    world.call(root, "POST", &format!("{path}/rotate"), None, &[]).await.is(409, "bad_state");
    world.call(root, "PATCH", &path, Some(json!({"name": "n"})), &[("if-match", "*")]).await.is(409, "bad_state");
    let hashes = "SELECT count(*) FROM virtual_keys WHERE previous_hash IS NOT NULL";
    assert_eq!(world.count(hashes).await, 0);
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn nobody_hands_out_more_than_they_have(pool: PgPool) {
    let world = World::new(pool).await;
    let tenant = world.tenant("A").await;
    let (owner, admin) = (world.token(&tenant, "owner").await, world.token(&tenant, "admin").await);
    let tokens = format!("{tenant}/service-tokens");
    world.post(&admin, &tokens, json!({"name": "x", "role": "owner"})).await.is(403, "forbidden");
    world
        .post(&admin, &format!("{tenant}/admins"), json!({"name": "x", "issuer": "https://i", "subject": "s", "role": "owner"}))
        .await
        .is(403, "forbidden");
    assert_eq!(world.post(&admin, &tokens, json!({"name": "x", "role": "admin"})).await.status, 201);
    assert_eq!(world.post(&owner, &tokens, json!({"name": "x", "role": "owner"})).await.status, 201);
    assert_eq!(world.post(&owner, &tokens, json!({"name": "x", "role": "root"})).await.is(422, "invalid").pointer(), "/role");
    // Nor does an admin take an owner away.
    let all = world.get(&owner, &tokens).await;
    let of = |role: &str| {
        all.json["items"].as_array().unwrap().iter().find(|t| t["role"] == role).unwrap()["id"].as_str().unwrap().to_owned()
    };
    world.call(&admin, "DELETE", &format!("{tokens}/{}", of("owner")), None, &[("if-match", "*")]).await.is(403, "forbidden");
    // A revoked token is nobody from then on.
    assert_eq!(world.call(&owner, "DELETE", &format!("{tokens}/{}", of("admin")), None, &[("if-match", "*")]).await.status, 204);
    world.get(&admin, &tenant).await.is(401, "unauthenticated");
    let refusals = "SELECT count(*) FROM admin_events WHERE action = 'access.denied' AND detail->>'reason' = 'grant'";
    assert_eq!(world.count(refusals).await, 3);
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn tenants_are_made_renamed_and_deleted(pool: PgPool) {
    let world = World::new(pool).await;
    let root = &world.root;
    let first = world.post(root, "/v1/tenants", json!({"name": "Acme, Inc.", "currency": "EUR"})).await;
    assert_eq!((&first.json["slug"], &first.json["currency"]), (&json!("acme-inc"), &json!("EUR")));
    let second = world.post(root, "/v1/tenants", json!({"name": "Acme Inc"})).await;
    assert!(second.status == 201 && second.json["slug"] != "acme-inc", "{}", second.text);
    world.post(root, "/v1/tenants", json!({"name": "x", "slug": "acme-inc"})).await.is(409, "conflict");
    assert_eq!(
        world.post(root, "/v1/tenants", json!({"name": "x", "currency": "euro"})).await.is(422, "invalid").pointer(),
        "/currency"
    );
    assert_eq!(world.post(root, "/v1/tenants", json!({"name": "x", "slug": "A b"})).await.is(422, "invalid").pointer(), "/slug");
    let path = format!("/v1/tenants/{}", first.id());
    let owner = world.token(&path, "owner").await;
    let renamed = world.call(&owner, "PATCH", &path, Some(json!({"name": "Beta"})), &[("if-match", "*")]).await;
    assert_eq!((&renamed.json["name"], &renamed.json["slug"]), (&json!("Beta"), &json!("acme-inc")));
    world.call(&owner, "PATCH", &path, Some(json!({"currency": "USD"})), &[("if-match", "*")]).await.is(422, "invalid");
    // Any change of the tenant is one that workers hear of.
    let revision = "SELECT revision FROM tenants WHERE slug = 'acme-inc'";
    let before = world.count(revision).await;
    assert_eq!(world.call(&owner, "DELETE", &path, None, &[("if-match", &renamed.etag())]).await.status, 204);
    assert!(world.count(revision).await > before);
    world.get(&owner, &path).await.is(401, "unauthenticated");
    world.get(root, &path).await.is(404, "not_found");
    let listed = world.get(root, "/v1/tenants").await;
    assert_eq!(listed.json["items"].as_array().unwrap().len(), 1);
    world.pass(Duration::hours(1));
    let token = world
        .post(
            root,
            &format!("/v1/tenants/{}/service-tokens", second.id()),
            json!({"name": "x", "role": "auditor", "expires_at": "2026-11-18T19:00:00Z"}),
        )
        .await;
    assert_eq!(token.status, 201, "{}", token.text);
}
