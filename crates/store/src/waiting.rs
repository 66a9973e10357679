//! Runs that nobody drives: those that wait for people, and those whose worker died. A worker takes the next turn of one and
//! goes on where its journal ends.

use chrono::{DateTime, Utc};
use sqlx::{Row, postgres::PgRow};
use tollgate_domain::{CallId, KeyId, LlmRequestId, Origin, Outcome, ScriptRunId, TeamId, TenantId, WorkerId};
use uuid::Uuid;

use crate::{
    calls::Form,
    error::{StoreError, StoreResult, word},
    payload,
    tx::{Store, Tx},
};

/// Runs that one round takes at most.
const ROUND: i64 = 32;

/// A turn of a run: whose it is from here on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    pub tenant: TenantId,
    pub run: ScriptRunId,
    /// From 1; the worker that starts a run has none.
    pub turn: i32,
}

impl Claim {
    pub(crate) fn read(row: &PgRow) -> StoreResult<Self> {
        let (tenant, run): (Uuid, Uuid) = (row.try_get("tenant_id")?, row.try_get("script_run_id")?);
        Ok(Self { tenant: tenant.into(), run: run.into(), turn: row.try_get("turn")? })
    }
}

/// Let go of a run: whoever finds its approvals decided goes on with it.
///
/// # Errors
/// When the database does not answer.
pub async fn suspend(store: &Store, tenant: TenantId, run: ScriptRunId, key: KeyId, now: DateTime<Utc>) -> StoreResult<()> {
    let mut tx = store.tenant(tenant).await?;
    sqlx::query(
        "INSERT INTO suspended_runs (tenant_id, script_run_id, key_id, since) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
    )
    .bind(tenant.uuid())
    .bind(run.uuid())
    .bind(key.uuid())
    .bind(now)
    .execute(&mut *tx)
    .await?;
    Ok(tx.commit().await?)
}

/// Take the next turn of runs whose approvals are all decided. What one worker takes no other finds.
///
/// # Errors
/// When the database does not answer.
pub async fn claim_decided(store: &Store, worker: WorkerId, now: DateTime<Utc>) -> StoreResult<Vec<Claim>> {
    let mut tx = store.control().await?;
    let rows = sqlx::query(
        "WITH ready AS (
           SELECT s.tenant_id, s.script_run_id FROM suspended_runs s
           WHERE NOT EXISTS (SELECT FROM approvals a WHERE a.tenant_id = s.tenant_id AND a.script_run_id = s.script_run_id
                             AND a.state = 'pending')
           LIMIT $3),
         gone AS (
           DELETE FROM suspended_runs s USING ready r WHERE s.tenant_id = r.tenant_id AND s.script_run_id = r.script_run_id
           RETURNING s.tenant_id, s.script_run_id)
         INSERT INTO script_run_turns (tenant_id, script_run_id, turn, worker_id, why, journal, at)
         SELECT g.tenant_id, g.script_run_id,
                1 + COALESCE((SELECT max(turn) FROM script_run_turns t WHERE t.tenant_id = g.tenant_id AND t.script_run_id = g.script_run_id), 0),
                $1, 'decided',
                (SELECT count(*) FROM script_journal j WHERE j.tenant_id = g.tenant_id AND j.script_run_id = g.script_run_id), $2
         FROM gone g RETURNING tenant_id, script_run_id, turn",
    );
    let rows = rows.bind(worker.uuid()).bind(now).bind(ROUND).fetch_all(&mut *tx).await?;
    tx.commit().await?;
    rows.iter().map(Claim::read).collect()
}

