//! Upstreams as admins keep them, and what the workers see of them.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tollgate_domain::{
    TenantId, UpstreamId,
    tool::{Binding, Exposure, UpstreamState},
};
use uuid::Uuid;

use crate::{
    change::Change,
    error::{StoreError, StoreResult, word},
    page::{Page, PageRequest},
    tx::{Store, Tx},
};

/// A worker's word on an upstream counts for this long.
pub const FRESH: TimeDelta = TimeDelta::seconds(30);

/// How an upstream is reached, as the row keeps it. Header values are sealed beside it; their names are no secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Transport {
    /// A program that the operator's configuration lists.
    Stdio { program: String },
    Http {
        url: String,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        headers: Vec<String>,
    },
}

#[derive(Debug, Clone)]
pub struct NewUpstream {
    pub id: UpstreamId,
    pub name: String,
    pub description: Option<String>,
    pub transport: Transport,
    pub sealed_headers: Option<Vec<u8>>,
    pub exposure: Exposure,
    pub binding: Binding,
    pub timeout_ms: i32,
    pub sync_interval_s: i32,
    /// `auto` or `review`
    pub tool_approval: &'static str,
}

/// `None` leaves a field as it is.
#[derive(Debug, Clone, Default)]
pub struct UpstreamPatch {
    pub description: Option<Option<String>>,
    /// With the sealed header values that belong to it.
    pub transport: Option<(Transport, Option<Vec<u8>>)>,
    pub exposure: Option<Exposure>,
    pub binding: Option<Binding>,
    pub timeout_ms: Option<i32>,
    pub sync_interval_s: Option<i32>,
    pub tool_approval: Option<&'static str>,
}

#[derive(Debug, Clone)]
pub struct UpstreamRow {
    pub id: UpstreamId,
    pub name: String,
    pub description: Option<String>,
    pub transport: Transport,
    pub sealed_headers: Option<Vec<u8>>,
    pub exposure: Exposure,
    pub binding: Binding,
    pub timeout_ms: i32,
    pub sync_interval_s: i32,
    pub tool_approval: String,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub version: i32,
    pub discovered_at: Option<DateTime<Utc>>,
    /// The best of what the workers saw lately.
    pub state: UpstreamState,
    pub error: Option<String>,
    /// Name, version and protocol of the peer.
    pub server: Option<Value>,
    pub checked_at: Option<DateTime<Utc>>,
    pub tools_approved: i64,
    pub tools_quarantined: i64,
}

/// Insert an upstream.
///
/// # Errors
/// [`StoreError::Conflict`] when the name is taken.
pub async fn create(change: &mut Change, new: &NewUpstream) -> StoreResult<()> {
    sqlx::query!(
        "INSERT INTO upstreams (tenant_id, upstream_id, name, description, transport, sealed_headers, exposure, binding,
                                timeout_ms, sync_interval_s, tool_approval, created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $12)",
        change.tenant.uuid(),
        new.id.uuid(),
        new.name,
        new.description,
        transport_json(&new.transport)?,
        new.sealed_headers,
        new.exposure.as_str(),
        new.binding.as_str(),
        new.timeout_ms,
        new.sync_interval_s,
        new.tool_approval,
        change.now,
    )
    .execute(&mut *change.tx)
    .await
    .map_err(|e| StoreError::from(e).taken("an upstream of this name already exists"))?;
    let detail = json!({"name": new.name, "transport": new.transport, "exposure": new.exposure});
    change.event("upstream.create", &new.id, detail).await
}

/// One upstream.
///
/// # Errors
/// [`StoreError::NotFound`] for one that does not exist or is deleted.
pub async fn get(tx: &mut Tx, tenant: TenantId, id: UpstreamId, now: DateTime<Utc>) -> StoreResult<UpstreamRow> {
    select(tx, tenant, Some(id.uuid()), None, 1, now).await?.pop().ok_or(StoreError::NotFound)
}

/// A page of upstreams, oldest first.
///
/// # Errors
/// When the database does not answer.
pub async fn list(tx: &mut Tx, tenant: TenantId, page: PageRequest, now: DateTime<Utc>) -> StoreResult<Page<UpstreamRow>> {
    let rows = select(tx, tenant, None, page.after, page.fetch(), now).await?;
    Ok(page.cut(rows, |row| row.id.uuid()))
}

