//! What a worker asks of earlier requests.

use tollgate_domain::{KeyId, LlmRequestId, Origin, TenantId};

use crate::{
    error::{StoreError, StoreResult},
    tx::Store,
};

/// The origin of a request that a client names as its parent.
///
/// # Errors
/// [`StoreError::NotFound`] unless it exists and belongs to this tenant and key.
pub async fn parent(store: &Store, tenant: TenantId, key: KeyId, request: LlmRequestId) -> StoreResult<Origin> {
    let mut tx = store.tenant(tenant).await?;
    let origin = sqlx::query_scalar!(
        "SELECT origin FROM llm_requests WHERE tenant_id = $1 AND llm_request_id = $2 AND key_id = $3",
        tenant.uuid(),
        request.uuid(),
        key.uuid(),
    )
    .fetch_optional(&mut *tx)
    .await?
    .ok_or(StoreError::NotFound)?;
    tx.commit().await?;
    origin.parse().map_err(|e| StoreError::Corrupt(format!("origin: {e}")))
}
