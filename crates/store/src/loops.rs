//! Agent loops that wait for people. A loop is a claim with a number: whoever takes it counts on, and whoever comes back with an older
//! number finds that it is no longer theirs.

use chrono::{DateTime, Utc};
use sqlx::{Row, postgres::PgRow};
use tollgate_domain::{ApprovalId, ApprovalState, CallId, KeyId, LlmRequestId, ScriptRunId, TenantId, WorkerId};
use uuid::Uuid;

use crate::{
    calls::{self, ToolCall},
    error::{StoreError, StoreResult, word},
    requests,
    tx::{Store, Tx},
};

/// Loops that one round takes at most.
const ROUND: i64 = 32;
/// What has ended is forgotten after so long: its turns and calls stay in the trail.
const KEPT_DAYS: i32 = 30;
/// For how long a caller that waits is thought to wait on.
const LISTENS_SECONDS: f64 = 2.0;
/// A claim of which its worker knows nothing after so long never reached it.
const LOST_SECONDS: f64 = 20.0;

/// Where a loop stands when it lets go of its worker.
#[derive(Debug, Clone)]
pub struct Suspended {
    pub tenant: TenantId,
    pub root: LlmRequestId,
    pub key: KeyId,
    /// The turn whose tool calls wait.
    pub request: LlmRequestId,
    pub turn: u32,
    /// JSON texts, for whoever takes it up.
    pub settings: String,
    pub calls: String,
    pub progress: String,
    /// What has to be decided, and which runs have to end, before it goes on.
    pub approvals: Vec<ApprovalId>,
    pub runs: Vec<ScriptRunId>,
}

/// A loop that is this worker's from here on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    pub tenant: TenantId,
    pub root: LlmRequestId,
    pub key: KeyId,
    pub number: i32,
}

/// How a loop stands.
#[derive(Debug, Clone)]
pub struct Standing {
    pub state: LoopState,
    /// People, or a script's run, have yet to decide.
    pub undecided: bool,
    pub request: LlmRequestId,
    pub turn: u32,
    /// JSON texts.
    pub settings: String,
    pub calls: String,
    pub progress: String,
    pub error: Option<String>,
    /// Workers that have died in a row while they drove it.
    pub stuck: i32,
    /// How often in a row it was let go of because something would not take it.
    pub tries: i32,
    pub approvals: Vec<ApprovalId>,
    pub since: DateTime<Utc>,
    pub ended_at: Option<DateTime<Utc>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoopState {
    Waiting,
    /// Somebody drives it.
    Going,
    Done,
    Failed,
}

impl LoopState {
    /// As admins read it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting_approval",
            Self::Going => "running",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }
}

/// How a loop ended.
#[derive(Debug, Clone)]
pub enum Ending<'a> {
    /// With the turn whose answer is the loop's.
    Done { request: LlmRequestId, turn: u32 },
    /// With the error, as JSON text.
    Failed(&'a str),
}

/// Put a loop down for the first time. Once more changes nothing.
///
/// # Errors
/// When the database does not answer.
pub async fn put_down(store: &Store, put: &Suspended, now: DateTime<Utc>) -> StoreResult<()> {
    let mut tx = store.tenant(put.tenant).await?;
    put.write(
        "INSERT INTO agent_loops (tenant_id, root_id, key_id, state, llm_request_id, turn, settings, calls, progress, approvals, runs, since)
         VALUES ($1, $2, $3, 'waiting', $4, $5, $6::jsonb, $7::jsonb, $8::jsonb, $9, $10, $11) ON CONFLICT DO NOTHING",
        now,
    )
    .execute(&mut *tx)
    .await?;
    Ok(tx.commit().await?)
}

/// How many loops of a key wait.
///
/// # Errors
/// When the database does not answer.
pub async fn waiting_of(store: &Store, tenant: TenantId, key: KeyId) -> StoreResult<i64> {
    let mut tx = store.tenant(tenant).await?;
    let waiting =
        sqlx::query_scalar("SELECT count(*) FROM agent_loops WHERE tenant_id = $1 AND key_id = $2 AND state = 'waiting'");
    let waiting = waiting.bind(tenant.uuid()).bind(key.uuid()).fetch_one(&mut *tx).await?;
    tx.commit().await?;
    Ok(waiting)
}

