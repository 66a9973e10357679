use chrono::TimeDelta;
use tollgate_domain::{PriceId, ToolId, UpstreamId};
use uuid::Uuid;

use super::*;

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_795_000_000, 0).unwrap()
}

fn priced() -> Priced {
    let id = |n| Uuid::from_u128(n);
    let tools = vec![(ToolId::from(id(11)), "a.b".to_owned()), (ToolId::from(id(12)), "-c".to_owned())];
    Priced {
        upstreams: vec![
            (UpstreamId::from(id(1)), "crm".to_owned(), tools),
            (UpstreamId::from(id(2)), "empty".to_owned(), vec![]),
        ],
    }
}

fn price(n: u128, target: Target, rate: Rate) -> Price {
    Price { id: PriceId::from(Uuid::from_u128(n)), target, rate: Some(rate), effective_from: now() - TimeDelta::days(1) }
}

fn card() -> RateCard {
    let tier = |from_call, amount| Tier { from_call, amount: Picos(amount) };
    let tiers = Rate::tiered(Unit::SuccessfulCall, vec![tier(1, 2_000_000_000), tier(1_001, 1_000_000_000)], None).unwrap();
    RateCard::new([
        price(1, Target::Tenant, Rate::flat(Unit::Kb, Picos(1), Some(Picos(5_000_000_000)))),
        price(2, Target::Tool(Uuid::from_u128(11).into()), tiers),
        price(3, Target::Tool(Uuid::from_u128(12).into()), Rate::flat(Unit::Call, Picos(0), None)),
    ])
}

fn parsed(text: &str) -> (usize, Vec<Entry>, Vec<(String, String)>) {
    let mut checks = Checks::default();
    let (lines, entries) = read(text.as_bytes(), Currency::USD, &mut checks);
    (lines, entries, checks.into_errors().into_iter().map(|error| (error.pointer, error.message)).collect())
}

const HEADER: &str = "upstream,tool,unit,from_call,amount,max_amount,effective_from,currency\r\n";

#[test]
fn a_card_is_written_with_all_that_can_have_a_price() {
    let file = String::from_utf8(write(&priced(), &card(), (now(), Currency::USD)).unwrap()).unwrap();
    let yesterday = "2026-11-17T11:06:40Z";
    let wanted = [
        HEADER.to_owned(),
        format!("*,*,kb,,0.000000000001,0.005,{yesterday},USD\r\n"),
        "crm,*,inherit,,,,,\r\n".to_owned(),
        format!("crm,a.b,successful_call,1,0.002,,{yesterday},USD\r\n"),
        format!("crm,a.b,successful_call,1001,0.001,,{yesterday},USD\r\n"),
        format!("crm,'-c,call,,0,,{yesterday},USD\r\n"),
        "empty,*,inherit,,,,,\r\n".to_owned(),
    ];
    assert_eq!(file, wanted.concat());
}

#[test]
fn what_was_written_is_read_back_however_a_spreadsheet_saves_it() {
    let file = String::from_utf8(write(&priced(), &card(), (now(), Currency::USD)).unwrap()).unwrap();
    let (lines, entries, errors) = parsed(&file);
    assert_eq!((lines, errors), (6, vec![]));
    let (card, targets) = (card(), priced());
    let targets = targets.by_name();
    assert_eq!(entries.len(), targets.len(), "two tiers are one price");
    for entry in &entries {
        let target = targets[&(entry.name.upstream.as_str(), entry.name.tool.as_str())];
        let own = card.own(target, now());
        assert_eq!(entry.rate, own.and_then(|price| price.rate.clone()), "{entry:?}");
        assert_eq!(entry.effective_from, own.map(|price| price.effective_from), "{entry:?}");
    }
    for other in [
        format!("\u{feff}{file}"),
        file.replace("\r\n", "\n"),
        file.replace(',', ";"),
        format!("\u{feff}{}", file.replace(',', "\t")),
        file.replace(',', " , "),
        format!("{file},,,,,,,\r\n,,,,,,,\r\n"),
        file.replace("crm", "\"crm\""),
    ] {
        assert_eq!(parsed(&other), (lines, entries.clone(), vec![]), "{other}");
    }
    // Columns in another order, and those that may be left out.
    let (_, few, errors) = parsed("amount,unit,tool,upstream\n0.5,call,a.b,crm\n");
    assert_eq!((few.len(), errors), (1, vec![]));
    assert_eq!(few[0].rate, Some(Rate::flat(Unit::Call, Picos(500_000_000_000), None)));
}

