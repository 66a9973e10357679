//! Calls that wait for people, as the people see them: lists, decisions, and the end of those that nobody decides. How a call
//! asks for an approval and uses it stands in [`hold`].

pub mod hold;
pub mod notices;

use chrono::{DateTime, Utc};
use sqlx::{Postgres, QueryBuilder, Row, postgres::PgRow};
use tollgate_domain::{
    ApprovalId, ApprovalState, CallId, KeyId, LlmRequestId, ScriptRunId, TeamId, TenantId, ToolId, UpstreamId,
};
use uuid::Uuid;

use crate::{
    calls::{self, Form, LIST_PAYLOADS},
    change::Change,
    error::{StoreError, StoreResult, word},
    page::{Page, PageRequest},
    tx::{Store, Tx},
};

/// A call that people have to confirm.
#[derive(Debug, Clone)]
pub struct Approval {
    pub id: ApprovalId,
    pub state: ApprovalState,
    pub key_id: KeyId,
    pub team_id: Option<TeamId>,
    pub tool_id: ToolId,
    pub upstream_id: UpstreamId,
    pub upstream_name: String,
    pub tool_name: String,
    /// The held call.
    pub call_id: CallId,
    pub llm_request_id: LlmRequestId,
    pub script_run_id: Option<ScriptRunId>,
    pub sequence: Option<i32>,
    /// What the script's text shows of the tools that it may call, as `server.tool`; `None` for a call outside a script.
    pub may_call: Option<Vec<String>>,
    pub needed: i16,
    /// Confirmations so far.
    pub given: i64,
    /// The exact JSON text, unless the next says otherwise.
    pub arguments: Option<String>,
    pub arguments_form: Option<Form>,
    pub requested_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
    pub decided_at: Option<DateTime<Utc>>,
    pub used_at: Option<DateTime<Utc>>,
    pub version: i32,
}

/// What one of the people said.
#[derive(Debug, Clone)]
pub struct Confirmation {
    pub principal: String,
    pub label: String,
    pub approves: bool,
    pub reason: Option<String>,
    pub at: DateTime<Utc>,
}

/// Which of a tenant's approvals. Empty: all.
#[derive(Debug, Clone, Copy, Default)]
pub struct Filter {
    pub state: Option<ApprovalState>,
    pub key_id: Option<KeyId>,
    pub tool_id: Option<ToolId>,
    pub script_run_id: Option<ScriptRunId>,
}

/// Someone's word on one approval.
#[derive(Debug, Clone)]
pub struct Verdict<'a> {
    /// Stable and unique: one principal counts once.
    pub principal: &'a str,
    pub label: &'a str,
    pub approves: bool,
    pub reason: Option<&'a str>,
}

const COLUMNS: &str = "SELECT a.approval_id, a.state, a.key_id, a.team_id, a.tool_id, a.upstream_id, a.upstream_name, a.tool_name,
    a.call_id, a.llm_request_id, a.script_run_id, a.sequence, a.confirmations, a.requested_at, a.expires_at, a.decided_at, a.used_at,
    a.version, a.may_call, (SELECT count(*) FROM approval_confirmations c WHERE c.tenant_id = a.tenant_id AND c.approval_id = a.approval_id
                AND c.decision = 'approve') AS given
    FROM approvals a WHERE a.tenant_id = ";

/// Newest first.
///
/// # Errors
/// When the database does not answer.
pub async fn list(tx: &mut Tx, tenant: TenantId, filter: Filter, page: PageRequest) -> StoreResult<Page<Approval>> {
    let mut query = QueryBuilder::<Postgres>::new(COLUMNS);
    query.push_bind(tenant.uuid());
    if let Some(state) = filter.state {
        query.push(" AND a.state = ").push_bind(state.as_str());
    }
    let ids = [
        (" AND a.key_id = ", filter.key_id.map(KeyId::uuid)),
        (" AND a.tool_id = ", filter.tool_id.map(ToolId::uuid)),
        (" AND a.script_run_id = ", filter.script_run_id.map(ScriptRunId::uuid)),
        (" AND a.approval_id < ", page.after),
    ];
    for (condition, id) in ids.into_iter().filter_map(|(condition, id)| Some((condition, id?))) {
        query.push(condition).push_bind(id);
    }
    query.push(" ORDER BY a.approval_id DESC LIMIT ").push_bind(page.fetch());
    let rows = query.build().fetch_all(&mut **tx).await?;
    let rows = rows.iter().map(approval).collect::<StoreResult<Vec<_>>>()?;
    let mut page = page.cut(rows, |approval| approval.id.uuid());
    let mut left = LIST_PAYLOADS;
    for approval in &mut page.items {
        if left > 0 {
            with_arguments(tx, tenant, approval).await?;
            left = left.saturating_sub(approval.arguments.as_ref().map_or(0, String::len));
        }
    }
    Ok(page)
}

