//! What a file would change, entry by entry, as if those before it were there already.

use chrono::{DateTime, SubsecRound, Utc};
use tollgate_domain::{
    PriceId,
    price::{Price, RateCard},
};
use tollgate_store::prices::import::Priced;

use super::{
    super::{Charge, sheet::Entry},
    ImportChange,
};
use crate::check::Checks;

#[derive(Debug, Default)]
pub struct Plan {
    pub prices: Vec<Price>,
    pub changes: Vec<ImportChange>,
    pub unchanged: usize,
}

/// Compare a file with the card. `card`: all that is in force at `now` or later.
pub fn make(entries: Vec<Entry>, priced: &Priced, mut card: RateCard, now: DateTime<Utc>, checks: &mut Checks) -> Plan {
    let targets = priced.by_name();
    let mut plan = Plan::default();
    let mut timed: Vec<(DateTime<Utc>, Entry)> =
        entries.into_iter().map(|entry| (entry.effective_from.map_or(now, |at| at.trunc_subsecs(6).max(now)), entry)).collect();
    // What is set from now on is in force when what is set for later is compared.
    timed.sort_by_key(|(at, entry)| (*at, entry.line));
    for (at, entry) in timed {
        let Some(target) = targets.get(&(entry.name.upstream.as_str(), entry.name.tool.as_str())).copied() else {
            missing(priced, &entry, checks);
            continue;
        };
        let before = card.own(target, at).and_then(|price| price.rate.clone());
        if before == entry.rate {
            plan.unchanged += 1;
            continue;
        }
        if card.begins(target, at) {
            let sentence = "there is another price for this from the same moment on, in the file or set before";
            checks.refuse(format!("/{}/effective_from", entry.line), sentence);
            continue;
        }
        if at.timestamp() > 253_402_300_799 {
            checks.refuse(format!("/{}/effective_from", entry.line), "use a time before the year 10000");
            continue;
        }
        let price = Price { id: PriceId::mint(now), target, rate: entry.rate.clone(), effective_from: at };
        card.add(price.clone());
        plan.prices.push(price);
        plan.changes.push(ImportChange {
            line: entry.line,
            upstream: entry.name.upstream,
            tool: entry.name.tool,
            effective_from: at,
            before: before.as_ref().map(|rate| Charge::from(Some(rate))),
            after: entry.rate.as_ref().map(|rate| Charge::from(Some(rate))),
        });
    }
    plan.changes.sort_by_key(|change| change.line);
    plan
}

fn missing(priced: &Priced, entry: &Entry, checks: &mut Checks) {
    let known = priced.upstreams.iter().any(|(_, name, _)| *name == entry.name.upstream);
    let (column, sentence) = match (entry.name.upstream.as_str(), known) {
        ("*", _) => ("tool", "a tool has an upstream; \"*\" stands for all"),
        (_, true) => ("tool", "the upstream lists no tool of this name"),
        (_, false) => ("upstream", "there is no upstream of this name"),
    };
    checks.refuse(format!("/{}/{column}", entry.line), sentence);
}
