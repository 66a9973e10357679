use proptest::prelude::*;
use uuid::Uuid;

use super::*;

const BOUNDS: Bounds = Bounds { result_bytes: 16 << 20, time: Duration::from_secs(30) };

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(seconds, 0).unwrap()
}

fn price(n: u128, target: Target, rate: Option<Rate>, from: i64) -> Price {
    Price { id: Uuid::from_u128(n).into(), target, rate, effective_from: at(from) }
}

fn flat(unit: Unit, amount: i64, max: Option<i64>) -> Price {
    price(1, Target::Tenant, Some(Rate::flat(unit, Picos(amount), max.map(Picos))), 0)
}

fn came_to(result_bytes: u64, micros: u64) -> Measured {
    Measured { result_bytes: Some(result_bytes), time: Some(Duration::from_micros(micros)) }
}

#[test]
fn the_newest_price_in_force_wins_and_the_narrowest_target_goes_first() {
    let (tool, upstream) = (ToolId::from(Uuid::from_u128(1)), UpstreamId::from(Uuid::from_u128(2)));
    let rate = |amount| Some(Rate::flat(Unit::Call, Picos(amount), None));
    let card = RateCard::new([
        price(1, Target::Tenant, rate(5), 50),
        price(2, Target::Upstream(upstream), rate(10), 100),
        price(3, Target::Tool(tool), rate(20), 200),
        price(4, Target::Tool(tool), rate(0), 300),
        price(5, Target::Tool(tool), None, 400),
        price(6, Target::Upstream(upstream), None, 500),
    ]);
    let amount = |tool, seconds| {
        let price = card.in_force(tool, upstream, at(seconds));
        price.map(|price| price.quote(1, BOUNDS).amount.0)
    };
    let amounts = [49, 50, 100, 200, 299, 300, 400, 500].map(|seconds| amount(tool, seconds));
    assert_eq!(amounts, [None, Some(5), Some(10), Some(20), Some(20), Some(0), Some(10), Some(5)], "a price of 0 is a price");
    assert_eq!(amount(Uuid::from_u128(8).into(), 450), Some(10));
    assert_eq!(card.in_force(tool, Uuid::from_u128(9).into(), at(400)).unwrap().target, Target::Tenant);
    assert!(card.own(Target::Tool(tool), at(400)).is_none() && card.own(Target::Tool(tool), at(399)).is_some());
    assert!(card.begins(Target::Tool(tool), at(400)) && !card.begins(Target::Tool(tool), at(401)));
}

#[test]
fn a_unit_is_charged_for_what_it_measures() {
    use Outcome::{Cancelled, Denied, Ok, Timeout, ToolError, Unknown, UpstreamError};
    let cost = |unit, outcome, measured| flat(unit, 1_000, None).quote(1, BOUNDS).settle(outcome, measured).0;
    for outcome in [Ok, ToolError, Timeout, Cancelled, Unknown] {
        assert_eq!(cost(Unit::Call, outcome, came_to(5_000, 7)), 1_000);
        assert_eq!(cost(Unit::SuccessfulCall, outcome, came_to(5_000, 7)) == 1_000, matches!(outcome, Ok | Unknown), "{outcome}");
        assert_eq!([0, 1, 1_000, 1_001].map(|bytes| cost(Unit::Kb, outcome, came_to(bytes, 7))), [0, 1_000, 1_000, 2_000]);
        let times =
            [0, 1, 999, 1_000, 1_001, 1_000_000, 29_999_999].map(|micros| cost(Unit::Second, outcome, came_to(0, micros)));
        assert_eq!(times, [0, 1, 1, 1, 2, 1_000, 30_000]);
    }
    for outcome in [UpstreamError, Denied, Outcome::Held] {
        for unit in Unit::ALL {
            assert_eq!(cost(*unit, outcome, came_to(5_000, 7)), 0, "{unit} {outcome}");
        }
    }
    for unit in Unit::ALL {
        assert_eq!(flat(*unit, 1_000, None).quote(1, BOUNDS).unknown(), Picos(1_000), "one {unit}");
        assert_eq!(flat(*unit, 1_000, Some(700)).quote(1, BOUNDS).unknown(), Picos(700), "and no more than one call costs");
    }
}

