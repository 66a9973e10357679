//! Tenants. A tenant's row is its own: the row-level policy lets a transaction see the one tenant that it has entered.

use chrono::{DateTime, Utc};
use tollgate_domain::{Currency, TenantId, TimeZone};
use uuid::Uuid;

use crate::{
    change::Change,
    error::{StoreError, StoreResult, word},
    page::{Page, PageRequest},
    tx::Store,
};

#[derive(Debug, Clone)]
pub struct Tenant {
    pub id: TenantId,
    pub name: String,
    pub slug: String,
    pub currency: Currency,
    pub zone: TimeZone,
    /// Languages of the scripts of keys that say nothing of their own, the first by default.
    pub code_languages: Vec<String>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub version: i32,
}

struct Row {
    tenant_id: Uuid,
    name: String,
    slug: String,
    currency: String,
    time_zone: String,
    code_languages: Vec<String>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    version: i32,
}

impl TryFrom<Row> for Tenant {
    type Error = StoreError;
    fn try_from(row: Row) -> StoreResult<Self> {
        let currency = row.currency.parse().map_err(|e| StoreError::Corrupt(format!("currency {:?}: {e}", row.currency)))?;
        Ok(Self {
            id: row.tenant_id.into(),
            name: row.name,
            slug: row.slug,
            currency,
            zone: word(&row.time_zone)?,
            code_languages: row.code_languages,
            created_at: row.created_at,
            updated_at: row.updated_at,
            version: row.version,
        })
    }
}

/// A zone that is known here has to be known to the database as well, whose days are those of reports.
async fn check_zone(change: &mut Change, zone: TimeZone) -> StoreResult<()> {
    let tried = sqlx::query("SELECT now() AT TIME ZONE $1").bind(zone.name()).execute(&mut *change.tx).await;
    let unknown = |error: &sqlx::Error| error.as_database_error().and_then(|error| error.code()).as_deref() == Some("22023");
    match tried {
        Err(error) if unknown(&error) => {
            Err(StoreError::invalid("/time_zone", "the database does not know this time zone: use another name of it"))
        }
        tried => Ok(tried.map(drop)?),
    }
}

/// From here on the change is in `tenant`: what it reads and writes is that tenant's.
pub(crate) async fn enter(change: &mut Change, tenant: TenantId) -> StoreResult<()> {
    if change.tenant != tenant {
        let text = tenant.uuid().to_string();
        sqlx::query!("SELECT set_config('app.tenant_id', $1, true)", text).fetch_one(&mut *change.tx).await?;
        change.tenant = tenant;
    }
    Ok(())
}

/// Make a tenant under the first of `slugs` that is free. The change goes over into it.
///
/// # Errors
/// `Conflict` when none is free; a deleted tenant keeps its slug, since its rows still stand under that name.
pub async fn create(
    change: &mut Change,
    name: &str,
    slugs: &[String],
    (currency, zone): (Currency, TimeZone),
    code_languages: &[String],
) -> StoreResult<Tenant> {
    let id = TenantId::mint(change.now);
    enter(change, id).await?;
    check_zone(change, zone).await?;
    for slug in slugs {
        // The other tenants cannot be seen from here; their slugs still count.
        let done = sqlx::query!(
            "INSERT INTO tenants (tenant_id, name, slug, currency, created_at, updated_at, time_zone, code_languages)
             VALUES ($1, $2, $3, $4, $5, $5, $6, $7)
             ON CONFLICT (slug) DO NOTHING",
            id.uuid(),
            name,
            slug,
            currency.as_str(),
            change.now,
            zone.name(),
            code_languages,
        )
        .execute(&mut *change.tx)
        .await?;
        if done.rows_affected() == 1 {
            return Ok(Tenant {
                id,
                name: name.into(),
                slug: slug.clone(),
                currency,
                zone,
                code_languages: code_languages.to_vec(),
                created_at: change.now,
                updated_at: change.now,
                version: 1,
            });
        }
    }
    Err(StoreError::Conflict("another tenant has this slug".to_owned()))
}

