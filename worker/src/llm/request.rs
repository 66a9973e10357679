//! The life of one request to a model, as that of a tool call in `call.rs`: allowed, counted, drawn from its budgets, durable, sent, and
//! its end durable before the end of its answer is released.

use std::time::{Duration, Instant};

use axum::http::{HeaderMap, StatusCode};
use chrono::{DateTime, Utc};
use serde_json::{Map, Value};
use tollgate_domain::{
    Durability, LlmRequestId, Origin, Outcome, Picos,
    budget::Spender,
    llm::{Counted, Mode, estimate},
    llm_price::{LlmQuote, PriceSource, Usage, shipped},
    policy::Reason,
};
use tollgate_store::audit::{AuditError, Entry, Fate, Forward, Keep, LlmEnd, NewRequest};

use super::{
    dialect::{Dialect, Read},
    model::{Candidate, candidates},
    provider::{Answering, Attempt, Failed},
};
use crate::{
    caller::Caller,
    gate::{Gate, InFlightGuard},
    rates::{Slot, Slow, Told},
    spend::{Hold, Short},
};

/// How often a request asks for other leases when the ones that it drew from have ended.
const LEASES: u32 = 3;
/// Tokens that a provider is let answer with at most, where a budget covers the request and the caller has set no end: what a request may
/// cost has to be known before it is sent.
const OUTPUT: u64 = 16_384;
/// Tokens of input that are drawn for at least where a request leads to content that is not in it.
const CONTEXT: u64 = 200_000;

/// A request in its surroundings.
#[derive(Debug, Clone)]
pub struct Asking<'a> {
    pub gate: &'a Gate,
    pub caller: &'a Caller,
    pub dialect: Dialect,
    /// As it was asked for.
    pub model: &'a str,
    pub streaming: bool,
    pub mode: Mode,
    /// The first request of its agent loop and its place in it, from 1.
    pub root: LlmRequestId,
    pub turn: u32,
    /// Tools that the gateway offers with it, and the tokens of their definitions.
    pub tools: (usize, u64),
    pub client: Option<String>,
    pub headers: &'a HeaderMap,
    pub told: &'a Told,
}

/// Why a request was not answered.
#[derive(Debug, Clone)]
pub struct Refusal {
    pub status: StatusCode,
    pub code: &'static str,
    pub message: String,
    pub retry_after: Option<Duration>,
}

impl From<AuditError> for Refusal {
    fn from(_: AuditError) -> Self {
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            code: "unavailable",
            message: "Tollgate cannot write its audit trail at present, so nothing is sent to a model; try again in a moment"
                .to_owned(),
            retry_after: Some(Duration::from_secs(1)),
        }
    }
}

impl From<Failed> for Refusal {
    fn from(failed: Failed) -> Self {
        let Failed { status, code, message, retry_after, .. } = failed;
        Self { status, code, message, retry_after }
    }
}

/// What a refused request reads, and what its row says.
struct Denied {
    reason: Reason,
    refusal: Refusal,
}

impl Denied {
    fn of(reason: Reason, note: Option<String>, retry_after: Option<Duration>) -> Self {
        let (status, code) = match reason {
            Reason::UnknownModel => (StatusCode::NOT_FOUND, "model_not_found"),
            Reason::ModelNotAllowed => (StatusCode::FORBIDDEN, "model_not_allowed"),
            // 402 rather than 429: official clients would send the latter again and again.
            Reason::BudgetExhausted => (StatusCode::PAYMENT_REQUIRED, "budget_exhausted"),
            _ => (StatusCode::TOO_MANY_REQUESTS, "rate_limited"),
        };
        let message = match note {
            Some(note) => format!("{}: {note}", reason.told()),
            None => reason.told().to_owned(),
        };
        Self { reason, refusal: Refusal { status, code, message, retry_after } }
    }
}

/// A request that has its row, and of which a provider has heard or nobody would.
pub struct Open {
    gate: Gate,
    caller: Caller,
    pub id: LlmRequestId,
    started: Instant,
    guard: InFlightGuard,
    /// It is under way, for limits of that.
    slots: Vec<Slot>,
    /// What each candidate takes, by provider and model.
    quotes: Vec<(Candidate, Option<LlmQuote>)>,
    quoted: Picos,
    prompt_bytes: usize,
    /// Taken from limits of tokens.
    taken: u32,
    attempts: Vec<Attempt>,
    pub first_token: Option<Duration>,
}

