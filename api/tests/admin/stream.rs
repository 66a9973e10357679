//! The trail as it happens, and from where a client was.

use std::time::Duration;

use axum::{
    body::{Body, BodyDataStream},
    http::{Request, Response},
};
use futures::StreamExt;
use serde_json::{Value, json};
use sqlx::PgPool;
use tollgate_boot::Config;
use tower::ServiceExt;

use crate::world::{Trail, World};

#[derive(Debug, Clone, PartialEq)]
struct Event {
    id: String,
    name: String,
    data: Value,
}

struct Events {
    body: BodyDataStream,
    buffer: String,
    comments: usize,
}

impl Events {
    /// The next event; `None` when the stream has ended.
    async fn next(&mut self) -> Option<Event> {
        loop {
            while let Some((frame, rest)) = self.buffer.split_once("\n\n") {
                let frame: Vec<String> = frame.lines().map(str::to_owned).collect();
                self.buffer = rest.to_owned();
                if frame[0].starts_with(':') {
                    self.comments += 1;
                } else if frame[0] != "retry: 2000" {
                    let [id, name, data] = ["id: ", "event: ", "data: "].map(|field| {
                        frame
                            .iter()
                            .find_map(|line| line.strip_prefix(field))
                            .unwrap_or_else(|| panic!("{field}: {frame:?}"))
                            .to_owned()
                    });
                    assert_eq!(frame.len(), 3);
                    return Some(Event { id, name, data: serde_json::from_str(&data).unwrap() });
                }
            }
            let chunk = tokio::time::timeout(Duration::from_secs(20), self.body.next()).await.expect("nothing came")?;
            self.buffer.push_str(std::str::from_utf8(&chunk.unwrap()).unwrap());
        }
    }

    async fn calls(&mut self, n: usize) -> Vec<Event> {
        let mut calls = Vec::new();
        while calls.len() < n {
            let event = self.next().await.unwrap();
            if event.name == "tool_call" {
                calls.push(event);
            }
        }
        calls
    }
}

async fn ask(world: &World, token: &str, path: &str, last: Option<&str>) -> Response<Body> {
    let mut request = Request::get(path).header("authorization", format!("Bearer {token}"));
    if let Some(last) = last {
        request = request.header("last-event-id", last);
    }
    world.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
}

async fn follow(world: &World, token: &str, path: &str, last: Option<&str>) -> Events {
    let answer = ask(world, token, path, last).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    assert_eq!(answer.headers()["x-accel-buffering"], "no");
    Events { body: answer.into_body().into_data_stream(), buffer: String::new(), comments: 0 }
}

