use serde_json::json;
use sqlx::PgPool;
use tollgate_domain::{
    TenantId, ToolId, UpstreamId,
    tool::{DefinitionHash, ToolStatus},
};
use tollgate_store::{
    Actor, PageRequest, Store, StoreError,
    tools::{self, Discovered, Discovery, ToolFilter, ToolRow, record_discovery},
};

use crate::{now, tenant, upstream};

fn tool(name: &str, description: &str) -> Discovered {
    let definition = json!({"name": name, "description": description, "inputSchema": {"type": "object"}});
    Discovered {
        name: name.to_owned(),
        sha256: DefinitionHash::of(&definition).unwrap(),
        definition_text: definition.to_string(),
    }
}

fn names(found: &[&str]) -> Vec<String> {
    found.iter().map(|&name| name.to_owned()).collect()
}

struct World {
    pool: PgPool,
    store: Store,
    tenant: TenantId,
    upstream: UpstreamId,
}

impl World {
    async fn new(pool: PgPool, tool_approval: &str) -> Self {
        let tenant = tenant(&pool).await;
        let upstream = upstream(&pool, tenant, "crm", tool_approval).await;
        Self { store: Store::from_pool(pool.clone()), pool, tenant, upstream }
    }

    async fn discover(&self, found: &[Discovered]) -> Discovery {
        record_discovery(&self.store, self.tenant, self.upstream, found.to_vec(), now()).await.unwrap()
    }

    async fn tools(&self, removed: bool) -> Vec<ToolRow> {
        let mut tx = self.store.tenant(self.tenant).await.unwrap();
        let filter = ToolFilter { upstream_id: Some(self.upstream), removed, ..ToolFilter::default() };
        tools::list(&mut tx, self.tenant, &filter, PageRequest { limit: 1000, after: None }).await.unwrap().items
    }

    async fn only(&self) -> ToolRow {
        let mut all = self.tools(false).await;
        assert_eq!(all.len(), 1);
        all.pop().unwrap()
    }

    async fn approve(&self, id: ToolId, read: DefinitionHash) -> Result<(), StoreError> {
        let mut change = self.store.change(self.tenant, Actor::system("test"), now()).await?;
        tools::approve(&mut change, id, read).await?;
        change.commit().await
    }

    async fn quarantine(&self, id: ToolId) {
        let mut change = self.store.change(self.tenant, Actor::system("test"), now()).await.unwrap();
        tools::quarantine(&mut change, id).await.unwrap();
        change.commit().await.unwrap();
    }

