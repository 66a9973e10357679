use chrono::{DateTime, SubsecRound, Utc};
use serde::Deserialize;
use tollgate_domain::{
    Picos, PriceId, ToolId, UpstreamId,
    price::{self, Rate, Target, Unit},
};
use tollgate_store::prices;
use utoipa::ToSchema;

use super::{Price, Tier};
use crate::{
    check::Checks,
    ctx::Ctx,
    json::Json,
    problem::{Answer, Problem},
};

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPrice {
    /// One of this, `upstream_id` and `tenant`.
    #[schema(value_type = Option<String>)]
    pub tool_id: Option<ToolId>,
    #[schema(value_type = Option<String>)]
    pub upstream_id: Option<UpstreamId>,
    /// True: the default of all tools that have no price of their own and whose upstream has none.
    #[serde(default)]
    pub tenant: bool,
    /// A decimal of at most 12 places, in the tenant's currency. Either this, `tiers` or `inherit`.
    #[schema(pattern = r"^[0-9]+(\.[0-9]{1,12})?$", examples("0.002"))]
    pub amount: Option<String>,
    /// `call`, `successful_call`, `kb` or `second`; required with an amount or tiers.
    #[schema(value_type = Option<String>)]
    pub unit: Option<Unit>,
    /// Amounts by the volume of the month; the first from call 1 on.
    pub tiers: Option<Vec<Tier>>,
    /// No call is charged more than this, and no budget holds more for it.
    #[schema(pattern = r"^[0-9]+(\.[0-9]{1,12})?$", examples("0.05"))]
    pub max_amount: Option<String>,
    /// True: from then on the target has no price of its own.
    #[serde(default)]
    pub inherit: bool,
    /// Now when left out. The past never changes.
    pub effective_from: Option<DateTime<Utc>>,
}

/// Set a price from now or a later moment on, or end one.
///
/// A tool's own price goes before its upstream's, that before the tenant's default. An amount of 0 is a price: free on purpose.
#[utoipa::path(post, path = "/v1/tenants/{tenant_id}/prices", request_body = NewPrice, responses((status = 201, description = "Set.", body = Price)))]
pub async fn handle(ctx: Ctx, body: Json<NewPrice>) -> Answer {
    let new = body.value;
    let mut checks = Checks::default();
    let target = match (new.tool_id, new.upstream_id, new.tenant) {
        (Some(tool), None, false) => Some(Target::Tool(tool)),
        (None, Some(upstream), false) => Some(Target::Upstream(upstream)),
        (None, None, true) => Some(Target::Tenant),
        _ => None,
    };
    checks.require(target.is_some(), "/tool_id", "name one of tool_id, upstream_id and tenant: true");
    let rate = rate(&mut checks, &new);
    let effective_from = effective(&mut checks, new.effective_from, ctx.now);
    checks.done()?;
    let (Some(target), Some(rate)) = (target, rate) else {
        return Err(Problem::internal(&"a price that was checked lacks a field").into());
    };

    let mut write = ctx.post(&body.sha256).await?;
    let price = price::Price { id: PriceId::mint(ctx.now), target, rate, effective_from };
    prices::create(&mut write, &price).await?;
    let made = prices::get(&mut write.tx, ctx.tenant, price.id).await?;
    write.created(&Price::from(made)).await
}

/// When it takes effect. Postgres keeps microseconds.
pub fn effective(checks: &mut Checks, asked: Option<DateTime<Utc>>, now: DateTime<Utc>) -> DateTime<Utc> {
    let from = asked.map_or(now, |at| at.trunc_subsecs(6));
    checks.require(from >= now, "/effective_from", "a price takes effect now or later: the past never changes");
    checks.require(from.timestamp() <= 253_402_300_799, "/effective_from", "use a time before the year 10000");
    from
}

/// What is to be charged; within, `None`: nothing of its own.
fn rate(checks: &mut Checks, new: &NewPrice) -> Option<Option<Rate>> {
    if new.inherit {
        let alone = new.amount.is_none() && new.unit.is_none() && new.tiers.is_none() && new.max_amount.is_none();
        checks.require(alone, "/inherit", "what has no price of its own has no amount, unit, tiers or max_amount");
        return alone.then_some(None);
    }
    let max = new.max_amount.as_ref().map(|max| checks.parse::<Picos>("/max_amount", max));
    let Some(unit) = new.unit else {
        checks.refuse("/unit", "name what the amount is charged for: call, successful_call, kb or second");
        return None;
    };
    // One that was refused is none, but the rest is still looked at.
    let max_amount = max.flatten();
    let rate = match (&new.amount, &new.tiers) {
        (Some(amount), None) => Some(Rate::flat(unit, checks.parse::<Picos>("/amount", amount)?, max_amount)),
        (None, Some(tiers)) => tiered(checks, unit, tiers, max_amount),
        _ => {
            checks.refuse("/amount", "give either an amount, or tiers, or inherit: true");
            None
        }
    };
    rate.map(Some)
}

fn tiered(checks: &mut Checks, unit: Unit, tiers: &[Tier], max: Option<Picos>) -> Option<Rate> {
    let amount = |(place, tier): (usize, &Tier)| {
        let amount = checks.parse::<Picos>(&format!("/tiers/{place}/amount"), &tier.amount)?;
        Some(price::Tier { from_call: tier.from_call, amount })
    };
    let tiers: Vec<Option<price::Tier>> = tiers.iter().take(price::MAX_TIERS + 1).enumerate().map(amount).collect();
    let tiers = tiers.into_iter().collect::<Option<Vec<_>>>()?;
    Rate::tiered(unit, tiers, max).map_err(|e| checks.refuse("/tiers", e.to_string())).ok()
}