/// Let go of a loop, so that it waits again. `rest`: something would not take it, and it is not taken up before then. False where it is no
/// longer this claim's.
///
/// # Errors
/// When the database does not answer.
pub async fn suspend(
    store: &Store,
    put: &Suspended,
    claim: Claim,
    (now, rest): (DateTime<Utc>, Option<DateTime<Utc>>),
) -> StoreResult<bool> {
    let mut tx = store.tenant(put.tenant).await?;
    let done = put.write(
        "UPDATE agent_loops SET state = 'waiting', llm_request_id = $4, turn = $5, settings = $6::jsonb, calls = $7::jsonb,
           progress = $8::jsonb, approvals = $9, runs = $10, since = $11, worker_id = NULL, taken_at = NULL, stuck = 0, not_before = $13,
           tries = CASE WHEN $13::timestamptz IS NULL THEN 0 ELSE tries + 1 END
         WHERE tenant_id = $1 AND root_id = $2 AND key_id = $3 AND claim = $12 AND state = 'driven'",
        now,
    );
    let done = done.bind(claim.number).bind(rest).execute(&mut *tx).await?.rows_affected();
    tx.commit().await?;
    Ok(done == 1)
}

/// Nothing of it waits any more.
const READY: &str = "NOT EXISTS (SELECT FROM approvals a WHERE a.tenant_id = l.tenant_id AND a.approval_id = ANY (l.approvals) AND a.state = 'pending')
    AND NOT EXISTS (SELECT FROM unnest(l.runs) AS r(id) WHERE NOT EXISTS (
      SELECT FROM script_run_ends e WHERE e.tenant_id = l.tenant_id AND e.script_run_id = r.id))";

/// Loops in the name of `worker` of which it knows nothing, because the answer to its claim was lost, and those of workers that are no longer
/// there, wait again.
///
/// # Errors
/// When the database does not answer.
pub async fn release_lost(store: &Store, worker: WorkerId, driven: &[LlmRequestId]) -> StoreResult<u64> {
    let driven: Vec<Uuid> = driven.iter().map(|root| root.uuid()).collect();
    let mut tx = store.control().await?;
    let done = sqlx::query(
        "UPDATE agent_loops l SET state = 'waiting', worker_id = NULL, taken_at = NULL, claim = claim + 1
         WHERE l.worker_id IS NOT NULL AND l.taken_at < clock_timestamp() - make_interval(secs => $3)
           AND ((l.worker_id = $1 AND l.root_id <> ALL ($2)) OR NOT EXISTS (SELECT FROM workers w WHERE w.worker_id = l.worker_id))",
    );
    let done = done.bind(worker.uuid()).bind(driven).bind(LOST_SECONDS).execute(&mut *tx).await?.rows_affected();
    tx.commit().await?;
    Ok(done)
}

/// Take loops that wait for nothing any more, but for those whose caller waits and goes on with them itself.
///
/// # Errors
/// When the database does not answer.
pub async fn claim_decided(store: &Store, worker: WorkerId, at_most: usize) -> StoreResult<Vec<(Claim, Standing)>> {
    let mut tx = store.control().await?;
    let mut query = sqlx::QueryBuilder::new(
        "WITH ready AS (SELECT l.tenant_id, l.root_id FROM agent_loops l WHERE l.state = 'waiting'
           AND COALESCE(l.listened_until < clock_timestamp(), true) AND COALESCE(l.not_before < clock_timestamp(), true) AND ",
    );
    query.push(READY).push(" ORDER BY l.since LIMIT ").push_bind(i64::try_from(at_most).unwrap_or(ROUND).min(ROUND));
    query
        .push(" FOR UPDATE SKIP LOCKED) UPDATE agent_loops l SET state = 'driven', taken_at = clock_timestamp(), claim = claim + 1, worker_id = ")
        .push_bind(worker.uuid());
    query.push(" FROM ready r WHERE l.tenant_id = r.tenant_id AND l.root_id = r.root_id RETURNING l.tenant_id, l.root_id, l.key_id, l.claim");
    let rows = query.build().fetch_all(&mut *tx).await?;
    let mut claimed = Vec::new();
    for row in &rows {
        let claim = Claim::read(row)?;
        let standing = standing(&mut tx, claim.tenant, claim.root, None).await?.ok_or(StoreError::NotFound)?;
        claimed.push((claim, standing));
    }
    tx.commit().await?;
    Ok(claimed)
}

