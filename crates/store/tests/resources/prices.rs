use chrono::TimeDelta;
use serde_json::json;
use sqlx::PgPool;
use tollgate_domain::{
    Picos, PriceId, ToolId, UpstreamId,
    price::{Price, Rate, Target, Tier, Unit},
    tool::DefinitionHash,
};
use tollgate_store::{
    Actor, PageRequest, Store, StoreError, StoreResult,
    prices::{self, volumes},
    tools::{self, Discovered},
};

use crate::{now, tenant, upstream};

fn amount(price: Option<&Price>) -> Option<i64> {
    price.and_then(|price| price.rate.as_ref()).map(|rate| rate.amount.0)
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn prices_are_added_for_now_and_later_and_a_tool_goes_before_its_upstream(pool: PgPool) {
    let tenant = tenant(&pool).await;
    let upstream = upstream(&pool, tenant, "crm", "auto").await;
    let store = Store::from_pool(pool);
    let found = ["a", "b"].map(|name| {
        let definition = json!({"name": name});
        Discovered {
            name: name.into(),
            sha256: DefinitionHash::of(&definition).unwrap(),
            definition_text: definition.to_string(),
        }
    });
    tools::record_discovery(&store, tenant, upstream, found.to_vec(), now()).await.unwrap();
    let all = PageRequest { limit: 100, after: None };
    let mut tx = store.tenant(tenant).await.unwrap();
    let listed = prices::rate_card(&mut tx, tenant, now(), all).await.unwrap().items;
    let tool = listed[0].tool.id;
    assert!(listed.iter().all(|row| row.price.is_none()));
    drop(tx);

    let set = async |target, amount, seconds| -> StoreResult<()> {
        let from = now() + TimeDelta::seconds(seconds);
        let rate = Some(Rate::flat(Unit::Call, Picos(amount), None));
        let price = Price { id: PriceId::mint(now()), target, rate, effective_from: from };
        let mut change = store.change(tenant, Actor::system("test"), now()).await?;
        prices::create(&mut change, &price).await?;
        change.commit().await
    };
    set(Target::Upstream(upstream), 10, 0).await.unwrap();
    set(Target::Tool(tool), 20, 60).await.unwrap();
    set(Target::Tool(tool), 30, 120).await.unwrap();
    let twice = set(Target::Tool(tool), 40, 120).await;
    assert!(matches!(&twice, Err(StoreError::Conflict(sentence)) if sentence.contains("same moment")), "{twice:?}");
    let past = set(Target::Tool(tool), 40, -1).await;
    assert!(matches!(&past, Err(StoreError::Invalid { pointer, .. }) if pointer == "/effective_from"), "{past:?}");
    let unknown = set(Target::Tool(ToolId::mint(now())), 40, 1).await;
    assert!(matches!(&unknown, Err(StoreError::Invalid { pointer, .. }) if pointer == "/tool_id"), "{unknown:?}");

    let mut tx = store.tenant(tenant).await.unwrap();
    for (seconds, amounts) in
        [(-1, [None, None]), (0, [Some(10), Some(10)]), (60, [Some(20), Some(10)]), (500, [Some(30), Some(10)])]
    {
        let card = prices::rate_card(&mut tx, tenant, now() + TimeDelta::seconds(seconds), all).await.unwrap();
        let found: Vec<Option<i64>> = card.items.iter().map(|row| amount(row.price.as_ref())).collect();
        assert_eq!(found, amounts, "at {seconds}");
    }
    assert_eq!(prices::list(&mut tx, tenant, Some(tool), None, all).await.unwrap().items.len(), 2);
    assert_eq!(prices::list(&mut tx, tenant, None, Some(upstream), all).await.unwrap().items.len(), 1);
    let every = prices::list(&mut tx, tenant, None, None, PageRequest { limit: 2, after: None }).await.unwrap();
    assert_eq!((every.items.len(), every.next), (2, Some(every.items[1].price.id.uuid())));
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_price_is_read_as_it_was_set_and_the_tenants_default_stands_behind_all(pool: PgPool) {
    let tenant = tenant(&pool).await;
    let upstream = upstream(&pool, tenant, "crm", "auto").await;
    let store = Store::from_pool(pool);
    let tier = |from_call, amount| Tier { from_call, amount: Picos(amount) };
    let tiers = Rate::tiered(Unit::Second, vec![tier(1, 30), tier(1_000_000_000_000, 20)], Some(Picos(7))).unwrap();
    let rates = [
        (Target::Tenant, Some(Rate::flat(Unit::Kb, Picos(5), Some(Picos(i64::MAX)))), 0),
        (Target::Upstream(upstream), Some(tiers), 0),
        (Target::Upstream(upstream), None, 60),
        (Target::Tenant, Some(Rate::flat(Unit::SuccessfulCall, Picos(0), None)), 60),
    ];
    let mut change = store.change(tenant, Actor::system("test"), now()).await.unwrap();
    for (target, rate, seconds) in rates.clone() {
        let effective_from = now() + TimeDelta::seconds(seconds);
        prices::create(&mut change, &Price { id: PriceId::mint(now()), target, rate, effective_from }).await.unwrap();
    }
    change.commit().await.unwrap();
    let mut tx = store.tenant(tenant).await.unwrap();
    let all = prices::list(&mut tx, tenant, None, None, PageRequest { limit: 10, after: None }).await.unwrap().items;
    let read: Vec<_> = all.iter().map(|row| (row.price.target, row.price.rate.clone())).collect();
    assert_eq!(read, rates.clone().map(|(target, rate, _)| (target, rate)));
    let card = prices::card(&mut tx, tenant, now()).await.unwrap();
    let tool = ToolId::mint(now());
    let of = |seconds| {
        let price = card.in_force(tool, upstream, now() + TimeDelta::seconds(seconds)).unwrap();
        (price.target, price.rate.clone())
    };
    assert_eq!(of(0), (rates[1].0, rates[1].1.clone()));
    assert_eq!(of(60), (rates[3].0, rates[3].1.clone()));
    // What is over is not read any more.
    let later = prices::card(&mut tx, tenant, now() + TimeDelta::seconds(61)).await.unwrap();
    assert!(
        later.in_force(tool, upstream, now()).is_none() && later.in_force(tool, upstream, now() + TimeDelta::days(1)).is_some()
    );
    let config = tollgate_store::snapshot::load_tenant(&store, tenant).await.unwrap();
    assert!(config.rates.in_force(tool, upstream, now() + TimeDelta::seconds(60)).is_some());
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_number_is_given_to_one_call_whoever_draws(pool: PgPool) {
    let (tenant, other) = (tenant(&pool).await, tenant(&pool).await);
    let store = Store::from_pool(pool);
    let target = Target::Tool(ToolId::mint(now()));
    let month = volumes::month("Asia/Kolkata".parse().unwrap(), "2026-11-30T18:30:00Z".parse().unwrap());
    assert_eq!(month.to_string(), "2026-12-01", "where the tenant is");
    let mut tasks = Vec::new();
    for n in 0..40_i32 {
        let store = store.clone();
        tasks.push(tokio::spawn(async move {
            let wanted = 1 + n % 5;
            let first = volumes::draw(&store, tenant, target, month, wanted).await.unwrap();
            (first..).take(usize::try_from(wanted).unwrap()).collect::<Vec<_>>()
        }));
    }
    let mut numbers = Vec::new();
    for task in tasks {
        numbers.extend(task.await.unwrap());
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=120).collect::<Vec<u64>>());
    for (tenant, target, month, first) in [
        (other, target, month, 1),
        (tenant, Target::Tenant, month, 1),
        (tenant, target, month.succ_opt().unwrap(), 1),
        (tenant, target, month, 121),
    ] {
        assert_eq!(volumes::draw(&store, tenant, target, month, 1).await.unwrap(), first);
    }
    let mut tx = store.tenant(tenant).await.unwrap();
    assert_eq!(volumes::last(&mut tx, tenant, target, month).await.unwrap(), 121);
    assert_eq!(volumes::last(&mut tx, tenant, Target::Upstream(UpstreamId::mint(now())), month).await.unwrap(), 0);
}