    /// Admin events of discoveries, and the tenant's revision.
    async fn traces(&self) -> (i64, i64) {
        let events = "SELECT count(*) FROM admin_events WHERE action = 'upstream.discover'";
        let events = sqlx::query_scalar(events).fetch_one(&self.pool).await.unwrap();
        let revision = "SELECT revision FROM tenants WHERE tenant_id = $1";
        (events, sqlx::query_scalar(revision).bind(self.tenant.uuid()).fetch_one(&self.pool).await.unwrap())
    }
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn the_first_discovery_approves_and_the_same_again_changes_nothing(pool: PgPool) {
    let world = World::new(pool, "auto").await;
    let found = [tool("b", "1"), tool("a", "1")];
    let first = world.discover(&found).await;
    assert_eq!(first, Discovery { added: names(&["a", "b"]), ..Discovery::default() });
    for tool in world.tools(false).await {
        assert_eq!((tool.status, tool.approved_sha256), (ToolStatus::Approved, Some(tool.definition_sha256)));
    }
    let traces = world.traces().await;
    assert_eq!(traces.0, 1);
    assert!(world.discover(&found).await.is_empty());
    assert_eq!(world.traces().await, traces, "no event, no new revision");
    let discovered: bool =
        sqlx::query_scalar("SELECT discovered_at IS NOT NULL FROM upstreams").fetch_one(&world.pool).await.unwrap();
    assert!(discovered);
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn an_upstream_without_tools_is_discovered_as_well(pool: PgPool) {
    let world = World::new(pool, "auto").await;
    assert!(world.discover(&[]).await.is_empty());
    let discovered: bool =
        sqlx::query_scalar("SELECT discovered_at IS NOT NULL FROM upstreams").fetch_one(&world.pool).await.unwrap();
    assert!(discovered);
    assert_eq!(world.traces().await.0, 0);
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn t01_a_changed_definition_is_quarantined_until_the_approved_one_returns(pool: PgPool) {
    let world = World::new(pool, "auto").await;
    world.discover(&[tool("a", "good")]).await;
    let before = world.only().await;

    let changed = Discovery { changed: names(&["a"]), ..Discovery::default() };
    assert_eq!(world.discover(&[tool("a", "evil")]).await, changed);
    let now_quarantined = world.only().await;
    assert_eq!(now_quarantined.id, before.id);
    assert_eq!(now_quarantined.status, ToolStatus::Quarantined);
    assert_eq!(now_quarantined.approved_sha256, before.approved_sha256, "the pin stays");
    assert_eq!(now_quarantined.definition_sha256, tool("a", "evil").sha256);

    assert_eq!(world.discover(&[tool("a", "worse")]).await, changed);
    assert_eq!(world.only().await.status, ToolStatus::Quarantined);
    assert_eq!(world.discover(&[tool("a", "good")]).await, changed);
    assert_eq!(world.only().await.status, ToolStatus::Approved);
    let versions: i64 = sqlx::query_scalar("SELECT count(*) FROM tool_versions").fetch_one(&world.pool).await.unwrap();
    assert_eq!(versions, 3, "every definition that was served is kept, once");
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_tool_that_goes_and_returns_is_the_same_tool(pool: PgPool) {
    let world = World::new(pool, "auto").await;
    world.discover(&[tool("a", "1"), tool("b", "1")]).await;
    let ids: Vec<ToolId> = world.tools(false).await.iter().map(|t| t.id).collect();
    assert_eq!(world.discover(&[tool("a", "1")]).await, Discovery { removed: names(&["b"]), ..Discovery::default() });
    assert_eq!(world.tools(true).await.len(), 1);
    assert!(world.discover(&[tool("a", "1")]).await.is_empty(), "removed once");
    assert_eq!(
        world.discover(&[tool("a", "1"), tool("b", "1")]).await,
        Discovery { added: names(&["b"]), ..Discovery::default() }
    );
    assert_eq!(world.tools(false).await.iter().map(|t| t.id).collect::<Vec<_>>(), ids);

    world.discover(&[tool("a", "1")]).await;
    let returned = world.discover(&[tool("a", "1"), tool("b", "2")]).await;
    assert_eq!(returned, Discovery { changed: names(&["b"]), ..Discovery::default() });
    let b = world.tools(false).await.into_iter().find(|t| t.name == "b").unwrap();
    assert_eq!((b.status, b.removed_at), (ToolStatus::Quarantined, None), "it came back as another");
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn under_review_only_what_was_read_is_approved(pool: PgPool) {
    let world = World::new(pool, "review").await;
    world.discover(&[tool("a", "1")]).await;
    let seen = world.only().await;
    assert_eq!((seen.status, seen.approved_sha256), (ToolStatus::Quarantined, None));

    world.discover(&[tool("a", "2")]).await;
    let refused = world.approve(seen.id, seen.definition_sha256).await;
    assert!(matches!(refused, Err(StoreError::Conflict(_))), "{refused:?}");
    world.approve(seen.id, tool("a", "2").sha256).await.unwrap();
    world.approve(seen.id, tool("a", "2").sha256).await.unwrap();
    assert_eq!(world.only().await.status, ToolStatus::Approved);
    let by: Vec<Option<String>> = sqlx::query_scalar("SELECT approved_by FROM tool_versions ORDER BY approved_by NULLS FIRST")
        .fetch_all(&world.pool)
        .await
        .unwrap();
    assert_eq!(by, [None, Some("test".to_owned())]);
    let other = world.approve(ToolId::mint(now()), seen.definition_sha256).await;
    assert!(matches!(other, Err(StoreError::NotFound)));
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn what_an_admin_quarantined_no_discovery_brings_back(pool: PgPool) {
    let world = World::new(pool, "auto").await;
    world.discover(&[tool("a", "1")]).await;
    world.quarantine(world.only().await.id).await;
    for description in ["1", "2", "1"] {
        world.discover(&[tool("a", description)]).await;
        assert_eq!(world.only().await.status, ToolStatus::Quarantined);
    }
    world.discover(&[]).await;
    world.discover(&[tool("a", "1")]).await;
    assert_eq!(world.only().await.status, ToolStatus::Quarantined);
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn of_several_workers_one_records_and_none_fails(pool: PgPool) {
    let world = World::new(pool, "auto").await;
    let found: Vec<Discovered> = (0..200).map(|i| tool(&format!("t{i:03}"), "1")).collect();
    let at_once = (0..8).map(|_| world.discover(&found));
    let reports = futures::future::join_all(at_once).await;
    assert_eq!(reports.iter().filter(|r| r.added.len() == 200).count(), 1);
    assert_eq!(reports.iter().filter(|r| r.is_empty()).count(), 7);
    assert_eq!(world.tools(false).await.len(), 200);
    assert_eq!(world.traces().await.0, 1);
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn another_tenants_or_a_deleted_upstream_is_not_there(pool: PgPool) {
    let world = World::new(pool, "auto").await;
    let stranger = tenant(&world.pool).await;
    let refused = record_discovery(&world.store, stranger, world.upstream, vec![tool("a", "1")], now()).await;
    assert!(matches!(refused, Err(StoreError::NotFound)));
    sqlx::query("UPDATE upstreams SET deleted_at = now()").execute(&world.pool).await.unwrap();
    let refused = record_discovery(&world.store, world.tenant, world.upstream, vec![tool("a", "1")], now()).await;
    assert!(matches!(refused, Err(StoreError::NotFound)));
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn of_two_tools_with_one_name_the_first_counts(pool: PgPool) {
    let world = World::new(pool, "auto").await;
    let found = [tool("a", "first"), tool("a", "second")];
    assert_eq!(world.discover(&found).await.added, names(&["a"]));
    assert!(world.discover(&found).await.is_empty(), "and it does so each time");
    assert_eq!(world.only().await.definition_sha256, tool("a", "first").sha256);
}
