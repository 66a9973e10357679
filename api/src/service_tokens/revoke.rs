use serde_json::json;
use tollgate_domain::ServiceTokenId;
use tollgate_store::tokens;

use super::ServiceToken;
use crate::{
    ctx::{Ctx, Id},
    problem::Answer,
};

/// Revoke a service token. It stops working at once; its row stays.
#[utoipa::path(delete, path = "/v1/tenants/{tenant_id}/service-tokens/{service_token_id}",
    responses((status = 204, description = "Revoked.")))]
pub async fn handle(ctx: Ctx, Id(id): Id<ServiceTokenId>) -> Answer {
    let mut write = ctx.change().await?;
    let token = tokens::lock(&mut write, id).await?;
    write.matches(&ServiceToken::from(token.clone()))?;
    ctx.may_grant(token.role).await?;
    tokens::revoke(&mut write, id).await?;
    write.event("service_token.revoke", &id, json!({"name": token.name, "role": token.role})).await?;
    write.no_content().await
}
