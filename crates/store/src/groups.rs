//! Tool groups: which tools of which upstreams a key may see, and which of them people must confirm.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use tollgate_domain::{
    TenantId, ToolGroupId, UpstreamId,
    scope::{Grant, ToolNames},
};
use uuid::Uuid;

use crate::{
    change::Change,
    error::{StoreError, StoreResult},
    page::{Page, PageRequest},
    tx::{Store, Tx},
};

/// How the table writes "all tools of the upstream, now and later". No tool has this name.
const ALL: &str = "*";

#[derive(Debug, Clone)]
pub struct ToolGroup {
    pub id: ToolGroupId,
    pub name: String,
    pub slug: String,
    pub members: Vec<Grant>,
    /// Calls to these wait for so many confirmations.
    pub approval: Vec<(Grant, u8)>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub version: i32,
}

/// What is known of an upstream's tools.
#[derive(Debug, Clone)]
pub struct KnownTools {
    /// Before its first discovery any name may turn out to be one.
    pub discovered: bool,
    pub names: Vec<String>,
}

struct Row {
    tool_group_id: Uuid,
    name: String,
    slug: String,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    version: i32,
}

impl From<Row> for ToolGroup {
    fn from(row: Row) -> Self {
        let Row { tool_group_id, name, slug, created_at, updated_at, version } = row;
        Self { id: tool_group_id.into(), name, slug, members: Vec::new(), approval: Vec::new(), created_at, updated_at, version }
    }
}

/// The tools of these upstreams, as far as they are this tenant's and not deleted. The upstreams stay until the change ends.
///
/// # Errors
/// When the database does not answer.
pub async fn known_tools(change: &mut Change, upstreams: &[UpstreamId]) -> StoreResult<HashMap<UpstreamId, KnownTools>> {
    let ids: Vec<Uuid> = upstreams.iter().map(|u| u.uuid()).collect();
    let rows = sqlx::query!(
        r#"SELECT upstream_id, discovered_at IS NOT NULL AS "discovered!",
                  ARRAY(SELECT name FROM tools t WHERE t.tenant_id = u.tenant_id AND t.upstream_id = u.upstream_id) AS "names!"
           FROM upstreams u WHERE tenant_id = $1 AND upstream_id = ANY($2) AND deleted_at IS NULL FOR KEY SHARE OF u"#,
        change.tenant.uuid(),
        &ids,
    )
    .fetch_all(&mut *change.tx)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| (row.upstream_id.into(), KnownTools { discovered: row.discovered, names: row.names }))
        .collect())
}

/// `base`, or `base-2` and so on, whichever no group of the tenant has.
///
/// # Errors
/// When the database does not answer.
pub async fn free_slug(change: &mut Change, base: &str) -> StoreResult<String> {
    let slug = sqlx::query_scalar!(
        r#"SELECT c.slug AS "slug!" FROM (SELECT 1 AS n, $2 AS slug UNION ALL SELECT n, $2 || '-' || n FROM generate_series(2, 1000) n) c
           WHERE NOT EXISTS (SELECT 1 FROM tool_groups g WHERE g.tenant_id = $1 AND g.slug = c.slug) ORDER BY c.n LIMIT 1"#,
        change.tenant.uuid(),
        base,
    )
    .fetch_optional(&mut *change.tx)
    .await?;
    slug.ok_or_else(|| StoreError::Conflict("choose a slug: there are too many groups of this name".to_owned()))
}

/// # Errors
/// `Conflict` when the slug is taken.
pub async fn create(change: &mut Change, group: &ToolGroup) -> StoreResult<()> {
    sqlx::query!(
        "INSERT INTO tool_groups (tenant_id, tool_group_id, name, slug, created_at, updated_at, version) VALUES ($1, $2, $3, $4, $5, $5, $6)",
        change.tenant.uuid(),
        group.id.uuid(),
        group.name,
        group.slug,
        group.created_at,
        group.version,
    )
    .execute(&mut *change.tx)
    .await
    .map_err(|e| StoreError::from(e).taken("another tool group has this slug"))?;
    put_tools(change, group).await
}

/// Oldest first.
///
/// # Errors
/// When the database does not answer.
pub async fn list(store: &Store, tenant: TenantId, page: PageRequest) -> StoreResult<Page<ToolGroup>> {
    let mut tx = store.tenant_snapshot(tenant).await?;
    let rows = sqlx::query_as!(
        Row,
        "SELECT tool_group_id, name, slug, created_at, updated_at, version FROM tool_groups
         WHERE tenant_id = $1 AND ($2::uuid IS NULL OR tool_group_id > $2) ORDER BY tool_group_id LIMIT $3",
        tenant.uuid(),
        page.after,
        page.fetch(),
    )
    .fetch_all(&mut *tx)
    .await?;
    let mut page = page.cut(rows.into_iter().map(ToolGroup::from).collect(), |group: &ToolGroup| group.id.uuid());
    fill(&mut tx, tenant, &mut page.items).await?;
    tx.commit().await?;
    Ok(page)
}

/// # Errors
/// `NotFound`.
pub async fn get(store: &Store, tenant: TenantId, id: ToolGroupId) -> StoreResult<ToolGroup> {
    let mut tx = store.tenant_snapshot(tenant).await?;
    let row = sqlx::query_as!(
        Row,
        "SELECT tool_group_id, name, slug, created_at, updated_at, version FROM tool_groups WHERE tenant_id = $1 AND tool_group_id = $2",
        tenant.uuid(),
        id.uuid(),
    )
    .fetch_one(&mut *tx)
    .await?;
    let mut groups = [row.into()];
    fill(&mut tx, tenant, &mut groups).await?;
    tx.commit().await?;
    let [group] = groups;
    Ok(group)
}

