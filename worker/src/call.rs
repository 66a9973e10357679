//! The life of one tool call. Every call goes down this path and no other: a model's, a script's, anyone's.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde_json::{Map, Value, value::RawValue};
use tokio_util::sync::CancellationToken;
use tollgate_codemode::{value::answer_of, wire};
use tollgate_domain::{
    ApprovalId, CallId, Decision, Durability, LlmRequestId, Origin, Outcome, TenantId, ToolId,
    budget::Spender,
    policy::{self, Permit, Reason, Verdict},
    price::Quote,
    redact::MARKER,
    scope::ScopedTool,
    tool::Tool,
};
use tollgate_store::{
    StoreError,
    approvals::hold::Waiting,
    audit::{AuditError, Completion, Entry, Fate, Intent, JournalRow, Keep, NewRequest, ScriptPlace},
    loops, runs,
    settings::TrailPolicy,
};
use tracing::Instrument;

use crate::{
    approve,
    caller::Caller,
    gate::{Gate, InFlightGuard},
    price::{NoNumber, measured},
    rates::{Slot, Slow, Told},
    spend::{Hold, Short},
    upstream::{Answer, Dispatch, Ended, Progress},
};

/// How often a call asks for other leases when the ones that it drew from have ended.
const LEASES: u32 = 3;

/// What a caller asks for.
#[derive(Debug)]
pub struct Ask {
    pub tool: Asked,
    /// The exact JSON text of the arguments: evidence.
    pub arguments: Arc<[u8]>,
    pub meta: Map<String, Value>,
    pub progress: Option<Progress>,
    pub cancel: CancellationToken,
    /// What a script says of the call it waits for.
    pub pending: Option<wire::PendingCall>,
    /// Whether the script can wait for an approval and be taken up again.
    pub can_wait: bool,
    /// What approvers read of the script: the tools that its text shows, as JSON text.
    pub may_call: Option<Arc<str>>,
}

#[derive(Debug)]
pub enum Asked {
    /// As `tools/list` shows it.
    ByName(String),
    /// As the value that a script holds carries it.
    ById(ToolId),
}

/// The LLM request to which a call belongs, and the place in a script from which it was made.
#[derive(Debug, Clone)]
pub struct Parent {
    pub request: LlmRequestId,
    pub origin: Origin,
    pub place: Option<ScriptPlace>,
    /// Rows that go into the same commit as the next intent: the request itself before its first call, and in a script the
    /// completion of the call before. Nothing leaves the process before that commit.
    pub carry: Arc<Mutex<Entry>>,
    /// How the limits stand under which its calls were counted.
    pub told: Told,
    /// It is the first of an agent loop that waits for people.
    pub waits: bool,
}

impl Parent {
    #[must_use]
    pub fn new(request: NewRequest) -> Self {
        let (id, origin) = (request.id, request.origin);
        let carry = Entry { request: Some(request), ..Entry::default() };
        Self { request: id, origin, place: None, carry: Arc::new(Mutex::new(carry)), told: Told::default(), waits: false }
    }

    /// A parent that is written already.
    #[must_use]
    pub fn known(request: LlmRequestId, origin: Origin) -> Self {
        Self { request, origin, place: None, carry: Arc::default(), told: Told::default(), waits: false }
    }

