use chrono::TimeDelta;
use serde_json::json;
use sqlx::PgPool;
use tollgate_domain::{
    SyncRequestId, UpstreamId, WorkerId,
    tool::{Binding, DefinitionHash, Exposure, UpstreamState},
};
use tollgate_store::{
    Actor, PageRequest, Store, StoreError, sync,
    tools::{self, Discovered, ToolFilter},
    upstreams::{self, FirstContact, NewUpstream, Transport, UpstreamPatch},
};

use crate::{now, tenant, upstream};

fn new(name: &str) -> NewUpstream {
    NewUpstream {
        id: UpstreamId::mint(now()),
        name: name.to_owned(),
        description: None,
        transport: Transport::Http { url: "https://example.com/mcp".into(), headers: vec!["authorization".into()] },
        sealed_headers: Some(vec![1, 2, 3]),
        exposure: Exposure::Code,
        binding: Binding::Server,
        timeout_ms: 1000,
        sync_interval_s: 60,
        tool_approval: "auto",
    }
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn an_upstream_lives_and_leaves_its_name_free(pool: PgPool) {
    let tenant = tenant(&pool).await;
    let store = Store::from_pool(pool.clone());
    let row = new("crm");
    let mut change = store.change(tenant, Actor::system("test"), now()).await.unwrap();
    upstreams::create(&mut change, &row).await.unwrap();
    change.commit().await.unwrap();
    let mut change = store.change(tenant, Actor::system("test"), now()).await.unwrap();
    let taken = upstreams::create(&mut change, &new("crm")).await;
    assert!(matches!(&taken, Err(StoreError::Conflict(sentence)) if sentence.contains("of this name")), "{taken:?}");
    drop(change);

    let mut change = store.change(tenant, Actor::system("test"), now()).await.unwrap();
    assert_eq!(upstreams::lock(&mut change, row.id).await.unwrap().transport, row.transport);
    let stdio = Transport::Stdio { program: "p".into() };
    let patch =
        UpstreamPatch { description: Some(Some("d".into())), transport: Some((stdio.clone(), None)), ..UpstreamPatch::default() };
    upstreams::update(&mut change, row.id, &patch).await.unwrap();
    let patch = UpstreamPatch { timeout_ms: Some(5), ..UpstreamPatch::default() };
    upstreams::update(&mut change, row.id, &patch).await.unwrap();
    let changed = upstreams::get(&mut change.tx, tenant, row.id, now()).await.unwrap();
    assert_eq!((changed.transport, changed.sealed_headers, changed.timeout_ms, changed.version), (stdio, None, 5, 3));
    assert_eq!((changed.description.as_deref(), changed.sync_interval_s), (Some("d"), 60));
    change.commit().await.unwrap();

    let definition = json!({"name": "a"});
    let found = Discovered {
        name: "a".into(),
        sha256: DefinitionHash::of(&definition).unwrap(),
        definition_text: definition.to_string(),
    };
    tools::record_discovery(&store, tenant, row.id, vec![found], now()).await.unwrap();
    let mut change = store.change(tenant, Actor::system("test"), now()).await.unwrap();
    upstreams::delete(&mut change, row.id).await.unwrap();
    change.commit().await.unwrap();
    let mut tx = store.tenant(tenant).await.unwrap();
    assert!(matches!(upstreams::get(&mut tx, tenant, row.id, now()).await, Err(StoreError::NotFound)));
    let tools = tools::list(&mut tx, tenant, &ToolFilter::default(), PageRequest { limit: 10, after: None }).await.unwrap();
    assert!(tools.items.is_empty());
    drop(tx);
    let mut change = store.change(tenant, Actor::system("test"), now()).await.unwrap();
    upstreams::create(&mut change, &new("crm")).await.unwrap();
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn what_a_tool_group_names_is_not_deleted(pool: PgPool) {
    let tenant = tenant(&pool).await;
    let id = upstream(&pool, tenant, "crm", "auto").await;
    let group = uuid::Uuid::from_u128(7);
    sqlx::query("INSERT INTO tool_groups (tenant_id, tool_group_id, name, slug, created_at, updated_at) VALUES ($1, $2, 'g', 'sales', now(), now())")
        .bind(tenant.uuid()).bind(group).execute(&pool).await.unwrap();
    sqlx::query("INSERT INTO tool_group_tools (tenant_id, tool_group_id, upstream_id, kind, tool_name) VALUES ($1, $2, $3, 'member', '*')")
        .bind(tenant.uuid()).bind(group).bind(id.uuid()).execute(&pool).await.unwrap();
    let store = Store::from_pool(pool);
    let mut change = store.change(tenant, Actor::system("test"), now()).await.unwrap();
    let refused = upstreams::delete(&mut change, id).await;
    assert!(matches!(&refused, Err(StoreError::Conflict(sentence)) if sentence.contains("sales")), "{refused:?}");
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn the_best_of_what_workers_said_lately_counts(pool: PgPool) {
    use UpstreamState as S;
    let tenant = tenant(&pool).await;
    let id = upstream(&pool, tenant, "crm", "auto").await;
    let store = Store::from_pool(pool);
    let workers: Vec<WorkerId> = (0..3).map(|_| WorkerId::mint(now())).collect();
    let say = |worker: usize, state, error: Option<&'static str>, at| {
        sync::record_status(&store, tenant, id, workers[worker], state, error, Some(json!({"name": "a\0b"})), at)
    };
    let state = async || {
        let mut tx = store.tenant(tenant).await.unwrap();
        let row = upstreams::get(&mut tx, tenant, id, now()).await.unwrap();
        (row.state, row.error)
    };
    assert_eq!(state().await, (S::Connecting, None), "nobody has spoken, nothing was discovered");
    assert_eq!(upstreams::first_contact(&store, tenant, id, now()).await.unwrap(), FirstContact::Waiting);
    say(0, S::Error, Some("refused\0"), now()).await.unwrap();
    assert_eq!(state().await, (S::Error, Some("refused\u{fffd}".to_owned())));
    let failed = FirstContact::Failed("refused\u{fffd}".to_owned());
    assert_eq!(upstreams::first_contact(&store, tenant, id, now()).await.unwrap(), failed);
    say(1, S::Connected, None, now() - TimeDelta::seconds(31)).await.unwrap();
    assert_eq!(state().await.0, S::Error, "too long ago");
    say(1, S::Connected, None, now()).await.unwrap();
    say(2, S::Disconnected, None, now()).await.unwrap();
    assert_eq!(state().await, (S::Connected, None));
    tools::record_discovery(&store, tenant, id, vec![], now()).await.unwrap();
    assert_eq!(upstreams::first_contact(&store, tenant, id, now()).await.unwrap(), FirstContact::Discovered);
    let mut tx = store.tenant(tenant).await.unwrap();
    let later = upstreams::get(&mut tx, tenant, id, now() + TimeDelta::minutes(5)).await.unwrap();
    assert_eq!(later.state, S::Disconnected);
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_synchronisation_is_asked_for_and_answered_once(pool: PgPool) {
    let (tenant, stranger) = (tenant(&pool).await, tenant(&pool).await);
    let id = upstream(&pool, tenant, "crm", "auto").await;
    let store = Store::from_pool(pool);
    let mut listener = tollgate_store::snapshot::listen(&store).await.unwrap();
    assert!(matches!(sync::request(&store, stranger, id, now()).await, Err(StoreError::NotFound)));
    let asked = sync::request(&store, tenant, id, now()).await.unwrap();
    let notice = listener.recv().await.unwrap();
    assert_eq!((notice.channel(), notice.payload().parse::<SyncRequestId>().unwrap()), ("tollgate_sync", asked));
    assert_eq!(sync::open_requests(&store).await.unwrap(), [sync::SyncRequest { tenant, sync_id: asked, upstream_id: id }]);
    assert_eq!(sync::answer_of(&store, tenant, asked).await.unwrap(), None);
    sync::answer(&store, tenant, asked, json!({"added": ["a"]}), now()).await.unwrap();
    sync::answer(&store, tenant, asked, json!({"error": "late"}), now()).await.unwrap();
    assert_eq!(sync::answer_of(&store, tenant, asked).await.unwrap(), Some(json!({"added": ["a"]})));
    assert!(sync::open_requests(&store).await.unwrap().is_empty());
    assert!(matches!(sync::answer_of(&store, stranger, asked).await, Err(StoreError::NotFound)));
}
