use chrono::Duration;
use serde::Deserialize;
use serde_json::json;
use tollgate_domain::{KeyId, Secret, SecretKind};
use tollgate_store::keys;
use utoipa::ToSchema;

use super::{Key, KeyWithSecret};
use crate::{
    check::Checks,
    ctx::{Ctx, Id},
    json::MaybeJson,
    problem::{Answer, Kind, Problem},
};

const MAX_OVERLAP: u32 = 7 * 24 * 3600;

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rotation {
    /// For how long the old secret works beside the new one; 0, at most 7 days.
    #[serde(default)]
    #[schema(maximum = 604_800, default = 0)]
    pub overlap_seconds: u32,
}

/// Give a virtual key a new secret. Its id, and all that is recorded under it, stay.
#[utoipa::path(post, path = "/v1/tenants/{tenant_id}/keys/{key_id}/rotate", request_body = Option<Rotation>,
    responses((status = 200, description = "Rotated; the new secret is shown this once.", body = KeyWithSecret)))]
pub async fn handle(ctx: Ctx, Id(id): Id<KeyId>, body: MaybeJson<Rotation>) -> Answer {
    let overlap = body.value.overlap_seconds;
    let mut checks = Checks::default();
    checks.require(overlap <= MAX_OVERLAP, "/overlap_seconds", "use at most 604800 (7 days)");
    checks.done()?;

    let mut write = ctx.post(&body.sha256).await?;
    let key = keys::lock(&mut write, id).await?;
    if key.revoked_at.is_some() {
        return Err(Problem::because(Kind::BadState, "The key is revoked; make a new one.").into());
    }
    let overlap_ends = (overlap > 0).then(|| ctx.now + Duration::seconds(i64::from(overlap)));
    let secret = Secret::generate(SecretKind::Key, id.uuid());
    let key = keys::rotate(&mut write, key, &secret.hash(&ctx.app.secrets.pepper), overlap_ends).await?;
    write.event("key.rotate", &id, json!({"name": key.name, "overlap_seconds": overlap})).await?;
    write.ok(&KeyWithSecret { key: Key::at(key, ctx.now), secret: secret.reveal().to_owned() }).await
}
