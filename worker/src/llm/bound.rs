//! What a request may cost at most, which has to be known before it is sent.

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};
use tollgate_domain::{
    Picos,
    budget::{Enforcement, Spender},
    llm_price::{LlmQuote, vendor},
};

use super::{dialect::Dialect, model::Candidate};
use crate::caller::Caller;

/// Tokens that a provider is let answer with at most, where a budget covers the request and the caller has set no end: what a request may
/// cost has to be known before it is sent. No more than the smallest models in use can answer with.
const OUTPUT: u64 = 4_096;
/// Tokens of input that are drawn for at least where a request leads to content whose tokens its bytes do not bound.
const CONTEXT: u64 = 200_000;
/// What a provider may put around a body: templates, and how it tells a model of tools.
const AROUND: u64 = 2_048;

/// What each candidate takes for it.
pub fn quotes(caller: &Caller, found: Vec<Candidate>, at: DateTime<Utc>) -> Vec<(Candidate, Option<LlmQuote>)> {
    let card = &caller.config().llm_rates;
    let priced = |candidate: Candidate| {
        let quote = |provider| card.quote(Some(provider), &candidate.model, at);
        let quote = quote(&candidate.provider.name).or_else(|| quote(vendor(&candidate.provider.base_url)?));
        (candidate, quote)
    };
    found.into_iter().map(priced).collect()
}

/// What a request can come to.
#[derive(Debug)]
pub struct Bound {
    pub amount: Picos,
    /// Tokens after which its answer has to stop, where the caller has not said and money depends on it.
    pub limit: Option<u64>,
}

/// Every token is at least a byte, so the bytes of a text are more than its tokens: those that the caller has sent, or those that are sent in
/// its place where these are more. (Each text stands in both once; what a translation adds is names of tools beside their results.) Of what a hard budget covers it has to be known what it
/// can come to.
///
/// # Errors
/// A sentence that says why it is not known.
pub fn bound(
    caller: &Caller,
    dialect: Dialect,
    (body, bytes): (&Map<String, Value>, usize),
    quotes: &[(Candidate, Option<LlmQuote>)],
    spender: &Spender,
) -> Result<Bound, String> {
    let covering = || caller.config().budgets.iter().filter(|budget| budget.scope.covers(spender));
    if let Some(hard) = covering().find(|budget| budget.enforcement == Enforcement::Hard) {
        let told = |why: &str| format!("budget \"{}\" covers it, and {why}, so nobody can say what it may cost", hard.name);
        if let Some((candidate, _)) = quotes.iter().find(|(_, quote)| quote.is_none()) {
            let Candidate { provider, model } = candidate;
            return Err(told(&format!(
                "\"{model}\" at \"{}\" has no price (POST /llm-prices sets one; 0 is one as well)",
                provider.name
            )));
        }
        if let Some(why) = dialect.unbounded(body) {
            return Err(told(why));
        }
    }
    let priced = quotes.iter().any(|(_, quote)| quote.is_some());
    let open = dialect.max_output(body).is_none();
    let limit = (open && priced && covering().next().is_some()).then_some(OUTPUT);
    let mut input = u64::try_from(bytes).unwrap_or(u64::MAX).saturating_add(AROUND);
    if dialect.reaches_out(body) {
        input = input.saturating_add(CONTEXT);
    }
    let output = dialect.max_output(body).unwrap_or(OUTPUT);
    let most = |quote: &Option<LlmQuote>| quote.as_ref().map_or(Picos(0), |quote| quote.bound(input, output));
    Ok(Bound { amount: quotes.iter().map(|(_, quote)| most(quote)).max().unwrap_or_default(), limit })
}
