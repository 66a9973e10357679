//! Providers of models, and the names under which a tenant's callers ask for their models.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::{QueryBuilder, Row, postgres::PgRow};
use tollgate_domain::{
    ModelRouteId, ProviderId, TenantId,
    llm::{ModelRoute, ProviderKind, Target},
};
use uuid::Uuid;

use crate::{
    change::Change,
    error::{StoreError, StoreResult, word},
    page::{Page, PageRequest},
    tx::Tx,
};

/// One of a provider's keys, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderKey {
    pub name: String,
    /// Its share of the requests; 0: for when the others are refused.
    pub weight: u32,
}

#[derive(Debug, Clone)]
pub struct Provider {
    pub id: ProviderId,
    pub name: String,
    pub kind: ProviderKind,
    pub base_url: String,
    /// Of Bedrock alone: where its requests are signed for.
    pub region: Option<String>,
    pub keys: Vec<ProviderKey>,
    /// A JSON object of the keys' names and secrets, sealed for [`secrets_purpose`].
    pub sealed_secrets: Vec<u8>,
    /// Models that it serves, each exact or a beginning with `*`; none is all.
    pub models: Vec<String>,
    pub timeout_ms: i32,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub version: i32,
}

/// What the secrets of a provider are sealed for.
#[must_use]
pub fn secrets_purpose(id: ProviderId) -> String {
    format!("provider/secrets/{id}")
}

const COLUMNS: &str =
    "SELECT provider_id, name, kind, base_url, region, keys, sealed_secrets, models, timeout_ms, created_at, updated_at, version
    FROM providers WHERE deleted_at IS NULL AND tenant_id = ";

/// # Errors
/// [`StoreError::Conflict`] when the name is taken.
pub async fn create(change: &mut Change, new: &Provider) -> StoreResult<()> {
    sqlx::query(
        "INSERT INTO providers (tenant_id, provider_id, name, kind, base_url, keys, sealed_secrets, models, timeout_ms, created_at, updated_at, region)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $10, $11)",
    )
    .bind(change.tenant.uuid())
    .bind(new.id.uuid())
    .bind(&new.name)
    .bind(new.kind.as_str())
    .bind(&new.base_url)
    .bind(json!(new.keys))
    .bind(&new.sealed_secrets)
    .bind(&new.models)
    .bind(new.timeout_ms)
    .bind(change.now)
    .bind(&new.region)
    .execute(&mut *change.tx)
    .await
    .map_err(|e| StoreError::from(e).taken("a provider of this name already exists"))?;
    change.event("provider.create", &new.id, detail(new)).await
}

/// What an admin event says of a provider: no secret.
fn detail(provider: &Provider) -> serde_json::Value {
    json!({"name": provider.name, "kind": provider.kind, "base_url": provider.base_url, "region": provider.region, "keys": provider.keys, "models": provider.models,
        "timeout_ms": provider.timeout_ms})
}

/// # Errors
/// [`StoreError::NotFound`].
pub async fn get(tx: &mut Tx, tenant: TenantId, id: ProviderId) -> StoreResult<Provider> {
    let mut query = QueryBuilder::new(COLUMNS);
    query.push_bind(tenant.uuid()).push(" AND provider_id = ").push_bind(id.uuid());
    read(&query.build().fetch_one(&mut **tx).await?)
}

/// A provider, locked until the change ends.
///
/// # Errors
/// [`StoreError::NotFound`].
pub async fn lock(change: &mut Change, id: ProviderId) -> StoreResult<Provider> {
    let mut query = QueryBuilder::new(COLUMNS);
    query.push_bind(change.tenant.uuid()).push(" AND provider_id = ").push_bind(id.uuid()).push(" FOR UPDATE");
    read(&query.build().fetch_one(&mut *change.tx).await?)
}

/// Oldest first.
///
/// # Errors
/// When the database does not answer.
pub async fn list(tx: &mut Tx, tenant: TenantId, page: PageRequest) -> StoreResult<Page<Provider>> {
    let mut query = QueryBuilder::new(COLUMNS);
    query.push_bind(tenant.uuid());
    if let Some(after) = page.after {
        query.push(" AND provider_id > ").push_bind(after);
    }
    query.push(" ORDER BY provider_id LIMIT ").push_bind(page.fetch());
    let rows = query.build().fetch_all(&mut **tx).await?;
    let rows = rows.iter().map(read).collect::<StoreResult<_>>()?;
    Ok(page.cut(rows, |row: &Provider| row.id.uuid()))
}