#[test]
fn a_quote_is_what_a_call_can_come_to() {
    let most = |unit, max| flat(unit, 1_000, max).quote(1, BOUNDS).amount.0;
    assert_eq!((most(Unit::Call, None), most(Unit::SuccessfulCall, None)), (1_000, 1_000));
    assert_eq!((most(Unit::Kb, None), most(Unit::Second, None)), (16_778_000, 30_000));
    assert_eq!((most(Unit::Kb, Some(5_000)), most(Unit::Second, Some(40_000))), (5_000, 30_000));
    assert_eq!(flat(Unit::Kb, i64::MAX, None).quote(1, BOUNDS).amount, Picos(i64::MAX));
    // What a call costs that has neither a price nor what applied, in rows of before.
    let old = Quote { price_id: None, amount: Picos(7), applied: None };
    assert_eq!((old.unknown(), old.settle(Outcome::UpstreamError, Measured::default())), (Picos(7), Picos(0)));
}

#[test]
fn tiers_are_chosen_by_the_number_of_the_call() {
    let tiers = |tiers: &[(u64, i64)]| {
        let tiers = tiers.iter().map(|(from_call, amount)| Tier { from_call: *from_call, amount: Picos(*amount) }).collect();
        Rate::tiered(Unit::Call, tiers, None)
    };
    let price = price(1, Target::Tenant, Some(tiers(&[(1, 30), (101, 20), (1_001, 0)]).unwrap()), 0);
    let quotes = [1, 100, 101, 1_000, 1_001, u64::MAX].map(|number| price.quote(number, BOUNDS));
    assert_eq!(quotes.map(|quote| quote.amount.0), [30, 30, 20, 20, 0, 0]);
    assert_eq!(quotes.map(|quote| quote.applied.unwrap().volume.unwrap().tier), [1, 1, 2, 2, 3, 3]);
    assert_eq!(quotes[2].applied.unwrap().volume.unwrap().call, 101);
    for (bad, why) in [
        (&[][..], BadTiers::Count),
        (&[(1, 1); 17][..], BadTiers::Count),
        (&[(2, 1)][..], BadTiers::First),
        (&[(0, 1)][..], BadTiers::First),
        (&[(1, 1), (1, 2)][..], BadTiers::Order),
        (&[(1, 1), (9, 2), (8, 3)][..], BadTiers::Order),
        (&[(1, 1), (MOST_CALLS + 1, 2)][..], BadTiers::TooLarge),
    ] {
        assert_eq!(tiers(bad), Err(why), "{bad:?}");
    }
}

fn outcomes() -> impl Strategy<Value = Outcome> {
    prop::sample::select(Outcome::ALL)
}

proptest! {
    #[test]
    fn a_charge_is_never_above_its_quote_and_grows_with_what_is_measured(
        unit in prop::sample::select(Unit::ALL), amount in 0..=i64::MAX, max in prop::option::of(0..=i64::MAX), outcome in outcomes(),
        bytes in 0..=u64::MAX, micros in 0..=u64::MAX, less in (0..=u64::MAX, 0..=u64::MAX),
    ) {
        let quote = flat(unit, amount, max).quote(1, BOUNDS);
        let charge = quote.settle(outcome, came_to(bytes, micros));
        prop_assert!(charge >= Picos(0) && charge <= quote.amount);
        prop_assert!(quote.unknown() <= quote.amount);
        prop_assert!(max.is_none_or(|max| charge.0 <= max));
        let smaller = quote.settle(outcome, came_to(bytes.min(less.0), micros.min(less.1)));
        prop_assert!(smaller <= charge);
    }

    #[test]
    fn within_the_bounds_nothing_is_cut_off(amount in 0..=1_000_000_000_i64, bytes in 0..=BOUNDS.result_bytes, micros in 0..=30_000_000_u64) {
        let charge = |unit| i128::from(flat(unit, amount, None).quote(1, BOUNDS).settle(Outcome::Ok, came_to(bytes, micros)).0);
        prop_assert_eq!(charge(Unit::Kb), i128::from(amount) * i128::from(bytes.div_ceil(1_000)));
        let exact = i128::from(amount) * i128::from(micros);
        prop_assert!(charge(Unit::Second) * 1_000_000 >= exact && (charge(Unit::Second) - 1) * 1_000_000 < exact);
    }
}
