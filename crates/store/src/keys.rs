//! Virtual keys: what opens the model door. The row keeps a hash of the secret, never the secret.

use chrono::{DateTime, Utc};
use tollgate_domain::{KeyId, TeamId, TenantId, ToolGroupId, llm::AgentMode};
use uuid::Uuid;

use crate::{
    change::Change,
    error::{StoreError, StoreResult},
    page::{Page, PageRequest},
    tx::Store,
};

#[derive(Debug, Clone)]
pub struct VirtualKey {
    pub id: KeyId,
    pub name: String,
    pub team: Option<TeamId>,
    pub groups: Vec<ToolGroupId>,
    /// `None` is all, empty is none.
    pub models: Option<Vec<String>>,
    /// Languages of its scripts, the first by default; `None`: the tenant's.
    pub code_languages: Option<Vec<String>>,
    /// Whether the gateway runs the tools that its model calls through the LLM door, and for how many turns of the model at most.
    pub agent: (AgentMode, i32),
    /// Principals that are whoever asks with this key: they cannot confirm its calls.
    pub held_by: Vec<String>,
    pub expires_at: Option<DateTime<Utc>>,
    pub revoked_at: Option<DateTime<Utc>>,
    /// Until when the secret of before the last rotation works.
    pub previous_expires_at: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub version: i32,
}

struct Row {
    key_id: Uuid,
    name: String,
    team_id: Option<Uuid>,
    groups: Vec<Uuid>,
    models: Option<Vec<String>>,
    code_languages: Option<Vec<String>>,
    agent_mode: String,
    agent_turns: i32,
    held_by: Vec<String>,
    expires_at: Option<DateTime<Utc>>,
    revoked_at: Option<DateTime<Utc>>,
    previous_expires_at: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    version: i32,
}

impl From<Row> for VirtualKey {
    fn from(row: Row) -> Self {
        let Row {
            name,
            models,
            code_languages,
            held_by,
            expires_at,
            revoked_at,
            previous_expires_at,
            created_at,
            updated_at,
            version,
            ..
        } = row;
        Self {
            id: row.key_id.into(),
            name,
            team: row.team_id.map(TeamId::from_uuid),
            groups: row.groups.into_iter().map(ToolGroupId::from_uuid).collect(),
            models,
            code_languages,
            // What the database holds has been checked; a word of a later version is the closed one here.
            agent: (row.agent_mode.parse().unwrap_or(AgentMode::Off), row.agent_turns),
            held_by,
            expires_at,
            revoked_at,
            previous_expires_at,
            created_at,
            updated_at,
            version,
        }
    }
}

/// Write a new key.
///
/// # Errors
/// `Invalid`, with the pointer of the field, for a team or tool group that this tenant does not have.
pub async fn create(change: &mut Change, key: &VirtualKey, hash: &[u8]) -> StoreResult<()> {
    check_team(change, key.team).await?;
    sqlx::query!(
        "INSERT INTO virtual_keys (tenant_id, key_id, name, team_id, hash, models, code_languages, expires_at, created_at,
                                   updated_at, version, agent_mode, agent_turns, held_by)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9, $10, $11, $12, $13)",
        change.tenant.uuid(),
        key.id.uuid(),
        key.name,
        key.team.map(TeamId::uuid),
        hash,
        key.models.as_deref(),
        key.code_languages.as_deref(),
        key.expires_at,
        key.created_at,
        key.version,
        key.agent.0.as_str(),
        key.agent.1,
        &key.held_by,
    )
    .execute(&mut *change.tx)
    .await?;
    grant(change, key).await
}

/// Oldest first, revoked ones included; of one team where that is asked for.
///
/// # Errors
/// When the database does not answer.
pub async fn list(store: &Store, tenant: TenantId, team: Option<TeamId>, page: PageRequest) -> StoreResult<Page<VirtualKey>> {
    let mut tx = store.tenant(tenant).await?;
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT key_id, name, team_id, models, code_languages, agent_mode, agent_turns, held_by, expires_at, revoked_at,
                  previous_expires_at, created_at, updated_at, version,
                  ARRAY(SELECT g.tool_group_id FROM virtual_key_tool_groups g
                        WHERE g.tenant_id = k.tenant_id AND g.key_id = k.key_id ORDER BY g.tool_group_id) AS "groups!"
           FROM virtual_keys k
           WHERE k.tenant_id = $1 AND ($2::uuid IS NULL OR key_id > $2) AND ($3::uuid IS NULL OR team_id = $3)
           ORDER BY key_id LIMIT $4"#,
        tenant.uuid(),
        page.after,
        team.map(TeamId::uuid),
        page.fetch(),
    )
    .fetch_all(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(page.cut(rows.into_iter().map(VirtualKey::from).collect(), |key: &VirtualKey| key.id.uuid()))
}