/// Take the next turn of runs that `dead` drove and did not end, `limit` at most.
///
/// # Errors
/// When the database does not answer.
pub(crate) async fn claim_crashed(
    tx: &mut Tx,
    (dead, oldest): (Uuid, Uuid),
    own: WorkerId,
    limit: i64,
    at: DateTime<Utc>,
) -> StoreResult<Vec<Claim>> {
    // A turn is younger than its worker and is found by it; what a worker started is found by the age of what it had open.
    let rows = sqlx::query(
        "WITH driven AS (
           SELECT r.tenant_id, r.script_run_id, 0 AS turn FROM tenants n
           CROSS JOIN LATERAL (SELECT s.tenant_id, s.script_run_id FROM script_run_starts s
             WHERE s.tenant_id = n.tenant_id AND s.script_run_id >= $2 AND s.worker_id = $1) r
           UNION ALL
           SELECT t.tenant_id, t.script_run_id, t.turn FROM script_run_turns t WHERE t.worker_id = $1),
         open AS (
           SELECT d.* FROM driven d
           WHERE NOT EXISTS (SELECT FROM script_run_turns t
                             WHERE t.tenant_id = d.tenant_id AND t.script_run_id = d.script_run_id AND t.turn > d.turn)
             AND NOT EXISTS (SELECT FROM script_run_ends e WHERE e.tenant_id = d.tenant_id AND e.script_run_id = d.script_run_id)
             AND NOT EXISTS (SELECT FROM suspended_runs w WHERE w.tenant_id = d.tenant_id AND w.script_run_id = d.script_run_id)
           LIMIT $4)
         INSERT INTO script_run_turns (tenant_id, script_run_id, turn, worker_id, why, journal, at)
         SELECT o.tenant_id, o.script_run_id, o.turn + 1, $3, 'crashed',
                (SELECT count(*) FROM script_journal j WHERE j.tenant_id = o.tenant_id AND j.script_run_id = o.script_run_id), $5
         FROM open o ON CONFLICT DO NOTHING RETURNING tenant_id, script_run_id, turn",
    );
    let rows = rows.bind(dead).bind(oldest).bind(own.uuid()).bind(limit).bind(at).fetch_all(&mut **tx).await?;
    rows.iter().map(Claim::read).collect()
}

/// Whether a turn is still the last one of its run, and the run has not ended.
///
/// # Errors
/// When the database does not answer.
pub async fn is_ours(store: &Store, claim: Claim) -> StoreResult<bool> {
    let mut tx = store.tenant(claim.tenant).await?;
    let ours = sqlx::query_scalar(
        "SELECT NOT EXISTS (SELECT FROM script_run_turns WHERE tenant_id = $1 AND script_run_id = $2 AND turn > $3)
            AND NOT EXISTS (SELECT FROM script_run_ends WHERE tenant_id = $1 AND script_run_id = $2)
            AND NOT EXISTS (SELECT FROM suspended_runs WHERE tenant_id = $1 AND script_run_id = $2)",
    );
    let ours = ours.bind(claim.tenant.uuid()).bind(claim.run.uuid()).bind(claim.turn).fetch_one(&mut *tx).await?;
    tx.commit().await?;
    Ok(ours)
}

// ---------------------------------------------------------------- what a run is taken up from

/// A run as the trail has it.
#[derive(Debug, Clone)]
pub struct Kept {
    pub request: LlmRequestId,
    pub origin: Origin,
    pub key: KeyId,
    pub team: Option<TeamId>,
    pub route: Option<String>,
    /// JSON text; `None` where it never waited for people.
    pub may_call: Option<String>,
    /// `None` where it is not there as it was: the run cannot be taken up.
    pub source: Option<String>,
    /// Canonical JSON.
    pub catalog: Option<Vec<u8>>,
    pub limits: String,
    /// The engine under which it runs; it says what the source is written in.
    pub engine: String,
    /// JSON texts in the order of the calls; `None` as for the source.
    pub journal: Option<Vec<String>>,
    /// Calls that were begun and of which the script has seen nothing, the last of each place.
    pub open: Vec<(u32, CallId)>,
    /// Whether it has ended after all.
    pub ended: bool,
    /// Turns that crashes led to and that got no further, up to now.
    pub stuck: usize,
}