    /// The request that a caller names as the parent of what it calls. `None`: it is none of its key's.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn named(gate: &Gate, caller: &Caller, name: &str) -> Result<Option<Self>, AuditError> {
        let Ok(id) = name.parse() else { return Ok(None) };
        match runs::parent(&gate.store, caller.tenant(), caller.key, id).await {
            Ok(runs::Named { origin, waits }) => Ok(Some(Self { waits, ..Self::known(id, origin) })),
            Err(StoreError::NotFound) => Ok(None),
            Err(_) => Err(AuditError::Unavailable),
        }
    }

    /// A call of `tool` is made under it by hand: an agent loop that waits for people to decide on that call is the caller's from here on.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn by_hand(&self, gate: &Gate, caller: &Caller, tool: &str) -> Result<(), AuditError> {
        if !self.waits {
            return Ok(());
        }
        let taken = loops::take_over(&gate.store, caller.tenant(), (self.request, tool), gate.clock.now()).await;
        taken.map_err(|_| AuditError::Unavailable)
    }

    /// Take what waits to be written.
    #[must_use]
    pub fn take_carry(&self) -> Entry {
        std::mem::take(&mut self.carry.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Have these written with what is written next.
    pub fn put(&self, completion: Option<Completion>, journal: Option<JournalRow>) {
        let mut carry = self.carry.lock().unwrap_or_else(PoisonError::into_inner);
        carry.completions.extend(completion);
        carry.journal.extend(journal);
    }
}

/// A call that has its row.
#[derive(Debug)]
pub struct Reply {
    pub id: CallId,
    pub outcome: Outcome,
    pub answer: Reached,
    /// What a script reads of it; nothing of a call for which it waits.
    pub journal: Option<wire::JournalEntry>,
    /// The trail keeps the journal's line as it is, so that the script can be replayed from it.
    pub whole: bool,
}

#[derive(Debug)]
pub enum Reached {
    Answer(Answer),
    /// The policy said no, and the row says why.
    Refused(Refusal),
}

/// Why a call was not made.
#[derive(Debug, Clone)]
pub struct Refusal {
    pub reason: Reason,
    /// For which approval it is held.
    pub waiting: Option<Waiting>,
    /// In which it was decided otherwise.
    pub decided: Option<ApprovalId>,
    /// What the caller may read beyond the reason.
    pub note: Option<String>,
}

impl Refusal {
    #[must_use]
    pub fn told(&self) -> String {
        match &self.note {
            Some(note) => format!("{}: {note}", self.reason.told()),
            None => self.reason.told().to_owned(),
        }
    }
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        Self { reason, waiting: None, decided: None, note: None }
    }
}

/// Make one call. The answer is released when its row is durable (in a script: when the script has ended or the next call
/// opens, whichever is first; the sandbox has nothing to tell it to).
///
/// # Errors
/// When the row cannot be written: the tool was not called, or its answer is withheld.
pub async fn call(gate: &Gate, caller: &Caller, parent: &Parent, ask: Ask) -> Result<Reply, AuditError> {
    let row = Row::new(gate, caller, parent, &ask).await;
    let Some(found) = find(caller, &ask.tool) else { return row.refuse(absent(caller, &ask.tool), Decision::Denied).await };
    let tool = Arc::clone(&found.tool);
    let mut row = row.of(&tool);
    let Some(dispatch) = Dispatch::of(&ask) else { return row.refuse(Reason::BadArguments, Decision::Denied).await };
    let verdict = policy::decide(found);
    let slots = match count_call(gate, caller, parent, &tool).await? {
        Ok(slots) => slots,
        Err(refusal) => return row.refuse(refusal, Decision::Denied).await,
    };
    let quoted = gate.prices.quote(caller.config(), &tool, row.intent.at).await;
    let quote = quoted.map_err(|NoNumber| AuditError::Overloaded)?;
    let mut hold = match draw(gate, caller, &row.intent, &tool, quote).await? {
        Ok(hold) => hold, // before, never after
        Err(refusal) => return row.refuse(refusal, Decision::Denied).await,
    };
    let permit = match verdict {
        Verdict::Permitted(permit) => permit,
        // People decide: until they have, the row says for which approval it is held. They come last, because an approval is used up
        // by being found: nothing that can be known before may stop the call behind it.
        Verdict::Held(held) => match approve::stand(gate, &row.intent, held, &ask).await {
            Ok(Ok((permit, approval))) => {
                row.intent.approval = Some(approval);
                permit
            }
            Ok(Err(refusal)) => {
                hold.unwritten();
                let decision = if refusal.waiting.is_some() { Decision::Held } else { Decision::Denied };
                return row.refuse(refusal, decision).await;
            }
            Err(error) => {
                hold.unwritten();
                return Err(error);
            }
        },
    };
    let mut tries = 0;
    let open = loop {
        match row.open(quote, hold).await? {
            Opened::Open(open) => break open, // durable before the upstream hears of it
            // Taken for dead, this worker has lost what it held; it asks anew.
            Opened::LeaseEnded(back) if tries < LEASES => (row, tries) = (*back, tries + 1),
            Opened::LeaseEnded(_) => return Err(AuditError::Overloaded),
        }
        hold = match draw(gate, caller, &row.intent, &tool, quote).await? {
            Ok(hold) => hold,
            Err(refusal) => return row.refuse(refusal, Decision::Denied).await,
        };
    };
    let ended = reach(gate, caller, permit, dispatch).await; // consumes the permit: no permit, no call
    drop(slots); // it is not under way any more
    open.close(&tool, ended).await // the reply is released when its row is durable
}

