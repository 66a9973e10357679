//! Approvals: calls that wait for people, and what people said of them.

pub mod approve;
pub mod deny;
pub mod get;
pub mod list;
pub mod notices;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{json, value::RawValue};
use tollgate_domain::{
    ApprovalId, ApprovalState, CallId, KeyId, LlmRequestId, ScriptRunId, TeamId, TenantId, ToolId, UpstreamId,
};
use tollgate_store::{
    StoreResult, Tx,
    approvals::{
        self, Verdict,
        notices::{self as store_notices, Notice},
    },
};
use utoipa::ToSchema;

use crate::{
    check::{Checks, is_hidden},
    ctx::{Ctx, Resource},
    json::MaybeJson,
    problem::{Answer, Kind, Problem},
    tool_calls::json as verbatim,
};

/// The rule that two people are two, and none of them the one who asks.
const OWN: &str = "The key that asks for this call is held by you, and somebody else has to confirm it. Whose a key is stands in its `held_by`.";
/// The longest reason, in characters.
const MAX_REASON: usize = 1000;

/// A call that people have to confirm before it is made.
#[derive(Debug, Serialize, ToSchema)]
pub struct Approval {
    #[schema(value_type = String, examples("apr_01j9zc5v8mf9r8k7x3w2q1n0pa"))]
    pub id: ApprovalId,
    /// `pending`, `approved` (and not made yet), `denied`, `expired` or `used`
    #[schema(value_type = String)]
    pub state: ApprovalState,
    pub tool: ApprovalTool,
    /// What the call would be made with: the exact JSON, unless the next says otherwise.
    #[schema(value_type = Option<serde_json::Value>)]
    pub arguments: Option<Box<RawValue>>,
    /// As `arguments_form` of a tool call.
    #[schema(value_type = Option<String>)]
    pub arguments_form: Option<&'static str>,
    /// The virtual key that wants to make the call.
    #[schema(value_type = String)]
    pub requested_by: KeyId,
    #[schema(value_type = Option<String>)]
    pub team_id: Option<TeamId>,
    /// Of a run that waits for it; null for a call outside a script, and for one of a script that could not wait.
    #[schema(value_type = Option<String>)]
    pub script_run_id: Option<ScriptRunId>,
    pub sequence: Option<i32>,
    /// All tools that the script's text shows it may call, as `server.tool`; `server.?` where it chooses one as it runs, `?` where there
    /// are too many to list. Null for a call outside a script. It shows what to expect: each call is decided on when it is made.
    pub may_call: Option<Vec<String>>,
    /// The held call.
    #[schema(value_type = String)]
    pub call_id: CallId,
    #[schema(value_type = String)]
    pub llm_request_id: LlmRequestId,
    pub confirmations: Confirmations,
    pub requested_at: DateTime<Utc>,
    /// By then it has to be decided, and the call made.
    pub expires_at: DateTime<Utc>,
    pub decided_at: Option<DateTime<Utc>>,
    pub used_at: Option<DateTime<Utc>>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct ApprovalTool {
    #[schema(value_type = String)]
    pub id: ToolId,
    #[schema(value_type = String)]
    pub upstream_id: UpstreamId,
    pub upstream: String,
    pub name: String,
}

/// Different people.
#[derive(Debug, Serialize, ToSchema)]
pub struct Confirmations {
    pub needed: i16,
    pub given: i64,
}

/// An approval and what people said of it, oldest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct ApprovalDetail {
    #[serde(flatten)]
    pub approval: Approval,
    pub decisions: Vec<ApprovalDecision>,
    /// Which webhooks are told what of it, of the last 30 days.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<ApprovalNotice>,
}

/// What a webhook is told of a change.
#[derive(Debug, Serialize, ToSchema)]
pub struct ApprovalNotice {
    /// As the operator's file names it.
    pub webhook: String,
    /// `requested`, `confirmed` (the first of two), `approved`, `denied`, `used` or `expired`.
    pub event: String,
    pub at: DateTime<Utc>,
    /// `waiting`, `delivered`, or `failed`: not taken for a day.
    pub state: String,
    pub attempts: i32,
    pub delivered_at: Option<DateTime<Utc>>,
    /// Why the last try came to nothing.
    pub error: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct ApprovalDecision {
    /// Stable and unique: one principal counts once.
    pub principal: String,
    /// For people.
    pub label: String,
    /// `approve` or `deny`
    #[schema(value_type = String)]
    pub decision: &'static str,
    pub reason: Option<String>,
    pub at: DateTime<Utc>,
}

/// Why; of a denial the model reads it.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ApprovalReason {
    #[schema(max_length = 1000)]
    pub reason: Option<String>,
}

