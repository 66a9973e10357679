use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tollgate_domain::{
    Picos, PriceId, ToolId, UpstreamId,
    price::{Target, Unit},
};
use tollgate_store::prices::{self, RateCardRow};
use utoipa::{IntoParams, ToSchema};

use crate::{
    ctx::Ctx,
    page::{List, ListBody, PageQuery},
    problem::Answer,
};

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RateCardQuery {
    /// The moment that is asked about; now when left out.
    pub at: Option<DateTime<Utc>>,
}

/// What one call of a tool costs.
#[derive(Debug, Serialize, ToSchema)]
pub struct Rate {
    #[schema(value_type = String)]
    pub tool_id: ToolId,
    pub tool_name: String,
    #[schema(value_type = String)]
    pub upstream_id: UpstreamId,
    pub upstream_name: String,
    /// Null where nobody has set a price: calls are free.
    #[schema(value_type = Option<String>)]
    pub price_id: Option<PriceId>,
    /// `tool`: the tool has a price of its own; `upstream`: that of its upstream applies.
    pub price_of: Option<&'static str>,
    /// An exact decimal, in the tenant's currency.
    #[schema(value_type = String, examples("0.002"))]
    pub amount: Picos,
    /// `call`
    #[schema(value_type = String)]
    pub unit: Unit,
    pub effective_from: Option<DateTime<Utc>>,
}

impl From<RateCardRow> for Rate {
    fn from(RateCardRow { tool, price }: RateCardRow) -> Self {
        Self {
            tool_id: tool.id,
            tool_name: tool.name,
            upstream_id: tool.upstream_id,
            upstream_name: tool.upstream_name,
            price_id: price.as_ref().map(|p| p.id),
            price_of: price.as_ref().map(|p| match p.target {
                Target::Tool(_) => "tool",
                Target::Upstream(_) => "upstream",
            }),
            amount: price.as_ref().map(|p| p.amount).unwrap_or_default(),
            unit: price.as_ref().map_or(Unit::Call, |p| p.unit),
            effective_from: price.map(|p| p.effective_from),
        }
    }
}

/// The rate card: what a call of each tool costs at one moment.
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}/rate-card", params(PageQuery, RateCardQuery), responses((status = 200, description = "A page.", body = ListBody<Rate>)))]
pub async fn handle(ctx: Ctx, list: List<RateCardQuery>) -> Answer {
    let at = list.filter.at.unwrap_or(ctx.now);
    let mut tx = ctx.app.store.tenant_snapshot(ctx.tenant).await?;
    let page = prices::rate_card(&mut tx, ctx.tenant, at, list.page).await?;
    Ok(list.answer(page, Rate::from))
}
