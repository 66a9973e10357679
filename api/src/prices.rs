//! Prices: added, never changed or deleted. The price in force when a call opens is copied into its row.

pub mod create;
pub mod get;
pub mod import;
pub mod list;
pub mod rate_card;
mod sheet;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tollgate_domain::{
    Picos, PriceId, ToolId, UpstreamId,
    price::{self, Rate, Target, Unit},
};
use tollgate_store::prices::PriceRow;
use utoipa::ToSchema;

use crate::ctx::Resource;

/// A price of a tool, of all tools of an upstream that have none of their own, or of all tools that are left.
#[derive(Debug, Serialize, ToSchema)]
pub struct Price {
    #[schema(value_type = String, examples("price_01j9zc5v8mf9r8k7x3w2q1n0pa"))]
    pub id: PriceId,
    #[schema(value_type = Option<String>)]
    pub tool_id: Option<ToolId>,
    #[schema(value_type = Option<String>)]
    pub upstream_id: Option<UpstreamId>,
    /// The tenant's default.
    pub tenant: bool,
    #[serde(flatten)]
    pub charge: Charge,
    /// From here on the target has no price of its own: that of its upstream or the tenant's default applies.
    pub inherit: bool,
    /// It is in force from here until the next price of the same target is.
    pub effective_from: DateTime<Utc>,
    pub created_at: DateTime<Utc>,
    pub created_by: String,
}

/// What is charged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Charge {
    /// Of one unit (with tiers, of the first), as an exact decimal in the tenant's currency; null where nothing is set.
    #[schema(value_type = Option<String>, examples("0.002"))]
    pub amount: Option<Picos>,
    /// `call`: each call that the upstream was asked to make. `successful_call`: each with the outcome `ok`. `kb`: each 1,000 bytes that
    /// were begun of the result as the upstream wrote it. `second`: the time that the call took, to the microsecond.
    #[schema(value_type = Option<String>)]
    pub unit: Option<Unit>,
    /// No call is charged more; null: no more than the gateway's longest answer or the upstream's timeout come to.
    #[schema(value_type = Option<String>)]
    pub max_amount: Option<Picos>,
    /// By volume, counted over a month in the tenant's time zone; empty where the amount is the same for every call.
    pub tiers: Vec<Tier>,
}

/// The amount from this call of the month on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Tier {
    /// 1 for the first tier.
    #[schema(minimum = 1)]
    pub from_call: u64,
    #[schema(pattern = r"^[0-9]+(\.[0-9]{1,12})?$", examples("0.001"))]
    pub amount: String,
}

impl From<Option<&Rate>> for Charge {
    fn from(rate: Option<&Rate>) -> Self {
        let Some(rate) = rate else { return Self { amount: None, unit: None, max_amount: None, tiers: Vec::new() } };
        let tier = |tier: &price::Tier| Tier { from_call: tier.from_call, amount: tier.amount.to_string() };
        let tiers = rate.tiers().iter().map(tier).collect();
        Self { amount: Some(rate.amount), unit: Some(rate.unit), max_amount: rate.max, tiers }
    }
}

impl From<PriceRow> for Price {
    fn from(PriceRow { price, created_at, created_by }: PriceRow) -> Self {
        let (tool_id, upstream_id) = match price.target {
            Target::Tool(id) => (Some(id), None),
            Target::Upstream(id) => (None, Some(id)),
            Target::Tenant => (None, None),
        };
        Self {
            id: price.id,
            tool_id,
            upstream_id,
            tenant: price.target == Target::Tenant,
            charge: Charge::from(price.rate.as_ref()),
            inherit: price.rate.is_none(),
            effective_from: price.effective_from,
            created_at,
            created_by,
        }
    }
}

impl Resource for Price {
    fn tag(&self) -> Option<(String, i32)> {
        Some((self.id.to_string(), 1))
    }
}
