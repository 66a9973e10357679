//! Export jobs: what is to be written where, how far that is, and which process is at it.
//!
//! A job is taken by one runner at a time. Everything that a runner writes about a job names the runner, so that one which was
//! away for too long, and whose job another has taken, finds that out and stops.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::types::Json;
use tollgate_domain::{ExportJobId, KeyId, Outcome, TeamId, TenantId, ToolId, UpstreamId};
use uuid::Uuid;

use crate::{
    calls::CallFilter,
    change::Change,
    error::{StoreError, StoreResult},
    export::Rows,
    follow,
    page::{Page, PageRequest},
    tx::{Store, Tx},
};

/// Jobs of one tenant that may wait or run at a time.
pub const MAX_OPEN: i64 = 10;

/// Which calls a job writes, as it is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct JobFilter {
    pub from: Option<DateTime<Utc>>,
    pub to: Option<DateTime<Utc>>,
    pub key_id: Option<KeyId>,
    pub team_id: Option<TeamId>,
    pub tool_id: Option<ToolId>,
    pub upstream_id: Option<UpstreamId>,
    pub outcome: Option<Outcome>,
    /// Not written where it is what jobs of before had.
    #[serde(skip_serializing_if = "is_default")]
    pub rows: Rows,
}

fn is_default(rows: &Rows) -> bool {
    *rows == Rows::default()
}

impl JobFilter {
    #[must_use]
    pub fn wanted(&self) -> follow::Wanted {
        let Self { from, to, key_id, team_id, tool_id, upstream_id, outcome, rows } = *self;
        let calls = CallFilter { from, to, key_id, team_id, tool_id, upstream_id, outcome, ..CallFilter::default() };
        follow::Wanted { calls, rows, events: false }
    }
}

#[derive(Debug, Clone)]
pub struct NewJob {
    pub id: ExportJobId,
    pub format: String,
    pub destination: String,
    pub path: String,
    pub filter: JobFilter,
    /// Positions; the end is exclusive.
    pub first: u64,
    pub until: u64,
    pub lenient: bool,
}

#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Job {
    pub export_job_id: Uuid,
    pub state: String,
    pub format: String,
    pub destination: String,
    pub path: String,
    pub filter: Json<JobFilter>,
    pub first: i64,
    pub position: i64,
    pub until: i64,
    pub lenient: bool,
    pub rows: i64,
    pub bytes: i64,
    pub parts: i32,
    pub error: Option<String>,
    pub created_at: DateTime<Utc>,
    pub started_at: Option<DateTime<Utc>>,
    pub finished_at: Option<DateTime<Utc>>,
}

#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Part {
    pub number: i32,
    pub name: String,
    pub rows: i64,
    pub bytes: i64,
    pub sha256: Vec<u8>,
}

/// A job in the hands of a runner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    pub tenant: TenantId,
    pub job: ExportJobId,
    pub runner: Uuid,
}

const COLUMNS: &str =
    "SELECT export_job_id, state, format, destination, path, filter, first, position, until, lenient, rows, bytes,
    parts, error, created_at, started_at, finished_at FROM export_jobs";

/// # Errors
/// [`StoreError::Conflict`] when the tenant has [`MAX_OPEN`] jobs under way.
pub async fn create(change: &mut Change, job: &NewJob) -> StoreResult<Job> {
    // Two at once do not both find the last place free.
    sqlx::query("SELECT FROM tenants WHERE tenant_id = $1 FOR NO KEY UPDATE")
        .bind(change.tenant.uuid())
        .execute(&mut *change.tx)
        .await?;
    let open = sqlx::query_scalar("SELECT count(*) FROM export_jobs WHERE tenant_id = $1 AND state IN ('queued', 'running')");
    let open: i64 = open.bind(change.tenant.uuid()).fetch_one(&mut *change.tx).await?;
    if open >= MAX_OPEN {
        return Err(StoreError::Conflict(format!("{MAX_OPEN} export jobs are under way; wait for one, or cancel it")));
    }
    let position = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let insert = sqlx::query(
        "INSERT INTO export_jobs (tenant_id, export_job_id, format, destination, path, filter, first, position, until, lenient, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $7, $8, $9, $10)",
    );
    let insert = insert.bind(change.tenant.uuid()).bind(job.id.uuid()).bind(&job.format).bind(&job.destination).bind(&job.path);
    let insert = insert.bind(Json(&job.filter)).bind(position(job.first)).bind(position(job.until)).bind(job.lenient);
    insert.bind(change.now).execute(&mut *change.tx).await?;
    read(&mut change.tx, change.tenant, job.id, "").await
}

