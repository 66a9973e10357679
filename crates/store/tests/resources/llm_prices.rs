use chrono::TimeDelta;
use sqlx::PgPool;
use tollgate_domain::{
    Currency, LlmPriceId, Picos,
    llm_price::{LlmPrice, LlmRates, LongContext, PriceSource},
};
use tollgate_store::{Actor, Store, StoreError, llm_prices};

use crate::{now, tenant};

fn rates(input: i64) -> LlmRates {
    let long = LongContext {
        above: 100,
        input: Picos(i64::MAX),
        output: Picos(2),
        cached_input: None,
        cache_write: Some(Picos(0)),
        reasoning: None,
    };
    LlmRates {
        input: Picos(input),
        output: Picos(9),
        cached_input: Some(Picos(1)),
        cache_write: None,
        reasoning: Some(Picos(12)),
        long_context: Some(long),
    }
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_tenants_token_prices_come_back_as_they_were_set_and_go_before_the_shipped_ones(pool: PgPool) {
    let tenant = tenant(&pool).await;
    let store = Store::from_pool(pool);
    let price = |model: &str, provider: Option<&str>, input: Option<i64>, seconds| LlmPrice {
        id: LlmPriceId::mint(now()),
        provider: provider.map(str::to_owned),
        model: model.parse().unwrap(),
        rates: input.map(rates),
        effective_from: now() + TimeDelta::seconds(seconds),
    };
    let set = async |price: &LlmPrice| {
        let mut change = store.change(tenant, Actor::system("test"), now()).await?;
        llm_prices::create(&mut change, price).await?;
        change.commit().await
    };
    let first = price("gpt-5", None, Some(5), 0);
    for price in [
        &first,
        &price("gpt-5", Some("openai"), Some(6), 0),
        &price("gpt-5", None, None, 60),
        &price("house-*", None, Some(7), 0),
    ] {
        set(price).await.unwrap();
    }
    let twice = set(&price("gpt-5", None, Some(8), 0)).await;
    assert!(matches!(&twice, Err(StoreError::Conflict(sentence)) if sentence.contains("same moment")), "{twice:?}");
    let past = set(&price("gpt-5", None, Some(8), -1)).await;
    assert!(matches!(&past, Err(StoreError::Invalid { pointer, .. }) if pointer == "/effective_from"), "{past:?}");

    let mut tx = store.tenant(tenant).await.unwrap();
    assert_eq!(llm_prices::get(&mut tx, tenant, first.id).await.unwrap().price, first);
    assert!(matches!(llm_prices::get(&mut tx, tenant, LlmPriceId::mint(now())).await, Err(StoreError::NotFound)));
    let config = tollgate_store::snapshot::load_tenant(&store, tenant).await.unwrap();
    let card = llm_prices::card(&mut tx, tenant, Currency::USD).await.unwrap();
    for card in [&card, &config.llm_rates] {
        let quote = |provider, model, seconds| card.quote(provider, model, now() + TimeDelta::seconds(seconds));
        assert_eq!(quote(Some("mistral"), "gpt-5", 59).unwrap().rates, rates(5));
        assert_eq!(quote(Some("openai"), "gpt-5", 59).unwrap().rates, rates(6));
        assert_eq!(quote(Some("azure"), "gpt-5", 60), None, "nobody has set a price for it there");
        assert_eq!(quote(None, "house-1", 0).unwrap().rates, rates(7));
        assert_eq!(quote(None, "gpt-4o", 0).unwrap().source, PriceSource::Shipped);
    }
}