#[test]
fn what_cannot_be_accepted_is_named_by_line_and_column() {
    for (line, pointer, part) in [
        (",a,call,,1,,,", "/2/upstream", "empty"),
        ("crm,,call,,1,,,", "/2/tool", "empty"),
        ("\r\n\r\n,,,,,,,\r\ncrm,,call,,1,,,", "/5/tool", "empty"),
        ("\n\ncrm,,call,,1,,,", "/4/tool", "empty"),
        ("crm,a,,,1,,,", "/2/unit", "empty"),
        ("crm,a,hour,,1,,,", "/2/unit", "successful_call"),
        ("crm,a,call,,,,,", "/2/amount", "0 is free"),
        ("crm,a,call,,1e3,,,", "/2/amount", "decimal"),
        ("crm,a,call,,\"0,5\",,,", "/2/amount", "decimal"),
        ("crm,a,call,,-1,,,", "/2/amount", "negative"),
        ("crm,a,call,,0,5,,,x", "/2", "more cells"),
        ("crm,a,call,,1,x,,", "/2/max_amount", "decimal"),
        ("crm,a,call,x,1,,,", "/2/from_call", "number"),
        ("crm,a,call,2,1,,,", "/2/from_call", "call 1"),
        ("crm,a,call,,1,,tomorrow,", "/2/effective_from", "2026-"),
        ("crm,a,call,,1,,,EUR", "/2/currency", "USD"),
        ("crm,a,inherit,,1,,,", "/2/amount", "none of this"),
        ("crm,a,call,1,1,,,\ncrm,a,kb,2,1,,,", "/3/unit", "one unit"),
        ("crm,a,call,1,1,,,\ncrm,a,call,2,1,9,,", "/3/max_amount", "one max_amount"),
        ("crm,a,call,1,1,,,\ncrm,a,call,,1,,,", "/3/from_call", "another line"),
        ("crm,a,call,1,1,,,\ncrm,a,call,1,1,,,", "/2/from_call", "later call"),
    ] {
        let (_, entries, errors) = parsed(&format!("{HEADER}{line}\r\n"));
        assert!(entries.is_empty(), "{line}: {entries:?}");
        assert_eq!(errors.len(), 1, "{line}: {errors:?}");
        assert!(errors[0].0 == pointer && errors[0].1.contains(part), "{line}: {errors:?}");
    }
    for (file, pointer) in
        [("", "/1/upstream"), ("upstream,tool,unit\n", "/1/amount"), ("upstream,tool,unit,amount,price\n", "/1"), ("a\n", "/1")]
    {
        assert!(parsed(file).2.iter().any(|(at, _)| at == pointer), "{file:?}: {:?}", parsed(file));
    }
    assert!(parsed("upstream,tool,unit,amount,amount\n").2.iter().any(|(at, _)| at == "/1/amount"));
    let mut checks = Checks::default();
    read(b"upstream,tool,unit,amount\nM\xfcller,*,call,1\n", Currency::USD, &mut checks);
    assert!(checks.into_errors()[0].message.contains("UTF-8"));
    let long = format!("{HEADER}{}", "crm,a,call,,1,,,\n".repeat(MAX_LINES + 1));
    assert!(parsed(&long).2[0].1.contains("in parts"));
}

#[test]
fn names_that_look_like_formulas_come_back_as_they_are() {
    for name in ["-c", "+c", "=c", "@c", "c", "'c", "''"] {
        assert_eq!(plain(&neutral(name)), name);
    }
}