/// What a caller that waits for a loop of its key finds: the loop, where it waits for nothing any more, and is the caller's from here on;
/// else how it stands. Until it looks again nobody else takes it.
///
/// # Errors
/// [`StoreError::NotFound`] also for another tenant's or key's.
pub async fn listen(
    store: &Store,
    (tenant, key): (TenantId, KeyId),
    root: LlmRequestId,
    worker: WorkerId,
) -> StoreResult<Result<(Claim, Standing), Standing>> {
    let mut tx = store.tenant(tenant).await?;
    let mut query = sqlx::QueryBuilder::new(
        "UPDATE agent_loops l SET state = 'driven', taken_at = clock_timestamp(), claim = claim + 1, listened_until = NULL, worker_id = ",
    );
    query.push_bind(worker.uuid()).push(" WHERE l.tenant_id = ").push_bind(tenant.uuid());
    query.push(" AND l.root_id = ").push_bind(root.uuid()).push(" AND l.key_id = ").push_bind(key.uuid());
    query.push(" AND l.state = 'waiting' AND ").push(READY).push(" RETURNING l.tenant_id, l.root_id, l.key_id, l.claim");
    let claimed = query.build().fetch_optional(&mut *tx).await?;
    if let Some(row) = claimed {
        let claim = Claim::read(&row)?;
        let standing = standing(&mut tx, tenant, root, Some(key)).await?.ok_or(StoreError::NotFound)?;
        tx.commit().await?;
        return Ok(Ok((claim, standing)));
    }
    sqlx::query(
        "UPDATE agent_loops SET listened_until = clock_timestamp() + make_interval(secs => $4)
         WHERE tenant_id = $1 AND root_id = $2 AND key_id = $3 AND state = 'waiting'
           AND COALESCE(listened_until < clock_timestamp() + make_interval(secs => $4 / 2), true)",
    )
    .bind(tenant.uuid())
    .bind(root.uuid())
    .bind(key.uuid())
    .bind(LISTENS_SECONDS)
    .execute(&mut *tx)
    .await?;
    let standing = standing(&mut tx, tenant, root, Some(key)).await?.ok_or(StoreError::NotFound)?;
    tx.commit().await?;
    Ok(Err(standing))
}

/// How a loop stands; `None` where it never waited, or was forgotten.
///
/// # Errors
/// When the database does not answer.
pub async fn standing(tx: &mut Tx, tenant: TenantId, root: LlmRequestId, key: Option<KeyId>) -> StoreResult<Option<Standing>> {
    let mut query = sqlx::QueryBuilder::new("SELECT l.state, NOT (");
    query.push(READY).push(
        ") AS undecided, l.llm_request_id, l.turn, l.settings::text, l.calls::text, l.progress::text, l.error::text, l.stuck, l.tries, l.approvals,
         l.since, l.ended_at FROM agent_loops l WHERE l.tenant_id = ",
    );
    query.push_bind(tenant.uuid()).push(" AND l.root_id = ").push_bind(root.uuid());
    if let Some(key) = key {
        query.push(" AND l.key_id = ").push_bind(key.uuid());
    }
    let Some(row) = query.build().fetch_optional(&mut **tx).await? else { return Ok(None) };
    let state = match row.try_get("state")? {
        "waiting" => LoopState::Waiting,
        "driven" => LoopState::Going,
        "done" => LoopState::Done,
        _ => LoopState::Failed,
    };
    Ok(Some(Standing {
        state,
        undecided: row.try_get("undecided")?,
        request: row.try_get::<Uuid, _>("llm_request_id")?.into(),
        turn: u32::try_from(row.try_get::<i32, _>("turn")?).unwrap_or(1),
        settings: row.try_get("settings")?,
        calls: row.try_get("calls")?,
        progress: row.try_get("progress")?,
        error: row.try_get("error")?,
        stuck: row.try_get("stuck")?,
        tries: row.try_get("tries")?,
        approvals: row.try_get::<Vec<Uuid>, _>("approvals")?.into_iter().map(Into::into).collect(),
        since: row.try_get("since")?,
        ended_at: row.try_get("ended_at")?,
    }))
}

