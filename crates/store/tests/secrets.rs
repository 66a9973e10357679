//! What rests sealed, and the way from one key to the next.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

mod support;

use std::{collections::BTreeMap, time::Duration};

use sqlx::PgPool;
use tollgate_domain::{DataKey, ProviderId, Secrets, TenantId, Unopened, UpstreamId, Vault, llm::ProviderKind};
use tollgate_store::{
    Actor, Store, StoreError, idempotency,
    providers::{self, Provider, ProviderKey, secrets_purpose},
    secrets::{self, KINDS, Place, Round},
    upstreams::headers_purpose,
};

use support::{now, tenant};

/// A vault with these keys, the first of which seals.
fn vault(keys: &[u8]) -> Vault {
    let keys = keys.iter().map(|&byte| DataKey::new(format!("key-{byte}"), &[byte; 32])).collect();
    Secrets::from_bytes([7; 32]).with_keys(keys).vault
}

async fn provider(store: &Store, tenant: TenantId, sealed: impl FnOnce(&str) -> Vec<u8>) -> ProviderId {
    let id = ProviderId::mint(now());
    let row = Provider {
        id,
        name: id.to_string().to_lowercase(),
        kind: ProviderKind::OpenAi,
        base_url: "https://models.example".to_owned(),
        region: None,
        keys: vec![ProviderKey { name: "main".to_owned(), weight: 1 }],
        sealed_secrets: sealed(&secrets_purpose(id)),
        models: Vec::new(),
        timeout_ms: 1,
        created_at: now(),
        updated_at: now(),
        version: 1,
    };
    let mut change = store.change(tenant, Actor::system("test"), now()).await.unwrap();
    providers::create(&mut change, &row).await.unwrap();
    change.commit().await.unwrap();
    id
}

async fn get(store: &Store, tenant: TenantId, id: ProviderId) -> Provider {
    providers::get(&mut store.tenant(tenant).await.unwrap(), tenant, id).await.unwrap()
}

/// All kinds of all these tenants.
async fn rotate(store: &Store, vault: &Vault, tenants: &[TenantId]) -> Round {
    let mut all = Round::default();
    for tenant in tenants {
        for kind in &KINDS {
            let mut place: Option<Place> = None;
            loop {
                let round = secrets::rotate(store, vault, (*tenant, kind), place, now()).await.unwrap();
                all.resealed += round.resealed;
                all.unopened.extend(round.unopened);
                place = round.next;
                if place.is_none() {
                    break;
                }
            }
        }
    }
    all
}

/// Rows by kind and by the name of their key.
async fn held(store: &Store, vault: &Vault, tenant: TenantId) -> BTreeMap<(&'static str, String), u64> {
    let rows = secrets::held(store, tenant).await.unwrap().into_iter();
    rows.map(|held| {
        let key = held.key.map_or("none", |id| vault.key(id).map_or("missing", DataKey::name));
        ((held.kind, key.to_owned()), held.rows)
    })
    .collect()
}

