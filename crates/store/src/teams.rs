//! Teams: what keys are grouped by in reports.

use chrono::{DateTime, Utc};
use tollgate_domain::{TeamId, TenantId};
use uuid::Uuid;

use crate::{
    change::Change,
    error::{StoreError, StoreResult},
    page::{Page, PageRequest},
    tx::Store,
};

const TAKEN: &str = "another team has this name";

#[derive(Debug, Clone)]
pub struct Team {
    pub id: TeamId,
    pub name: String,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub version: i32,
}

struct Row {
    team_id: Uuid,
    name: String,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    version: i32,
}

impl From<Row> for Team {
    fn from(row: Row) -> Self {
        let Row { team_id, name, created_at, updated_at, version } = row;
        Self { id: team_id.into(), name, created_at, updated_at, version }
    }
}

/// # Errors
/// `Conflict` when the name is taken.
pub async fn create(change: &mut Change, name: String) -> StoreResult<Team> {
    let id = TeamId::mint(change.now);
    sqlx::query!(
        "INSERT INTO teams (tenant_id, team_id, name, created_at, updated_at) VALUES ($1, $2, $3, $4, $4)",
        change.tenant.uuid(),
        id.uuid(),
        name,
        change.now,
    )
    .execute(&mut *change.tx)
    .await
    .map_err(|e| StoreError::from(e).taken(TAKEN))?;
    Ok(Team { id, name, created_at: change.now, updated_at: change.now, version: 1 })
}

/// Oldest first.
///
/// # Errors
/// When the database does not answer.
pub async fn list(store: &Store, tenant: TenantId, page: PageRequest) -> StoreResult<Page<Team>> {
    let mut tx = store.tenant(tenant).await?;
    let rows = sqlx::query_as!(
        Row,
        "SELECT team_id, name, created_at, updated_at, version FROM teams
         WHERE tenant_id = $1 AND ($2::uuid IS NULL OR team_id > $2) ORDER BY team_id LIMIT $3",
        tenant.uuid(),
        page.after,
        page.fetch(),
    )
    .fetch_all(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(page.cut(rows.into_iter().map(Team::from).collect(), |team: &Team| team.id.uuid()))
}

/// # Errors
/// `NotFound`.
pub async fn get(store: &Store, tenant: TenantId, id: TeamId) -> StoreResult<Team> {
    let mut tx = store.tenant(tenant).await?;
    let row = sqlx::query_as!(
        Row,
        "SELECT team_id, name, created_at, updated_at, version FROM teams WHERE tenant_id = $1 AND team_id = $2",
        tenant.uuid(),
        id.uuid(),
    )
    .fetch_one(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(row.into())
}

/// The team, locked until the change ends.
///
/// # Errors
/// `NotFound`.
pub async fn lock(change: &mut Change, id: TeamId) -> StoreResult<Team> {
    let row = sqlx::query_as!(
        Row,
        "SELECT team_id, name, created_at, updated_at, version FROM teams WHERE tenant_id = $1 AND team_id = $2 FOR UPDATE",
        change.tenant.uuid(),
        id.uuid(),
    )
    .fetch_one(&mut *change.tx)
    .await?;
    Ok(row.into())
}

/// # Errors
/// `Conflict` when the name is taken.
pub async fn rename(change: &mut Change, mut team: Team, name: String) -> StoreResult<Team> {
    team.name = name;
    team.version += 1;
    team.updated_at = change.now;
    sqlx::query!(
        "UPDATE teams SET name = $3, version = $4, updated_at = $5 WHERE tenant_id = $1 AND team_id = $2",
        change.tenant.uuid(),
        team.id.uuid(),
        team.name,
        team.version,
        team.updated_at,
    )
    .execute(&mut *change.tx)
    .await
    .map_err(|e| StoreError::from(e).taken(TAKEN))?;
    Ok(team)
}

/// # Errors
/// `Conflict` while a key belongs to it, a revoked one included: the audit trail names the team through it.
pub async fn delete(change: &mut Change, id: TeamId) -> StoreResult<()> {
    sqlx::query!("DELETE FROM teams WHERE tenant_id = $1 AND team_id = $2", change.tenant.uuid(), id.uuid())
        .execute(&mut *change.tx)
        .await
        .map_err(|e| StoreError::from(e).taken("keys still belong to this team"))?;
    Ok(())
}
