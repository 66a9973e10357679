//! Limits of a tenant's scripts, below those of the installation.

use chrono::{DateTime, Utc};
use sqlx::{Row, postgres::PgRow};
use tollgate_domain::TenantId;

use crate::{change::Change, error::StoreResult, tx::Tx};

/// As an admin reads and writes it; `None`: as the installation has it. A tenant that has never changed anything has the default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScriptLimits {
    pub wall_seconds: Option<i64>,
    pub step_milliseconds: Option<i64>,
    pub heap_bytes: Option<i64>,
    pub ticks: Option<i64>,
    pub calls: Option<i64>,
    pub log_bytes: Option<i64>,
    pub result_bytes: Option<i64>,
    pub answer_chars: Option<i64>,
    pub updated_at: Option<DateTime<Utc>>,
    /// 0 before the first change.
    pub version: i32,
}

/// # Errors
/// When the database does not answer.
pub async fn get(tx: &mut Tx, tenant: TenantId) -> StoreResult<ScriptLimits> {
    let row =
        sqlx::query("SELECT * FROM script_limits WHERE tenant_id = $1").bind(tenant.uuid()).fetch_optional(&mut **tx).await?;
    row.as_ref().map_or_else(|| Ok(ScriptLimits::default()), read)
}

/// [`get`], with the tenant locked until the change ends.
///
/// # Errors
/// When the database does not answer.
pub async fn lock(change: &mut Change) -> StoreResult<ScriptLimits> {
    sqlx::query("SELECT tenant_id FROM tenants WHERE tenant_id = $1 FOR UPDATE")
        .bind(change.tenant.uuid())
        .fetch_one(&mut *change.tx)
        .await?;
    get(&mut change.tx, change.tenant).await
}

/// Write the limits as a whole; their version and time are made here.
///
/// # Errors
/// When the database does not answer.
pub async fn put(change: &mut Change, limits: ScriptLimits) -> StoreResult<ScriptLimits> {
    let limits = ScriptLimits { version: limits.version + 1, updated_at: Some(change.now), ..limits };
    sqlx::query(
        "INSERT INTO script_limits (tenant_id, wall_seconds, step_milliseconds, heap_bytes, ticks, calls, log_bytes, result_bytes,
                                    answer_chars, updated_at, version)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
         ON CONFLICT (tenant_id) DO UPDATE SET wall_seconds = $2, step_milliseconds = $3, heap_bytes = $4, ticks = $5, calls = $6,
           log_bytes = $7, result_bytes = $8, answer_chars = $9, updated_at = $10, version = $11",
    )
    .bind(change.tenant.uuid())
    .bind(limits.wall_seconds)
    .bind(limits.step_milliseconds)
    .bind(limits.heap_bytes)
    .bind(limits.ticks)
    .bind(limits.calls)
    .bind(limits.log_bytes)
    .bind(limits.result_bytes)
    .bind(limits.answer_chars)
    .bind(limits.updated_at)
    .bind(limits.version)
    .execute(&mut *change.tx)
    .await?;
    Ok(limits)
}

fn read(row: &PgRow) -> StoreResult<ScriptLimits> {
    Ok(ScriptLimits {
        wall_seconds: row.try_get("wall_seconds")?,
        step_milliseconds: row.try_get("step_milliseconds")?,
        heap_bytes: row.try_get("heap_bytes")?,
        ticks: row.try_get("ticks")?,
        calls: row.try_get("calls")?,
        log_bytes: row.try_get("log_bytes")?,
        result_bytes: row.try_get("result_bytes")?,
        answer_chars: row.try_get("answer_chars")?,
        updated_at: row.try_get("updated_at")?,
        version: row.try_get("version")?,
    })
}