/// Tenants that live, oldest first.
///
/// # Errors
/// When the database does not answer.
pub async fn list(store: &Store, page: PageRequest) -> StoreResult<Page<Tenant>> {
    let mut tx = store.control().await?;
    let rows = sqlx::query_as!(
        Row,
        "SELECT tenant_id, name, slug, currency, time_zone, code_languages, created_at, updated_at, version FROM tenants
         WHERE deleted_at IS NULL AND ($1::uuid IS NULL OR tenant_id > $1) ORDER BY tenant_id LIMIT $2",
        page.after,
        page.fetch(),
    )
    .fetch_all(&mut *tx)
    .await?;
    tx.commit().await?;
    let tenants = rows.into_iter().map(Tenant::try_from).collect::<StoreResult<_>>()?;
    Ok(page.cut(tenants, |tenant: &Tenant| tenant.id.uuid()))
}

/// # Errors
/// `NotFound`, for a deleted one too.
pub async fn get(store: &Store, tenant: TenantId) -> StoreResult<Tenant> {
    let mut tx = store.tenant(tenant).await?;
    let row = sqlx::query_as!(
        Row,
        "SELECT tenant_id, name, slug, currency, time_zone, code_languages, created_at, updated_at, version FROM tenants
         WHERE tenant_id = $1 AND deleted_at IS NULL",
        tenant.uuid(),
    )
    .fetch_one(&mut *tx)
    .await?;
    tx.commit().await?;
    row.try_into()
}

/// The change's own tenant, locked until the change ends.
///
/// # Errors
/// `NotFound`, for a deleted one too.
pub async fn lock(change: &mut Change) -> StoreResult<Tenant> {
    let row = sqlx::query_as!(
        Row,
        "SELECT tenant_id, name, slug, currency, time_zone, code_languages, created_at, updated_at, version FROM tenants
         WHERE tenant_id = $1 AND deleted_at IS NULL FOR UPDATE",
        change.tenant.uuid(),
    )
    .fetch_one(&mut *change.tx)
    .await?;
    row.try_into()
}

/// Write what [`lock`] gave and the caller has edited: name, time zone, languages.
///
/// # Errors
/// When the database does not answer.
pub async fn update(change: &mut Change, mut tenant: Tenant) -> StoreResult<Tenant> {
    check_zone(change, tenant.zone).await?;
    tenant.version += 1;
    tenant.updated_at = change.now;
    sqlx::query!(
        "UPDATE tenants SET name = $2, version = $3, updated_at = $4, time_zone = $5, code_languages = $6 WHERE tenant_id = $1",
        tenant.id.uuid(),
        tenant.name,
        tenant.version,
        tenant.updated_at,
        tenant.zone.name(),
        &tenant.code_languages,
    )
    .execute(&mut *change.tx)
    .await?;
    // Periods end at other moments.
    let due = sqlx::query("UPDATE report_schedules SET due_at = $2 WHERE tenant_id = $1 AND due_at > $2");
    due.bind(tenant.id.uuid()).bind(change.now).execute(&mut *change.tx).await?;
    // Its reports are of other days from here on; a worker cuts them anew.
    sqlx::query("SELECT tollgate_cost_rezone($1)").bind(tenant.zone.name()).execute(&mut *change.tx).await?;
    Ok(tenant)
}

/// Delete the change's own tenant. Its rows stay as evidence; its keys and tokens work no more.
///
/// # Errors
/// When the database does not answer.
pub async fn delete(change: &mut Change) -> StoreResult<()> {
    sqlx::query!(
        "UPDATE tenants SET deleted_at = $2, updated_at = $2, version = version + 1 WHERE tenant_id = $1",
        change.tenant.uuid(),
        change.now,
    )
    .execute(&mut *change.tx)
    .await?;
    Ok(())
}
