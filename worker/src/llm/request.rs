//! The life of one request to a model, as that of a tool call in `call.rs`: allowed, counted, drawn from its budgets, durable, sent, and
//! its end durable before the end of its answer is released.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::http::{HeaderMap, StatusCode};
use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};
use tollgate_domain::{
    Durability, LlmRequestId, Origin, Outcome, Picos,
    budget::Spender,
    llm::{Counted, Mode, estimate},
    llm_price::{LlmQuote, PriceSource, Usage, shipped},
    policy::Reason,
};
use tollgate_store::audit::{AuditError, Entry, Fate, Forward, Keep, LlmEnd, NewRequest};

use super::{
    answering::Answering,
    bound::{bound, quotes},
    dialect::{Dialect, Read},
    model::{Candidate, candidates},
    provider::{Attempt, Failed},
    translate,
};
use crate::{
    caller::Caller,
    gate::{Gate, InFlightGuard},
    rates::{Slot, Slow, Told},
    spend::{Hold, Short},
};

/// How often a request asks for other leases when the ones that it drew from have ended.
const LEASES: u32 = 3;

/// A request in its surroundings.
#[derive(Debug, Clone)]
pub struct Asking<'a> {
    pub gate: &'a Arc<Gate>,
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
    /// Tool calls that were made before it came to this: whoever sends the request again makes them again.
    pub done: Vec<Value>,
}

impl Refusal {
    #[must_use]
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), retry_after: None, done: Vec::new() }
    }

    /// What a caller reads of it, with what was done before.
    #[must_use]
    pub fn body(&self, dialect: Dialect) -> Value {
        let mut error = dialect.error(self.status, self.code, &self.message);
        if !self.done.is_empty() {
            error["tollgate"] = json!({"tool_calls": self.done});
        }
        error
    }

    /// Whether official clients, which send again what failed, had better not.
    #[must_use]
    pub fn is_final(&self) -> bool {
        !self.done.is_empty() || matches!(self.code, "provider_timeout" | "budget_exhausted")
    }
}

impl From<AuditError> for Refusal {
    fn from(_: AuditError) -> Self {
        let told = "Tollgate cannot write its audit trail at present, so nothing is sent to a model; try again in a moment";
        let refusal = Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", told);
        Self { retry_after: Some(Duration::from_secs(1)), ..refusal }
    }
}

impl From<Failed> for Refusal {
    fn from(failed: Failed) -> Self {
        let Failed { status, code, message, retry_after, .. } = failed;
        Self { retry_after, ..Self::new(status, code, message) }
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
            Reason::UnboundedCost => (StatusCode::BAD_REQUEST, "unbounded_cost"),
            _ => (StatusCode::TOO_MANY_REQUESTS, "rate_limited"),
        };
        let message = match note {
            Some(note) => format!("{}: {note}", reason.told()),
            None => reason.told().to_owned(),
        };
        Self { reason, refusal: Refusal { retry_after, ..Refusal::new(status, code, message) } }
    }
}

/// A request that has its row, and of which a provider has heard or nobody would. Dropped without an end, it gets one that says so.
pub struct Open(Option<Inner>);

struct Inner {
    gate: Arc<Gate>,
    caller: Caller,
    id: LlmRequestId,
    started: Instant,
    guard: InFlightGuard,
    /// It is under way, for limits of that.
    slots: Vec<Slot>,
    /// What each candidate takes, by provider and model.
    quotes: Vec<(Candidate, Option<LlmQuote>)>,
    quoted: Picos,
    prompt_bytes: usize,
    taken: Taken,
    attempts: Vec<Attempt>,
    first_token: Option<Duration>,
}

/// Tokens that were taken from limits of tokens: given back, unless the request is made.
struct Taken {
    gate: Arc<Gate>,
    caller: Caller,
    tokens: u32,
}

impl Taken {
    fn spender(caller: &Caller) -> Spender {
        Spender { team: caller.team, key: caller.key, upstream: None, tool: None }
    }