/// All of a tenant, for its workers.
///
/// # Errors
/// When the database does not answer.
pub async fn all(tx: &mut Tx, tenant: TenantId) -> StoreResult<Vec<Provider>> {
    let mut query = QueryBuilder::new(COLUMNS);
    query.push_bind(tenant.uuid()).push(" ORDER BY provider_id");
    let rows = query.build().fetch_all(&mut **tx).await?;
    rows.iter().map(read).collect()
}

/// Write what [`lock`] gave and the caller has edited: all but name and kind.
///
/// # Errors
/// When the database does not answer.
pub async fn update(change: &mut Change, mut row: Provider) -> StoreResult<Provider> {
    row.version += 1;
    row.updated_at = change.now;
    sqlx::query(
        "UPDATE providers SET base_url = $3, keys = $4, sealed_secrets = $5, models = $6, timeout_ms = $7, version = $8, updated_at = $9, region = $10
         WHERE tenant_id = $1 AND provider_id = $2",
    )
    .bind(change.tenant.uuid())
    .bind(row.id.uuid())
    .bind(&row.base_url)
    .bind(json!(row.keys))
    .bind(&row.sealed_secrets)
    .bind(&row.models)
    .bind(row.timeout_ms)
    .bind(row.version)
    .bind(row.updated_at)
    .bind(&row.region)
    .execute(&mut *change.tx)
    .await?;
    change.event("provider.update", &row.id, detail(&row)).await?;
    Ok(row)
}

/// The row stays, since requests name it; its secrets go.
///
/// # Errors
/// [`StoreError::Conflict`] while a model route leads to it.
pub async fn delete(change: &mut Change, id: ProviderId) -> StoreResult<()> {
    let routes = routes(&mut change.tx, change.tenant).await?;
    if let Some(route) = routes.iter().find(|row| row.route.targets.iter().any(|target| target.provider_id == id)) {
        return Err(StoreError::Conflict(format!("the model route \"{}\" leads to this provider", route.route.name)));
    }
    sqlx::query(
        "UPDATE providers SET deleted_at = $3, sealed_secrets = '', keys = '[]', version = version + 1, updated_at = $3
         WHERE tenant_id = $1 AND provider_id = $2",
    )
    .bind(change.tenant.uuid())
    .bind(id.uuid())
    .bind(change.now)
    .execute(&mut *change.tx)
    .await?;
    change.event("provider.delete", &id, json!({})).await
}

fn read(row: &PgRow) -> StoreResult<Provider> {
    let keys = row.try_get("keys")?;
    Ok(Provider {
        id: row.try_get::<Uuid, _>("provider_id")?.into(),
        name: row.try_get("name")?,
        kind: word(row.try_get("kind")?)?,
        base_url: row.try_get("base_url")?,
        region: row.try_get("region")?,
        keys: serde_json::from_value(keys).map_err(|e| StoreError::Corrupt(format!("keys of a provider: {e}")))?,
        sealed_secrets: row.try_get("sealed_secrets")?,
        models: row.try_get("models")?,
        timeout_ms: row.try_get("timeout_ms")?,
        created_at: row.try_get("created_at")?,
        updated_at: row.try_get("updated_at")?,
        version: row.try_get("version")?,
    })
}

// ---------------------------------------------------------------- model routes

#[derive(Debug, Clone)]
pub struct RouteRow {
    pub route: ModelRoute,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub version: i32,
}

const ROUTES: &str = "SELECT model_route_id, name, targets, created_at, updated_at, version FROM model_routes WHERE tenant_id = ";

/// # Errors
/// [`StoreError::Invalid`] for a target whose provider does not exist, [`StoreError::Conflict`] when the name is taken.
pub async fn create_route(change: &mut Change, route: &ModelRoute) -> StoreResult<()> {
    providers_exist(change, &route.targets).await?;
    sqlx::query(
        "INSERT INTO model_routes (tenant_id, model_route_id, name, targets, created_at, updated_at) VALUES ($1, $2, $3, $4, $5, $5)",
    )
    .bind(change.tenant.uuid())
    .bind(route.id.uuid())
    .bind(&route.name)
    .bind(json!(route.targets))
    .bind(change.now)
    .execute(&mut *change.tx)
    .await
    .map_err(|e| StoreError::from(e).taken("a model route of this name already exists"))?;
    change.event("model_route.create", &route.id, json!({"name": route.name, "targets": route.targets})).await
}

