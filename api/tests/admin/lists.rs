//! Pages and their tokens.

use chrono::Duration;
use serde_json::json;
use sqlx::PgPool;

use crate::world::World;

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn t50_a_token_opens_its_own_list_alone(pool: PgPool) {
    let world = World::new(pool).await;
    let (tenant, other) = (world.tenant("A").await, world.tenant("B").await);
    for i in 0..7 {
        assert_eq!(world.post(&world.root, &format!("{tenant}/teams"), json!({"name": format!("t{i}")})).await.status, 201);
    }
    let list = |query: String| {
        let path = format!("{tenant}/teams?{query}");
        let world = &world;
        async move { world.get(&world.root, &path).await }
    };
    let mut names = Vec::new();
    let mut query = "limit=3".to_owned();
    let mut pages = 0;
    let mut token = String::new();
    loop {
        let page = list(query).await;
        names.extend(page.json["items"].as_array().unwrap().iter().map(|t| t["name"].as_str().unwrap().to_owned()));
        pages += 1;
        let Some(next) = page.json["next_page"].as_str() else { break };
        token = next.to_owned();
        query = format!("limit=3&page_token={next}");
    }
    assert_eq!((pages, names), (3, (0..7).map(|i| format!("t{i}")).collect()));

    let flipped = |i: usize, bit: u8| {
        let mut bytes = token.clone().into_bytes();
        bytes[i] ^= 1 << bit;
        String::from_utf8(bytes).ok().filter(|t| t.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'))
    };
    let mut flips = 0;
    for text in (0..token.len()).flat_map(|i| (0..7).map(move |bit| (i, bit))).filter_map(|(i, bit)| flipped(i, bit)) {
        list(format!("page_token={text}")).await.is(400, "bad_page_token");
        flips += 1;
    }
    assert!(flips > 100);
    assert_eq!(list(format!("page_token={token}")).await.status, 200, "another limit is the same list");
    world.get(&world.root, &format!("{other}/teams?page_token={token}")).await.is(400, "bad_page_token");
    world.get(&world.root, &format!("{tenant}/keys?page_token={token}")).await.is(400, "bad_page_token");
    world.pass(Duration::minutes(61));
    list(format!("page_token={token}")).await.is(400, "bad_page_token");
    for bad in ["limit=0", "limit=1001", "limit=x", "limit=1&limit=2"] {
        assert_eq!(list(bad.to_owned()).await.is(422, "invalid").pointer(), "?limit", "{bad}");
    }
    assert_eq!(list("offset=3".to_owned()).await.is(422, "invalid").pointer(), "?offset");
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn admin_events_tell_what_was_done_newest_first(pool: PgPool) {
    let world = World::new(pool).await;
    let tenant = world.tenant("A").await;
    let start = "2026-11-18T00:00:00Z";
    for name in ["x", "y"] {
        world.pass(Duration::hours(1));
        world.post(&world.root, &format!("{tenant}/teams"), json!({"name": name})).await;
    }
    let events = world.get(&world.root, &format!("{tenant}/admin-events")).await;
    let told: Vec<_> =
        events.json["items"].as_array().unwrap().iter().map(|e| (e["action"].clone(), e["detail"]["name"].clone())).collect();
    assert_eq!(
        told,
        [(json!("team.create"), json!("y")), (json!("team.create"), json!("x")), (json!("tenant.create"), json!("A"))]
    );
    assert_eq!(events.json["items"][0]["actor_kind"], "platform");
    let filtered = world.get(&world.root, &format!("{tenant}/admin-events?action=team.create&from={start}&limit=1")).await;
    assert_eq!(filtered.json["items"].as_array().unwrap().len(), 1);
    let next = filtered.json["next_page"].as_str().unwrap();
    let next =
        world.get(&world.root, &format!("{tenant}/admin-events?limit=1&page_token={next}&from={start}&action=team.create")).await;
    assert_eq!(next.json["items"][0]["detail"]["name"], "x");
    let none = world.get(&world.root, &format!("{tenant}/admin-events?to={start}")).await;
    assert_eq!(none.json["items"], json!([]));
}
