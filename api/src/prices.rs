//! Prices: added, never changed or deleted. The price in force when a call opens is copied into its row.

pub mod create;
pub mod get;
pub mod list;
pub mod rate_card;

use chrono::{DateTime, Utc};
use serde::Serialize;
use tollgate_domain::{
    Picos, PriceId, ToolId, UpstreamId,
    price::{Target, Unit},
};
use tollgate_store::prices::PriceRow;
use utoipa::ToSchema;

use crate::ctx::Resource;

/// A price of a tool, or of all tools of an upstream that have none of their own.
#[derive(Debug, Serialize, ToSchema)]
pub struct Price {
    #[schema(value_type = String, examples("price_01j9zc5v8mf9r8k7x3w2q1n0pa"))]
    pub id: PriceId,
    #[schema(value_type = Option<String>)]
    pub tool_id: Option<ToolId>,
    #[schema(value_type = Option<String>)]
    pub upstream_id: Option<UpstreamId>,
    /// An exact decimal, in the tenant's currency.
    #[schema(value_type = String, examples("0.002"))]
    pub amount: Picos,
    /// `call`
    #[schema(value_type = String)]
    pub unit: Unit,
    /// It is in force from here until the next price of the same target is.
    pub effective_from: DateTime<Utc>,
    pub created_at: DateTime<Utc>,
    pub created_by: String,
}

impl From<PriceRow> for Price {
    fn from(PriceRow { price, created_at, created_by }: PriceRow) -> Self {
        let (tool_id, upstream_id) = match price.target {
            Target::Tool(id) => (Some(id), None),
            Target::Upstream(id) => (None, Some(id)),
        };
        let (amount, unit) = (price.amount, price.unit);
        Self { id: price.id, tool_id, upstream_id, amount, unit, effective_from: price.effective_from, created_at, created_by }
    }
}

impl Resource for Price {
    fn tag(&self) -> Option<(String, i32)> {
        Some((self.id.to_string(), 1))
    }
}