/// Read a run to take it up.
///
/// # Errors
/// [`StoreError::NotFound`].
pub async fn load(store: &Store, claim: Claim) -> StoreResult<Kept> {
    let Claim { tenant, run, .. } = claim;
    let (t, r) = (tenant.uuid(), run.uuid());
    let mut tx = store.tenant_snapshot(tenant).await?;
    let start = sqlx::query(
        "SELECT s.llm_request_id, s.key_id, s.team_id, s.route, s.limits, s.engine, c.body AS catalog, l.origin,
                EXISTS (SELECT FROM script_run_ends e WHERE e.tenant_id = s.tenant_id AND e.script_run_id = s.script_run_id) AS ended,
                (SELECT a.may_call FROM approvals a WHERE a.tenant_id = s.tenant_id AND a.script_run_id = s.script_run_id
                 AND a.may_call IS NOT NULL LIMIT 1) AS may_call,
                CASE WHEN s.source_form IS NULL THEN p.body END AS source
         FROM script_run_starts s
         LEFT JOIN script_catalogs c ON c.tenant_id = s.tenant_id AND c.catalog_sha256 = s.catalog_sha256
         LEFT JOIN llm_requests l ON l.tenant_id = s.tenant_id AND l.llm_request_id = s.llm_request_id
         LEFT JOIN script_payloads p ON p.tenant_id = s.tenant_id AND p.script_run_id = s.script_run_id AND p.part = 0 AND p.sequence = 0
         WHERE s.tenant_id = $1 AND s.script_run_id = $2",
    );
    let start = start.bind(t).bind(r).fetch_one(&mut *tx).await?;
    let journal = sqlx::query(
        "SELECT CASE WHEN j.entry_form IS NULL THEN p.body END AS body FROM script_journal j
         LEFT JOIN script_payloads p ON p.tenant_id = j.tenant_id AND p.script_run_id = j.script_run_id AND p.part = 4 AND p.sequence = j.sequence
         WHERE j.tenant_id = $1 AND j.script_run_id = $2 ORDER BY j.sequence",
    );
    let journal = journal.bind(t).bind(r).fetch_all(&mut *tx).await?;
    let open = sqlx::query(
        "SELECT e.sequence, e.call_id FROM tool_call_events e
         WHERE e.tenant_id = $1 AND e.script_run_id = $2 AND e.kind = 0 AND e.decision = 'permitted'
           AND NOT EXISTS (SELECT FROM script_journal j
                           WHERE j.tenant_id = e.tenant_id AND j.script_run_id = e.script_run_id AND j.sequence = e.sequence)
         ORDER BY e.call_id",
    );
    let open = open.bind(t).bind(r).fetch_all(&mut *tx).await?;
    let turns = sqlx::query(
        "SELECT why, journal FROM script_run_turns WHERE tenant_id = $1 AND script_run_id = $2 ORDER BY turn DESC LIMIT 16",
    );
    let turns = turns.bind(t).bind(r).fetch_all(&mut *tx).await?;
    tx.commit().await?;

    let lines = i32::try_from(journal.len()).unwrap_or(i32::MAX);
    let stuck = turns.iter().take_while(|turn| {
        turn.try_get::<&str, _>("why").is_ok_and(|why| why == "crashed")
            && turn.try_get::<i32, _>("journal").is_ok_and(|n| n == lines)
    });
    let text = |row: &PgRow, column: &str| -> StoreResult<Option<String>> {
        let Some(body) = row.try_get::<Option<&[u8]>, _>(column)? else { return Ok(None) };
        let text = String::from_utf8(payload::unpack(body)?);
        text.map(Some).map_err(|error| StoreError::Corrupt(format!("payload: {error}")))
    };
    let origin: Option<&str> = start.try_get("origin")?;
    Ok(Kept {
        request: start.try_get::<Uuid, _>("llm_request_id")?.into(),
        origin: word(origin.unwrap_or(Origin::Minted.as_str()))?,
        engine: start.try_get("engine")?,
        key: start.try_get::<Uuid, _>("key_id")?.into(),
        team: start.try_get::<Option<Uuid>, _>("team_id")?.map(Into::into),
        route: start.try_get("route")?,
        may_call: start.try_get("may_call")?,
        source: text(&start, "source")?,
        catalog: start.try_get::<Option<&[u8]>, _>("catalog")?.map(payload::unpack).transpose()?,
        limits: start.try_get("limits")?,
        journal: journal.iter().map(|row| text(row, "body")).collect::<StoreResult<Option<Vec<_>>>>()?,
        open: open.iter().map(place).collect::<StoreResult<_>>()?,
        ended: start.try_get("ended")?,
        stuck: stuck.count(),
    })
}

fn place(row: &PgRow) -> StoreResult<(u32, CallId)> {
    let sequence = u32::try_from(row.try_get::<i32, _>("sequence")?).unwrap_or(0);
    Ok((sequence, row.try_get::<Uuid, _>("call_id")?.into()))
}