/// How far a loop has come, before its calls are made and after; `further` where they are. False where it is no longer this claim's: nothing more is done then.
///
/// # Errors
/// When the database does not answer.
pub async fn step(store: &Store, claim: Claim, at: &Suspended, further: bool) -> StoreResult<bool> {
    let mut tx = store.tenant(claim.tenant).await?;
    let done = sqlx::query(
        "UPDATE agent_loops SET llm_request_id = $4, turn = $5, calls = $6::jsonb, progress = $7::jsonb,
           stuck = CASE WHEN $8 THEN 0 ELSE stuck END, tries = CASE WHEN $8 THEN 0 ELSE tries END
         WHERE tenant_id = $1 AND root_id = $2 AND claim = $3 AND state = 'driven'",
    );
    let done = done.bind(claim.tenant.uuid()).bind(claim.root.uuid()).bind(claim.number).bind(at.request.uuid());
    let done = done.bind(i32::try_from(at.turn).unwrap_or(i32::MAX)).bind(&at.calls).bind(&at.progress).bind(further);
    let done = done.execute(&mut *tx).await?.rows_affected();
    tx.commit().await?;
    Ok(done == 1)
}

/// A loop has come to its end. False where it is no longer this claim's.
///
/// # Errors
/// When the database does not answer.
pub async fn end(store: &Store, claim: Claim, (ending, progress): (&Ending<'_>, &str), now: DateTime<Utc>) -> StoreResult<bool> {
    let (state, last, error) = match *ending {
        Ending::Done { request, turn } => ("done", Some((request, i32::try_from(turn).unwrap_or(i32::MAX))), None),
        Ending::Failed(error) => ("failed", None, Some(error)),
    };
    let mut tx = store.tenant(claim.tenant).await?;
    let done = sqlx::query(
        "UPDATE agent_loops SET state = $4, progress = $5::jsonb, error = $6::jsonb, ended_at = $7, worker_id = NULL, taken_at = NULL,
           llm_request_id = COALESCE($8, llm_request_id), turn = COALESCE($9, turn)
         WHERE tenant_id = $1 AND root_id = $2 AND claim = $3 AND state = 'driven'",
    );
    let done = done.bind(claim.tenant.uuid()).bind(claim.root.uuid()).bind(claim.number).bind(state).bind(progress).bind(error);
    let done = done.bind(now).bind(last.map(|(request, _)| request.uuid())).bind(last.map(|(_, turn)| turn));
    let done = done.execute(&mut *tx).await?.rows_affected();
    tx.commit().await?;
    Ok(done == 1)
}

/// The route of a loop's first request.
///
/// # Errors
/// [`StoreError::NotFound`] unless it belongs to this tenant and key.
pub async fn method(store: &Store, tenant: TenantId, key: KeyId, root: LlmRequestId) -> StoreResult<String> {
    let mut tx = store.tenant(tenant).await?;
    let method =
        sqlx::query_scalar("SELECT method FROM llm_requests WHERE tenant_id = $1 AND llm_request_id = $2 AND key_id = $3");
    let method = method.bind(tenant.uuid()).bind(root.uuid()).bind(key.uuid()).fetch_optional(&mut *tx).await?;
    tx.commit().await?;
    method.ok_or(StoreError::NotFound)
}

/// The caller makes a call that a loop waits for by hand, and goes on so: nobody else does. Another call changes nothing.
///
/// # Errors
/// When the database does not answer.
pub async fn take_over(
    store: &Store,
    tenant: TenantId,
    (root, tool): (LlmRequestId, &str),
    now: DateTime<Utc>,
) -> StoreResult<()> {
    let mut tx = store.tenant(tenant).await?;
    sqlx::query(
        "UPDATE agent_loops SET state = 'failed', ended_at = $3, error = $4
         WHERE tenant_id = $1 AND root_id = $2 AND state = 'waiting' AND calls @> jsonb_build_array(jsonb_build_object('name', $5::text))",
    )
    .bind(tenant.uuid())
    .bind(root.uuid())
    .bind(now)
    .bind(
        serde_json::json!({"status": 409, "code": "loop_taken_over", "message": "the caller has gone on with this loop by hand"}),
    )
    .bind(tool)
    .execute(&mut *tx)
    .await?;
    Ok(tx.commit().await?)
}

/// Loops that a dead worker drove wait again: what was made of their calls is in the trail.
pub(crate) async fn release(tx: &mut Tx, dead: Uuid) -> StoreResult<u64> {
    let done = sqlx::query(
        "UPDATE agent_loops SET state = 'waiting', worker_id = NULL, taken_at = NULL, claim = claim + 1, stuck = stuck + 1
         WHERE worker_id = $1",
    );
    Ok(done.bind(dead).execute(&mut **tx).await?.rows_affected())
}

/// Forget what ended long ago.
pub(crate) async fn forget(tx: &mut Tx, now: DateTime<Utc>) -> StoreResult<u64> {
    let gone = sqlx::query("DELETE FROM agent_loops WHERE ended_at < $1::timestamptz - make_interval(days => $2)");
    Ok(gone.bind(now).bind(KEPT_DAYS).execute(&mut **tx).await?.rows_affected())
}

type Written = sqlx::query::Query<'static, sqlx::Postgres, sqlx::postgres::PgArguments>;

impl Suspended {
    fn write(&self, sql: &'static str, now: DateTime<Utc>) -> Written {
        let turn = i32::try_from(self.turn).unwrap_or(i32::MAX);
        let approvals: Vec<Uuid> = self.approvals.iter().map(|id| id.uuid()).collect();
        let runs: Vec<Uuid> = self.runs.iter().map(|id| id.uuid()).collect();
        let written =
            sqlx::query(sql).bind(self.tenant.uuid()).bind(self.root.uuid()).bind(self.key.uuid()).bind(self.request.uuid());
        let written = written.bind(turn).bind(self.settings.clone()).bind(self.calls.clone()).bind(self.progress.clone());
        written.bind(approvals).bind(runs).bind(now)
    }
}

impl Standing {
    /// What was put down of it.
    #[must_use]
    pub fn put(&self, claim: Claim) -> Suspended {
        Suspended {
            tenant: claim.tenant,
            root: claim.root,
            key: claim.key,
            request: self.request,
            turn: self.turn,
            settings: self.settings.clone(),
            calls: self.calls.clone(),
            progress: self.progress.clone(),
            approvals: Vec::new(),
            runs: Vec::new(),
        }
    }
}

impl Claim {
    fn read(row: &PgRow) -> StoreResult<Self> {
        let id = |column: &str| row.try_get::<Uuid, _>(column);
        Ok(Self {
            tenant: id("tenant_id")?.into(),
            root: id("root_id")?.into(),
            key: id("key_id")?.into(),
            number: row.try_get("claim")?,
        })
    }
}

// ---------------------------------------------------------------- what a loop is taken up from

/// A turn as the trail has it.
#[derive(Debug, Clone, Default)]
pub struct Turn {
    /// The dialect's route.
    pub method: String,
    /// Its end is written.
    pub ended: bool,
    /// JSON texts; `None` where they are not there as they were: the loop cannot be taken up.
    pub prompt: Option<String>,
    pub answer: Option<String>,
}

/// Read a turn to go on from it.
///
/// # Errors
/// [`StoreError::NotFound`] for one that has gone with its month.
pub async fn turn(store: &Store, tenant: TenantId, request: LlmRequestId) -> StoreResult<Turn> {
    let mut tx = store.tenant_snapshot(tenant).await?;
    let row = sqlx::query(
        "SELECT l.method, e.kind IS NOT NULL AS ended, f.prompt_form IS NULL AS prompt, e.answer_sha256 IS NOT NULL AND e.answer_form IS NULL AS answer
         FROM llm_requests l JOIN llm_forwards f ON f.tenant_id = l.tenant_id AND f.llm_request_id = l.llm_request_id
         LEFT JOIN llm_request_ends e ON e.tenant_id = l.tenant_id AND e.llm_request_id = l.llm_request_id AND e.kind = 1
         WHERE l.tenant_id = $1 AND l.llm_request_id = $2",
    );
    let row = row.bind(tenant.uuid()).bind(request.uuid()).fetch_optional(&mut *tx).await?.ok_or(StoreError::NotFound)?;
    let texts = requests::texts(&mut tx, tenant, request).await?;
    tx.commit().await?;
    let whole = |column: &str, text: Option<String>| -> StoreResult<Option<String>> {
        let is_whole: Option<bool> = row.try_get(column)?;
        Ok(text.filter(|_| is_whole == Some(true)))
    };
    Ok(Turn {
        method: row.try_get("method")?,
        ended: row.try_get("ended")?,
        prompt: whole("prompt", texts.prompt)?,
        answer: whole("answer", texts.answer)?,
    })
}

/// Whether the results of these calls are kept as they were.
///
/// # Errors
/// When the database does not answer.
pub async fn are_whole(store: &Store, tenant: TenantId, calls: &[CallId]) -> StoreResult<bool> {
    let calls: Vec<Uuid> = calls.iter().map(|id| id.uuid()).collect();
    let mut tx = store.tenant(tenant).await?;
    let changed =
        "SELECT NOT EXISTS (SELECT FROM tool_calls WHERE tenant_id = $1 AND call_id = ANY ($2) AND result_form IS NOT NULL)";
    let whole = sqlx::query_scalar(changed).bind(tenant.uuid()).bind(calls).fetch_one(&mut *tx).await?;
    tx.commit().await?;
    Ok(whole)
}

/// What a held call has come to.
#[derive(Debug, Clone)]
pub enum Held {
    /// Nobody has made it yet: it is made now, or asked for anew.
    Free,
    /// It was made under the approval.
    Made(Box<ToolCall>),
    /// Somebody has denied it, with the reason that was given.
    Denied(Option<String>),
    /// Nobody decided in time, or they did and it was made too late.
    Late { approved: bool },
}

/// What has become of the call for which an approval was asked: one that a worker made before it died is not made again. `others`: calls
/// that stand for others of the turn.
///
/// # Errors
/// When the database does not answer.
pub async fn held(
    tx: &mut Tx,
    tenant: TenantId,
    (request, approval): (LlmRequestId, ApprovalId),
    others: &[CallId],
    now: DateTime<Utc>,
) -> StoreResult<Held> {
    let others: Vec<Uuid> = others.iter().map(|id| id.uuid()).collect();
    let made: Option<Uuid> = sqlx::query_scalar(
        "SELECT call_id FROM tool_call_events WHERE tenant_id = $1 AND llm_request_id = $2 AND approval_id = $3 AND kind = 0
           AND decision = 'permitted' AND call_id >= $2 AND call_id <> ALL ($4) ORDER BY call_id LIMIT 1",
    )
    .bind(tenant.uuid())
    .bind(request.uuid())
    .bind(approval.uuid())
    .bind(others)
    .fetch_optional(&mut **tx)
    .await?;
    if let Some(made) = made {
        return Ok(Held::Made(Box::new(calls::get(tx, tenant, CallId::from(made)).await?)));
    }
    let standing: Option<(String, DateTime<Utc>, Option<String>)> = sqlx::query_as(
        "SELECT a.state, a.expires_at, (SELECT c.reason FROM approval_confirmations c WHERE c.tenant_id = a.tenant_id
           AND c.approval_id = a.approval_id AND c.decision = 'deny' LIMIT 1)
         FROM approvals a WHERE a.tenant_id = $1 AND a.approval_id = $2",
    )
    .bind(tenant.uuid())
    .bind(approval.uuid())
    .fetch_optional(&mut **tx)
    .await?;
    let Some((state, expires_at, reason)) = standing else { return Ok(Held::Late { approved: false }) };
    // What was decided holds for as long as the question: asked again after that, it would be another question.
    let over = expires_at <= now;
    Ok(match word(&state)? {
        ApprovalState::Denied if over => Held::Denied(reason),
        ApprovalState::Approved if over => Held::Late { approved: true },
        ApprovalState::Expired => Held::Late { approved: false },
        ApprovalState::Approved | ApprovalState::Denied | ApprovalState::Pending | ApprovalState::Used => Held::Free,
    })
}

/// Whether the turn led to calls that were made or runs, which `known` does not name: a worker died before it could say which they were.
///
/// # Errors
/// When the database does not answer.
pub async fn has_strays(tx: &mut Tx, tenant: TenantId, request: LlmRequestId, known: &[Uuid]) -> StoreResult<bool> {
    let strays = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM tool_call_events e WHERE e.tenant_id = $1 AND e.llm_request_id = $2 AND e.kind = 0
                          AND e.decision = 'permitted' AND e.script_run_id IS NULL AND e.call_id >= $2 AND e.call_id <> ALL ($3)
                          AND COALESCE(e.approval_id <> ALL ($3), true))
             OR EXISTS (SELECT FROM script_run_starts s WHERE s.tenant_id = $1 AND s.llm_request_id = $2 AND s.script_run_id >= $2
                          AND s.script_run_id <> ALL ($3))",
    );
    Ok(strays.bind(tenant.uuid()).bind(request.uuid()).bind(known).fetch_one(&mut **tx).await?)
}