    /// What the request has used in truth.
    async fn settle(mut self, used: u64) {
        let difference = i64::try_from(used).unwrap_or(i64::MAX).saturating_sub(i64::from(self.tokens));
        self.tokens = 0;
        let limits = &self.caller.config().limits;
        self.gate.rates.correct(self.caller.tenant(), limits, &Self::spender(&self.caller), difference).await;
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if self.tokens == 0 {
            return;
        }
        let (rates, caller, tokens) = (self.gate.rates.clone(), self.caller.clone(), i64::from(self.tokens));
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            rates.correct(caller.tenant(), &caller.config().limits, &Self::spender(&caller), -tokens).await;
        });
    }
}

/// How a request ended.
#[derive(Debug, Default)]
pub struct Ended {
    pub outcome: Option<Outcome>,
    pub error: Option<String>,
    pub candidate: Option<Candidate>,
    /// What the answer says of itself; of one that was cut off, what is known of it.
    pub read: Read,
    /// Of an answer that was cut off: what the provider has counted of the input.
    pub input: Option<Usage>,
    /// Bytes of what the model has said, where it was cut off.
    pub bytes: usize,
    /// The provider may have counted tokens.
    pub sent: bool,
    /// And nobody knows how many: it is charged with all that was drawn.
    pub unknown: bool,
    /// JSON text.
    pub answer: Option<Vec<u8>>,
}

/// Open a request and send it.
///
/// A provider may think for minutes: what is done before and after that lies on the heap only while it is done, and the future that waits
/// stays small.
///
/// # Errors
/// [`Refusal`]; a request that was refused by a rule, or that no provider took, has its row.
pub async fn begin(asking: &Asking<'_>, id: LlmRequestId, body: &Map<String, Value>) -> Result<(Open, Answering), Refusal> {
    let Asking { gate, caller, dialect, .. } = *asking;
    let at = gate.clock.now();
    let guard = gate.in_flight.enter(id.uuid());
    let prompt: Arc<[u8]> = serde_json::to_vec(body).unwrap_or_default().into();
    let spender = Taken::spender(caller);
    let tokens = estimate(prompt.len()).saturating_add(dialect.max_output(body).unwrap_or(0));
    let tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
    // Before anything else is looked at: also who asks for models that there are not asks as often as he may.
    let (slots, taken) = match count(gate, caller, &spender, tokens, asking.told).await? {
        Ok(counted) => counted,
        Err(denied) => return Err(Box::pin(refuse(asking, id, prompt, denied)).await),
    };
    let found = match candidates(caller, dialect, asking.model) {
        Ok(found) => found,
        Err((reason, note)) => return Err(Box::pin(refuse(asking, id, prompt, Denied::of(reason, note, None))).await),
    };
    // What nobody can be told is wrong in itself, as a body that is no JSON; what goes out is bounded in the longest form it may take.
    let (found, longest) = translate::sendable(dialect, body, found)
        .map_err(|why| Refusal::new(StatusCode::BAD_REQUEST, "not_translatable", why))?;
    let quotes = quotes(caller, found, at);
    let bound = match bound(caller, dialect, (body, prompt.len().max(longest)), &quotes, &spender) {
        Ok(bound) => bound,
        Err(why) => return Err(Box::pin(refuse(asking, id, prompt, Denied::of(Reason::UnboundedCost, Some(why), None))).await),
    };
    let mut hold = match draw(gate, caller, (id, at), &spender, bound.amount).await? {
        Ok(hold) => hold, // before, never after
        Err(denied) => return Err(Box::pin(refuse(asking, id, prompt, denied)).await),
    };
    let (mut tries, mut guard) = (0, Some(guard));
    loop {
        let row = Box::pin(row(asking, id, Arc::clone(&prompt), (bound.amount, &hold), None, at)).await;
        match Box::pin(gate.audit.intent(Entry { request: Some(row), ..Entry::default() })).await {
            Ok(()) => break hold.written(), // durable before the provider hears of it
            Err((AuditError::Overloaded, _)) => {
                hold.unwritten();
                return Err(AuditError::Overloaded.into());
            }
            // Taken for dead, this worker has lost what it held; it asks anew.
            Err((AuditError::LeaseEnded, _)) if tries < LEASES => tries += 1,
            Err((AuditError::LeaseEnded, _)) => return Err(AuditError::Overloaded.into()),
            Err((error, fate)) => {
                abandon(gate, caller, id, guard.take(), fate);
                return Err(error.into());
            }
        }
        hold = match draw(gate, caller, (id, at), &spender, bound.amount).await? {
            Ok(hold) => hold,
            Err(denied) => return Err(Box::pin(refuse(asking, id, prompt, denied)).await),
        };
    }
    let guard = guard.unwrap_or_else(|| gate.in_flight.enter(id.uuid()));
    let open = Inner {
        gate: Arc::clone(gate),
        caller: caller.clone(),
        id,
        started: Instant::now(),
        guard,
        slots,
        quotes,
        quoted: bound.amount,
        prompt_bytes: prompt.len(),
        taken,
        attempts: Vec::new(),
        first_token: None,
    };
    // The trail has it; the provider may take its time.
    drop(prompt);
    let candidates: Vec<Candidate> = open.quotes.iter().map(|(candidate, _)| candidate.clone()).collect();
    let mut attempts = Vec::new();
    let open = {
        let asked = gate.providers.ask(&candidates, dialect, (body, bound.limit), asking.headers, &mut attempts);
        // Whatever becomes of this task, the row gets its end.
        let mut open = Open(Some(open));
        let asked = asked.await;
        if let Some(inner) = &mut open.0 {
            inner.attempts = attempts;
        }
        (open, asked)
    };
    match open {
        (open, Ok(answering)) => Ok((open, answering)),
        (open, Err(failed)) => {
            let ended = Ended {
                outcome: Some(if failed.timed_out { Outcome::Timeout } else { Outcome::UpstreamError }),
                error: Some(failed.message.clone()),
                candidate: failed.candidate.clone(),
                sent: failed.sent,
                unknown: failed.sent,
                ..Ended::default()
            };
            Box::pin(open.close(ended)).await?;
            Err(failed.into())
        }
    }
}

