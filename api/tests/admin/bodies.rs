//! What is refused of a body.

use axum::{
    body::Body,
    http::{Request, header},
};
use serde_json::json;
use sqlx::PgPool;

use crate::world::{Reply, World};

async fn raw(world: &World, path: &str, kind: &str, body: impl Into<Body>) -> Reply {
    let request =
        Request::post(path).header(header::AUTHORIZATION, format!("Bearer {}", world.root)).header(header::CONTENT_TYPE, kind);
    world.send(request.body(body.into()).unwrap()).await
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn t20_t22_t24_only_json_that_reads_one_way(pool: PgPool) {
    let world = World::new(pool).await;
    let path = format!("{}/teams", world.tenant("A").await);
    let json = "application/json";
    raw(&world, &path, "text/plain", r#"{"name":"x"}"#).await.is(415, "unsupported_media_type");
    raw(&world, &path, json, r#"{"name":"x""#).await.is(400, "malformed");
    raw(&world, &path, json, r#"{"name":"x","name":"y"}"#).await.is(400, "malformed");
    raw(&world, &path, json, "[".repeat(100_000)).await.is(400, "malformed");
    raw(&world, &path, json, format!("{}1", " ".repeat(1 << 20))).await.is(413, "payload_too_large");
    assert_eq!(raw(&world, &path, json, r#"{"name":7}"#).await.is(422, "invalid").pointer(), "/name");
    assert_eq!(raw(&world, &path, json, r#"{"Name":"x"}"#).await.is(422, "invalid").pointer(), "/Name");
    assert_eq!(raw(&world, &path, "application/json; charset=utf-8", r#"{"name":"x"}"#).await.status, 201);
    assert_eq!(world.count("SELECT count(*) FROM teams").await, 1);
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn t41_no_field_of_the_servers_own_can_be_posted(pool: PgPool) {
    let world = World::new(pool).await;
    let tenant = world.tenant("A").await;
    let cases = [
        ("/v1/tenants".to_owned(), json!({"name": "x"})),
        (format!("{tenant}/teams"), json!({"name": "x"})),
        (format!("{tenant}/keys"), json!({"name": "x", "tool_group_ids": []})),
        (format!("{tenant}/tool-groups"), json!({"name": "x", "members": []})),
        (format!("{tenant}/service-tokens"), json!({"name": "x", "role": "auditor"})),
        (format!("{tenant}/admins"), json!({"name": "x", "issuer": "https://i", "subject": "s", "role": "auditor"})),
    ];
    for (path, body) in cases {
        for field in [
            "id",
            "tenant_id",
            "version",
            "created_at",
            "updated_at",
            "revoked_at",
            "secret",
            "hash",
            "state",
            "deleted_at",
            "revision",
        ] {
            let mut body = body.clone();
            body[field] = json!(null);
            let reply = world.post(&world.root, &path, body).await;
            assert_eq!(reply.is(422, "invalid").pointer(), format!("/{field}"), "{path}");
        }
    }
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn t42_an_empty_or_odd_scope_is_nothing(pool: PgPool) {
    let world = World::new(pool).await;
    let tenant = world.tenant("A").await;
    let path = format!("{tenant}/keys");
    for odd in [json!(null), json!("*"), json!(["*"]), json!({}), json!([null]), json!(["tg_*"])] {
        world.post(&world.root, &path, json!({"name": "x", "tool_group_ids": odd})).await.is(422, "invalid");
    }
    world.post(&world.root, &path, json!({"name": "x"})).await.is(422, "invalid");
    let key = world.post(&world.root, &path, json!({"name": "x", "tool_group_ids": []})).await;
    let scope = world.get(&world.root, &format!("{path}/{}/scope", key.id())).await;
    assert_eq!(scope.json, json!({"tools": [], "files": []}));
}
