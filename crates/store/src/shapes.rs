//! What results of tools have looked like, as `codemode::seen` writes it.

use chrono::{DateTime, Utc};
use tollgate_domain::{TenantId, ToolId, tool::DefinitionHash};

use crate::{error::StoreResult, tx::Store};

/// The shape of a tool's results under this definition, as JSON text.
///
/// # Errors
/// When the database does not answer.
pub async fn get(store: &Store, tenant: TenantId, tool: ToolId, definition: DefinitionHash) -> StoreResult<Option<String>> {
    let mut tx = store.tenant(tenant).await?;
    let shape =
        sqlx::query_scalar("SELECT shape FROM tool_shapes WHERE tenant_id = $1 AND tool_id = $2 AND definition_sha256 = $3");
    let shape = shape.bind(tenant.uuid()).bind(tool.uuid()).bind(definition.0).fetch_optional(&mut *tx).await?;
    tx.commit().await?;
    Ok(shape)
}

/// Have `merge` make one shape of the one that is known under this definition, if any, and what it has seen itself. Workers that do so
/// at once come one after the other.
///
/// # Errors
/// When the database does not answer.
pub async fn learn(
    store: &Store,
    (tenant, tool): (TenantId, ToolId),
    definition: DefinitionHash,
    now: DateTime<Utc>,
    merge: impl FnOnce(Option<&str>) -> String,
) -> StoreResult<()> {
    let mut tx = store.tenant(tenant).await?;
    // The row is there, and locked, before it is read.
    let known: Option<String> = sqlx::query_scalar(
        "INSERT INTO tool_shapes AS s (tenant_id, tool_id, definition_sha256, shape, updated_at) VALUES ($1, $2, $3, '', $4)
         ON CONFLICT (tenant_id, tool_id) DO UPDATE SET updated_at = $4
         RETURNING CASE WHEN s.definition_sha256 = $3 THEN NULLIF(s.shape, '') END",
    )
    .bind(tenant.uuid())
    .bind(tool.uuid())
    .bind(definition.0)
    .bind(now)
    .fetch_one(&mut *tx)
    .await?;
    let shape = merge(known.as_deref());
    sqlx::query("UPDATE tool_shapes SET definition_sha256 = $3, shape = $4 WHERE tenant_id = $1 AND tool_id = $2")
        .bind(tenant.uuid())
        .bind(tool.uuid())
        .bind(definition.0)
        .bind(shape)
        .execute(&mut *tx)
        .await?;
    Ok(tx.commit().await?)
}
