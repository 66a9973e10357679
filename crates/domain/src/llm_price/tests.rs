use proptest::prelude::*;
use uuid::Uuid;

use super::*;

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(seconds, 0).unwrap()
}

fn rates(input: i64, output: i64) -> LlmRates {
    let (input, output) = (Picos(input), Picos(output));
    LlmRates { input, output, cached_input: None, cache_write: None, reasoning: None, long_context: None }
}

fn own(n: u128, provider: Option<&str>, model: &str, input: Option<i64>, from: i64) -> LlmPrice {
    LlmPrice {
        id: Uuid::from_u128(n).into(),
        provider: provider.map(str::to_owned),
        model: model.parse().unwrap(),
        rates: input.map(|input| rates(input, input)),
        effective_from: at(from),
    }
}

#[test]
fn a_tenants_own_price_goes_first_then_the_narrower_pattern_then_the_one_that_names_the_provider() {
    let card = LlmRateCard::new(
        Currency::USD,
        [
            own(1, None, "gpt-*", Some(1), 10),
            own(2, None, "gpt-5", Some(2), 10),
            own(3, Some("azure"), "gpt-5", Some(3), 10),
            own(4, None, "gpt-5", Some(4), 100),
            own(5, None, "gpt-5", None, 200),
            own(6, None, "house", Some(0), 10),
        ],
    );
    let input = |provider, model, seconds| card.quote(provider, model, at(seconds)).map(|quote| quote.rates.input.0);
    let shipped_gpt5 = 1_250_000_000_000;
    assert_eq!(input(Some("openai"), "gpt-5", 9), Some(shipped_gpt5), "nothing of its own yet");
    assert_eq!(input(Some("openai"), "gpt-5", 10), Some(2));
    assert_eq!(input(Some("azure"), "gpt-5", 10), Some(3));
    assert_eq!(input(Some("openai"), "gpt-5", 100), Some(4));
    assert_eq!(input(Some("openai"), "gpt-5", 200), Some(1), "its end lets the wider pattern through, which is the tenant's too");
    assert_eq!(input(Some("openai"), "gpt-unheard-of", 10), Some(1));
    assert_eq!(input(None, "house", 10), Some(0), "free on purpose");
    assert_eq!(input(None, "nobody-knows", 500), None);
    assert_eq!(input(Some("anthropic"), "claude-sonnet-4-5-20250929", 500), Some(3_000_000_000_000));
    assert_eq!(input(Some("mistral"), "claude-sonnet-4-5", 500), None, "another provider's price is none of this one's");
    assert_eq!(card.quote(None, "gpt-5", at(9)).unwrap().source, PriceSource::Shipped);
    assert_eq!(card.quote(None, "house", at(10)).unwrap().source, PriceSource::Tenant(Uuid::from_u128(6).into()));
    let listed: Vec<_> = card.entries(at(250)).into_iter().filter(|entry| entry.source != PriceSource::Shipped).collect();
    assert_eq!(listed.iter().map(|entry| entry.rates.input.0).collect::<Vec<_>>().len(), 3, "{listed:?}");
}

#[test]
fn the_shipped_table_is_in_dollars_and_applies_to_nobody_else() {
    let euro = LlmRateCard::new("EUR".parse().unwrap(), [own(1, None, "gpt-5", Some(7), 0)]);
    assert!(euro.quote(Some("openai"), "gpt-4o", at(9)).is_none() && !euro.has_shipped());
    assert_eq!(euro.quote(Some("openai"), "gpt-5", at(9)).unwrap().rates.input, Picos(7));
    assert_eq!(euro.entries(at(9)).len(), 1);
}

#[test]
fn tokens_cost_what_their_kind_costs_to_the_pico() {
    let million = 1_000_000_000_000;
    let rates = LlmRates {
        cached_input: Some(Picos(million / 8)),
        cache_write: Some(Picos(million * 2)),
        reasoning: Some(Picos(million * 20)),
        ..rates(million, million * 10)
    };
    let quote = LlmQuote { source: PriceSource::Shipped, rates };
    let usage = Usage { input: 1_000, cached_input: 800, cache_write: 100, output: 50, reasoning: 20 };
    // 100 at 1, 800 at 1/8, 100 at 2, 30 at 10, 20 at 20 millionths.
    assert_eq!(quote.settle(&usage).to_string(), "0.0011");
    assert_eq!(quote.settle(&Usage::default()), Picos(0));
    let odd = Usage { input: 10, cached_input: 99, cache_write: 99, output: 1, reasoning: 9 };
    assert_eq!(quote.settle(&odd).0, 10 * million / 8 / 1_000_000 + 20 * million / 1_000_000);
    let tiny = LlmQuote { rates: self::rates(1, 0), ..quote };
    assert_eq!(tiny.settle(&Usage { input: 1, ..Usage::default() }), Picos(1), "less than a pico is one");
    assert_eq!(tiny.settle(&Usage { input: 1_000_001, ..Usage::default() }), Picos(2));
}

