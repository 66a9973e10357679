use tollgate_domain::KeyId;
use tollgate_store::keys;

use super::Key;
use crate::{
    ctx::{Ctx, Id},
    problem::Answer,
};

/// Read a virtual key.
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}/keys/{key_id}",
    responses((status = 200, description = "The key, without its secret.", body = Key)))]
pub async fn handle(ctx: Ctx, Id(id): Id<KeyId>) -> Answer {
    let key = keys::get(&ctx.app.store, ctx.tenant, id).await?;
    Ok(ctx.ok(&Key::at(key, ctx.now)))
}