/// # Errors
/// `NotFound`.
pub async fn get(store: &Store, tenant: TenantId, id: KeyId) -> StoreResult<VirtualKey> {
    let mut tx = store.tenant(tenant).await?;
    let row = sqlx::query_as!(
        Row,
        r#"SELECT key_id, name, team_id, models, code_languages, agent_mode, agent_turns, held_by, expires_at, revoked_at,
                  previous_expires_at, created_at, updated_at, version,
                  ARRAY(SELECT g.tool_group_id FROM virtual_key_tool_groups g
                        WHERE g.tenant_id = k.tenant_id AND g.key_id = k.key_id ORDER BY g.tool_group_id) AS "groups!"
           FROM virtual_keys k WHERE k.tenant_id = $1 AND key_id = $2"#,
        tenant.uuid(),
        id.uuid(),
    )
    .fetch_one(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(row.into())
}

/// The key, locked until the change ends.
///
/// # Errors
/// `NotFound`.
pub async fn lock(change: &mut Change, id: KeyId) -> StoreResult<VirtualKey> {
    let row = sqlx::query_as!(
        Row,
        r#"SELECT key_id, name, team_id, models, code_languages, agent_mode, agent_turns, held_by, expires_at, revoked_at,
                  previous_expires_at, created_at, updated_at, version,
                  ARRAY(SELECT g.tool_group_id FROM virtual_key_tool_groups g
                        WHERE g.tenant_id = k.tenant_id AND g.key_id = k.key_id ORDER BY g.tool_group_id) AS "groups!"
           FROM virtual_keys k WHERE k.tenant_id = $1 AND key_id = $2 FOR UPDATE OF k"#,
        change.tenant.uuid(),
        id.uuid(),
    )
    .fetch_one(&mut *change.tx)
    .await?;
    Ok(row.into())
}

/// Write what [`lock`] gave and the caller has edited: name, team, groups, models, languages, agent mode, expiry.
///
/// # Errors
/// As [`create`].
pub async fn update(change: &mut Change, mut key: VirtualKey) -> StoreResult<VirtualKey> {
    check_team(change, key.team).await?;
    key.version += 1;
    key.updated_at = change.now;
    sqlx::query!(
        "UPDATE virtual_keys SET name = $3, team_id = $4, models = $5, code_languages = $6, expires_at = $7, version = $8,
           updated_at = $9, agent_mode = $10, agent_turns = $11, held_by = $12
         WHERE tenant_id = $1 AND key_id = $2",
        change.tenant.uuid(),
        key.id.uuid(),
        key.name,
        key.team.map(TeamId::uuid),
        key.models.as_deref(),
        key.code_languages.as_deref(),
        key.expires_at,
        key.version,
        key.updated_at,
        key.agent.0.as_str(),
        key.agent.1,
        &key.held_by,
    )
    .execute(&mut *change.tx)
    .await?;
    sqlx::query!("DELETE FROM virtual_key_tool_groups WHERE tenant_id = $1 AND key_id = $2", change.tenant.uuid(), key.id.uuid())
        .execute(&mut *change.tx)
        .await?;
    grant(change, &key).await?;
    Ok(key)
}

/// The key stops working, the secret of before a rotation as well. The first revocation stands.
///
/// # Errors
/// When the database does not answer.
pub async fn revoke(change: &mut Change, mut key: VirtualKey) -> StoreResult<VirtualKey> {
    if key.revoked_at.is_some() {
        return Ok(key);
    }
    key.revoked_at = Some(change.now);
    key.previous_expires_at = None;
    key.version += 1;
    key.updated_at = change.now;
    sqlx::query!(
        "UPDATE virtual_keys SET revoked_at = $3, previous_hash = NULL, previous_expires_at = NULL, version = $4, updated_at = $3
         WHERE tenant_id = $1 AND key_id = $2",
        change.tenant.uuid(),
        key.id.uuid(),
        change.now,
        key.version,
    )
    .execute(&mut *change.tx)
    .await?;
    Ok(key)
}

/// Give the key a new secret. The one of now works until `overlap_ends`, the one before it no more; without an overlap
/// neither does.
///
/// # Errors
/// When the database does not answer.
pub async fn rotate(
    change: &mut Change,
    mut key: VirtualKey,
    hash: &[u8],
    overlap_ends: Option<DateTime<Utc>>,
) -> StoreResult<VirtualKey> {
    key.previous_expires_at = overlap_ends;
    key.version += 1;
    key.updated_at = change.now;
    sqlx::query!(
        "UPDATE virtual_keys SET previous_hash = CASE WHEN $4::timestamptz IS NULL THEN NULL ELSE hash END,
                previous_expires_at = $4, hash = $3, version = $5, updated_at = $6
         WHERE tenant_id = $1 AND key_id = $2",
        change.tenant.uuid(),
        key.id.uuid(),
        hash,
        overlap_ends,
        key.version,
        key.updated_at,
    )
    .execute(&mut *change.tx)
    .await?;
    Ok(key)
}

/// The team must be this tenant's, and stay until the change ends.
async fn check_team(change: &mut Change, team: Option<TeamId>) -> StoreResult<()> {
    let Some(team) = team else { return Ok(()) };
    let found = sqlx::query_scalar!(
        "SELECT team_id FROM teams WHERE tenant_id = $1 AND team_id = $2 FOR KEY SHARE",
        change.tenant.uuid(),
        team.uuid(),
    )
    .fetch_optional(&mut *change.tx)
    .await?;
    found.map(drop).ok_or_else(|| StoreError::invalid("/team_id", "there is no such team"))
}

/// Give the key its tool groups. Another tenant's group is none: it is not found.
async fn grant(change: &mut Change, key: &VirtualKey) -> StoreResult<()> {
    let wanted: Vec<Uuid> = key.groups.iter().map(|g| g.uuid()).collect();
    let found = sqlx::query_scalar!(
        "SELECT tool_group_id FROM tool_groups WHERE tenant_id = $1 AND tool_group_id = ANY($2) FOR KEY SHARE",
        change.tenant.uuid(),
        &wanted,
    )
    .fetch_all(&mut *change.tx)
    .await?;
    if let Some(place) = wanted.iter().position(|group| !found.contains(group)) {
        return Err(StoreError::invalid(format!("/tool_group_ids/{place}"), "there is no such tool group"));
    }
    sqlx::query!(
        "INSERT INTO virtual_key_tool_groups (tenant_id, key_id, tool_group_id) SELECT DISTINCT $1::uuid, $2::uuid, g FROM unnest($3::uuid[]) g",
        change.tenant.uuid(),
        key.id.uuid(),
        &wanted,
    )
    .execute(&mut *change.tx)
    .await?;
    Ok(())
}
