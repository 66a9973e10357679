use chrono::{DateTime, Utc};
use serde::Serialize;
use tollgate_store::seals;
use utoipa::ToSchema;

use crate::{
    ctx::{Ctx, Resource},
    problem::Answer,
};

/// The keys that sign the audit trail.
#[derive(Debug, Serialize, ToSchema)]
pub struct AuditKeys {
    /// Oldest first. What a key has signed stays provable after it was replaced.
    pub keys: Vec<AuditKey>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct AuditKey {
    /// The first 16 hex digits of the SHA-256 of the key.
    pub key_id: String,
    /// `ed25519`
    pub algorithm: &'static str,
    /// 64 hex digits.
    pub public_key: String,
    pub first_seen_at: DateTime<Utc>,
}

impl Resource for AuditKeys {}

/// Read the public keys of the audit trail.
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}/audit/keys", responses((status = 200, description = "The keys.", body = AuditKeys)))]
pub async fn handle(ctx: Ctx) -> Answer {
    let mut tx = ctx.app.store.tenant_snapshot(ctx.tenant).await?;
    let keys = seals::keys(&mut tx).await?.into_iter().map(|(key, first_seen_at)| AuditKey {
        key_id: key.key_id,
        algorithm: "ed25519",
        public_key: key.public_key,
        first_seen_at,
    });
    Ok(ctx.ok(&AuditKeys { keys: keys.collect() }))
}