fn spender(caller: &Caller, tool: &Tool) -> Spender {
    Spender { team: caller.team, key: caller.key, upstream: Some(tool.upstream.id), tool: Some(tool.id) }
}

/// Count the call under its rate limits, and as under way.
async fn count_call(
    gate: &Gate,
    caller: &Caller,
    parent: &Parent,
    tool: &Tool,
) -> Result<Result<Vec<Slot>, Refusal>, AuditError> {
    let limits = &caller.config().limits;
    match gate.rates.enter(caller.tenant(), limits, &spender(caller, tool), &parent.told).await {
        Ok(slots) => Ok(Ok(slots)),
        Err(Slow::Unavailable) => Err(AuditError::Overloaded),
        Err(slow) => Ok(Err(Refusal { note: Some(slow.to_string()), ..Reason::RateLimited.into() })),
    }
}

/// Draw what the call may cost from its budgets.
async fn draw(
    gate: &Gate,
    caller: &Caller,
    intent: &Intent,
    tool: &Tool,
    quote: Quote,
) -> Result<Result<Hold, Refusal>, AuditError> {
    let config = caller.config();
    let budgets = (caller.tenant(), config.zone, config.budgets.as_slice());
    match gate.wallets.reserve(budgets, (intent.id.uuid(), intent.at), &spender(caller, tool), quote.amount).await {
        Ok(hold) => Ok(Ok(hold)),
        Err(Short::Unavailable) => Err(AuditError::Overloaded),
        Err(Short::Exhausted(short)) => Ok(Err(Refusal { note: Some(short.to_string()), ..Reason::BudgetExhausted.into() })),
    }
}

fn find<'a>(caller: &'a Caller, asked: &Asked) -> Option<&'a ScopedTool> {
    match asked {
        Asked::ByName(name) => caller.scope().by_classic_name(name),
        Asked::ById(id) => caller.scope().by_id(*id),
    }
}

/// Why a tool was not found and, for the row, which one the tenant has under that name.
fn absent(caller: &Caller, asked: &Asked) -> Absent {
    let tools = &caller.config().tools;
    let tool = match asked {
        Asked::ByName(name) => tools.iter().find(|tool| tool.classic_name() == *name),
        Asked::ById(id) => tools.iter().find(|tool| tool.id == *id),
    };
    Absent { refusal: policy::absence(caller.scope(), tool.map(AsRef::as_ref)).into(), tool: tool.cloned() }
}

struct Absent {
    refusal: Refusal,
    tool: Option<Arc<Tool>>,
}

impl<T: Into<Refusal>> From<T> for Absent {
    fn from(refusal: T) -> Self {
        Self { refusal: refusal.into(), tool: None }
    }
}

