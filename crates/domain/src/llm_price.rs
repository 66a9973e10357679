//! What tokens of language models cost: a dated table that ships with the program, and what tenants set over it.
//!
//! Amounts are per 1,000,000 tokens, so one token costs a whole number of picos at every price with up to six decimals; what is
//! left of a request's sum after that is rounded up once. [`LlmQuote::bound`] is what a request can come to, and
//! [`LlmQuote::settle`] what it did; the second never exceeds the first where the tokens were foreseen.

mod table;

use std::{collections::HashSet, fmt, str::FromStr};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

pub use self::table::{Shipped, shipped, vendor};
use crate::{
    ids::LlmPriceId,
    money::{Currency, Picos},
};

const PER: i128 = 1_000_000;
/// Of a pattern and of a provider's name.
pub const MAX_NAME: usize = 128;

/// Amounts per 1,000,000 tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LlmRates {
    pub input: Picos,
    pub output: Picos,
    /// Of input that the provider had kept; as other input when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached_input: Option<Picos>,
    /// Of input that the provider is to keep; as other input when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_write: Option<Picos>,
    /// Of output that is not shown; as other output when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<Picos>,
    /// For requests whose input is long, all of their tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub long_context: Option<LongContext>,
}

/// What applies to a whole request with more than so many tokens of input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LongContext {
    pub above: u64,
    pub input: Picos,
    pub output: Picos,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached_input: Option<Picos>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_write: Option<Picos>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<Picos>,
}

/// Tokens of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// All of the input, the next two included.
    pub input: u64,
    pub cached_input: u64,
    pub cache_write: u64,
    /// All of the output, the next included.
    pub output: u64,
    pub reasoning: u64,
}

/// Tokens of one kind that one request can have: beyond it, whoever counts is mistaken.
const MOST_TOKENS: u64 = 1 << 40;

impl Usage {
    /// What a provider says, unless no request can have so many tokens: then it says nothing that can be used.
    #[must_use]
    pub fn believable(self) -> Option<Self> {
        let Self { input, cached_input, cache_write, output, reasoning } = self;
        [input, cached_input, cache_write, output, reasoning].into_iter().all(|tokens| tokens <= MOST_TOKENS).then_some(self)
    }
}

/// A model's name, or what it begins with (`gpt-5-20*`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ModelPattern {
    Exactly(String),
    Begins(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a model is a name of 1 to {MAX_NAME} visible characters, or its beginning followed by \"*\"")]
pub struct BadModel;

impl FromStr for ModelPattern {
    type Err = BadModel;

    fn from_str(text: &str) -> Result<Self, BadModel> {
        let fits = !text.is_empty() && text.len() <= MAX_NAME && text.bytes().all(|b| b.is_ascii_graphic());
        match text.strip_suffix('*') {
            _ if !fits => Err(BadModel),
            Some(start) if !start.contains('*') => Ok(Self::Begins(start.to_owned())),
            None if !text.contains('*') => Ok(Self::Exactly(text.to_owned())),
            _ => Err(BadModel),
        }
    }
}

impl fmt::Display for ModelPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(name) => f.write_str(name),
            Self::Begins(start) => write!(f, "{start}*"),
        }
    }
}

impl ModelPattern {
    /// How well it fits; more is narrower.
    fn fits(&self, model: &str) -> Option<usize> {
        match self {
            Self::Exactly(name) => (name == model).then_some(usize::MAX),
            Self::Begins(start) => model.starts_with(start.as_str()).then_some(start.len()),
        }
    }
}

/// A tenant's own price. Never changed, only superseded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LlmPrice {
    pub id: LlmPriceId,
    /// `None`: whichever provider serves the model.
    pub provider: Option<String>,
    pub model: ModelPattern,
    /// `None`: from here on the tenant has no price of its own for this.
    pub rates: Option<LlmRates>,
    pub effective_from: DateTime<Utc>,
}

/// Where a price is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PriceSource {
    Tenant(LlmPriceId),
    /// The table that ships with the program.
    Shipped,
}

/// One price that is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LlmEntry {
    pub source: PriceSource,
    pub provider: Option<String>,
    pub model: ModelPattern,
    pub rates: LlmRates,
    /// `None`: of the shipped table.
    pub effective_from: Option<DateTime<Utc>>,
}

/// The price of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LlmQuote {
    pub source: PriceSource,
    pub rates: LlmRates,
}

/// All that a tenant pays for tokens.
#[derive(Debug, Clone, Default)]
pub struct LlmRateCard {
    /// Newest first.
    own: Vec<LlmPrice>,
    /// The shipped table is in dollars, and applies to tenants that reckon in them.
    with_shipped: bool,
}

impl LlmRateCard {
    #[must_use]
    pub fn new(currency: Currency, own: impl IntoIterator<Item = LlmPrice>) -> Self {
        let mut own: Vec<LlmPrice> = own.into_iter().collect();
        own.sort_by_key(|price| std::cmp::Reverse((price.effective_from, price.id)));
        Self { own, with_shipped: currency == Currency::USD }
    }

    #[must_use]
    pub const fn has_shipped(&self) -> bool {
        self.with_shipped
    }

