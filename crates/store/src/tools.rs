//! Tools: what discovery finds, what admins approve, and the pin between the two.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::{Postgres, QueryBuilder, Row, postgres::PgRow};
use tollgate_domain::{
    TenantId, ToolId, UpstreamId,
    tool::{DefinitionHash, ToolStatus},
};
use uuid::Uuid;

use crate::{
    change::{Actor, Change},
    error::{StoreError, StoreResult, word},
    page::{Page, PageRequest},
    tx::{Store, Tx},
};

/// A tool as an upstream lists it at this moment.
#[derive(Debug, Clone)]
pub struct Discovered {
    pub name: String,
    /// The exact JSON text that the upstream sent.
    pub definition_text: String,
    pub sha256: DefinitionHash,
}

/// What one look at an upstream changed, as names in alphabetical order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Discovery {
    /// New, or back after it had gone.
    pub added: Vec<String>,
    pub changed: Vec<String>,
    pub removed: Vec<String>,
}

impl Discovery {
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.added.is_empty() && self.changed.is_empty() && self.removed.is_empty()
    }
}

struct Known {
    id: Uuid,
    definition: DefinitionHash,
    approved: Option<DefinitionHash>,
    status: ToolStatus,
    removed: bool,
}

/// The rows that a discovery writes, as columns for UNNEST.
#[derive(Default)]
struct Writes {
    ids: Vec<Uuid>,
    names: Vec<String>,
    statuses: Vec<&'static str>,
    hashes: Vec<Vec<u8>>,
    approved: Vec<Option<Vec<u8>>>,
    texts: Vec<String>,
}

impl Writes {
    fn push(&mut self, id: Uuid, tool: &Discovered, status: ToolStatus, approved: Option<DefinitionHash>) {
        self.ids.push(id);
        self.names.push(tool.name.clone());
        self.statuses.push(status.as_str());
        self.hashes.push(tool.sha256.0.to_vec());
        self.approved.push(approved.map(|hash| hash.0.to_vec()));
        self.texts.push(tool.definition_text.clone());
    }
}

/// Record what an upstream lists now. Several workers may do so at once: they take turns, and the second finds nothing new.
///
/// A new tool is approved where the upstream's `tool_approval` is `auto` and quarantined where it is `review`. A tool whose
/// definition is not the approved one is quarantined, and returns by itself only when the approved definition does. Of two
/// tools with one name the first counts.
///
/// # Errors
/// [`StoreError::NotFound`] for an upstream that does not exist or is deleted.
pub async fn record_discovery(
    store: &Store,
    tenant: TenantId,
    upstream: UpstreamId,
    found: Vec<Discovered>,
    now: DateTime<Utc>,
) -> StoreResult<Discovery> {
    let mut change = store.change(tenant, Actor::system("discovery"), now).await?;
    sqlx::query!("SELECT pg_advisory_xact_lock(hashtext($1))", upstream.to_string()).fetch_one(&mut *change.tx).await?;
    let row = sqlx::query!(
        "SELECT tool_approval, discovered_at FROM upstreams
         WHERE tenant_id = $1 AND upstream_id = $2 AND deleted_at IS NULL FOR NO KEY UPDATE",
        tenant.uuid(),
        upstream.uuid(),
    )
    .fetch_optional(&mut *change.tx)
    .await?
    .ok_or(StoreError::NotFound)?;
    let known = known(&mut change.tx, tenant, upstream).await?;

    let (discovery, new, altered, gone) = compare(&known, &found, row.tool_approval == "auto", now);
    if row.discovered_at.is_none() {
        sqlx::query!(
            "UPDATE upstreams SET discovered_at = $3 WHERE tenant_id = $1 AND upstream_id = $2",
            tenant.uuid(),
            upstream.uuid(),
            now,
        )
        .execute(&mut *change.tx)
        .await?;
    }
    if discovery.is_empty() {
        change.tx.commit().await?;
        return Ok(discovery);
    }
    insert(&mut change, upstream, &new).await?;
    alter(&mut change, &altered).await?;
    remove(&mut change, &gone).await?;
    versions(&mut change, &new).await?;
    versions(&mut change, &altered).await?;
    let detail = json!({"added": discovery.added, "changed": discovery.changed, "removed": discovery.removed});
    change.event("upstream.discover", &upstream, detail).await?;
    change.commit().await?;
    Ok(discovery)
}