async fn reach(gate: &Gate, caller: &Caller, permit: Permit, dispatch: Dispatch) -> Ended {
    let tool = permit.tool();
    // The names of the OpenTelemetry conventions for generative AI and MCP.
    let span = tracing::info_span!(
        "execute_tool",
        otel.name = %format_args!("execute_tool {}", tool.name),
        otel.kind = "client",
        gen_ai.operation.name = "execute_tool",
        gen_ai.tool.name = %tool.name,
        gen_ai.tool.type = "extension",
        mcp.method.name = "tools/call",
        server.address = %tool.upstream.name,
        error.type = tracing::field::Empty,
    );
    let ended = gate.upstreams.call(caller.tenant(), permit, dispatch).instrument(span.clone()).await;
    if ended.outcome != Outcome::Ok {
        span.record("error.type", ended.outcome.as_str());
    }
    ended
}

impl Dispatch {
    /// `None` unless the arguments are a JSON object.
    fn of(ask: &Ask) -> Option<Self> {
        let text = String::from_utf8(ask.arguments.to_vec()).ok()?;
        let arguments = serde_json::from_str(&text).ok()?;
        Some(Self { arguments, text, meta: ask.meta.clone(), progress: ask.progress.clone(), cancel: ask.cancel.clone() })
    }
}

/// A row that is not written yet.
struct Row<'a> {
    gate: &'a Gate,
    parent: &'a Parent,
    trail: &'a TrailPolicy,
    intent: Intent,
    pending: Option<wire::PendingCall>,
    can_wait: bool,
}

impl<'a> Row<'a> {
    async fn new(gate: &'a Gate, caller: &'a Caller, parent: &'a Parent, ask: &Ask) -> Self {
        let (at, trail) = (gate.clock.now(), &caller.config().trail);
        let tool_name = match &ask.tool {
            Asked::ByName(name) => trail.words(name.chars().take(256).collect()).await,
            Asked::ById(id) => id.to_string(),
        };
        let intent = Intent {
            tenant: caller.tenant(),
            id: CallId::mint(at),
            request: parent.request,
            origin: parent.origin,
            place: parent.place,
            key: caller.key,
            team: caller.team,
            upstream: None,
            tool: None,
            tool_name,
            definition: None,
            decision: Decision::Permitted,
            reason: None,
            approval: None,
            quote: Quote::default(),
            leases: Vec::new(),
            currency: caller.config().currency,
            worker: gate.worker,
            arguments: trail.payload(Arc::clone(&ask.arguments)).await,
            at,
        };
        Self { gate, parent, trail, intent, pending: ask.pending.clone(), can_wait: ask.can_wait }
    }

    fn of(mut self, tool: &Tool) -> Self {
        self.intent.upstream = Some((tool.upstream.id, tool.upstream.name.clone()));
        self.intent.tool = Some(tool.id);
        self.intent.tool_name.clone_from(&tool.name);
        self.intent.definition = Some(tool.definition_sha256);
        self
    }

    /// A call that is not made is a row as well.
    async fn refuse(self, why: impl Into<Absent>, decision: Decision) -> Result<Reply, AuditError> {
        let Absent { refusal, tool } = why.into();
        let mut row = match &tool {
            Some(tool) => self.of(tool),
            None => self,
        };
        (row.intent.decision, row.intent.reason) = (decision, Some(refusal.reason));
        row.intent.approval = refusal.waiting.map(|waiting| waiting.approval).or(refusal.decided);
        let (id, outcome) = match decision {
            Decision::Held => (row.intent.id, Outcome::Held),
            Decision::Denied | Decision::Permitted => (row.intent.id, Outcome::Denied),
        };
        // A script that waits has seen nothing yet.
        let waits = row.can_wait && refusal.waiting.is_some();
        let pending = row.pending.take().filter(|_| !waits);
        let journal = pending.map(|pending| journal_entry(pending, wire::Answer::Error(refusal.told())));
        let mut entry = row.parent.take_carry();
        let mut whole = true;
        if let (Some(place), Some(line)) = (row.intent.place, &journal) {
            let line = journal_row(&row.intent, place, line, row.trail).await;
            whole = line.entry.is_whole();
            entry.journal.push(line);
        }
        entry.intent = Some(row.intent);
        count(decision, outcome);
        // What a script carries has happened; a refusal alone has not, and waits its turn like any other beginning.
        if entry.completions.is_empty() {
            row.gate.audit.before(entry).await?
        } else {
            row.gate.audit.after(entry).await?
        }
        Ok(Reply { id, outcome, answer: Reached::Refused(refusal), journal, whole })
    }