/// How a request ended.
#[derive(Debug)]
pub struct Ended {
    pub outcome: Outcome,
    pub error: Option<String>,
    pub candidate: Option<Candidate>,
    /// What the answer says of itself; of one that was cut off, what is known of it.
    pub read: Read,
    /// Bytes of what the model has said, where it was cut off.
    pub bytes: usize,
    /// The provider may have counted tokens.
    pub sent: bool,
    /// JSON text.
    pub answer: Option<Vec<u8>>,
}

/// Open a request and send it. `carry` is written with it; what is left in it afterwards is not.
///
/// # Errors
/// [`Refusal`]; a request that was refused by a rule, or that no provider took, has its row.
pub async fn begin(
    asking: &Asking<'_>,
    id: LlmRequestId,
    body: &mut Map<String, Value>,
    carry: &mut Entry,
) -> Result<(Open, Answering), Refusal> {
    let Asking { gate, caller, dialect, .. } = *asking;
    let at = gate.clock.now();
    let guard = gate.in_flight.enter(id.uuid());
    let found = match candidates(caller, dialect.kind(), asking.model) {
        Ok(found) => found,
        Err(reason) => return Err(refuse(asking, id, body, carry, Denied::of(reason, None, None)).await),
    };
    let quotes = quotes(caller, found, at);
    let spender = Spender { team: caller.team, key: caller.key, upstream: None, tool: None };
    let bound = bound(caller, dialect, body, &quotes, &spender);
    let stated = dialect.max_output(body).unwrap_or(0);
    let taken = u32::try_from(estimate(bound.bytes).saturating_add(stated)).unwrap_or(u32::MAX);
    let slots = match count(gate, caller, &spender, taken, asking.told).await? {
        Ok(slots) => slots,
        Err(denied) => return Err(refuse(asking, id, body, carry, denied).await),
    };
    let mut hold = match draw(gate, caller, (id, at), &spender, bound.amount).await? {
        Ok(hold) => hold, // before, never after
        Err(denied) => {
            give_back(gate, caller, &spender, taken);
            return Err(refuse(asking, id, body, carry, denied).await);
        }
    };
    let mut open = Open {
        gate: gate.clone(),
        caller: caller.clone(),
        id,
        started: Instant::now(),
        guard,
        slots,
        quotes,
        quoted: bound.amount,
        prompt_bytes: bound.bytes,
        taken,
        attempts: Vec::new(),
        first_token: None,
    };
    let mut tries = 0;
    loop {
        let row = row(asking, id, body, (bound.amount, &hold), None, at).await;
        let entry = Entry { request: Some(row), ..std::mem::take(carry) };
        match gate.audit.intent(entry).await {
            Ok(()) => break hold.written(), // durable before the provider hears of it
            Err((AuditError::Overloaded, _)) => {
                hold.unwritten();
                return Err(AuditError::Overloaded.into());
            }
            // Taken for dead, this worker has lost what it held; it asks anew.
            Err((AuditError::LeaseEnded, _)) if tries < LEASES => tries += 1,
            Err((AuditError::LeaseEnded, _)) => return Err(AuditError::Overloaded.into()),
            Err((error, fate)) => {
                open.abandon(fate);
                return Err(error.into());
            }
        }
        hold = match draw(gate, caller, (id, at), &spender, bound.amount).await? {
            Ok(hold) => hold,
            Err(denied) => return Err(refuse(asking, id, body, carry, denied).await),
        };
    }
    open.started = Instant::now();
    let candidates: Vec<Candidate> = open.quotes.iter().map(|(candidate, _)| candidate.clone()).collect();
    match gate.providers.ask(&candidates, dialect, body, asking.headers, &mut open.attempts).await {
        Ok(answering) => Ok((open, answering)),
        Err(failed) => {
            let ended = Ended {
                outcome: if failed.timed_out { Outcome::Timeout } else { Outcome::UpstreamError },
                error: Some(failed.message.clone()),
                candidate: failed.candidate.clone(),
                read: Read::default(),
                bytes: 0,
                sent: failed.sent,
                answer: None,
            };
            open.close(ended).await?;
            Err(failed.into())
        }
    }
}

fn quotes(caller: &Caller, found: Vec<Candidate>, at: DateTime<Utc>) -> Vec<(Candidate, Option<LlmQuote>)> {
    let card = &caller.config().llm_rates;
    let priced = |candidate: Candidate| {
        let quote = card.quote(Some(&candidate.provider.name), &candidate.model, at);
        (candidate, quote)
    };
    found.into_iter().map(priced).collect()
}

/// What a request can come to.
struct Bound {
    amount: Picos,
    /// Of its body.
    bytes: usize,
}

