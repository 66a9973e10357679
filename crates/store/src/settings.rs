//! What a tenant decides about its audit trail, and the same as the call path uses it.

use std::{fmt, sync::Arc};

use chrono::{DateTime, Utc};
use serde_json::Value;
use tollgate_domain::{Durability, Redacted, RedactionRules, Redactor, TenantId, redact::MARKER};

use crate::{
    change::Change,
    error::{StoreError, StoreResult},
    locks::PARTITIONS,
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

/// [`get`], with the tenant locked until the change ends. A month that is being dropped is dropped first: a legal hold that
/// has been acknowledged is seen by every drop that comes after it.
///
/// # Errors
/// When the database does not answer.
pub async fn lock(change: &mut Change) -> StoreResult<AuditSettings> {
    sqlx::query("SELECT pg_advisory_xact_lock_shared($1)").bind(PARTITIONS).execute(&mut *change.tx).await?;
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

/// Documents up to this size are redacted where they are: that takes less time than handing them to another thread.
const INLINE: usize = 64 << 10;

/// What happens to payloads on their way into the trail, and when answers are released.
pub struct TrailPolicy {
    pub durability: Durability,
    limit: usize,
    /// As stored: what is equal need not be compiled again.
    redaction: Value,
    rules: Rules,
}

#[derive(Debug, Clone)]
enum Rules {
    None,
    Of(Redactor),
    /// Nobody can tell what they would have taken out, so nothing is kept.
    Unusable,
}

impl Rules {
    fn compile(redaction: &Value) -> Self {
        let rules = serde_json::from_value::<RedactionRules>(redaction.clone()).map_err(|e| e.to_string());
        match rules.and_then(|rules| Redactor::new(&rules).map_err(|errors| format!("{errors:?}"))) {
            Ok(redactor) if redactor.is_empty() => Self::None,
            Ok(redactor) => Self::Of(redactor),
            Err(error) => {
                tracing::error!(error, "redaction rules cannot be read; payloads are not kept until they are written anew");
                Self::Unusable
            }
        }
    }
}

/// Without the rules as they were written: a pattern may spell what it protects.
impl fmt::Debug for TrailPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrailPolicy({}, {} bytes, {:?})", self.durability, self.limit, self.rules)
    }
}

impl TrailPolicy {
    /// The rules of `before` are taken over where they are the same: compiling them takes milliseconds.
    #[must_use]
    pub fn new(settings: &AuditSettings, before: Option<&Self>) -> Self {
        let limit = settings.payload_limit_bytes.map_or(usize::MAX, |bytes| usize::try_from(bytes).unwrap_or(0));
        let rules = match before {
            Some(before) if before.redaction == settings.redaction => before.rules.clone(),
            _ => Rules::compile(&settings.redaction),
        };
        Self { durability: settings.durability, limit, redaction: settings.redaction.clone(), rules }
    }

    /// A payload that is JSON text.
    pub async fn payload(&self, bytes: impl Into<Arc<[u8]>>) -> Payload {
        self.kept(bytes.into(), |redactor, bytes| redactor.redact_json(bytes)).await
    }

    /// A payload that is plain text.
    pub async fn text(&self, text: &str) -> Payload {
        let redact = |redactor: &Redactor, bytes: &[u8]| {
            let copy = redactor.redact_text(&String::from_utf8_lossy(bytes));
            copy.map_or(Redacted::Unchanged, |copy| Redacted::Changed(copy.into_bytes()))
        };
        self.kept(text.as_bytes().into(), redact).await
    }

    /// Words that stand in a row itself and that somebody else has chosen: a client's name, an unknown tool's.
    pub async fn words(&self, text: String) -> String {
        match &self.rules {
            Rules::None => text,
            Rules::Unusable => MARKER.to_owned(),
            Rules::Of(redactor) => {
                let redactor = redactor.clone();
                let size = text.len();
                off_thread(size, move || redactor.redact_text(&text).unwrap_or(text)).await.unwrap_or_else(|| MARKER.to_owned())
            }
        }
    }

    /// [`Self::words`] of an upstream, which stand in place of a result and are no larger than one may be.
    pub async fn message(&self, text: &str) -> String {
        let text = self.words(text.to_owned()).await;
        if text.len() <= self.limit { text } else { "[omitted]".to_owned() }
    }

    async fn kept(&self, original: Arc<[u8]>, redact: fn(&Redactor, &[u8]) -> Redacted) -> Payload {
        let payload = match &self.rules {
            Rules::None => Payload::whole(original),
            Rules::Unusable => Payload::omitted(original),
            Rules::Of(redactor) => {
                let (redactor, bytes) = (redactor.clone(), Arc::clone(&original));
                match off_thread(original.len(), move || redact(&redactor, &bytes)).await {
                    Some(Redacted::Unchanged) => Payload::whole(original),
                    Some(Redacted::Changed(copy)) => Payload::redacted(original, copy),
                    Some(Redacted::Unreadable) | None => Payload::omitted(original),
                }
            }
        };
        let fits = payload.stored().is_none_or(|stored| stored.len() <= self.limit);
        if fits { payload } else { payload.without_copy() }
    }
}

/// Work whose time goes with `size`: here, or where it holds up nobody. `None` when it could not be done.
async fn off_thread<T: Send + 'static>(size: usize, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    if size <= INLINE {
        return Some(work());
    }
    let done = tokio::task::spawn_blocking(work).await;
    done.inspect_err(|error| tracing::error!(%error, "a payload could not be redacted and is not kept")).ok()
}