/// A call of a run, as whoever asked for the run reads it.
#[derive(Debug, Clone)]
pub struct RunCall {
    pub id: CallId,
    pub tool: String,
    /// `None` while it is open.
    pub outcome: Option<Outcome>,
}

/// The last call of each place in a run, in the order of the places; held ones that were made later are those.
///
/// # Errors
/// When the database does not answer.
pub async fn calls_of(tx: &mut Tx, tenant: TenantId, run: ScriptRunId) -> StoreResult<Vec<RunCall>> {
    let rows = sqlx::query(
        "SELECT DISTINCT ON (sequence) call_id, concat_ws('.', upstream_name, tool_name) AS tool, outcome FROM tool_calls
         WHERE tenant_id = $1 AND script_run_id = $2 ORDER BY sequence, call_id DESC",
    );
    let rows = rows.bind(tenant.uuid()).bind(run.uuid()).fetch_all(&mut **tx).await?;
    let call = |row: &PgRow| {
        let outcome: Option<&str> = row.try_get("outcome")?;
        Ok(RunCall {
            id: row.try_get::<Uuid, _>("call_id")?.into(),
            tool: row.try_get("tool")?,
            outcome: outcome.map(word).transpose()?,
        })
    };
    rows.iter().map(call).collect()
}

/// The state of a run of this tenant and key: `running`, `waiting_approval`, `done` or `failed`; and whether it waits for people
/// who have not decided yet.
///
/// # Errors
/// [`StoreError::NotFound`] also for another tenant's or key's.
pub async fn state_of(store: &Store, tenant: TenantId, key: KeyId, run: ScriptRunId) -> StoreResult<(String, bool)> {
    let mut tx = store.tenant(tenant).await?;
    let row = sqlx::query(
        "SELECT state, EXISTS (SELECT FROM approvals a WHERE a.tenant_id = r.tenant_id AND a.script_run_id = r.script_run_id
                               AND a.state = 'pending') AS undecided
         FROM script_runs r WHERE tenant_id = $1 AND script_run_id = $2 AND key_id = $3",
    );
    let row =
        row.bind(tenant.uuid()).bind(run.uuid()).bind(key.uuid()).fetch_optional(&mut *tx).await?.ok_or(StoreError::NotFound)?;
    tx.commit().await?;
    Ok((row.try_get("state")?, row.try_get("undecided")?))
}

/// What a run has left in `result`, as whoever asked for the run reads it.
#[derive(Debug, Clone)]
pub struct RunResult {
    /// As of [`state_of`].
    pub state: String,
    /// JSON text.
    pub text: Option<String>,
    /// Why the text is not there as it was.
    pub form: Option<Form>,
}

/// The result of a run of this tenant and key.
///
/// # Errors
/// [`StoreError::NotFound`] also for another tenant's or key's, and for one that has gone with its month.
pub async fn result_of(store: &Store, tenant: TenantId, key: KeyId, run: ScriptRunId) -> StoreResult<RunResult> {
    let mut tx = store.tenant_snapshot(tenant).await?;
    let row = sqlx::query(
        "SELECT r.state, e.result_form, p.body FROM script_runs r
         LEFT JOIN script_run_ends e ON e.tenant_id = r.tenant_id AND e.script_run_id = r.script_run_id AND e.kind = r.ended_by
         LEFT JOIN script_payloads p
           ON p.tenant_id = r.tenant_id AND p.script_run_id = r.script_run_id AND p.part = 1 AND p.sequence = 0
         WHERE r.tenant_id = $1 AND r.script_run_id = $2 AND r.key_id = $3",
    );
    let row =
        row.bind(tenant.uuid()).bind(run.uuid()).bind(key.uuid()).fetch_optional(&mut *tx).await?.ok_or(StoreError::NotFound)?;
    tx.commit().await?;
    let state: String = row.try_get("state")?;
    let body: Option<&[u8]> = row.try_get("body")?;
    let form = match (row.try_get::<Option<i16>, _>("result_form")?, body) {
        (Some(2), _) => Some(Form::Omitted),
        (_, None) if state == "done" => Some(Form::Erased),
        (Some(1), _) => Some(Form::Redacted),
        _ => None,
    };
    let text = body.map(payload::unpack).transpose()?.map(String::from_utf8).transpose();
    Ok(RunResult { state, text: text.map_err(|error| StoreError::Corrupt(format!("payload: {error}")))?, form })
}