/// Newest first.
///
/// # Errors
/// When the database does not answer.
pub async fn list(store: &Store, tenant: TenantId, page: PageRequest) -> StoreResult<Page<Job>> {
    let mut query = sqlx::QueryBuilder::new(COLUMNS);
    query.push(" WHERE tenant_id = ").push_bind(tenant.uuid());
    if let Some(after) = page.after {
        query.push(" AND export_job_id < ").push_bind(after);
    }
    query.push(" ORDER BY export_job_id DESC LIMIT ").push_bind(page.fetch());
    let mut tx = store.tenant(tenant).await?;
    let rows = query.build_query_as::<Job>().fetch_all(&mut *tx).await?;
    tx.commit().await?;
    Ok(page.cut(rows, |job| job.export_job_id))
}

/// A job and its parts.
///
/// # Errors
/// [`StoreError::NotFound`].
pub async fn get(store: &Store, tenant: TenantId, job: ExportJobId) -> StoreResult<(Job, Vec<Part>)> {
    let mut tx = store.tenant_snapshot(tenant).await?;
    let found = read(&mut tx, tenant, job, "").await?;
    let parts = sqlx::query_as::<_, Part>(
        "SELECT number, name, rows, bytes, sha256 FROM export_parts WHERE tenant_id = $1 AND export_job_id = $2 ORDER BY number",
    );
    let parts = parts.bind(tenant.uuid()).bind(job.uuid()).fetch_all(&mut *tx).await?;
    tx.commit().await?;
    Ok((found, parts))
}

async fn read(tx: &mut Tx, tenant: TenantId, job: ExportJobId, lock: &'static str) -> StoreResult<Job> {
    let mut query = sqlx::QueryBuilder::new(COLUMNS);
    query.push(" WHERE tenant_id = ").push_bind(tenant.uuid()).push(" AND export_job_id = ").push_bind(job.uuid()).push(lock);
    Ok(query.build_query_as::<Job>().fetch_one(&mut **tx).await?)
}

/// End a job that has not ended. Its runner finds out within seconds; parts that are whole stay where they are.
///
/// # Errors
/// [`StoreError::NotFound`]; [`StoreError::Conflict`] when it has ended.
pub async fn cancel(change: &mut Change, job: ExportJobId) -> StoreResult<Job> {
    let found = read(&mut change.tx, change.tenant, job, " FOR UPDATE").await?;
    if !matches!(found.state.as_str(), "queued" | "running") {
        return Err(StoreError::Conflict(format!("the job has ended: it is {}", found.state)));
    }
    let update = sqlx::query(
        "UPDATE export_jobs SET state = 'cancelled', finished_at = $3, runner_id = NULL WHERE tenant_id = $1 AND export_job_id = $2",
    );
    update.bind(change.tenant.uuid()).bind(job.uuid()).bind(change.now).execute(&mut *change.tx).await?;
    read(&mut change.tx, change.tenant, job, "").await
}

// ---------------------------------------------------------------- what a runner does

/// Take the oldest job that waits, or whose runner has said nothing since `silent_since`.
///
/// # Errors
/// When the database does not answer.
pub async fn take(store: &Store, runner: Uuid, now: DateTime<Utc>, silent_since: DateTime<Utc>) -> StoreResult<Option<Taken>> {
    let mut tx = store.control().await?;
    let taken = sqlx::query_as::<_, (Uuid, Uuid)>(
        "UPDATE export_jobs j SET state = 'running', runner_id = $1, heartbeat_at = $2, started_at = COALESCE(j.started_at, $2)
         FROM (SELECT tenant_id, export_job_id FROM export_jobs
               WHERE state IN ('queued', 'running') AND (state = 'queued' OR heartbeat_at < $3)
               ORDER BY created_at LIMIT 1 FOR UPDATE SKIP LOCKED) n
         WHERE j.tenant_id = n.tenant_id AND j.export_job_id = n.export_job_id RETURNING j.tenant_id, j.export_job_id",
    );
    let taken = taken.bind(runner).bind(now).bind(silent_since).fetch_optional(&mut *tx).await?;
    tx.commit().await?;
    Ok(taken.map(|(tenant, job)| Taken { tenant: tenant.into(), job: job.into(), runner }))
}

