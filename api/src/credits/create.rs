use serde::Deserialize;
use tollgate_domain::{CallId, KeyId, Picos, TeamId, ToolId, UpstreamId};
use tollgate_store::credits::{self, CreditScope, Credited};
use utoipa::ToSchema;

use super::Credit;
use crate::{
    check::Checks,
    ctx::Ctx,
    json::Json,
    problem::{Answer, Problem},
};

/// The longest reason, in characters.
const MAX_REASON: usize = 500;

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewCredit {
    /// Either this, or any of those that follow; none of them is the tenant as a whole.
    #[schema(value_type = Option<String>)]
    pub tool_call_id: Option<CallId>,
    #[schema(value_type = Option<String>)]
    pub key_id: Option<KeyId>,
    #[schema(value_type = Option<String>)]
    pub team_id: Option<TeamId>,
    #[schema(value_type = Option<String>)]
    pub upstream_id: Option<UpstreamId>,
    #[schema(value_type = Option<String>)]
    pub tool_id: Option<ToolId>,
    /// More than 0; of a call, with what was credited before, at most what it cost.
    #[schema(pattern = r"^[0-9]+(\.[0-9]{1,12})?$", examples("0.002"))]
    pub amount: String,
    /// For whoever reads it later, 1 to 500 characters.
    pub reason: String,
}

/// Give back a part of what was charged, or all of it.
///
/// Nothing that was charged is changed, and no budget gets room back: reports show credits beside the amount, by the time at which they
/// were made.
#[utoipa::path(post, path = "/v1/tenants/{tenant_id}/credits", request_body = NewCredit, responses((status = 201, description = "Credited.", body = Credit)))]
pub async fn handle(ctx: Ctx, body: Json<NewCredit>) -> Answer {
    let new = body.value;
    let mut checks = Checks::default();
    let scope = CreditScope { key: new.key_id, team: new.team_id, upstream: new.upstream_id, tool: new.tool_id };
    let of = match new.tool_call_id {
        Some(call) => {
            checks.require(
                scope == CreditScope::default(),
                "/tool_call_id",
                "a call says by itself whose it was: name nothing else",
            );
            Credited::Call(call)
        }
        None => Credited::Scope(scope),
    };
    let amount = checks.parse::<Picos>("/amount", &new.amount);
    checks.require(amount.is_none_or(|amount| amount.0 > 0), "/amount", "use an amount above 0");
    let fits = !new.reason.trim().is_empty() && new.reason.chars().count() <= MAX_REASON && !new.reason.contains('\0');
    checks.require(fits, "/reason", "use 1 to 500 characters");
    checks.done()?;
    let Some(amount) = amount else { return Err(Problem::internal(&"a credit that was checked lacks its amount").into()) };

    let mut write = ctx.post(&body.sha256).await?;
    let credit = credits::create(&mut write, of, amount, &new.reason).await?;
    write.created_quietly(&Credit::from(credit)).await
}
