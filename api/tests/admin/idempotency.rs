//! Idempotency-Key, ETag and If-Match.

use std::sync::Arc;

use chrono::Duration;
use serde_json::json;
use sqlx::PgPool;

use crate::world::World;

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn t61_a_request_sent_again_is_answered_again(pool: PgPool) {
    let world = World::new(pool).await;
    let tenant = world.tenant("A").await;
    let path = format!("{tenant}/keys");
    let body = json!({"name": "x", "tool_group_ids": []});
    let key = [("idempotency-key", "k1")];
    let first = world.call(&world.root, "POST", &path, Some(body.clone()), &key).await;
    let again = world.call(&world.root, "POST", &path, Some(body.clone()), &key).await;
    assert_eq!((first.status, again.status), (201.try_into().unwrap(), 201.try_into().unwrap()));
    assert_eq!(first.text, again.text, "the secret too");
    assert_eq!(first.etag(), again.etag());
    assert!(!first.headers.contains_key("idempotency-replayed") && again.headers["idempotency-replayed"] == "true");
    assert_eq!(world.count("SELECT count(*) FROM virtual_keys").await, 1);

    let other = json!({"name": "y", "tool_group_ids": []});
    world.call(&world.root, "POST", &path, Some(other), &key).await.is(422, "idempotency_key_reused");
    let teams = format!("{tenant}/teams");
    world.call(&world.root, "POST", &teams, Some(body.clone()), &key).await.is(422, "invalid");
    world.call(&world.root, "POST", &teams, Some(json!({"name": "x"})), &key).await.is(422, "idempotency_key_reused");
    // Another principal's key is another key.
    let owner = world.token(&tenant, "owner").await;
    assert_eq!(world.call(&owner, "POST", &teams, Some(json!({"name": "x"})), &key).await.status, 201);
    // A refused request is not remembered.
    world.call(&owner, "POST", &teams, Some(json!({"name": ""})), &[("idempotency-key", "k2")]).await.is(422, "invalid");
    assert_eq!(world.call(&owner, "POST", &teams, Some(json!({"name": "y"})), &[("idempotency-key", "k2")]).await.status, 201);
    world.pass(Duration::hours(25));
    let late = world.call(&world.root, "POST", &path, Some(body), &key).await;
    assert!(late.status == 201 && late.text != first.text, "forgotten after a day");
    let long = "k".repeat(256);
    world
        .call(&owner, "POST", &teams, Some(json!({"name": "z"})), &[("idempotency-key", &long)])
        .await
        .is(400, "bad_idempotency_key");
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn t61_twenty_at_once_are_one(pool: PgPool) {
    let world = Arc::new(World::new(pool).await);
    let tenant = world.tenant("A").await;
    for (path, body) in [
        (format!("{tenant}/keys"), json!({"name": "x", "tool_group_ids": []})),
        ("/v1/tenants".to_owned(), json!({"name": "B", "slug": "b"})),
    ] {
        let tasks: Vec<_> = (0..20)
            .map(|_| {
                let (world, path, body) = (Arc::clone(&world), path.clone(), body.clone());
                tokio::spawn(async move { world.call(&world.root, "POST", &path, Some(body), &[("idempotency-key", "k")]).await })
            })
            .collect();
        let mut replies = Vec::new();
        for task in tasks {
            replies.push(task.await.unwrap());
        }
        assert!(replies.iter().all(|r| r.status == 201 && r.text == replies[0].text), "{:?}", replies[0]);
        assert_eq!(replies.iter().filter(|r| !r.headers.contains_key("idempotency-replayed")).count(), 1);
    }
    assert_eq!(world.count("SELECT count(*) FROM virtual_keys").await, 1);
    assert_eq!(world.count("SELECT count(*) FROM tenants").await, 2);
    assert_eq!(world.count("SELECT count(*) FROM admin_events WHERE action = 'key.create'").await, 1);
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn nobody_overwrites_what_they_have_not_read(pool: PgPool) {
    let world = World::new(pool).await;
    let tenant = world.tenant("A").await;
    let made = world.post(&world.root, &format!("{tenant}/teams"), json!({"name": "x"})).await;
    let path = format!("{tenant}/teams/{}", made.id());
    assert_eq!(made.headers["location"], path.as_str());
    let read = world.get(&world.root, &path).await;
    assert_eq!(made.etag(), read.etag());
    let patch = |name: &str| Some(json!({"name": name}));
    world.call(&world.root, "PATCH", &path, patch("y"), &[]).await.is(428, "if_match_required");
    world.call(&world.root, "DELETE", &path, None, &[]).await.is(428, "if_match_required");
    let changed = world.call(&world.root, "PATCH", &path, patch("y"), &[("if-match", &made.etag())]).await;
    assert!(changed.status == 200 && changed.etag() != made.etag());
    world.call(&world.root, "PATCH", &path, patch("z"), &[("if-match", &made.etag())]).await.is(412, "stale");
    world.call(&world.root, "DELETE", &path, None, &[("if-match", &made.etag())]).await.is(412, "stale");
    assert_eq!(world.get(&world.root, &path).await.json["name"], "y");
    assert_eq!(world.call(&world.root, "DELETE", &path, None, &[("if-match", "*")]).await.status, 204);
    world.call(&world.root, "DELETE", &path, None, &[("if-match", "*")]).await.is(404, "not_found");
}