async fn known(tx: &mut Tx, tenant: TenantId, upstream: UpstreamId) -> StoreResult<HashMap<String, Known>> {
    // Locked, so that an approval in flight either comes before this look or sees what it has found.
    let rows = sqlx::query!(
        r#"SELECT tool_id, name, status, definition_sha256, approved_sha256, removed_at IS NOT NULL AS "removed!"
           FROM tools WHERE tenant_id = $1 AND upstream_id = $2 ORDER BY tool_id FOR UPDATE"#,
        tenant.uuid(),
        upstream.uuid(),
    );
    let rows = rows.fetch_all(&mut **tx).await?;
    rows.into_iter()
        .map(|row| {
            let known = Known {
                id: row.tool_id,
                definition: hash(&row.definition_sha256)?,
                approved: row.approved_sha256.as_deref().map(hash).transpose()?,
                status: word(&row.status)?,
                removed: row.removed,
            };
            Ok((row.name, known))
        })
        .collect()
}

fn hash(bytes: &[u8]) -> StoreResult<DefinitionHash> {
    DefinitionHash::from_slice(bytes).ok_or_else(|| StoreError::Corrupt("a definition's hash is not 32 bytes".to_owned()))
}

/// What differs: for people, and as rows to insert, rows to alter and ids to mark as removed.
fn compare(
    known: &HashMap<String, Known>,
    found: &[Discovered],
    auto: bool,
    now: DateTime<Utc>,
) -> (Discovery, Writes, Writes, Vec<Uuid>) {
    let (mut discovery, mut new, mut altered) = (Discovery::default(), Writes::default(), Writes::default());
    let mut seen = HashSet::with_capacity(found.len());
    for tool in found {
        if !seen.insert(tool.name.as_str()) {
            continue;
        }
        let Some(before) = known.get(&tool.name) else {
            let approved = auto.then_some(tool.sha256);
            let status = if auto { ToolStatus::Approved } else { ToolStatus::Quarantined };
            new.push(ToolId::mint(now).uuid(), tool, status, approved);
            discovery.added.push(tool.name.clone());
            continue;
        };
        if before.definition != tool.sha256 {
            // An admin who quarantines a tool takes the pin away as well, so this never undoes what an admin did.
            let approved = before.approved == Some(tool.sha256);
            let status = if approved { ToolStatus::Approved } else { ToolStatus::Quarantined };
            altered.push(before.id, tool, status, before.approved);
            discovery.changed.push(tool.name.clone());
        } else if before.removed {
            altered.push(before.id, tool, before.status, before.approved);
            discovery.added.push(tool.name.clone());
        }
    }
    let mut gone = Vec::new();
    for (name, before) in known {
        if !before.removed && !seen.contains(name.as_str()) {
            gone.push(before.id);
            discovery.removed.push(name.clone());
        }
    }
    for names in [&mut discovery.added, &mut discovery.changed, &mut discovery.removed] {
        names.sort_unstable();
    }
    (discovery, new, altered, gone)
}

async fn insert(change: &mut Change, upstream: UpstreamId, new: &Writes) -> StoreResult<()> {
    sqlx::query!(
        "INSERT INTO tools (tenant_id, tool_id, upstream_id, name, status, definition_sha256, approved_sha256, created_at, updated_at)
         SELECT $1, n.id, $2, n.name, n.status, n.hash, n.approved, $3, $3
         FROM UNNEST($4::uuid[], $5::text[], $6::text[], $7::bytea[], $8::bytea[]) AS n(id, name, status, hash, approved)",
        change.tenant.uuid(),
        upstream.uuid(),
        change.now,
        &new.ids,
        &new.names,
        &new.statuses as &[&str],
        &new.hashes,
        &new.approved as &[Option<Vec<u8>>],
    )
    .execute(&mut *change.tx)
    .await?;
    Ok(())
}

async fn alter(change: &mut Change, altered: &Writes) -> StoreResult<()> {
    sqlx::query!(
        "UPDATE tools t SET definition_sha256 = n.hash, status = n.status, removed_at = NULL, updated_at = $2, version = version + 1
         FROM UNNEST($3::uuid[], $4::text[], $5::bytea[]) AS n(id, status, hash)
         WHERE t.tenant_id = $1 AND t.tool_id = n.id",
        change.tenant.uuid(),
        change.now,
        &altered.ids,
        &altered.statuses as &[&str],
        &altered.hashes,
    )
    .execute(&mut *change.tx)
    .await?;
    Ok(())
}

