//! The rows that a worker writes, as it hands them over.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use tollgate_domain::{
    ApprovalId, CallId, Currency, Decision, KeyId, LlmRequestId, Origin, Outcome, Picos, ProviderId, ScriptRunId, TeamId,
    TenantId, ToolId, UpstreamId, WorkerId,
    llm::{Counted, Mode},
    llm_price::Usage,
    policy::Reason,
    price::Quote,
    tool::DefinitionHash,
};

use uuid::Uuid;

use crate::payload::Payload;

/// The parent of calls.
#[derive(Debug, Clone)]
pub struct NewRequest {
    pub tenant: TenantId,
    pub id: LlmRequestId,
    pub key: KeyId,
    pub team: Option<TeamId>,
    pub origin: Origin,
    pub method: &'static str,
    pub model: Option<String>,
    /// Name and version of the client, as it says.
    pub client: Option<String>,
    /// Where it used a tool of Code Mode: about how many tokens the tools behind it would have added to a prompt.
    pub prompt_tokens_avoided: Option<i64>,
    pub at: DateTime<Utc>,
    /// Of one that came through the LLM door.
    pub forward: Option<Forward>,
}

/// What is durable before a provider hears of a request; for one that is refused, all there is.
#[derive(Debug, Clone)]
pub struct Forward {
    /// The first request of its agent loop, and its place in it, from 1.
    pub root: LlmRequestId,
    pub turn: u32,
    pub mode: Mode,
    pub streaming: bool,
    pub worker: WorkerId,
    pub refused: Option<Reason>,
    /// Tools that the gateway offers with it, and the tokens of their definitions, by estimate.
    pub tools: (usize, u64),
    /// What it may cost at most, drawn from each of the leases.
    pub quoted: Picos,
    pub leases: Vec<Uuid>,
    pub currency: Currency,
    /// The body that was asked with, as JSON text.
    pub prompt: Payload,
}

/// What is durable before the end of a model's answer is released.
#[derive(Debug, Clone)]
pub struct LlmEnd {
    pub tenant: TenantId,
    pub id: LlmRequestId,
    pub outcome: Outcome,
    pub error: Option<String>,
    pub provider: Option<(ProviderId, String)>,
    /// As the provider names it.
    pub model: Option<String>,
    /// Every try, as JSON text.
    pub attempts: String,
    pub counted: Counted,
    pub usage: Usage,
    /// Which price it was.
    pub price: Option<String>,
    pub amount: Picos,
    pub latency: Duration,
    /// Until the first piece of the answer came.
    pub first_token: Option<Duration>,
    pub finish_reason: Option<String>,
    /// As JSON text, put together where it was streamed.
    pub answer: Option<Payload>,
    pub at: DateTime<Utc>,
}

/// What the sweeper writes for a request whose worker died: the provider may have answered, so it is charged as quoted.
#[derive(Debug, Clone, Copy)]
pub struct LlmResolution {
    pub tenant: TenantId,
    pub id: LlmRequestId,
    pub amount: Picos,
    pub at: DateTime<Utc>,
}

#[derive(Debug, Clone)]
pub struct NewRun {
    pub tenant: TenantId,
    pub id: ScriptRunId,
    pub request: LlmRequestId,
    pub key: KeyId,
    pub team: Option<TeamId>,
    pub source: Payload,
    /// Canonical JSON, packed. Stored once per tenant.
    pub catalog: Arc<[u8]>,
    pub catalog_sha256: [u8; 32],
    pub engine: String,
    /// The ceilings of its steps, as JSON text.
    pub limits: String,
    /// The tool group by whose route it came in.
    pub route: Option<String>,
    pub worker: WorkerId,
    pub at: DateTime<Utc>,
}

/// What is durable before the upstream hears of a call; for a call that is denied or held, all there is.
#[derive(Debug, Clone)]
pub struct Intent {
    pub tenant: TenantId,
    pub id: CallId,
    pub request: LlmRequestId,
    pub origin: Origin,
    pub place: Option<ScriptPlace>,
    pub key: KeyId,
    pub team: Option<TeamId>,
    pub upstream: Option<(UpstreamId, String)>,
    pub tool: Option<ToolId>,
    /// As the upstream calls it, or as the caller asked for it where there is no such tool.
    pub tool_name: String,
    pub definition: Option<DefinitionHash>,
    pub decision: Decision,
    pub reason: Option<Reason>,
    /// For which it is held, or under which it is made.
    pub approval: Option<ApprovalId>,
    pub quote: Quote,
    /// The leases of budgets from which the quoted amount is drawn.
    pub leases: Vec<Uuid>,
    pub currency: Currency,
    pub worker: WorkerId,
    /// The exact JSON text of the arguments.
    pub arguments: Payload,
    pub at: DateTime<Utc>,
}

/// Where in a script a call stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScriptPlace {
    pub run: ScriptRunId,
    /// From 1.
    pub sequence: u32,
}