/// A target's provider stays at least as long as the change.
async fn providers_exist(change: &mut Change, targets: &[Target]) -> StoreResult<()> {
    let wanted: Vec<Uuid> = targets.iter().map(|target| target.provider_id.uuid()).collect();
    let found = sqlx::query_scalar::<_, Uuid>(
        "SELECT provider_id FROM providers WHERE tenant_id = $1 AND provider_id = ANY($2) AND deleted_at IS NULL FOR SHARE",
    );
    let found = found.bind(change.tenant.uuid()).bind(&wanted).fetch_all(&mut *change.tx).await?;
    match wanted.iter().position(|provider| !found.contains(provider)) {
        Some(at) => Err(StoreError::invalid(format!("/targets/{at}/provider_id"), "there is no such provider")),
        None => Ok(()),
    }
}

/// # Errors
/// [`StoreError::NotFound`].
pub async fn get_route(tx: &mut Tx, tenant: TenantId, id: ModelRouteId) -> StoreResult<RouteRow> {
    let mut query = QueryBuilder::new(ROUTES);
    query.push_bind(tenant.uuid()).push(" AND model_route_id = ").push_bind(id.uuid());
    read_route(&query.build().fetch_one(&mut **tx).await?)
}

/// A route, locked until the change ends.
///
/// # Errors
/// [`StoreError::NotFound`].
pub async fn lock_route(change: &mut Change, id: ModelRouteId) -> StoreResult<RouteRow> {
    let mut query = QueryBuilder::new(ROUTES);
    query.push_bind(change.tenant.uuid()).push(" AND model_route_id = ").push_bind(id.uuid()).push(" FOR UPDATE");
    read_route(&query.build().fetch_one(&mut *change.tx).await?)
}

/// Oldest first.
///
/// # Errors
/// When the database does not answer.
pub async fn list_routes(tx: &mut Tx, tenant: TenantId, page: PageRequest) -> StoreResult<Page<RouteRow>> {
    let mut query = QueryBuilder::new(ROUTES);
    query.push_bind(tenant.uuid());
    if let Some(after) = page.after {
        query.push(" AND model_route_id > ").push_bind(after);
    }
    query.push(" ORDER BY model_route_id LIMIT ").push_bind(page.fetch());
    let rows = query.build().fetch_all(&mut **tx).await?;
    let rows = rows.iter().map(read_route).collect::<StoreResult<_>>()?;
    Ok(page.cut(rows, |row: &RouteRow| row.route.id.uuid()))
}

/// All of a tenant, for its workers.
///
/// # Errors
/// When the database does not answer.
pub async fn routes(tx: &mut Tx, tenant: TenantId) -> StoreResult<Vec<RouteRow>> {
    let mut query = QueryBuilder::new(ROUTES);
    query.push_bind(tenant.uuid()).push(" ORDER BY model_route_id");
    let rows = query.build().fetch_all(&mut **tx).await?;
    rows.iter().map(read_route).collect()
}

/// Write what [`lock_route`] gave with other targets.
///
/// # Errors
/// As [`create_route`].
pub async fn update_route(change: &mut Change, mut row: RouteRow) -> StoreResult<RouteRow> {
    providers_exist(change, &row.route.targets).await?;
    row.version += 1;
    row.updated_at = change.now;
    sqlx::query(
        "UPDATE model_routes SET targets = $3, version = $4, updated_at = $5 WHERE tenant_id = $1 AND model_route_id = $2",
    )
    .bind(change.tenant.uuid())
    .bind(row.route.id.uuid())
    .bind(json!(row.route.targets))
    .bind(row.version)
    .bind(row.updated_at)
    .execute(&mut *change.tx)
    .await?;
    change.event("model_route.update", &row.route.id, json!({"name": row.route.name, "targets": row.route.targets})).await?;
    Ok(row)
}

/// # Errors
/// When the database does not answer.
pub async fn delete_route(change: &mut Change, id: ModelRouteId) -> StoreResult<()> {
    let delete = sqlx::query("DELETE FROM model_routes WHERE tenant_id = $1 AND model_route_id = $2");
    delete.bind(change.tenant.uuid()).bind(id.uuid()).execute(&mut *change.tx).await?;
    change.event("model_route.delete", &id, json!({})).await
}

fn read_route(row: &PgRow) -> StoreResult<RouteRow> {
    let targets = row.try_get("targets")?;
    let route = ModelRoute {
        id: row.try_get::<Uuid, _>("model_route_id")?.into(),
        name: row.try_get("name")?,
        targets: serde_json::from_value(targets).map_err(|e| StoreError::Corrupt(format!("targets of a model route: {e}")))?,
    };
    Ok(RouteRow {
        route,
        created_at: row.try_get("created_at")?,
        updated_at: row.try_get("updated_at")?,
        version: row.try_get("version")?,
    })
}
