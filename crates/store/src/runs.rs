//! What a worker asks of earlier requests.

use tollgate_domain::{KeyId, LlmRequestId, Origin, TenantId};

use crate::{
    error::{StoreError, StoreResult, word},
    tx::Store,
};

/// A request that a client names as its parent.
#[derive(Debug, Clone, Copy)]
pub struct Named {
    pub origin: Origin,
    /// It is the first of an agent loop that waits for people: who makes a call of it by hand ends that.
    pub waits: bool,
}

/// The request that a client names as its parent.
///
/// # Errors
/// [`StoreError::NotFound`] unless it exists and belongs to this tenant and key.
pub async fn parent(store: &Store, tenant: TenantId, key: KeyId, request: LlmRequestId) -> StoreResult<Named> {
    let mut tx = store.tenant(tenant).await?;
    let found: Option<(String, bool)> = sqlx::query_as(
        "SELECT l.origin, EXISTS (SELECT FROM agent_loops a WHERE a.tenant_id = l.tenant_id AND a.root_id = l.llm_request_id
                                  AND a.state = 'waiting')
         FROM llm_requests l WHERE l.tenant_id = $1 AND l.llm_request_id = $2 AND l.key_id = $3",
    )
    .bind(tenant.uuid())
    .bind(request.uuid())
    .bind(key.uuid())
    .fetch_optional(&mut *tx)
    .await?;
    tx.commit().await?;
    let (origin, waits) = found.ok_or(StoreError::NotFound)?;
    Ok(Named { origin: word(&origin)?, waits })
}
