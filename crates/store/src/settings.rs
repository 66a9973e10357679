//! What a tenant decides about its audit trail, and the same as the call path uses it.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::Value;
use tollgate_domain::{Durability, TenantId};

use crate::{
    change::Change,
    error::{StoreError, StoreResult},
    payload::Payload,
    tx::Tx,
};

/// As an admin reads and writes it. A tenant that has never changed anything has the default.
#[derive(Debug, Clone)]
pub struct AuditSettings {
    pub durability: Durability,
    /// Larger payloads leave their hash alone; `None`: whatever the gateway lets through.
    pub payload_limit_bytes: Option<i32>,
    pub redaction: Value,
    /// `None`: for ever.
    pub retention_days: Option<i32>,
    pub legal_hold: bool,
    pub updated_at: DateTime<Utc>,
    /// 0 before the first change.
    pub version: i32,
}

struct Row {
    durability: String,
    payload_limit_bytes: Option<i32>,
    redaction: Value,
    retention_days: Option<i32>,
    legal_hold: bool,
    updated_at: DateTime<Utc>,
    version: i32,
}

impl TryFrom<Row> for AuditSettings {
    type Error = StoreError;
    fn try_from(row: Row) -> StoreResult<Self> {
        Ok(Self {
            durability: row.durability.parse().map_err(|e| StoreError::Corrupt(format!("durability: {e}")))?,
            payload_limit_bytes: row.payload_limit_bytes,
            redaction: row.redaction,
            retention_days: row.retention_days,
            legal_hold: row.legal_hold,
            updated_at: row.updated_at,
            version: row.version,
        })
    }
}

impl Default for AuditSettings {
    fn default() -> Self {
        Self {
            durability: Durability::Strict,
            payload_limit_bytes: None,
            redaction: Value::Object(serde_json::Map::new()),
            retention_days: None,
            legal_hold: false,
            updated_at: DateTime::UNIX_EPOCH,
            version: 0,
        }
    }
}

/// # Errors
/// When the database does not answer.
pub async fn get(tx: &mut Tx, tenant: TenantId) -> StoreResult<AuditSettings> {
    let row = sqlx::query_as!(
        Row,
        "SELECT durability, payload_limit_bytes, redaction, retention_days, legal_hold, updated_at, version
         FROM audit_settings WHERE tenant_id = $1",
        tenant.uuid(),
    );
    row.fetch_optional(&mut **tx).await?.map_or_else(|| Ok(AuditSettings::default()), TryFrom::try_from)
}

/// [`get`], with the tenant locked until the change ends.
///
/// # Errors
/// When the database does not answer.
pub async fn lock(change: &mut Change) -> StoreResult<AuditSettings> {
    sqlx::query!("SELECT tenant_id FROM tenants WHERE tenant_id = $1 FOR UPDATE", change.tenant.uuid())
        .fetch_one(&mut *change.tx)
        .await?;
    get(&mut change.tx, change.tenant).await
}

/// Write the settings as a whole; their version and time are made here.
///
/// # Errors
/// When the database does not answer.
pub async fn put(change: &mut Change, mut settings: AuditSettings) -> StoreResult<AuditSettings> {
    settings.version += 1;
    settings.updated_at = change.now;
    sqlx::query!(
        "INSERT INTO audit_settings (tenant_id, durability, payload_limit_bytes, redaction, retention_days, legal_hold, updated_at, version)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
         ON CONFLICT (tenant_id) DO UPDATE SET durability = $2, payload_limit_bytes = $3, redaction = $4, retention_days = $5,
           legal_hold = $6, updated_at = $7, version = $8",
        change.tenant.uuid(),
        settings.durability.as_str(),
        settings.payload_limit_bytes,
        settings.redaction,
        settings.retention_days,
        settings.legal_hold,
        settings.updated_at,
        settings.version,
    )
    .execute(&mut *change.tx)
    .await?;
    Ok(settings)
}

/// What happens to payloads on their way into the trail, and when answers are released.
#[derive(Debug)]
pub struct TrailPolicy {
    pub durability: Durability,
    limit: usize,
}

impl TrailPolicy {
    pub(crate) fn new(settings: &AuditSettings) -> StoreResult<Self> {
        let limit = settings.payload_limit_bytes.map_or(usize::MAX, |bytes| usize::try_from(bytes).unwrap_or(0));
        Ok(Self { durability: settings.durability, limit })
    }

    /// A payload that is JSON text.
    #[must_use]
    pub fn payload(&self, bytes: impl Into<Arc<[u8]>>) -> Payload {
        self.within(Payload::whole(bytes))
    }

    /// A payload that is plain text.
    #[must_use]
    pub fn text(&self, text: &str) -> Payload {
        self.within(Payload::whole(text.as_bytes().to_vec()))
    }

    fn within(&self, payload: Payload) -> Payload {
        let fits = payload.stored().is_none_or(|stored| stored.len() <= self.limit);
        if fits { payload } else { payload.without_copy() }
    }
}