    async fn open(mut self, quote: Quote, hold: Hold) -> Result<Opened<'a>, AuditError> {
        (self.intent.quote, self.intent.leases) = (quote, hold.leases());
        let guard = self.gate.in_flight.enter(self.intent.id.uuid());
        let mut entry = self.parent.take_carry();
        entry.intent = Some(self.intent.clone());
        match self.gate.audit.intent(entry).await {
            Ok(()) => hold.written(),
            // It was never queued: there is nothing to take back.
            Err((AuditError::Overloaded, _)) => {
                hold.unwritten();
                return Err(AuditError::Overloaded);
            }
            Err((AuditError::LeaseEnded, _)) => {
                // What it carried is written. The next try draws anew, and a refusal draws nothing.
                (self.intent.quote, self.intent.leases) = (Quote::default(), Vec::new());
                return Ok(Opened::LeaseEnded(Box::new(self)));
            }
            Err((error, fate)) => {
                self.abandon(guard, fate);
                return Err(error);
            }
        }
        Ok(Opened::Open(Open { row: self, quote, started: Instant::now(), guard }))
    }

    /// The intent may yet become durable though nobody acted on it: say so behind it, so that it does not stand open.
    fn abandon(self, guard: InFlightGuard, fate: Option<Fate>) {
        let now = self.gate.clock.now();
        let completion = Completion {
            tenant: self.intent.tenant,
            id: self.intent.id,
            outcome: Outcome::UpstreamError,
            error: Some("the call was not made: its row could not be confirmed in time".to_owned()),
            latency: Duration::ZERO,
            amount: tollgate_domain::Picos(0),
            result: None,
            at: now,
        };
        let audit = self.gate.audit.clone();
        tokio::spawn(async move {
            // Not before it: an end that is sealed without its beginning is settled with no budget.
            if let Some(fate) = fate
                && !fate.may_stand().await
            {
                return;
            }
            let _ = audit.after_keeping(Entry { completions: vec![completion], ..Entry::default() }, Some(Box::new(guard))).await;
        });
    }
}

/// What became of an intent.
enum Opened<'a> {
    Open(Open<'a>),
    /// It was not written, because a lease had ended.
    LeaseEnded(Box<Row<'a>>),
}

/// A call whose intent is durable. It is closed, or the sweeper resolves it.
struct Open<'a> {
    row: Row<'a>,
    quote: Quote,
    started: Instant,
    guard: InFlightGuard,
}

impl Open<'_> {
    async fn close(self, tool: &Tool, ended: Ended) -> Result<Reply, AuditError> {
        let Self { row: Row { gate, parent, trail, intent, pending, .. }, quote, started, guard } = self;
        // The row keeps microseconds, and whoever reckons again shall find the same.
        let latency = Duration::from_micros(u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX));
        let (result, error) = match &ended.answer {
            Answer::Result(result) => (Some(trail.payload(result.get().as_bytes()).await), None),
            Answer::Error(error) => (None, Some(format!("{} (code {})", trail.message(&error.message).await, error.code.0))),
            Answer::None(why) => (None, Some(trail.words(why.clone()).await)),
        };
        gate.learner.hear(intent.tenant, tool, ended.outcome, result.as_ref());
        let journal = pending.map(|pending| journal_entry(pending, script_answer(tool, &ended.answer)));
        let completion = Completion {
            tenant: intent.tenant,
            id: intent.id,
            outcome: ended.outcome,
            error,
            latency,
            amount: if ended.sent { quote.settle(ended.outcome, measured(&ended, latency)) } else { tollgate_domain::Picos(0) },
            result,
            at: gate.clock.now(),
        };
        count(Decision::Permitted, ended.outcome);
        metrics::histogram!("tollgate_tool_call_seconds", "outcome" => ended.outcome.as_str()).record(latency);
        let mut whole = true;
        match (intent.place, &journal) {
            (Some(place), Some(line)) => {
                // Its run is in the register until all that it carries is durable.
                let line = journal_row(&intent, place, line, trail).await;
                whole = line.entry.is_whole();
                parent.put(Some(completion), Some(line));
                drop(guard);
            }
            _ => {
                // A worker that is asked to end waits for this task; a caller that has gone does not stop it.
                let entry = Entry { completions: vec![completion], ..parent.take_carry() };
                // In the register until the row is written, also when that takes longer than anyone waits.
                let keep: Option<Keep> = Some(Box::new(guard));
                match trail.durability {
                    Durability::Strict => gate.audit.after_keeping(entry, keep).await?,
                    Durability::Relaxed => gate.audit.trailing(entry, keep).await?,
                }
            }
        }
        Ok(Reply { id: intent.id, outcome: ended.outcome, answer: Reached::Answer(ended.answer), journal, whole })
    }
}