/// Every token is at least a byte, so the bytes of a body are more than its tokens. Where the answer has no end, and money depends on it,
/// it is given one.
fn bound(
    caller: &Caller,
    dialect: Dialect,
    body: &mut Map<String, Value>,
    quotes: &[(Candidate, Option<LlmQuote>)],
    spender: &Spender,
) -> Bound {
    let bytes = serde_json::to_vec(body).map_or(0, |text| text.len());
    let budgets = &caller.config().budgets;
    let covered = budgets.iter().any(|budget| budget.scope.covers(spender)) && quotes.iter().any(|(_, quote)| quote.is_some());
    if covered {
        dialect.limit_output(body, OUTPUT);
    }
    let mut input = u64::try_from(bytes).unwrap_or(u64::MAX);
    if dialect.reaches_out(body) {
        input = input.max(CONTEXT);
    }
    let output = dialect.max_output(body).unwrap_or(OUTPUT);
    let most = |quote: &Option<LlmQuote>| quote.as_ref().map_or(Picos(0), |quote| quote.bound(input, output));
    Bound { amount: quotes.iter().map(|(_, quote)| most(quote)).max().unwrap_or_default(), bytes }
}

async fn count(
    gate: &Gate,
    caller: &Caller,
    spender: &Spender,
    tokens: u32,
    told: &Told,
) -> Result<Result<Vec<Slot>, Denied>, AuditError> {
    let limits = &caller.config().limits;
    let slow = |slow: Slow| match slow {
        Slow::Unavailable => Err(AuditError::Overloaded),
        slow => {
            let after = told.get().and_then(|standing| standing.retry_after);
            Ok(Denied::of(Reason::RateLimited, Some(slow.to_string()), after))
        }
    };
    let slots = match gate.rates.enter(caller.tenant(), limits, spender, told).await {
        Ok(slots) => slots,
        Err(error) => return slow(error).map(Err),
    };
    match gate.rates.take(caller.tenant(), limits, spender, tokens, told).await {
        Ok(()) => Ok(Ok(slots)),
        Err(error) => slow(error).map(Err),
    }
}

/// Tokens that were taken for a request that is not made.
fn give_back(gate: &Gate, caller: &Caller, spender: &Spender, taken: u32) {
    let (rates, caller, spender) = (gate.rates.clone(), caller.clone(), *spender);
    tokio::spawn(async move { rates.correct(caller.tenant(), &caller.config().limits, &spender, -i64::from(taken)).await });
}

async fn draw(
    gate: &Gate,
    caller: &Caller,
    (id, at): (LlmRequestId, DateTime<Utc>),
    spender: &Spender,
    amount: Picos,
) -> Result<Result<Hold, Denied>, AuditError> {
    let config = caller.config();
    let budgets = (caller.tenant(), config.zone, config.budgets.as_slice());
    match gate.wallets.reserve(budgets, (id.uuid(), at), spender, amount).await {
        Ok(hold) => Ok(Ok(hold)),
        Err(Short::Unavailable) => Err(AuditError::Overloaded),
        Err(Short::Exhausted(short)) => Ok(Err(Denied::of(Reason::BudgetExhausted, Some(short.to_string()), None))),
    }
}

async fn row(
    asking: &Asking<'_>,
    id: LlmRequestId,
    body: &Map<String, Value>,
    (quoted, hold): (Picos, &Hold),
    refused: Option<Reason>,
    at: DateTime<Utc>,
) -> NewRequest {
    let Asking { gate, caller, dialect, .. } = *asking;
    let trail = &caller.config().trail;
    let prompt = trail.payload(serde_json::to_vec(body).unwrap_or_default()).await;
    NewRequest {
        tenant: caller.tenant(),
        id,
        key: caller.key,
        team: caller.team,
        origin: Origin::Llm,
        method: dialect.route(),
        model: Some(trail.words(asking.model.chars().take(256).collect()).await),
        client: asking.client.clone(),
        at,
        prompt_tokens_avoided: None,
        forward: Some(Forward {
            root: asking.root,
            turn: asking.turn,
            mode: asking.mode,
            streaming: asking.streaming,
            worker: gate.worker,
            refused,
            tools: asking.tools,
            quoted,
            leases: hold.leases(),
            currency: caller.config().currency,
            prompt,
        }),
    }
}

/// A request that is not made is a row as well.
async fn refuse(asking: &Asking<'_>, id: LlmRequestId, body: &Map<String, Value>, carry: &mut Entry, denied: Denied) -> Refusal {
    let Asking { gate, .. } = asking;
    let none = Hold::default();
    let row = row(asking, id, body, (Picos(0), &none), Some(denied.reason), gate.clock.now()).await;
    none.unwritten();
    let happened = !carry.is_empty();
    let entry = Entry { request: Some(row), ..std::mem::take(carry) };
    metrics::counter!("tollgate_llm_requests_total", "outcome" => Outcome::Denied.as_str()).increment(1);
    let written = if happened { gate.audit.after(entry).await } else { gate.audit.before(entry).await };
    match written {
        Ok(()) => denied.refusal,
        Err(error) => error.into(),
    }
}