async fn count(
    gate: &Arc<Gate>,
    caller: &Caller,
    spender: &Spender,
    tokens: u32,
    told: &Told,
) -> Result<Result<(Vec<Slot>, Taken), Denied>, AuditError> {
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
        Ok(()) => Ok(Ok((slots, Taken { gate: Arc::clone(gate), caller: caller.clone(), tokens }))),
        Err(error) => slow(error).map(Err),
    }
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
    prompt: Arc<[u8]>,
    (quoted, hold): (Picos, &Hold),
    refused: Option<Reason>,
    at: DateTime<Utc>,
) -> NewRequest {
    let Asking { gate, caller, dialect, .. } = *asking;
    let trail = &caller.config().trail;
    let prompt = trail.payload(prompt).await;
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
async fn refuse(asking: &Asking<'_>, id: LlmRequestId, prompt: Arc<[u8]>, denied: Denied) -> Refusal {
    let Asking { gate, .. } = asking;
    let none = Hold::default();
    let row = row(asking, id, prompt, (Picos(0), &none), Some(denied.reason), gate.clock.now()).await;
    none.unwritten();
    metrics::counter!("tollgate_llm_requests_total", "outcome" => Outcome::Denied.as_str()).increment(1);
    match gate.audit.before(Entry { request: Some(row), ..Entry::default() }).await {
        Ok(()) => denied.refusal,
        Err(error) => error.into(),
    }
}

/// A row that may yet become durable though nobody acted on it: say so behind it.
fn abandon(gate: &Gate, caller: &Caller, id: LlmRequestId, guard: Option<InFlightGuard>, fate: Option<Fate>) {
    let (audit, tenant, at) = (gate.audit.clone(), caller.tenant(), gate.clock.now());
    tokio::spawn(async move {
        // Not before it: an end that is sealed without its beginning is settled with no budget.
        if let Some(fate) = fate
            && !fate.may_stand().await
        {
            return;
        }
        let end = LlmEnd {
            tenant,
            id,
            outcome: Outcome::UpstreamError,
            error: Some("the request was not sent: its row could not be confirmed in time".to_owned()),
            provider: None,
            model: None,
            attempts: "[]".to_owned(),
            counted: Counted::None,
            usage: Usage::default(),
            price: None,
            amount: Picos(0),
            latency: Duration::ZERO,
            first_token: None,
            finish_reason: None,
            answer: None,
            at,
        };
        let keep: Option<Keep> = guard.map(|guard| Box::new(guard) as Keep);
        let _ = audit.after_keeping(Entry { llm_ends: vec![end], ..Entry::default() }, keep).await;
    });
}

impl Inner {
    /// Its last row, and what keeps it in the register until that is durable.
    async fn end(self, ended: Ended) -> (LlmEnd, Keep) {
        let Self { gate, caller, id, started, guard, slots, quotes, quoted, prompt_bytes, taken, attempts, first_token } = self;
        let outcome = ended.outcome.unwrap_or(Outcome::Unknown);
        let guess = || {
            let input = ended.input.unwrap_or_else(|| Usage { input: estimate(prompt_bytes), ..Usage::default() });
            Usage { output: estimate(ended.bytes), ..input }
        };
        let (counted, usage) = match (ended.read.usage, ended.sent) {
            (Some(usage), _) => (Counted::Reported, usage),
            (None, true) => (Counted::Estimated, guess()),
            (None, false) => (Counted::None, Usage::default()),
        };
        let served = |candidate: &Candidate| {
            let same = |other: &Candidate| other.provider.id == candidate.provider.id && other.model == candidate.model;
            quotes.iter().find(|(other, _)| same(other)).and_then(|(_, quote)| *quote)
        };
        let quote = ended.candidate.as_ref().and_then(served);
        let amount = match counted {
            Counted::None => Picos(0),
            // The provider may have done all that it was asked for.
            Counted::Estimated if ended.unknown => quoted,
            Counted::Reported | Counted::Estimated => quote.map_or(Picos(0), |quote| quote.settle(&usage)),
        };
        if amount > quoted {
            metrics::counter!("tollgate_llm_beyond_bound_total").increment(1);
            tracing::warn!(request = %id, %amount, %quoted, "a request has cost more than was drawn for it: its tokens were more than its bytes let expect");
        }
        let trail = &caller.config().trail;
        let words = async |text: Option<String>| match text {
            Some(text) => Some(trail.words(text).await),
            None => None,
        };
        let model = ended.read.model.or_else(|| ended.candidate.as_ref().map(|candidate| candidate.model.clone()));
        let end = LlmEnd {
            tenant: caller.tenant(),
            id,
            outcome,
            error: words(ended.error).await,
            provider: ended.candidate.as_ref().map(|candidate| (candidate.provider.id, candidate.provider.name.clone())),
            model: model.map(|model| model.chars().take(256).collect()),
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
        metrics::counter!("tollgate_llm_requests_total", "outcome" => outcome.as_str()).increment(1);
        metrics::histogram!("tollgate_llm_request_seconds", "outcome" => outcome.as_str()).record(end.latency);
        drop(slots);
        // Whoever counts the tokens does not hold up the row.
        tokio::spawn(taken.settle(usage.input.saturating_add(usage.output)));
        (end, Box::new(guard))
    }

    async fn close(self, ended: Ended) -> Result<(), AuditError> {
        let (audit, durability) = (self.gate.audit.clone(), self.caller.config().trail.durability);
        let (end, keep) = self.end(ended).await;
        let entry = Entry { llm_ends: vec![end], ..Entry::default() };
        match durability {
            Durability::Strict => audit.after_keeping(entry, Some(keep)).await,
            Durability::Relaxed => audit.trailing(entry, Some(keep)).await,
        }
    }
}

impl Open {
    /// The first piece of its answer has come.
    pub fn first_token(&mut self) {
        if let Some(inner) = &mut self.0 {
            let elapsed = inner.started.elapsed();
            inner.first_token.get_or_insert(elapsed);
        }
    }

    #[must_use]
    pub fn id(&self) -> Option<LlmRequestId> {
        self.0.as_ref().map(|inner| inner.id)
    }

    /// Write its last row: what is left of its answer is released after this.
    ///
    /// # Errors
    /// When that cannot be written in time. It is written later.
    pub async fn close(mut self, ended: Ended) -> Result<(), AuditError> {
        match self.0.take() {
            Some(inner) => inner.close(ended).await,
            None => Ok(()),
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let Some(inner) = self.0.take() else { return };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let error = Some("the gateway failed in the middle of this request".to_owned());
        let ended = Ended { outcome: Some(Outcome::Unknown), error, sent: true, unknown: true, ..Ended::default() };
        runtime.spawn(inner.close(ended));
    }
}