/// The group, locked until the change ends.
///
/// # Errors
/// `NotFound`.
pub async fn lock(change: &mut Change, id: ToolGroupId) -> StoreResult<ToolGroup> {
    let row = sqlx::query_as!(
        Row,
        "SELECT tool_group_id, name, slug, created_at, updated_at, version FROM tool_groups
         WHERE tenant_id = $1 AND tool_group_id = $2 FOR UPDATE",
        change.tenant.uuid(),
        id.uuid(),
    )
    .fetch_one(&mut *change.tx)
    .await?;
    let mut groups = [row.into()];
    fill(&mut change.tx, change.tenant, &mut groups).await?;
    let [group] = groups;
    Ok(group)
}

/// Write what [`lock`] gave and the caller has edited.
///
/// # Errors
/// `Conflict` when the slug is taken.
pub async fn update(change: &mut Change, mut group: ToolGroup) -> StoreResult<ToolGroup> {
    group.version += 1;
    group.updated_at = change.now;
    sqlx::query!(
        "UPDATE tool_groups SET name = $3, slug = $4, version = $5, updated_at = $6 WHERE tenant_id = $1 AND tool_group_id = $2",
        change.tenant.uuid(),
        group.id.uuid(),
        group.name,
        group.slug,
        group.version,
        group.updated_at,
    )
    .execute(&mut *change.tx)
    .await
    .map_err(|e| StoreError::from(e).taken("another tool group has this slug"))?;
    sqlx::query!(
        "DELETE FROM tool_group_tools WHERE tenant_id = $1 AND tool_group_id = $2",
        change.tenant.uuid(),
        group.id.uuid()
    )
    .execute(&mut *change.tx)
    .await?;
    put_tools(change, &group).await?;
    Ok(group)
}

/// # Errors
/// `Conflict` while a key has it.
pub async fn delete(change: &mut Change, id: ToolGroupId) -> StoreResult<()> {
    sqlx::query!("DELETE FROM tool_groups WHERE tenant_id = $1 AND tool_group_id = $2", change.tenant.uuid(), id.uuid())
        .execute(&mut *change.tx)
        .await
        .map_err(|e| StoreError::from(e).taken("keys still use this tool group"))?;
    Ok(())
}

async fn put_tools(change: &mut Change, group: &ToolGroup) -> StoreResult<()> {
    let (mut upstreams, mut kinds, mut names, mut confirmations) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let members = group.members.iter().map(|grant| (grant, "member", None));
    let approval = group.approval.iter().map(|(grant, n)| (grant, "approval", Some(i16::from(*n))));
    for (grant, kind, needed) in members.chain(approval) {
        let tools = match &grant.tools {
            ToolNames::All => vec![ALL.to_owned()],
            ToolNames::Named(tools) => tools.clone(),
        };
        for tool in tools {
            upstreams.push(grant.upstream_id.uuid());
            kinds.push(kind.to_owned());
            names.push(tool);
            confirmations.push(needed);
        }
    }
    sqlx::query!(
        "INSERT INTO tool_group_tools (tenant_id, tool_group_id, upstream_id, kind, tool_name, confirmations)
         SELECT $1::uuid, $2::uuid, * FROM unnest($3::uuid[], $4::text[], $5::text[], $6::smallint[])",
        change.tenant.uuid(),
        group.id.uuid(),
        &upstreams,
        &kinds,
        &names,
        &confirmations as &[Option<i16>],
    )
    .execute(&mut *change.tx)
    .await?;
    Ok(())
}

/// Members and rules of these groups, in the order of upstream and name.
async fn fill(tx: &mut Tx, tenant: TenantId, groups: &mut [ToolGroup]) -> StoreResult<()> {
    let ids: Vec<Uuid> = groups.iter().map(|g| g.id.uuid()).collect();
    let rows = sqlx::query!(
        "SELECT tool_group_id, upstream_id, kind, tool_name, confirmations FROM tool_group_tools
         WHERE tenant_id = $1 AND tool_group_id = ANY($2) ORDER BY upstream_id, tool_name",
        tenant.uuid(),
        &ids,
    )
    .fetch_all(&mut **tx)
    .await?;
    // By group, then by upstream and confirmations; 0 is a member.
    let mut found: HashMap<Uuid, BTreeMap<(Uuid, i16), Vec<String>>> = HashMap::new();
    for row in rows {
        let needed = if row.kind == "approval" { row.confirmations.unwrap_or(1) } else { 0 };
        found.entry(row.tool_group_id).or_default().entry((row.upstream_id, needed)).or_default().push(row.tool_name);
    }
    for group in groups {
        for ((upstream, needed), names) in found.remove(&group.id.uuid()).unwrap_or_default() {
            let tools = if names.iter().any(|n| n == ALL) { ToolNames::All } else { ToolNames::Named(names) };
            let grant = Grant { upstream_id: upstream.into(), tools };
            match u8::try_from(needed).unwrap_or(u8::MAX) {
                0 => group.members.push(grant),
                needed => group.approval.push((grant, needed)),
            }
        }
    }
    Ok(())
}