    /// The tenant's own prices that are in force at `at` and that `fit`, one of each pattern.
    fn own_at(&self, at: DateTime<Utc>, fit: impl Fn(&LlmPrice) -> bool) -> Vec<(&LlmPrice, &LlmRates)> {
        let mut seen = HashSet::new();
        let begun = self.own.iter().filter(|price| price.effective_from <= at && fit(price));
        // The newest that has begun stands for its pattern, and may say that there is none.
        let newest = begun.filter(|price| seen.insert((price.provider.as_deref(), &price.model)));
        newest.filter_map(|price| Some((price, price.rates.as_ref()?))).collect()
    }

    /// Every price in force at `at`: the tenant's own, then those of the shipped table, also where one of the tenant's goes before it.
    #[must_use]
    pub fn entries(&self, at: DateTime<Utc>) -> Vec<LlmEntry> {
        let own = self.own_at(at, |_| true).into_iter().map(|(price, rates)| LlmEntry {
            source: PriceSource::Tenant(price.id),
            provider: price.provider.clone(),
            model: price.model.clone(),
            rates: *rates,
            effective_from: Some(price.effective_from),
        });
        let shipped = self.with_shipped.then(|| shipped().entries.iter().cloned()).into_iter().flatten();
        own.chain(shipped).collect()
    }

    /// The price of a request to `model` that is made at `at`, by the provider that serves it where that is known. The tenant's own
    /// prices go before the shipped ones; among each, the narrower pattern goes first, and one that names the provider before one that
    /// does not. `None`: nobody has set a price; the request costs nothing, and its row says so.
    #[must_use]
    pub fn quote(&self, provider: Option<&str>, model: &str, at: DateTime<Utc>) -> Option<LlmQuote> {
        let serves = |of: Option<&str>| of.is_none() || provider.is_none() || of == provider;
        let rank = |of: Option<&str>, pattern: &ModelPattern| {
            let fits = pattern.fits(model).filter(|_| serves(of))?;
            Some((fits, of.is_some()))
        };
        let of_own = |price: &LlmPrice| rank(price.provider.as_deref(), &price.model);
        let own = self.own_at(at, |price| of_own(price).is_some());
        if let Some((price, rates)) = own.into_iter().max_by_key(|(price, _)| of_own(price)) {
            return Some(LlmQuote { source: PriceSource::Tenant(price.id), rates: *rates });
        }
        let table = self.with_shipped.then(shipped)?;
        let found = table.entries.iter().filter_map(|entry| Some((rank(entry.provider.as_deref(), &entry.model)?, entry.rates)));
        found.max_by_key(|(rank, _)| *rank).map(|(_, rates)| LlmQuote { source: PriceSource::Shipped, rates })
    }
}

/// The rates that apply to one request, none of them left out.
#[derive(Clone, Copy)]
struct Whole {
    input: i128,
    cached_input: i128,
    cache_write: i128,
    output: i128,
    reasoning: i128,
}

impl Whole {
    fn of(input: Picos, output: Picos, [cached_input, cache_write, reasoning]: [Option<Picos>; 3]) -> Self {
        let or = |rate: Option<Picos>, other: Picos| i128::from(rate.unwrap_or(other).0);
        Self {
            input: input.0.into(),
            output: output.0.into(),
            cached_input: or(cached_input, input),
            cache_write: or(cache_write, input),
            reasoning: or(reasoning, output),
        }
    }

    /// The dearest token of input and of output.
    fn dearest(&self) -> (i128, i128) {
        (self.input.max(self.cached_input).max(self.cache_write), self.output.max(self.reasoning))
    }
}

impl LlmRates {
    fn short(&self) -> Whole {
        Whole::of(self.input, self.output, [self.cached_input, self.cache_write, self.reasoning])
    }

    /// What applies to a request with so much input.
    fn of_input(&self, tokens: u64) -> Whole {
        match &self.long_context {
            Some(long) if tokens > long.above => {
                Whole::of(long.input, long.output, [long.cached_input, long.cache_write, long.reasoning])
            }
            _ => self.short(),
        }
    }
}

impl LlmQuote {
    /// What a request with at most so many tokens can cost.
    #[must_use]
    pub fn bound(&self, max_input: u64, max_output: u64) -> Picos {
        let (mut input, mut output) = self.rates.short().dearest();
        let (longer, more) = self.rates.of_input(max_input).dearest();
        (input, output) = (input.max(longer), output.max(more));
        rounded_up(times(input, max_input).saturating_add(times(output, max_output)))
    }

    /// What a request did cost. Parts that are larger than their whole count as the whole.
    #[must_use]
    pub fn settle(&self, usage: &Usage) -> Picos {
        let rates = self.rates.of_input(usage.input);
        let cached = usage.cached_input.min(usage.input);
        let written = usage.cache_write.min(usage.input - cached);
        let reasoning = usage.reasoning.min(usage.output);
        let parts = [
            times(rates.input, usage.input - cached - written),
            times(rates.cached_input, cached),
            times(rates.cache_write, written),
            times(rates.output, usage.output - reasoning),
            times(rates.reasoning, reasoning),
        ];
        rounded_up(parts.into_iter().fold(0, i128::saturating_add))
    }
}

/// Both are below 2^64, and their product below 2^128.
fn times(rate: i128, tokens: u64) -> i128 {
    rate.saturating_mul(i128::from(tokens))
}

fn rounded_up(picos: i128) -> Picos {
    Picos(i64::try_from(picos / PER + i128::from(picos % PER > 0)).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests;