async fn select(
    tx: &mut Tx,
    tenant: TenantId,
    one: Option<Uuid>,
    after: Option<Uuid>,
    limit: i64,
    now: DateTime<Utc>,
) -> StoreResult<Vec<UpstreamRow>> {
    let rows = sqlx::query!(
        r#"SELECT u.upstream_id, u.name, u.description, u.transport, u.sealed_headers, u.exposure, u.binding, u.timeout_ms,
                  u.sync_interval_s, u.tool_approval, u.created_at, u.updated_at, u.version, u.discovered_at,
                  s.state AS "state?", s.error AS "error?", s.server AS "server?", s.checked_at AS "checked_at?",
                  t.approved AS "approved!", t.quarantined AS "quarantined!"
           FROM upstreams u
           LEFT JOIN LATERAL (
             SELECT state, error, server, checked_at FROM upstream_status
             WHERE tenant_id = u.tenant_id AND upstream_id = u.upstream_id AND checked_at > $5
             ORDER BY array_position(ARRAY['connected', 'connecting', 'error', 'disconnected'], state), checked_at DESC LIMIT 1
           ) s ON true
           LEFT JOIN LATERAL (
             SELECT count(*) FILTER (WHERE status = 'approved') AS approved,
                    count(*) FILTER (WHERE status = 'quarantined') AS quarantined
             FROM tools WHERE tenant_id = u.tenant_id AND upstream_id = u.upstream_id AND removed_at IS NULL
           ) t ON true
           WHERE u.tenant_id = $1 AND u.deleted_at IS NULL AND ($2::uuid IS NULL OR u.upstream_id = $2)
             AND ($3::uuid IS NULL OR u.upstream_id > $3)
           ORDER BY u.upstream_id LIMIT $4"#,
        tenant.uuid(),
        one,
        after,
        limit,
        now - FRESH,
    )
    .fetch_all(&mut **tx)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(UpstreamRow {
                id: row.upstream_id.into(),
                name: row.name,
                description: row.description,
                transport: serde_json::from_value(row.transport).map_err(|e| StoreError::Corrupt(format!("transport: {e}")))?,
                sealed_headers: row.sealed_headers,
                exposure: word(&row.exposure)?,
                binding: word(&row.binding)?,
                timeout_ms: row.timeout_ms,
                sync_interval_s: row.sync_interval_s,
                tool_approval: row.tool_approval,
                created_at: row.created_at,
                updated_at: row.updated_at,
                version: row.version,
                discovered_at: row.discovered_at,
                state: match row.state {
                    Some(state) => word(&state)?,
                    // No worker has spoken lately: it never was reached, or all workers are away.
                    None if row.discovered_at.is_none() => UpstreamState::Connecting,
                    None => UpstreamState::Disconnected,
                },
                error: row.error,
                server: row.server,
                checked_at: row.checked_at,
                tools_approved: row.approved,
                tools_quarantined: row.quarantined,
            })
        })
        .collect()
}

/// What the values of an upstream's headers are sealed for. The plain text is a JSON object of names and values.
#[must_use]
pub fn headers_purpose(id: UpstreamId) -> String {
    format!("upstream/headers/{id}")
}

fn transport_json(transport: &Transport) -> StoreResult<Value> {
    serde_json::to_value(transport).map_err(|e| StoreError::Corrupt(format!("transport: {e}")))
}

/// Lock an upstream for a change and return it.
///
/// # Errors
/// [`StoreError::NotFound`].
pub async fn lock(change: &mut Change, id: UpstreamId) -> StoreResult<UpstreamRow> {
    sqlx::query_scalar!(
        "SELECT version FROM upstreams WHERE tenant_id = $1 AND upstream_id = $2 AND deleted_at IS NULL FOR UPDATE",
        change.tenant.uuid(),
        id.uuid(),
    )
    .fetch_optional(&mut *change.tx)
    .await?
    .ok_or(StoreError::NotFound)?;
    get(&mut change.tx, change.tenant, id, change.now).await
}