fn script_answer(tool: &Tool, answer: &Answer) -> wire::Answer {
    match answer {
        Answer::Result(result) => match serde_json::from_str(result.get()) {
            Ok(result) => answer_of(&result, &tool.definition),
            Err(_) => wire::Answer::Error("the server's answer cannot be read".to_owned()),
        },
        Answer::Error(error) => wire::Answer::Error(error.message.to_string()),
        Answer::None(why) => wire::Answer::Error(why.clone()),
    }
}

pub fn journal_entry(pending: wire::PendingCall, answer: wire::Answer) -> wire::JournalEntry {
    let wire::PendingCall { sequence, tool_id, fingerprint, .. } = pending;
    wire::JournalEntry { sequence, tool_id, fingerprint, answer }
}

async fn journal_row(intent: &Intent, place: ScriptPlace, entry: &wire::JournalEntry, trail: &TrailPolicy) -> JournalRow {
    journal_line(intent.tenant, (place, intent.id), intent.arguments.is_whole(), entry, trail).await
}

/// What is kept of a journal's line.
pub async fn journal_line(
    tenant: TenantId,
    (place, call): (ScriptPlace, CallId),
    whole_arguments: bool,
    entry: &wire::JournalEntry,
    trail: &TrailPolicy,
) -> JournalRow {
    let text = serde_json::to_vec(entry).unwrap_or_default();
    let mut kept = trail.payload(text.clone()).await;
    if !whole_arguments {
        // A hash of the arguments, against which what was taken out of them could be guessed.
        let blank = wire::JournalEntry { fingerprint: MARKER.to_owned(), ..entry.clone() };
        kept = trail.payload(serde_json::to_vec(&blank).unwrap_or_default()).await.of_original(text);
    }
    JournalRow { tenant, place, call: Some(call), entry: kept }
}

fn count(decision: Decision, outcome: Outcome) {
    metrics::counter!("tollgate_tool_calls_total", "decision" => decision.as_str(), "outcome" => outcome.as_str()).increment(1);
}

/// The result that a model reads, whatever happened.
#[must_use]
pub fn result_of(reply: &Reply) -> Box<RawValue> {
    match &reply.answer {
        Reached::Answer(Answer::Result(result)) => result.clone(),
        Reached::Answer(Answer::Error(error)) => crate::upstream::error_result(&error.message),
        Reached::Answer(Answer::None(why)) => crate::upstream::error_result(why),
        Reached::Refused(refusal) => crate::upstream::error_result(&refusal.told()),
    }
}

/// Record a call that is refused before anyone looks at its tool.
///
/// # Errors
/// When the row cannot be written.
pub async fn refuse(gate: &Gate, caller: &Caller, parent: &Parent, ask: Ask, reason: Reason) -> Result<Reply, AuditError> {
    Row::new(gate, caller, parent, &ask).await.refuse(reason, Decision::Denied).await
}