#[test]
fn a_long_request_is_charged_as_one_from_its_first_token_on() {
    let long = LongContext {
        above: 100,
        input: Picos(4_000_000),
        output: Picos(6_000_000),
        cached_input: None,
        cache_write: None,
        reasoning: None,
    };
    let quote =
        LlmQuote { source: PriceSource::Shipped, rates: LlmRates { long_context: Some(long), ..rates(2_000_000, 4_000_000) } };
    let cost = |input| quote.settle(&Usage { input, output: 1, ..Usage::default() }).0;
    assert_eq!((cost(100), cost(101)), (204, 410));
    assert_eq!((quote.bound(100, 1).0, quote.bound(101, 1).0), (204, 410));
}

#[test]
fn patterns_are_names_or_their_beginnings() {
    for good in ["gpt-5", "gpt-*", "*", "anthropic.claude-3:0", "models/gemini"] {
        assert_eq!(good.parse::<ModelPattern>().unwrap().to_string(), good);
    }
    for bad in ["", "a b", "a*b", "**", "a\u{7}", &"x".repeat(MAX_NAME + 1)] {
        assert_eq!(bad.parse::<ModelPattern>(), Err(BadModel), "{bad:?}");
    }
}

fn amounts() -> impl Strategy<Value = Option<Picos>> {
    prop::option::of((0..=i64::MAX).prop_map(Picos))
}

prop_compose! {
    fn any_rates()(input in 0..=i64::MAX, output in 0..=i64::MAX, parts in (amounts(), amounts(), amounts()),
                   long in prop::option::of((0..200_000_u64, 0..=i64::MAX, 0..=i64::MAX, amounts(), amounts(), amounts()))) -> LlmRates {
        let long_context = long.map(|(above, input, output, cached_input, cache_write, reasoning)| LongContext {
            above, input: Picos(input), output: Picos(output), cached_input, cache_write, reasoning,
        });
        let (cached_input, cache_write, reasoning) = parts;
        LlmRates { input: Picos(input), output: Picos(output), cached_input, cache_write, reasoning, long_context }
    }
}

proptest! {
    #[test]
    fn a_request_within_its_tokens_never_costs_more_than_its_bound(
        rates in any_rates(), max in (0..=400_000_u64, 0..=400_000_u64), shares in prop::array::uniform5(0..=1_000_u64),
    ) {
        let quote = LlmQuote { source: PriceSource::Shipped, rates };
        let of = |whole: u64, share: u64| whole * share / 1_000;
        let (input, output) = (of(max.0, shares[0]), of(max.1, shares[1]));
        let usage = Usage {
            input, cached_input: of(input, shares[2]), cache_write: of(input, shares[3]), output, reasoning: of(output, shares[4]),
        };
        prop_assert!(quote.settle(&usage) <= quote.bound(max.0, max.1));
        let more = Usage { output: output + 1, ..usage };
        prop_assert!(quote.settle(&usage) <= quote.settle(&more));
    }
}

/// At their own addresses, models are found under the names by which each kind of provider is asked for them.
#[test]
fn models_at_google_and_amazon_have_shipped_prices() {
    let card = LlmRateCard::new(Currency::USD, []);
    for (address, model) in [
        ("https://generativelanguage.googleapis.com/v1beta", "gemini-2.5-flash"),
        ("https://generativelanguage.googleapis.com/v1beta", "gemini-3.8-flash"),
        ("https://bedrock-runtime.eu-west-1.amazonaws.com/", "eu.anthropic.claude-sonnet-4-5-20250929-v1:0"),
        ("https://bedrock-runtime-fips.us-east-1.amazonaws.com/", "amazon.nova-pro-v1:0"),
        ("https://bedrock-runtime.us-east-1.api.aws", "us.anthropic.claude-opus-5-5"),
    ] {
        let vendor = vendor(address);
        assert!(vendor.is_some_and(|vendor| card.quote(Some(vendor), model, at(0)).is_some()), "{address} {model} {vendor:?}");
    }
}
