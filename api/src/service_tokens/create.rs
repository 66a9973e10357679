use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tollgate_domain::{Role, Secret, SecretKind, ServiceTokenId};
use tollgate_store::tokens;
use utoipa::ToSchema;

use super::{RoleName, ServiceToken};
use crate::{
    check::Checks,
    ctx::{Ctx, Resource},
    json::Json,
    problem::Answer,
};

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewServiceToken {
    #[schema(min_length = 1, max_length = 200)]
    pub name: String,
    #[schema(value_type = RoleName)]
    pub role: Role,
    /// Null or left out: never.
    pub expires_at: Option<DateTime<Utc>>,
}

/// A new service token, with the one sight of its secret.
#[derive(Serialize, ToSchema)]
pub struct ServiceTokenWithSecret {
    #[serde(flatten)]
    pub token: ServiceToken,
    /// The bearer. It cannot be read again.
    pub secret: String,
}

impl Resource for ServiceTokenWithSecret {
    fn tag(&self) -> Option<(String, i32)> {
        self.token.tag()
    }
}

/// Make a service token. Nobody gives more than they have: an admin makes no owners.
#[utoipa::path(post, path = "/v1/tenants/{tenant_id}/service-tokens", request_body = NewServiceToken,
    responses((status = 201, description = "Made; the secret is shown this once.", body = ServiceTokenWithSecret)))]
pub async fn handle(ctx: Ctx, body: Json<NewServiceToken>) -> Answer {
    let NewServiceToken { name, role, expires_at } = body.value;
    let mut checks = Checks::default();
    checks.name("/name", &name);
    checks.future("/expires_at", expires_at, ctx.now);
    checks.done()?;
    ctx.may_grant(role).await?;

    let mut write = ctx.post(&body.sha256).await?;
    let id = ServiceTokenId::mint(ctx.now);
    let secret = Secret::generate(SecretKind::Service, id.uuid());
    let token = tokens::ServiceToken { id, name, role, created_at: ctx.now, expires_at, revoked_at: None };
    tokens::create(&mut write, &token, &secret.hash(&ctx.app.secrets.pepper)).await?;
    write.event("service_token.create", &id, json!({"name": token.name, "role": role, "expires_at": expires_at})).await?;
    write.created(&ServiceTokenWithSecret { token: token.into(), secret: secret.reveal().to_owned() }).await
}
