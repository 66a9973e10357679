use chrono::TimeDelta;
use serde_json::json;
use sqlx::PgPool;
use tollgate_domain::{
    Picos, PriceId, ToolId,
    price::{Price, Target, Unit},
    tool::DefinitionHash,
};
use tollgate_store::{
    Actor, PageRequest, Store, StoreError, StoreResult, prices,
    tools::{self, Discovered},
};

use crate::{now, tenant, upstream};

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
        let price = Price { id: PriceId::mint(now()), target, amount: Picos(amount), unit: Unit::Call, effective_from: from };
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
        let found: Vec<Option<i64>> = card.items.iter().map(|row| row.price.as_ref().map(|p| p.amount.0)).collect();
        assert_eq!(found, amounts, "at {seconds}");
    }
    assert_eq!(prices::list(&mut tx, tenant, Some(tool), None, all).await.unwrap().items.len(), 2);
    assert_eq!(prices::list(&mut tx, tenant, None, Some(upstream), all).await.unwrap().items.len(), 1);
    let every = prices::list(&mut tx, tenant, None, None, PageRequest { limit: 2, after: None }).await.unwrap();
    assert_eq!((every.items.len(), every.next), (2, Some(every.items[1].price.id.uuid())));
}