/// One approval and what people said of it, oldest first.
///
/// # Errors
/// [`StoreError::NotFound`].
pub async fn get(tx: &mut Tx, tenant: TenantId, id: ApprovalId) -> StoreResult<(Approval, Vec<Confirmation>)> {
    let mut query = QueryBuilder::<Postgres>::new(COLUMNS);
    query.push_bind(tenant.uuid()).push(" AND a.approval_id = ").push_bind(id.uuid());
    let mut found = approval(&query.build().fetch_one(&mut **tx).await?)?;
    with_arguments(tx, tenant, &mut found).await?;
    let said = sqlx::query(
        "SELECT principal, label, decision, reason, at FROM approval_confirmations
         WHERE tenant_id = $1 AND approval_id = $2 ORDER BY at, principal",
    );
    let said = said.bind(tenant.uuid()).bind(id.uuid()).fetch_all(&mut **tx).await?;
    let said = said.iter().map(|row| {
        Ok(Confirmation {
            principal: row.try_get("principal")?,
            label: row.try_get("label")?,
            approves: row.try_get::<&str, _>("decision")? == "approve",
            reason: row.try_get("reason")?,
            at: row.try_get("at")?,
        })
    });
    Ok((found, said.collect::<StoreResult<_>>()?))
}

/// The approvals for which a run waits, in the order of its calls.
///
/// # Errors
/// When the database does not answer.
pub async fn of_run(tx: &mut Tx, tenant: TenantId, run: ScriptRunId) -> StoreResult<Vec<Approval>> {
    let mut query = QueryBuilder::<Postgres>::new(COLUMNS);
    query.push_bind(tenant.uuid()).push(" AND a.script_run_id = ").push_bind(run.uuid());
    query.push(" AND a.state = 'pending' ORDER BY a.sequence");
    query.build().fetch_all(&mut **tx).await?.iter().map(approval).collect()
}

/// Take someone's word: enough confirmations approve, one denial ends it. The same word of the same principal again changes
/// nothing. Returns whether this one changed anything.
///
/// # Errors
/// [`StoreError::NotFound`]; [`StoreError::Conflict`] with a sentence once it is decided, and for a call that nobody could read.
pub async fn decide(change: &mut Change, id: ApprovalId, verdict: &Verdict<'_>) -> StoreResult<bool> {
    let tenant = change.tenant.uuid();
    let row = sqlx::query(
        "SELECT a.state, a.expires_at, a.confirmations, (SELECT decision FROM approval_confirmations c
           WHERE c.tenant_id = a.tenant_id AND c.approval_id = a.approval_id AND c.principal = $3) AS said,
         EXISTS (SELECT FROM tool_call_events e WHERE e.tenant_id = a.tenant_id AND e.call_id = a.call_id AND e.kind = 0) AS recorded
         FROM approvals a WHERE a.tenant_id = $1 AND a.approval_id = $2 FOR UPDATE OF a",
    );
    let row = row.bind(tenant).bind(id.uuid()).bind(verdict.principal).fetch_one(&mut *change.tx).await?;
    let said: Option<&str> = row.try_get("said")?;
    let says = if verdict.approves { "approve" } else { "deny" };
    if said == Some(says) {
        return Ok(false);
    }
    let state: ApprovalState = word(row.try_get("state")?)?;
    if state != ApprovalState::Pending || row.try_get::<DateTime<Utc>, _>("expires_at")? <= change.now {
        return Err(StoreError::Conflict(decided(state).to_owned()));
    }
    if said == Some("deny") {
        // A denial ends it, so there is no pending one that somebody has denied.
        return Err(StoreError::Corrupt("a denied approval that is pending".to_owned()));
    }
    if !row.try_get::<bool, _>("recorded")? {
        let sentence = "the call that this approval is for is not in the audit trail yet; look again in a moment";
        return Err(StoreError::Conflict(sentence.to_owned()));
    }
    sqlx::query(
        "INSERT INTO approval_confirmations (tenant_id, approval_id, principal, label, decision, reason, at)
         VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT (tenant_id, approval_id, principal) DO UPDATE SET decision = $5, reason = $6, label = $4, at = $7",
    )
    .bind(tenant)
    .bind(id.uuid())
    .bind(verdict.principal)
    .bind(verdict.label)
    .bind(says)
    .bind(verdict.reason)
    .bind(change.now)
    .execute(&mut *change.tx)
    .await?;
    // The row is locked: nobody else's confirmation comes between the count and the update.
    sqlx::query(
        "UPDATE approvals a SET version = version + 1,
           state = CASE WHEN NOT $3 THEN 'denied' WHEN n.given >= a.confirmations THEN 'approved' ELSE a.state END,
           decided_at = CASE WHEN NOT $3 OR n.given >= a.confirmations THEN $4 END
         FROM (SELECT count(*) AS given FROM approval_confirmations
               WHERE tenant_id = $1 AND approval_id = $2 AND decision = 'approve') n
         WHERE a.tenant_id = $1 AND a.approval_id = $2",
    )
    .bind(tenant)
    .bind(id.uuid())
    .bind(verdict.approves)
    .bind(change.now)
    .execute(&mut *change.tx)
    .await?;
    Ok(true)
}

