use tollgate_domain::ServiceTokenId;
use tollgate_store::tokens;

use super::ServiceToken;
use crate::{
    ctx::{Ctx, Id},
    problem::Answer,
};

/// Read a service token.
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}/service-tokens/{service_token_id}",
    responses((status = 200, description = "The token, without its secret.", body = ServiceToken)))]
pub async fn handle(ctx: Ctx, Id(id): Id<ServiceTokenId>) -> Answer {
    let token = tokens::get(&ctx.app.store, ctx.tenant, id).await?;
    Ok(ctx.ok(&ServiceToken::from(token)))
}
