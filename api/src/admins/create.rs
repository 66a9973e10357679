use serde::Deserialize;
use serde_json::json;
use tollgate_domain::{AdminId, Role};
use tollgate_store::admins;
use utoipa::ToSchema;

use super::Admin;
use crate::{check::Checks, ctx::Ctx, json::Json, problem::Answer, service_tokens::RoleName};

/// The longest issuer or subject, in bytes.
const MAX_CLAIM: usize = 512;

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewAdmin {
    #[schema(min_length = 1, max_length = 200)]
    pub name: String,
    /// Compared with `iss` as it stands.
    #[schema(min_length = 1, max_length = 512)]
    pub issuer: String,
    /// Compared with `sub` as it stands.
    #[schema(min_length = 1, max_length = 512)]
    pub subject: String,
    #[schema(value_type = RoleName)]
    pub role: Role,
}

/// Let a person of an identity provider in.
#[utoipa::path(post, path = "/v1/tenants/{tenant_id}/admins", request_body = NewAdmin,
    responses((status = 201, description = "Made.", body = Admin)))]
pub async fn handle(ctx: Ctx, body: Json<NewAdmin>) -> Answer {
    let NewAdmin { name, issuer, subject, role } = body.value;
    let mut checks = Checks::default();
    checks.name("/name", &name);
    for (pointer, claim) in [("/issuer", &issuer), ("/subject", &subject)] {
        let fits = (1..=MAX_CLAIM).contains(&claim.len()) && !claim.chars().any(char::is_control);
        checks.require(fits, pointer, "use 1 to 512 characters, none of them control characters");
    }
    checks.done()?;
    ctx.may_grant(role).await?;

    let mut write = ctx.post(&body.sha256).await?;
    let admin = admins::Admin { id: AdminId::mint(ctx.now), name, issuer, subject, role, created_at: ctx.now, version: 1 };
    admins::create(&mut write, &admin).await?;
    let detail = json!({"name": admin.name, "issuer": admin.issuer, "subject": admin.subject, "role": role});
    write.event("admin.create", &admin.id, detail).await?;
    write.created(&Admin::from(admin)).await
}