async fn remove(change: &mut Change, gone: &[Uuid]) -> StoreResult<()> {
    sqlx::query!(
        "UPDATE tools SET removed_at = $3, updated_at = $3, version = version + 1 WHERE tenant_id = $1 AND tool_id = ANY($2)",
        change.tenant.uuid(),
        gone,
        change.now,
    )
    .execute(&mut *change.tx)
    .await?;
    Ok(())
}

/// Every definition that was ever served is kept, once.
async fn versions(change: &mut Change, writes: &Writes) -> StoreResult<()> {
    sqlx::query!(
        "INSERT INTO tool_versions (tenant_id, tool_id, definition_sha256, definition, seen_at, approved_at, approved_by)
         SELECT $1, n.id, n.hash, n.definition, $2::timestamptz,
                CASE WHEN n.hash = n.approved THEN $2::timestamptz END, CASE WHEN n.hash = n.approved THEN 'discovery' END
         FROM UNNEST($3::uuid[], $4::bytea[], $5::text[], $6::bytea[]) AS n(id, hash, definition, approved)
         ON CONFLICT DO NOTHING",
        change.tenant.uuid(),
        change.now,
        &writes.ids,
        &writes.hashes,
        &writes.texts,
        &writes.approved as &[Option<Vec<u8>>],
    )
    .execute(&mut *change.tx)
    .await?;
    Ok(())
}

#[derive(Debug, Clone)]
pub struct ToolRow {
    pub id: ToolId,
    pub upstream_id: UpstreamId,
    pub upstream_name: String,
    pub name: String,
    pub status: ToolStatus,
    pub definition_sha256: DefinitionHash,
    pub approved_sha256: Option<DefinitionHash>,
    /// The definition that the upstream serves now, exactly as it sent it.
    pub definition: String,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub version: i32,
    pub removed_at: Option<DateTime<Utc>>,
}

#[derive(Debug, Clone, Default)]
pub struct ToolFilter {
    pub upstream_id: Option<UpstreamId>,
    pub status: Option<ToolStatus>,
    pub name: Option<String>,
    /// Tools that their upstream no longer lists, in place of those that it does.
    pub removed: bool,
}

/// A page of tools, oldest first.
///
/// # Errors
/// When the database does not answer.
pub async fn list(tx: &mut Tx, tenant: TenantId, filter: &ToolFilter, page: PageRequest) -> StoreResult<Page<ToolRow>> {
    let mut query = select(tenant);
    query.push(if filter.removed { " AND t.removed_at IS NOT NULL" } else { " AND t.removed_at IS NULL" });
    if let Some(upstream) = filter.upstream_id {
        query.push(" AND t.upstream_id = ").push_bind(upstream.uuid());
    }
    if let Some(status) = filter.status {
        query.push(" AND t.status = ").push_bind(status.as_str());
    }
    if let Some(name) = &filter.name {
        query.push(" AND t.name = ").push_bind(name.clone());
    }
    if let Some(after) = page.after {
        query.push(" AND t.tool_id > ").push_bind(after);
    }
    query.push(" ORDER BY t.tool_id LIMIT ").push_bind(page.fetch());
    let rows = query.build().fetch_all(&mut **tx).await?;
    let rows: Vec<ToolRow> = rows.iter().map(tool_row).collect::<StoreResult<_>>()?;
    Ok(page.cut(rows, |row| row.id.uuid()))
}

/// One tool.
///
/// # Errors
/// [`StoreError::NotFound`].
pub async fn get(tx: &mut Tx, tenant: TenantId, id: ToolId) -> StoreResult<ToolRow> {
    let mut query = select(tenant);
    query.push(" AND t.tool_id = ").push_bind(id.uuid());
    tool_row(&query.build().fetch_one(&mut **tx).await?)
}

fn select(tenant: TenantId) -> QueryBuilder<Postgres> {
    let mut query = QueryBuilder::new(
        "SELECT t.tool_id, t.upstream_id, u.name AS upstream_name, t.name, t.status, t.definition_sha256, t.approved_sha256,
                v.definition, t.created_at, t.updated_at, t.version, t.removed_at
         FROM tools t
         JOIN upstreams u ON u.tenant_id = t.tenant_id AND u.upstream_id = t.upstream_id
         JOIN tool_versions v
           ON v.tenant_id = t.tenant_id AND v.tool_id = t.tool_id AND v.definition_sha256 = t.definition_sha256
         WHERE t.tenant_id = ",
    );
    query.push_bind(tenant.uuid());
    query
}