fn ids(events: &[Event]) -> Vec<String> {
    events.iter().map(|event| event.data["id"].as_str().unwrap().to_owned()).collect()
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_stream_tells_what_happens_and_resumes_with_exactly_the_rest(pool: PgPool) {
    let world = World::new(pool).await;
    let (tenant, other) = (world.tenant("acme").await, world.tenant("other").await);
    let auditor = world.token(&tenant, "auditor").await;
    let (trail, foreign) = (Trail::new(&world, &tenant), Trail::new(&world, &other));
    trail.call().await;
    trail.seal().await;
    let path = format!("{tenant}/audit/stream");
    let mut live = follow(&world, &auditor, &path, None).await;
    let mut made = Vec::new();
    for _ in 0..3 {
        made.push(trail.call().await.to_string());
        foreign.call().await;
        trail.seal().await;
    }
    assert_eq!(world.post(&world.root, &format!("{tenant}/teams"), json!({"name": "x"})).await.status, 201);
    trail.seal().await;
    let told = live.calls(3).await;
    assert_eq!(ids(&told), made, "from the head on, in order, and of this tenant alone");
    let line = world.get(&auditor, &format!("{tenant}/audit/export")).await.text;
    let exported: Value = serde_json::from_str(line.lines().nth(1).unwrap()).unwrap();
    assert_eq!(told[0].data, exported, "as the export writes it");
    let event = loop {
        let event = live.next().await.unwrap();
        if event.data["action"] == "team.create" {
            break event;
        }
    };
    assert_eq!((event.name.as_str(), &event.data["detail"]["name"]), ("admin_event", &json!("x")));
    drop(live);

    // What happens while nobody listens is told to who comes again, and once.
    made.push(trail.call().await.to_string());
    trail.seal().await;
    for last in 0..3 {
        let mut again = follow(&world, &auditor, &path, Some(&told[last].id)).await;
        assert_eq!(ids(&again.calls(made.len() - last - 1).await), made[last + 1..], "after {last}");
        made.push(trail.call().await.to_string());
        trail.seal().await;
        assert_eq!(ids(&again.calls(1).await), made[made.len() - 1..], "and goes on");
    }
    // The header comes before the query, and a cursor is one for every export.
    let mut both = follow(&world, &auditor, &format!("{path}?cursor=start"), Some(&told[1].id)).await;
    assert_eq!(ids(&both.calls(1).await), [made[2].clone()]);
    let rest = world.get(&auditor, &format!("{tenant}/audit/export?cursor={}", told[1].id)).await;
    assert!(rest.text.contains(&made[2]) && !rest.text.contains(&made[1]));
    // Nothing for a while: a comment says that it is still there.
    while both.comments == 0 {
        trail.call().await;
        tokio::time::sleep(Duration::from_millis(250)).await;
        trail.seal().await;
        both.next().await.unwrap();
    }
    for bad in ["x", "start ", &told[1].id[1..]] {
        let answer = ask(&world, &auditor, &path, Some(bad)).await;
        assert_eq!(answer.status(), 400, "{bad}");
    }
    let owner = world.token(&other, "auditor").await;
    assert_eq!(ask(&world, &owner, &format!("{other}/audit/stream"), Some(&told[1].id)).await.status(), 400);
    let opened = world.count("SELECT count(*) FROM admin_events WHERE action = 'audit.stream'").await;
    assert_eq!(opened, 5);
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_stream_ends_with_its_bearer_and_with_the_process(pool: PgPool) {
    let world = World::new(pool).await;
    let tenant = world.tenant("acme").await;
    let path = format!("{tenant}/audit/stream");
    let made = world.post(&world.root, &format!("{tenant}/service-tokens"), json!({"name": "a", "role": "auditor"})).await;
    let auditor = made.json["secret"].as_str().unwrap().to_owned();
    let (mut live, mut root) = (follow(&world, &auditor, &path, None).await, follow(&world, &world.root, &path, None).await);
    Trail::new(&world, &tenant).seal().await;
    // Longer than the bearer is believed without being asked for again.
    tokio::time::sleep(Duration::from_millis(700)).await;
    let trail = Trail::new(&world, &tenant);
    trail.call().await;
    trail.seal().await;
    assert_eq!(live.calls(1).await.len(), 1, "a bearer that holds is not cut");
    let gone = format!("{tenant}/service-tokens/{}", made.id());
    assert_eq!(world.call(&world.root, "DELETE", &gone, None, &[("if-match", "*")]).await.status, 204);
    while live.next().await.is_some() {}
    trail.call().await;
    trail.seal().await;
    assert_eq!(root.calls(2).await.len(), 2, "another's stream goes on");
    world.app.shutdown.trigger("test");
    while root.next().await.is_some() {}
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_tenant_has_sixteen_streams_and_another_has_its_own(pool: PgPool) {
    let world = World::new(pool).await;
    let (tenant, other) = (world.tenant("acme").await, world.tenant("other").await);
    let path = format!("{tenant}/audit/stream");
    let mut open = Vec::new();
    for _ in 0..16 {
        open.push(follow(&world, &world.root, &path, None).await);
    }
    let refused = world.get(&world.root, &path).await;
    refused.is(429, "too_many_requests");
    assert_eq!(refused.headers["retry-after"], "1");
    drop(follow(&world, &world.root, &format!("{other}/audit/stream"), None).await);
    open.pop();
    // The place is free as soon as the stream has seen that its reader is gone.
    let mut tries = 0;
    while ask(&world, &world.root, &path, None).await.status() != 200 {
        tries += 1;
        assert!(tries < 200);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_reader_that_takes_nothing_is_cut(pool: PgPool) {
    let world = World::with_patience(pool, Config::default(), Duration::from_secs(3)).await;
    let tenant = world.tenant("acme").await;
    let trail = Trail::new(&world, &tenant);
    trail.call().await;
    trail.seal().await;
    let mut idle = follow(&world, &world.root, &format!("{tenant}/audit/stream?cursor=start"), None).await;
    let mut reader = follow(&world, &world.root, &format!("{tenant}/audit/stream?cursor=start"), None).await;
    assert_eq!(reader.calls(1).await.len(), 1);
    for _ in 0..8 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        trail.call().await;
        trail.seal().await;
        reader.calls(1).await;
    }
    assert_eq!(idle.next().await, None, "nothing was kept for it");
    trail.call().await;
    trail.seal().await;
    assert_eq!(reader.calls(1).await.len(), 1, "who reads is served");
}
