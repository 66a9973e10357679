//! A reader that has seen revision n has every change up to n, however many admins commit at once.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

mod support;

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::future::join_all;
use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tollgate_domain::{TeamId, TenantId};
use tollgate_store::{Actor, Store, snapshot};
use uuid::Uuid;

const WRITERS: usize = 16;
const CHANGES: usize = 40;

/// What one look told: everything in (since, revision] is said to be among these tenants.
struct Look {
    since: i64,
    revision: i64,
    tenants: BTreeSet<Uuid>,
}

/// A change as an admin's handler makes it; sometimes it takes its time between the write and the commit.
async fn change(store: &Store, tenant: TenantId, n: usize) {
    let mut change = store.change(tenant, Actor::system("test"), support::now()).await.unwrap();
    sqlx::query("INSERT INTO teams (tenant_id, team_id, name, created_at, updated_at) VALUES ($1, $2, $3, now(), now())")
        .bind(tenant.uuid())
        .bind(TeamId::mint(support::now()).uuid())
        .bind(format!("team {n}"))
        .execute(&mut *change.tx)
        .await
        .unwrap();
    if n.is_multiple_of(7) {
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    match n % 5 {
        // The revision is taken well before the commit: exactly when the order of commits could go wrong.
        0 => {
            sqlx::query("SELECT tollgate_touch($1)").bind(tenant.uuid()).execute(&mut *change.tx).await.unwrap();
            tokio::time::sleep(Duration::from_millis(2)).await;
            change.tx.commit().await.unwrap();
        }
        // Nothing of it may be heard.
        1 => {
            sqlx::query("SELECT tollgate_touch($1)").bind(tenant.uuid()).execute(&mut *change.tx).await.unwrap();
            change.tx.rollback().await.unwrap();
        }
        _ => change.commit().await.unwrap(),
    }
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_reader_who_has_seen_a_revision_has_every_change_up_to_it(_: PgPoolOptions, options: PgConnectOptions) {
    let pool = support::pool(&options, "changes", 24).await;
    // What was committed, as the database itself saw it: revision and tenant, in the transaction of the change.
    for sql in [
        "CREATE TABLE seen (revision bigint, tenant_id uuid)",
        "CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO seen VALUES (NEW.revision, NEW.tenant_id); RETURN NULL; END $$",
        "CREATE TRIGGER see AFTER UPDATE OF revision ON tenants FOR EACH ROW EXECUTE FUNCTION see()",
    ] {
        sqlx::query(sql).execute(&pool).await.unwrap();
    }
    let store = Store::from_pool(pool.clone());
    // Fewer tenants than writers: some change the same one at once.
    let tenants: Vec<TenantId> = join_all((0..10).map(|_| support::tenant(&pool))).await;
    let start = snapshot::changes(&store, 0).await.unwrap();

    let working = Arc::new(AtomicUsize::new(WRITERS));
    let writers = (0..WRITERS).map(|writer| {
        let (store, tenants, working) = (store.clone(), tenants.clone(), Arc::clone(&working));
        tokio::spawn(async move {
            for n in 0..CHANGES {
                change(&store, tenants[(writer * 31 + n * 7) % tenants.len()], writer * CHANGES + n).await;
            }
            working.fetch_sub(1, Ordering::SeqCst);
        })
    });
    let writers: Vec<_> = writers.collect();
    let readers = (0..3).map(|_| {
        let (store, working, mut since) = (store.clone(), Arc::clone(&working), start.revision);
        tokio::spawn(async move {
            let mut looks = Vec::new();
            loop {
                let last = working.load(Ordering::SeqCst) == 0;
                let changes = snapshot::changes(&store, since).await.unwrap();
                let tenants = changes.tenants.iter().map(|(tenant, _)| tenant.uuid()).collect();
                looks.push(Look { since, revision: changes.revision, tenants });
                since = changes.revision;
                if last {
                    return looks;
                }
            }
        })
    });
    let readers: Vec<_> = readers.collect();
    for writer in writers {
        writer.await.unwrap();
    }

    let seen: Vec<(i64, Uuid)> = sqlx::query_as("SELECT revision, tenant_id FROM seen").fetch_all(&pool).await.unwrap();
    // A fifth of the changes was rolled back.
    assert_eq!(seen.len(), WRITERS * CHANGES * 4 / 5);
    let revisions: BTreeSet<i64> = seen.iter().map(|(revision, _)| *revision).collect();
    assert_eq!(revisions.len(), seen.len(), "each change has a revision of its own");
    for reader in readers {
        let looks = reader.await.unwrap();
        assert!(looks.iter().filter(|look| !look.tenants.is_empty()).count() > 20, "the reader read while the writers wrote");
        assert_eq!(looks.last().unwrap().revision, *revisions.last().unwrap());
        for (revision, tenant) in &seen {
            let look = looks.iter().find(|look| look.since < *revision && *revision <= look.revision).unwrap();
            assert!(
                look.tenants.contains(tenant),
                "revision {revision} is in ({}, {}], its tenant is not",
                look.since,
                look.revision
            );
        }
    }
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_notice_comes_with_the_commit_and_a_rollback_is_silent(pool: PgPool) {
    let store = Store::from_pool(pool.clone());
    let tenant = support::tenant(&pool).await;
    let mut listener = snapshot::listen(&store).await.unwrap();
    change(&store, tenant, 1).await;
    change(&store, tenant, 2).await;
    let first = tokio::time::timeout(Duration::from_secs(5), listener.try_recv()).await.unwrap().unwrap().unwrap();
    let changes = snapshot::changes(&store, 0).await.unwrap();
    assert_eq!(first.payload(), changes.revision.to_string(), "the first notice is the commit's");
    assert!(tokio::time::timeout(Duration::from_millis(100), listener.try_recv()).await.is_err(), "there is but one");
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_deleted_tenant_is_a_change_and_serves_no_longer(pool: PgPool) {
    let store = Store::from_pool(pool.clone());
    let (gone, stays) = (support::tenant(&pool).await, support::tenant(&pool).await);
    change(&store, stays, 2).await;
    change(&store, gone, 3).await;
    let before = snapshot::changes(&store, 0).await.unwrap();
    assert!(before.tenants.contains(&(gone, true)) && before.tenants.contains(&(stays, true)), "{before:?}");
    let mut change = store.change(gone, Actor::system("test"), support::now()).await.unwrap();
    sqlx::query("UPDATE tenants SET deleted_at = now() WHERE tenant_id = $1")
        .bind(gone.uuid())
        .execute(&mut *change.tx)
        .await
        .unwrap();
    change.commit().await.unwrap();
    let after = snapshot::changes(&store, before.revision).await.unwrap();
    assert_eq!(after.tenants, [(gone, false)]);
    assert!(matches!(snapshot::load_tenant(&store, gone).await, Err(tollgate_store::StoreError::NotFound)));
    assert_eq!(snapshot::load_tenant(&store, stays).await.unwrap().tenant, stays);
}
