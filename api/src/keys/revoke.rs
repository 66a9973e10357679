use serde_json::json;
use tollgate_domain::KeyId;
use tollgate_store::keys;

use super::Key;
use crate::{
    ctx::{Ctx, Id},
    json::{MaybeJson, NoFields},
    problem::Answer,
};

/// Revoke a virtual key for good. Workers refuse it within a second; revoking it again changes nothing.
#[utoipa::path(post, path = "/v1/tenants/{tenant_id}/keys/{key_id}/revoke", request_body = Option<NoFields>,
    responses((status = 200, description = "Revoked.", body = Key)))]
pub async fn handle(ctx: Ctx, Id(id): Id<KeyId>, body: MaybeJson<NoFields>) -> Answer {
    let mut write = ctx.post(&body.sha256).await?;
    let key = keys::lock(&mut write, id).await?;
    let again = key.revoked_at.is_some();
    let key = keys::revoke(&mut write, key).await?;
    write.event("key.revoke", &id, json!({"name": key.name, "again": again})).await?;
    write.ok(&Key::at(key, ctx.now)).await
}