/// Change an upstream that [`lock`] has locked.
///
/// # Errors
/// When the database refuses.
pub async fn update(change: &mut Change, id: UpstreamId, patch: &UpstreamPatch) -> StoreResult<()> {
    let (transport, sealed) = match &patch.transport {
        Some((transport, sealed)) => (Some(transport_json(transport)?), sealed.as_deref()),
        None => (None, None),
    };
    sqlx::query!(
        "UPDATE upstreams SET description = CASE WHEN $3 THEN $4 ELSE description END,
           sealed_headers = CASE WHEN $5::jsonb IS NOT NULL THEN $6 ELSE sealed_headers END,
           transport = COALESCE($5, transport), exposure = COALESCE($7, exposure), binding = COALESCE($8, binding),
           timeout_ms = COALESCE($9, timeout_ms), sync_interval_s = COALESCE($10, sync_interval_s),
           tool_approval = COALESCE($11, tool_approval), updated_at = $12, version = version + 1
         WHERE tenant_id = $1 AND upstream_id = $2",
        change.tenant.uuid(),
        id.uuid(),
        patch.description.is_some(),
        patch.description.clone().flatten(),
        transport,
        sealed,
        patch.exposure.map(Exposure::as_str),
        patch.binding.map(Binding::as_str),
        patch.timeout_ms,
        patch.sync_interval_s,
        patch.tool_approval,
        change.now,
    )
    .execute(&mut *change.tx)
    .await?;
    let detail = json!({
        "description": patch.description, "transport": patch.transport.as_ref().map(|t| &t.0), "exposure": patch.exposure,
        "binding": patch.binding, "timeout_ms": patch.timeout_ms, "sync_interval_seconds": patch.sync_interval_s,
        "tool_approval": patch.tool_approval,
    });
    let detail = match detail {
        Value::Object(fields) => fields.into_iter().filter(|(_, value)| !value.is_null()).collect(),
        other => other,
    };
    change.event("upstream.update", &id, detail).await
}

/// Delete an upstream that [`lock`] has locked: its row and its tools' stay as evidence, its tools leave every scope.
///
/// # Errors
/// [`StoreError::Conflict`] while tool groups name it.
pub async fn delete(change: &mut Change, id: UpstreamId) -> StoreResult<()> {
    let groups = sqlx::query_scalar!(
        "SELECT DISTINCT g.slug FROM tool_group_tools t JOIN tool_groups g USING (tenant_id, tool_group_id)
         WHERE t.tenant_id = $1 AND t.upstream_id = $2 ORDER BY g.slug LIMIT 10",
        change.tenant.uuid(),
        id.uuid(),
    )
    .fetch_all(&mut *change.tx)
    .await?;
    if !groups.is_empty() {
        let sentence = format!("tool groups still name this upstream ({}); take it out of them first", groups.join(", "));
        return Err(StoreError::Conflict(sentence));
    }
    sqlx::query!(
        "UPDATE upstreams SET deleted_at = $3, updated_at = $3, version = version + 1, sealed_headers = NULL
         WHERE tenant_id = $1 AND upstream_id = $2",
        change.tenant.uuid(),
        id.uuid(),
        change.now,
    )
    .execute(&mut *change.tx)
    .await?;
    sqlx::query!(
        "UPDATE tools SET removed_at = $3, updated_at = $3, version = version + 1
         WHERE tenant_id = $1 AND upstream_id = $2 AND removed_at IS NULL",
        change.tenant.uuid(),
        id.uuid(),
        change.now,
    )
    .execute(&mut *change.tx)
    .await?;
    change.event("upstream.delete", &id, json!({})).await
}

/// What a newly made upstream has come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FirstContact {
    /// Its tools are there.
    Discovered,
    /// A worker could not reach it, or did not understand it.
    Failed(String),
    Waiting,
}

/// Whether a worker has discovered an upstream yet, and failing that, whether one has tried and could not.
///
/// # Errors
/// [`StoreError::NotFound`], or when the database does not answer.
pub async fn first_contact(store: &Store, tenant: TenantId, id: UpstreamId, now: DateTime<Utc>) -> StoreResult<FirstContact> {
    let mut tx = store.tenant(tenant).await?;
    let row = get(&mut tx, tenant, id, now).await?;
    tx.commit().await?;
    Ok(match (row.discovered_at, row.state) {
        (Some(_), _) => FirstContact::Discovered,
        (None, UpstreamState::Error) => FirstContact::Failed(row.error.unwrap_or_default()),
        (None, _) => FirstContact::Waiting,
    })
}