/// What is durable before the answer is released.
#[derive(Debug, Clone)]
pub struct Completion {
    pub tenant: TenantId,
    pub id: CallId,
    pub outcome: Outcome,
    pub error: Option<String>,
    pub latency: Duration,
    pub amount: Picos,
    /// The exact JSON text of the result, where there is one.
    pub result: Option<Payload>,
    pub at: DateTime<Utc>,
}

/// What the sweeper writes for a call whose worker died: the upstream may have acted, so it is charged; see `Quote::unknown`.
#[derive(Debug, Clone)]
pub struct Resolution {
    pub tenant: TenantId,
    pub id: CallId,
    pub amount: Picos,
    pub at: DateTime<Utc>,
}

/// How a run ended.
#[derive(Debug, Clone)]
pub struct RunEnd {
    pub tenant: TenantId,
    pub id: ScriptRunId,
    /// `done` or `failed`
    pub state: &'static str,
    pub ticks: u64,
    /// JSON text, as are the next two.
    pub result: Option<Payload>,
    pub logs: Payload,
    pub error: Option<Payload>,
    /// The tools that its text shows, as JSON text; `None` where it was never looked at.
    pub may_call: Option<String>,
    pub at: DateTime<Utc>,
}

/// What the sweeper writes for a run whose worker died.
#[derive(Debug, Clone, Copy)]
pub struct RunResolution {
    pub tenant: TenantId,
    pub id: ScriptRunId,
    pub at: DateTime<Utc>,
}

/// What a script saw of one of its calls.
#[derive(Debug, Clone)]
pub struct JournalRow {
    pub tenant: TenantId,
    pub place: ScriptPlace,
    /// `None` where the gateway answered by itself.
    pub call: Option<CallId>,
    /// A `codemode::wire::JournalEntry` as JSON.
    pub entry: Payload,
}

/// Rows that become durable together.
#[derive(Debug, Clone, Default)]
pub struct Entry {
    pub request: Option<NewRequest>,
    pub run: Option<NewRun>,
    pub intent: Option<Intent>,
    pub completions: Vec<Completion>,
    pub journal: Vec<JournalRow>,
    pub end: Option<RunEnd>,
    pub resolutions: Vec<Resolution>,
    pub run_resolutions: Vec<RunResolution>,
    pub llm_ends: Vec<LlmEnd>,
    pub llm_resolutions: Vec<LlmResolution>,
}

impl Entry {
    pub(super) fn bytes(&self) -> usize {
        let payloads = self.intent.iter().map(|intent| &intent.arguments);
        let payloads = payloads.chain(self.completions.iter().filter_map(|c| c.result.as_ref()));
        let payloads = payloads.chain(self.journal.iter().map(|row| &row.entry)).chain(self.run.iter().map(|run| &run.source));
        let ended = self.end.iter().flat_map(|end| [end.result.as_ref(), Some(&end.logs), end.error.as_ref()]).flatten();
        let forwarded = self.request.iter().filter_map(|request| request.forward.as_ref()).map(|forward| &forward.prompt);
        let forwarded = forwarded.chain(self.llm_ends.iter().filter_map(|end| end.answer.as_ref()));
        payloads.chain(ended).chain(forwarded).map(Payload::len).sum::<usize>()
            + self.run.as_ref().map_or(0, |run| run.catalog.len())
    }

    /// Keep of every payload its hash alone.
    pub(super) fn without_payloads(&mut self) {
        let bare = |payload: &mut Payload| *payload = payload.clone().without_copy();
        self.completions.iter_mut().filter_map(|completion| completion.result.as_mut()).for_each(bare);
        self.journal.iter_mut().map(|row| &mut row.entry).for_each(bare);
        self.intent.iter_mut().map(|intent| &mut intent.arguments).for_each(bare);
        self.llm_ends.iter_mut().filter_map(|end| end.answer.as_mut()).for_each(bare);
        if let Some(forward) = self.request.as_mut().and_then(|request| request.forward.as_mut()) {
            bare(&mut forward.prompt);
        }
        if let Some(end) = &mut self.end {
            end.result.iter_mut().chain([&mut end.logs]).chain(&mut end.error).for_each(bare);
        }
    }

    /// What a log may say of it: no payload, no source.
    pub(super) fn names(&self) -> String {
        let calls = self.intent.iter().map(|i| i.id).chain(self.completions.iter().map(|c| c.id));
        let calls: Vec<_> = calls.map(|id| id.to_string()).collect();
        let run = self.run.as_ref().map(|run| run.id.to_string()).unwrap_or_default();
        let request = self.request.as_ref().map(|request| request.id.to_string()).unwrap_or_default();
        format!("calls {calls:?} run {run:?} request {request:?}")
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.request.is_none()
            && self.run.is_none()
            && self.intent.is_none()
            && self.completions.is_empty()
            && self.journal.is_empty()
            && self.end.is_none()
            && self.resolutions.is_empty()
            && self.run_resolutions.is_empty()
            && self.llm_ends.is_empty()
            && self.llm_resolutions.is_empty()
    }
}
