use chrono::{DateTime, SubsecRound, Utc};
use serde::Deserialize;
use tollgate_domain::{
    Picos, PriceId, ToolId, UpstreamId,
    price::{self, Target, Unit},
};
use tollgate_store::prices;
use utoipa::ToSchema;

use super::Price;
use crate::{check::Checks, ctx::Ctx, json::Json, problem::Answer};

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPrice {
    /// Either this or `upstream_id`.
    #[schema(value_type = Option<String>)]
    pub tool_id: Option<ToolId>,
    #[schema(value_type = Option<String>)]
    pub upstream_id: Option<UpstreamId>,
    /// A decimal of at most 12 places, in the tenant's currency.
    #[schema(pattern = r"^[0-9]+(\.[0-9]{1,12})?$", examples("0.002"))]
    pub amount: String,
    /// `call`
    #[schema(value_type = String)]
    pub unit: Unit,
    /// Now when left out. The past never changes.
    pub effective_from: Option<DateTime<Utc>>,
}

/// Set a price from now or a later moment on.
#[utoipa::path(post, path = "/v1/tenants/{tenant_id}/prices", request_body = NewPrice, responses((status = 201, description = "Set.", body = Price)))]
pub async fn handle(ctx: Ctx, body: Json<NewPrice>) -> Answer {
    let new = body.value;
    let mut checks = Checks::default();
    let target = match (new.tool_id, new.upstream_id) {
        (Some(tool), None) => Some(Target::Tool(tool)),
        (None, Some(upstream)) => Some(Target::Upstream(upstream)),
        _ => None,
    };
    checks.require(target.is_some(), "/tool_id", "name either a tool_id or an upstream_id");
    let amount = checks.parse::<Picos>("/amount", &new.amount);
    // Postgres keeps microseconds.
    let effective_from = new.effective_from.map_or(ctx.now, |at| at.trunc_subsecs(6));
    checks.require(effective_from >= ctx.now, "/effective_from", "a price takes effect now or later: the past never changes");
    checks.require(effective_from.timestamp() <= 253_402_300_799, "/effective_from", "use a time before the year 10000");
    checks.done()?;
    let (Some(target), Some(amount)) = (target, amount) else {
        return Err(crate::problem::Problem::internal(&"a price that was checked lacks a field").into());
    };

    let mut write = ctx.post(&body.sha256).await?;
    let price = price::Price { id: PriceId::mint(ctx.now), target, amount, unit: new.unit, effective_from };
    prices::create(&mut write, &price).await?;
    let made = prices::get(&mut write.tx, ctx.tenant, price.id).await?;
    write.created(&Price::from(made)).await
}