impl Open {
    /// Since it was sent.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Its last row, and what keeps it in the register until that is durable.
    pub async fn end(self, ended: Ended) -> (LlmEnd, Keep) {
        let Self { gate, caller, id, started, guard, slots, quotes, quoted, prompt_bytes, taken, attempts, first_token, .. } =
            self;
        let (counted, usage) = match (ended.read.usage, ended.sent) {
            (Some(usage), _) => (Counted::Reported, usage),
            (None, true) => {
                (Counted::Estimated, Usage { input: estimate(prompt_bytes), output: estimate(ended.bytes), ..Usage::default() })
            }
            (None, false) => (Counted::None, Usage::default()),
        };
        let served = |candidate: &Candidate| {
            let same = |other: &Candidate| other.provider.id == candidate.provider.id && other.model == candidate.model;
            quotes.iter().find(|(other, _)| same(other)).and_then(|(_, quote)| *quote)
        };
        let quote = ended.candidate.as_ref().and_then(served);
        let amount = if counted == Counted::None { Picos(0) } else { quote.map_or(Picos(0), |quote| quote.settle(&usage)) };
        if amount > quoted {
            tracing::warn!(request = %id, %amount, %quoted, "a request has cost more than was drawn for it: it led to content that was not in it");
        }
        let trail = &caller.config().trail;
        let words = async |text: Option<String>| match text {
            Some(text) => Some(trail.words(text).await),
            None => None,
        };
        let end = LlmEnd {
            tenant: caller.tenant(),
            id,
            outcome: ended.outcome,
            error: words(ended.error).await,
            provider: ended.candidate.as_ref().map(|candidate| (candidate.provider.id, candidate.provider.name.clone())),
            model: ended.candidate.map(|candidate| candidate.model),
            attempts: words(serde_json::to_string(&attempts).ok()).await.unwrap_or_else(|| "[]".to_owned()),
            counted,
            usage,
            price: quote.map(|quote| match quote.source {
                PriceSource::Tenant(id) => id.to_string(),
                PriceSource::Shipped => format!("default:{}", shipped().date),
            }),
            amount,
            latency: started.elapsed(),
            first_token,
            finish_reason: ended.read.finish_reason.map(|reason| reason.chars().take(64).collect()),
            answer: match ended.answer {
                Some(answer) => Some(trail.payload(answer).await),
                None => None,
            },
            at: gate.clock.now(),
        };
        metrics::counter!("tollgate_llm_requests_total", "outcome" => ended.outcome.as_str()).increment(1);
        metrics::histogram!("tollgate_llm_request_seconds", "outcome" => ended.outcome.as_str()).record(end.latency);
        let spender = Spender { team: caller.team, key: caller.key, upstream: None, tool: None };
        let used = i64::try_from(usage.input.saturating_add(usage.output)).unwrap_or(i64::MAX);
        gate.rates.correct(caller.tenant(), &caller.config().limits, &spender, used.saturating_sub(i64::from(taken))).await;
        drop(slots);
        (end, Box::new(guard))
    }

    /// Write its last row: what is left of its answer is released after this.
    ///
    /// # Errors
    /// When that cannot be written in time. It is written later.
    pub async fn close(self, ended: Ended) -> Result<(), AuditError> {
        let (audit, durability) = (self.gate.audit.clone(), self.caller.config().trail.durability);
        let (end, keep) = self.end(ended).await;
        let entry = Entry { llm_ends: vec![end], ..Entry::default() };
        match durability {
            Durability::Strict => audit.after_keeping(entry, Some(keep)).await,
            Durability::Relaxed => audit.trailing(entry, Some(keep)).await,
        }
    }

    /// Its row may yet become durable though nobody acted on it: say so behind it.
    fn abandon(self, fate: Option<Fate>) {
        tokio::spawn(async move {
            // Not before it: an end that is sealed without its beginning is settled with no budget.
            if let Some(fate) = fate
                && !fate.may_stand().await
            {
                return;
            }
            let ended = Ended {
                outcome: Outcome::UpstreamError,
                error: Some("the request was not sent: its row could not be confirmed in time".to_owned()),
                candidate: None,
                read: Read::default(),
                bytes: 0,
                sent: false,
                answer: None,
            };
            let _ = self.close(ended).await;
        });
    }
}