fn rows<const N: usize>(expected: [(&'static str, &str, u64); N]) -> BTreeMap<(&'static str, String), u64> {
    expected.into_iter().map(|(kind, key, rows)| ((kind, key.to_owned()), rows)).collect()
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn everything_that_is_sealed_goes_over_to_the_new_key(pool: PgPool) {
    let store = Store::from_pool(pool.clone());
    let (a, b) = (tenant(&pool).await, tenant(&pool).await);
    let before = Secrets::from_bytes([7; 32]).sealer;
    let (old, both, new) = (vault(&[1]), vault(&[2, 1]), vault(&[2]));
    // From before there were envelopes, under the old key, and under the new one already.
    let legacy = provider(&store, a, |purpose| before.seal(purpose, b"legacy")).await;
    let sealed = provider(&store, a, |purpose| old.seal(purpose, b"old")).await;
    let fresh = provider(&store, a, |purpose| both.seal(purpose, b"new")).await;
    let elsewhere = provider(&store, b, |purpose| old.seal(purpose, b"elsewhere")).await;
    let upstream = UpstreamId::mint(now());
    sqlx::query(
        "INSERT INTO upstreams (tenant_id, upstream_id, name, transport, sealed_headers, exposure, binding, timeout_ms, sync_interval_s, tool_approval,
           created_at, updated_at) VALUES ($1, $2, 'u', '{}', $3, 'code', 'server', 1, 10, 'auto', now(), now()),
           ($1, $4, 'v', '{}', NULL, 'code', 'server', 1, 10, 'auto', now(), now())",
    )
    .bind(a.uuid())
    .bind(upstream.uuid())
    .bind(old.seal(&headers_purpose(upstream), b"headers"))
    .bind(UpstreamId::mint(now()).uuid())
    .execute(&pool)
    .await
    .unwrap();
    let nobody = TenantId::from(uuid::Uuid::nil());
    // More than one transaction takes.
    for (tenant, count) in [(a, 250), (nobody, 1)] {
        for at in 0..count {
            let key = format!("k{at}");
            let answer = idempotency::Kept {
                request_hash: vec![1],
                status: 201,
                sealed_answer: old.seal(&idempotency::purpose(tenant, "vk", &key), b"answer"),
            };
            let mut change = store.change(tenant, Actor::system("test"), now()).await.unwrap();
            idempotency::keep(&mut change, tenant, "vk", &key, &answer).await.unwrap();
            change.commit_quietly().await.unwrap();
        }
    }
    let tenants = secrets::tenants(&store).await.unwrap();
    assert!(tenants.contains(&a) && tenants.contains(&b) && tenants.contains(&nobody));
    assert_eq!(
        held(&store, &both, a).await,
        rows([
            ("providers", "none", 1),
            ("providers", "key-1", 1),
            ("providers", "key-2", 1),
            ("upstreams", "key-1", 1),
            ("remembered answers", "key-1", 250)
        ])
    );
    assert_eq!(held(&store, &new, b).await, rows([("providers", "missing", 1)]));

    // Who lacks the old key leaves what it cannot open as it is, and says so.
    let halted = rotate(&store, &new, &[b]).await;
    assert_eq!((halted.resealed, halted.unopened[0].1), (0, Unopened::NoSuchKey(old.current().id())));
    assert_eq!(halted.unopened[0].0.0, elsewhere.uuid().to_string());

    let version = get(&store, a, sealed).await;
    let done = rotate(&store, &both, &tenants).await;
    assert_eq!((done.resealed, done.unopened.len()), (2 + 1 + 1 + 250 + 1, 0));
    assert_eq!(rotate(&store, &both, &tenants).await.resealed, 0, "there is nothing left");
    assert_eq!(
        held(&store, &new, a).await,
        rows([("providers", "key-2", 3), ("upstreams", "key-2", 1), ("remembered answers", "key-2", 250)])
    );
    for (tenant, id, plain) in [(a, legacy, "legacy"), (a, sealed, "old"), (a, fresh, "new"), (b, elsewhere, "elsewhere")] {
        let row = get(&store, tenant, id).await;
        assert_eq!(new.open(&secrets_purpose(id), &row.sealed_secrets).unwrap(), plain.as_bytes());
    }
    let after = get(&store, a, sealed).await;
    assert_eq!((after.version, after.updated_at), (version.version, version.updated_at), "it says what it said");
    let headers: Vec<u8> =
        sqlx::query_scalar("SELECT sealed_headers FROM upstreams WHERE name = 'u'").fetch_one(&pool).await.unwrap();
    assert_eq!(new.open(&headers_purpose(upstream), &headers).unwrap(), b"headers");
    let mut change = store.change(a, Actor::system("test"), now()).await.unwrap();
    let kept = idempotency::find(&mut change, "vk", "k249", now() - chrono::TimeDelta::days(1)).await.unwrap().unwrap();
    assert_eq!(new.open(&idempotency::purpose(a, "vk", "k249"), &kept.sealed_answer).unwrap(), b"answer");

    let events: Vec<serde_json::Value> = sqlx::query_scalar(
        "SELECT detail FROM admin_events WHERE action = 'secrets.rotate' AND tenant_id = $1 ORDER BY event_id",
    )
    .bind(a.uuid())
    .fetch_all(&pool)
    .await
    .unwrap();
    let count: u64 = events.iter().map(|event| event["rows"].as_u64().unwrap()).sum();
    assert_eq!((count, events[0]["key"].as_str()), (2 + 1 + 250, Some(new.current().id().to_string().as_str())));
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_change_that_comes_in_between_is_not_lost(pool: PgPool) {
    let store = Store::from_pool(pool.clone());
    let tenant = tenant(&pool).await;
    let (old, both) = (vault(&[1]), vault(&[2, 1]));
    let id = provider(&store, tenant, |purpose| old.seal(purpose, b"before")).await;

    // An admin's change holds the row; this process still seals under the old key.
    let mut change = store.change(tenant, Actor::system("test"), now()).await.unwrap();
    let mut row = providers::lock(&mut change, id).await.unwrap();
    let rotating = tokio::spawn({
        let (store, both) = (store.clone(), both.clone());
        async move { secrets::rotate(&store, &both, (tenant, &KINDS[0]), None, now()).await.unwrap() }
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!rotating.is_finished(), "it waits for the change");
    row.sealed_secrets = old.seal(&secrets_purpose(id), b"after");
    providers::update(&mut change, row).await.unwrap();
    change.commit().await.unwrap();
    assert_eq!(rotating.await.unwrap().resealed, 1);
    let row = get(&store, tenant, id).await;
    assert_eq!((both.open(&secrets_purpose(id), &row.sealed_secrets).unwrap().as_slice(), row.version), (&b"after"[..], 2));
    assert_eq!(held(&store, &both, tenant).await, rows([("providers", "key-2", 1)]));

    // A provider that is deleted meanwhile stays without secrets.
    let id = provider(&store, tenant, |purpose| old.seal(purpose, b"gone")).await;
    let mut change = store.change(tenant, Actor::system("test"), now()).await.unwrap();
    providers::lock(&mut change, id).await.unwrap();
    let rotating = tokio::spawn({
        let (store, both) = (store.clone(), both.clone());
        async move { secrets::rotate(&store, &both, (tenant, &KINDS[0]), None, now()).await.unwrap() }
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    providers::delete(&mut change, id).await.unwrap();
    change.commit().await.unwrap();
    assert_eq!(rotating.await.unwrap().resealed, 0);
    let left: Vec<u8> = sqlx::query_scalar("SELECT sealed_secrets FROM providers WHERE provider_id = $1")
        .bind(id.uuid())
        .fetch_one(&pool)
        .await
        .unwrap();
    assert!(left.is_empty());
}

/// Admins change secrets all the while, from processes with either key first; none of their changes is lost.
#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn rotation_and_changes_at_the_same_time_leave_the_last_change(pool: PgPool) {
    let store = Store::from_pool(pool.clone());
    let tenant = tenant(&pool).await;
    let mut ids = Vec::new();
    for _ in 0..8 {
        ids.push(provider(&store, tenant, |purpose| vault(&[1]).seal(purpose, b"0")).await);
    }
    let editors = ids.iter().enumerate().map(|(at, &id)| {
        let (store, vault) = (store.clone(), if at % 2 == 0 { vault(&[1, 2]) } else { vault(&[2, 1]) });
        tokio::spawn(async move {
            for number in 1..=20 {
                let mut change = store.change(tenant, Actor::system("test"), now()).await?;
                let mut row = providers::lock(&mut change, id).await?;
                let plain = vault.open(&secrets_purpose(id), &row.sealed_secrets).unwrap();
                assert_eq!(plain, (number - 1).to_string().into_bytes());
                row.sealed_secrets = vault.seal(&secrets_purpose(id), number.to_string().as_bytes());
                providers::update(&mut change, row).await?;
                change.commit().await?;
            }
            Ok::<_, StoreError>(())
        })
    });
    let editors: Vec<_> = editors.collect();
    let (there, back) = (vault(&[2, 1]), vault(&[1, 2]));
    let mut resealed = 0;
    while editors.iter().any(|editor| !editor.is_finished()) {
        resealed += rotate(&store, &there, &[tenant]).await.resealed;
        resealed += rotate(&store, &back, &[tenant]).await.resealed;
    }
    for editor in editors {
        editor.await.unwrap().unwrap();
    }
    assert!(resealed > 8, "it was tried: {resealed}");
    for id in ids {
        let row = get(&store, tenant, id).await;
        assert_eq!((there.open(&secrets_purpose(id), &row.sealed_secrets).unwrap().as_slice(), row.version), (&b"20"[..], 21));
    }
}