/// End those that nobody decided, or nobody used, in time. Any worker, any time.
///
/// # Errors
/// When the database does not answer.
pub async fn expire(store: &Store, now: DateTime<Utc>) -> StoreResult<u64> {
    let mut tx = store.control().await?;
    let ended = sqlx::query(
        "UPDATE approvals SET state = 'expired', version = version + 1
         WHERE (tenant_id, approval_id) IN (SELECT tenant_id, approval_id FROM approvals
           WHERE state IN ('pending', 'approved') AND expires_at <= $1 LIMIT 1000 FOR UPDATE SKIP LOCKED)",
    );
    let ended = ended.bind(now).execute(&mut *tx).await?.rows_affected();
    tx.commit().await?;
    Ok(ended)
}

const fn decided(state: ApprovalState) -> &'static str {
    match state {
        ApprovalState::Approved => "this call is approved already",
        ApprovalState::Denied => "this call was denied already",
        ApprovalState::Used => "this call was approved, and has been made since",
        ApprovalState::Expired | ApprovalState::Pending => {
            "nobody decided on this call in time, or what would be called has changed; it has to be asked for again"
        }
    }
}

/// What approvers read: the arguments as the trail keeps them.
async fn with_arguments(tx: &mut Tx, tenant: TenantId, approval: &mut Approval) -> StoreResult<()> {
    match calls::get(tx, tenant, approval.call_id).await {
        Ok(call) => (approval.arguments, approval.arguments_form) = (call.arguments, call.arguments_form),
        // Not recorded yet, or dropped with its month.
        Err(StoreError::NotFound) => approval.arguments_form = Some(Form::Omitted),
        Err(error) => return Err(error),
    }
    Ok(())
}

fn approval(row: &PgRow) -> StoreResult<Approval> {
    let id = |column: &str| row.try_get::<Uuid, _>(column);
    Ok(Approval {
        id: id("approval_id")?.into(),
        state: word(row.try_get("state")?)?,
        key_id: id("key_id")?.into(),
        team_id: row.try_get::<Option<Uuid>, _>("team_id")?.map(Into::into),
        tool_id: id("tool_id")?.into(),
        upstream_id: id("upstream_id")?.into(),
        upstream_name: row.try_get("upstream_name")?,
        tool_name: row.try_get("tool_name")?,
        call_id: id("call_id")?.into(),
        llm_request_id: id("llm_request_id")?.into(),
        script_run_id: row.try_get::<Option<Uuid>, _>("script_run_id")?.map(Into::into),
        sequence: row.try_get("sequence")?,
        may_call: calls::may_call(row)?,
        needed: row.try_get("confirmations")?,
        given: row.try_get("given")?,
        arguments: None,
        arguments_form: None,
        requested_at: row.try_get("requested_at")?,
        expires_at: row.try_get("expires_at")?,
        decided_at: row.try_get("decided_at")?,
        used_at: row.try_get("used_at")?,
        version: row.try_get("version")?,
    })
}
