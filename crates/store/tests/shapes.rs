//! Learned shapes: one row a tool, of one definition, of one tenant.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

mod support;

use futures::future::join_all;
use sqlx::PgPool;
use tollgate_domain::{TenantId, ToolId, tool::DefinitionHash};
use tollgate_store::{Store, shapes};

use support::{now, tenant};

const OLD: DefinitionHash = DefinitionHash([1; 32]);
const NEW: DefinitionHash = DefinitionHash([2; 32]);

/// Add a letter to what is known.
async fn add(store: &Store, of: (TenantId, ToolId), hash: DefinitionHash, letter: &str) {
    let merge = |known: Option<&str>| format!("{}{letter}", known.unwrap_or_default());
    shapes::learn(store, of, hash, now(), merge).await.unwrap();
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn lessons_add_up_until_the_definition_changes(pool: PgPool) {
    let (store, tool) = (Store::from_pool(pool.clone()), ToolId::mint(now()));
    let (ours, theirs) = (tenant(&pool).await, tenant(&pool).await);
    let known = async |tenant, hash| shapes::get(&store, tenant, tool, hash).await.unwrap();
    assert_eq!(known(ours, OLD).await, None);
    add(&store, (ours, tool), OLD, "a").await;
    add(&store, (ours, tool), OLD, "b").await;
    assert_eq!(known(ours, OLD).await.as_deref(), Some("ab"));
    // Another tenant's tool of the same id, were there one, is another.
    assert_eq!(known(theirs, OLD).await, None);
    add(&store, (theirs, tool), OLD, "z").await;
    assert_eq!((known(ours, OLD).await.as_deref(), known(theirs, OLD).await.as_deref()), (Some("ab"), Some("z")));

    add(&store, (ours, tool), NEW, "n").await;
    assert_eq!((known(ours, OLD).await, known(ours, NEW).await.as_deref()), (None, Some("n")));
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn workers_that_learn_at_once_lose_nothing(pool: PgPool) {
    let (store, of) = (Store::from_pool(pool.clone()), (tenant(&pool).await, ToolId::mint(now())));
    let letters = ["a", "b", "c", "d", "e"];
    join_all(letters.map(|letter| add(&store, of, OLD, letter))).await;
    let mut all: Vec<char> = shapes::get(&store, of.0, of.1, OLD).await.unwrap().unwrap().chars().collect();
    all.sort_unstable();
    assert_eq!(all, ['a', 'b', 'c', 'd', 'e']);
}