fn tool_row(row: &PgRow) -> StoreResult<ToolRow> {
    let approved: Option<Vec<u8>> = row.try_get("approved_sha256")?;
    Ok(ToolRow {
        id: row.try_get::<Uuid, _>("tool_id")?.into(),
        upstream_id: row.try_get::<Uuid, _>("upstream_id")?.into(),
        upstream_name: row.try_get("upstream_name")?,
        name: row.try_get("name")?,
        status: word(row.try_get("status")?)?,
        definition_sha256: hash(row.try_get("definition_sha256")?)?,
        approved_sha256: approved.as_deref().map(hash).transpose()?,
        definition: row.try_get("definition")?,
        created_at: row.try_get("created_at")?,
        updated_at: row.try_get("updated_at")?,
        version: row.try_get("version")?,
        removed_at: row.try_get("removed_at")?,
    })
}

/// The exact text of one of a tool's definitions, past ones included.
///
/// # Errors
/// [`StoreError::NotFound`].
pub async fn definition(tx: &mut Tx, tenant: TenantId, id: ToolId, hash: DefinitionHash) -> StoreResult<String> {
    let text = sqlx::query_scalar!(
        "SELECT definition FROM tool_versions WHERE tenant_id = $1 AND tool_id = $2 AND definition_sha256 = $3",
        tenant.uuid(),
        id.uuid(),
        &hash.0,
    );
    Ok(text.fetch_one(&mut **tx).await?)
}

/// Approve the definition that the admin has read, which must still be the one that the upstream serves.
///
/// # Errors
/// [`StoreError::NotFound`], or [`StoreError::Conflict`] when the upstream serves another definition by now.
pub async fn approve(change: &mut Change, id: ToolId, read: DefinitionHash) -> StoreResult<()> {
    let tool = lock(change, id).await?;
    if tool.definition != read {
        let sentence =
            format!("the upstream serves another definition by now ({}); read it before you approve it", tool.definition);
        return Err(StoreError::Conflict(sentence));
    }
    if tool.status == ToolStatus::Approved && tool.approved == Some(read) {
        return Ok(());
    }
    sqlx::query!(
        "UPDATE tools SET status = 'approved', approved_sha256 = definition_sha256, updated_at = $3, version = version + 1
         WHERE tenant_id = $1 AND tool_id = $2",
        change.tenant.uuid(),
        id.uuid(),
        change.now,
    )
    .execute(&mut *change.tx)
    .await?;
    sqlx::query!(
        "UPDATE tool_versions SET approved_at = $4, approved_by = $5
         WHERE tenant_id = $1 AND tool_id = $2 AND definition_sha256 = $3",
        change.tenant.uuid(),
        id.uuid(),
        &read.0,
        change.now,
        change.actor.id,
    )
    .execute(&mut *change.tx)
    .await?;
    let before = tool.approved.map(|hash| hash.to_string());
    change.event("tool.approve", &id, json!({"definition_sha256": read.to_string(), "approved_before": before})).await
}

/// Quarantine a tool whatever its definition. The pin goes with it: only an admin brings the tool back.
///
/// # Errors
/// [`StoreError::NotFound`].
pub async fn quarantine(change: &mut Change, id: ToolId) -> StoreResult<()> {
    let tool = lock(change, id).await?;
    if tool.status == ToolStatus::Quarantined && tool.approved.is_none() {
        return Ok(());
    }
    sqlx::query!(
        "UPDATE tools SET status = 'quarantined', approved_sha256 = NULL, updated_at = $3, version = version + 1
         WHERE tenant_id = $1 AND tool_id = $2",
        change.tenant.uuid(),
        id.uuid(),
        change.now,
    )
    .execute(&mut *change.tx)
    .await?;
    let before = tool.approved.map(|hash| hash.to_string());
    change.event("tool.quarantine", &id, json!({"approved_before": before})).await
}

async fn lock(change: &mut Change, id: ToolId) -> StoreResult<Known> {
    let row = sqlx::query!(
        r#"SELECT tool_id, status, definition_sha256, approved_sha256, removed_at IS NOT NULL AS "removed!"
           FROM tools WHERE tenant_id = $1 AND tool_id = $2 FOR UPDATE"#,
        change.tenant.uuid(),
        id.uuid(),
    )
    .fetch_optional(&mut *change.tx)
    .await?
    .ok_or(StoreError::NotFound)?;
    Ok(Known {
        id: row.tool_id,
        definition: hash(&row.definition_sha256)?,
        approved: row.approved_sha256.as_deref().map(hash).transpose()?,
        status: word(&row.status)?,
        removed: row.removed,
    })
}