impl Resource for ApprovalDetail {}

impl From<approvals::Approval> for Approval {
    fn from(row: approvals::Approval) -> Self {
        Self {
            id: row.id,
            state: row.state,
            tool: ApprovalTool {
                id: row.tool_id,
                upstream_id: row.upstream_id,
                upstream: row.upstream_name,
                name: row.tool_name,
            },
            arguments: row.arguments.map(verbatim),
            arguments_form: row.arguments_form.map(tollgate_store::calls::Form::as_str),
            requested_by: row.key_id,
            team_id: row.team_id,
            script_run_id: row.script_run_id,
            sequence: row.sequence,
            may_call: row.may_call,
            call_id: row.call_id,
            llm_request_id: row.llm_request_id,
            confirmations: Confirmations { needed: row.needed, given: row.given },
            requested_at: row.requested_at,
            expires_at: row.expires_at,
            decided_at: row.decided_at,
            used_at: row.used_at,
        }
    }
}

impl ApprovalDetail {
    async fn read(tx: &mut Tx, tenant: TenantId, id: ApprovalId) -> StoreResult<Self> {
        Ok(Self::of(approvals::get(tx, tenant, id).await?, store_notices::of(tx, tenant, id).await?))
    }

    fn of((approval, said): (approvals::Approval, Vec<approvals::Confirmation>), told: Vec<Notice>) -> Self {
        let decision = |c: approvals::Confirmation| ApprovalDecision {
            principal: c.principal,
            label: c.label,
            decision: if c.approves { "approve" } else { "deny" },
            reason: c.reason,
            at: c.at,
        };
        let notice = |n: Notice| {
            let Notice { webhook, event, at, state, attempts, delivered_at, error, .. } = n;
            ApprovalNotice { webhook, event, at, state, attempts, delivered_at, error }
        };
        let notices = told.into_iter().map(notice).collect();
        Self { approval: approval.into(), decisions: said.into_iter().map(decision).collect(), notices }
    }
}

/// Take the word of whoever asks; the same one's again is the answer as things stand.
async fn decide(ctx: Ctx, id: ApprovalId, body: MaybeJson<ApprovalReason>, approves: bool) -> Answer {
    let reason = body.value.reason;
    check(reason.as_deref())?;
    let mut write = ctx.post(&body.sha256).await?;
    let verdict = Verdict {
        principal: &ctx.admin.principal,
        label: &ctx.admin.label,
        approves,
        reason: reason.as_deref().map(str::trim).filter(|reason| !reason.is_empty()),
    };
    if approves && store_notices::asks_itself(&mut write.tx, ctx.tenant, id, verdict.principal).await? {
        return Err(Problem::because(Kind::Forbidden, OWN).into());
    }
    let changed = approvals::decide(&mut write, id, &verdict).await?;
    let decided = ApprovalDetail::read(&mut write.tx, ctx.tenant, id).await?;
    if changed {
        let Approval { tool, requested_by, call_id, script_run_id, confirmations, state, .. } = &decided.approval;
        let detail = json!({
            "state": state,
            "upstream": tool.upstream,
            "tool": tool.name,
            "key_id": requested_by,
            "call_id": call_id,
            "script_run_id": script_run_id,
            "confirmations": {"needed": confirmations.needed, "given": confirmations.given},
            "reason": verdict.reason,
        });
        write.event(if approves { "approval.approve" } else { "approval.deny" }, &id, detail).await?;
    }
    write.ok_quietly(&decided).await
}

fn check(reason: Option<&str>) -> Result<(), Problem> {
    let mut checks = Checks::default();
    if let Some(reason) = reason {
        checks.require(reason.chars().count() <= MAX_REASON, "/reason", "use at most 1000 characters");
        let shown = |c: char| !is_hidden(c) || matches!(c, '\n' | '\t');
        checks.require(reason.chars().all(shown), "/reason", "control characters and invisible characters are not accepted");
    }
    checks.done()
}