/// Say that the runner is still at it; `false` when the job is no longer its own.
///
/// # Errors
/// When the database does not answer.
pub async fn beat(store: &Store, taken: Taken, now: DateTime<Utc>) -> StoreResult<bool> {
    let mut tx = store.tenant(taken.tenant).await?;
    let query = own("UPDATE export_jobs SET heartbeat_at = ", &taken, |query| {
        query.push_bind(now);
    });
    finish(tx_done(&mut tx, query).await?, tx).await
}

/// Say how far the part has come that is being written; `false`: see [`beat`].
///
/// # Errors
/// When the database does not answer.
pub async fn advance(store: &Store, taken: Taken, position: u64, now: DateTime<Utc>) -> StoreResult<bool> {
    let mut tx = store.tenant(taken.tenant).await?;
    let query = own("UPDATE export_jobs SET heartbeat_at = ", &taken, |query| {
        query.push_bind(now).push(", position = ").push_bind(i64::try_from(position).unwrap_or(i64::MAX));
    });
    finish(tx_done(&mut tx, query).await?, tx).await
}

/// A part is whole: it and the place behind it are kept in one transaction. `false`: see [`beat`].
///
/// # Errors
/// When the database does not answer.
pub async fn keep_part(store: &Store, taken: Taken, part: &Part, position: u64, now: DateTime<Utc>) -> StoreResult<bool> {
    let mut tx = store.tenant(taken.tenant).await?;
    let query = own("UPDATE export_jobs SET parts = ", &taken, |query| {
        query
            .push_bind(part.number)
            .push(", rows = rows + ")
            .push_bind(part.rows)
            .push(", bytes = bytes + ")
            .push_bind(part.bytes);
        query
            .push(", position = ")
            .push_bind(i64::try_from(position).unwrap_or(i64::MAX))
            .push(", heartbeat_at = ")
            .push_bind(now);
    });
    if !tx_done(&mut tx, query).await? {
        return Ok(false);
    }
    let insert = sqlx::query(
        "INSERT INTO export_parts (tenant_id, export_job_id, number, name, rows, bytes, sha256) VALUES ($1, $2, $3, $4, $5, $6, $7)",
    );
    let insert = insert.bind(taken.tenant.uuid()).bind(taken.job.uuid()).bind(part.number).bind(&part.name);
    insert.bind(part.rows).bind(part.bytes).bind(&part.sha256).execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(true)
}

/// How a runner leaves a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Left {
    Done,
    /// With a sentence for the tenant.
    Failed(String),
    /// The process ends: the next runner may go on at once.
    Queued,
}

/// Leave a job; `false`: see [`beat`].
///
/// # Errors
/// When the database does not answer.
pub async fn leave(store: &Store, taken: Taken, left: &Left, now: DateTime<Utc>) -> StoreResult<bool> {
    let (state, error, finished) = match left {
        Left::Done => ("done", None, Some(now)),
        Left::Failed(error) => ("failed", Some(error.as_str()), Some(now)),
        Left::Queued => ("queued", None, None),
    };
    let mut tx = store.tenant(taken.tenant).await?;
    let query = own("UPDATE export_jobs SET state = ", &taken, |query| {
        query.push_bind(state).push(", error = ").push_bind(error).push(", finished_at = ").push_bind(finished);
        // The last part ends before what no longer matched.
        query.push(", position = CASE WHEN ").push_bind(state == "done").push(" THEN until ELSE position END, runner_id = NULL");
    });
    finish(tx_done(&mut tx, query).await?, tx).await
}

type Query<'a> = sqlx::QueryBuilder<sqlx::Postgres>;

/// An update of the job, if it still is this runner's.
fn own<'a>(update: &'static str, taken: &Taken, set: impl FnOnce(&mut Query<'a>)) -> Query<'a> {
    let mut query = sqlx::QueryBuilder::new(update);
    set(&mut query);
    query.push(" WHERE tenant_id = ").push_bind(taken.tenant.uuid()).push(" AND export_job_id = ").push_bind(taken.job.uuid());
    query.push(" AND state = 'running' AND runner_id = ").push_bind(taken.runner);
    query
}

async fn tx_done(tx: &mut Tx, mut query: Query<'_>) -> StoreResult<bool> {
    Ok(query.build().execute(&mut **tx).await?.rows_affected() == 1)
}

async fn finish(own: bool, tx: Tx) -> StoreResult<bool> {
    tx.commit().await?;
    Ok(own)
}
