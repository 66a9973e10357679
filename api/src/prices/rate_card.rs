use axum::{
    http::header,
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tollgate_domain::{
    Picos, PriceId, ToolId, UpstreamId,
    price::{Price, Unit},
};
use tollgate_store::{
    llm_prices,
    prices::{self, RateCardRow, import::Priced},
};
use utoipa::{IntoParams, ToSchema};

use super::{Charge, Tier, sheet};
use crate::{
    ctx::Ctx,
    page::{List, ListBody, PageQuery},
    problem::{Answer, Kind, Problem, Stop},
};

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RateCardQuery {
    /// The moment that is asked about; now when left out.
    pub at: Option<DateTime<Utc>>,
    /// `json` (when left out), or `csv`: the whole card in one file, as `POST /rate-card/import` takes it. It has a line for the tenant's
    /// default (`*`, `*`), one for each upstream (`*` as its tool) and one for each tool, with the price that each has of its own.
    pub format: Option<String>,
}

/// What calls of a tool cost.
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
    /// `tool`: the tool has a price of its own; `upstream`: that of its upstream applies; `tenant`: the tenant's default.
    pub price_of: Option<&'static str>,
    /// An exact decimal, in the tenant's currency; with tiers, that of the first.
    #[schema(value_type = String, examples("0.002"))]
    pub amount: Picos,
    /// `call`, `successful_call`, `kb` or `second`
    #[schema(value_type = String)]
    pub unit: Unit,
    /// No call is charged more.
    #[schema(value_type = Option<String>)]
    pub max_amount: Option<Picos>,
    /// By the volume of the month.
    pub tiers: Vec<Tier>,
    pub effective_from: Option<DateTime<Utc>>,
}

impl From<RateCardRow> for Rate {
    fn from(RateCardRow { tool, price }: RateCardRow) -> Self {
        let charge = Charge::from(price.as_ref().and_then(|price| price.rate.as_ref()));
        Self {
            tool_id: tool.id,
            tool_name: tool.name,
            upstream_id: tool.upstream_id,
            upstream_name: tool.upstream_name,
            price_id: price.as_ref().map(|price| price.id),
            price_of: price.as_ref().map(|price| price.target.as_str()),
            amount: charge.amount.unwrap_or_default(),
            unit: charge.unit.unwrap_or(Unit::Call),
            max_amount: charge.max_amount,
            tiers: charge.tiers,
            effective_from: price.as_ref().map(|price: &Price| price.effective_from),
        }
    }
}

/// The rate card: what a call of each tool costs at one moment.
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}/rate-card", params(PageQuery, RateCardQuery),
    responses((status = 200, description = "A page; as CSV, all of it.", content((ListBody<Rate> = "application/json"), (String = "text/csv")))))]
pub async fn handle(ctx: Ctx, list: List<RateCardQuery>) -> Answer {
    let at = list.filter.at.unwrap_or(ctx.now);
    match list.filter.format.as_deref() {
        None | Some("json") => {}
        Some("csv") => return file(&ctx, at).await,
        Some(_) => {
            return Err(Problem::because(Kind::UnsupportedFormat, "A rate card is written as \"json\" or \"csv\".").into());
        }
    }
    let mut tx = ctx.app.store.tenant_snapshot(ctx.tenant).await?;
    let page = prices::rate_card(&mut tx, ctx.tenant, at, list.page).await?;
    Ok(list.answer(page, Rate::from))
}

async fn file(ctx: &Ctx, at: DateTime<Utc>) -> Result<Response, Stop> {
    let mut tx = ctx.app.store.tenant_snapshot(ctx.tenant).await?;
    let currency = llm_prices::currency(&mut tx, ctx.tenant).await?;
    let (priced, card) = (Priced::load(&mut tx, ctx.tenant).await?, prices::card(&mut tx, ctx.tenant, at).await?);
    let bytes = sheet::write(&priced, &card, (at, currency))?;
    let headers = [
        (header::CONTENT_TYPE, "text/csv; charset=utf-8; header=present"),
        (header::CONTENT_DISPOSITION, "attachment; filename=\"rate-card.csv\""),
    ];
    Ok((headers, bytes).into_response())
}
