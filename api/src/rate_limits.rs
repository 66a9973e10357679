//! Rate limits: how often calls may be made, how many tokens they may use, how many may be under way at once.

pub mod create;
pub mod delete;
pub mod get;
pub mod list;
pub mod update;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Value, json};
use tollgate_domain::{
    RateLimitId,
    rate::{Measure, Per, Unit},
};
use tollgate_store::rates::RateLimitRow;
use utoipa::ToSchema;

use crate::{budgets::Scope, check::Checks, ctx::Resource};

/// Rate limits of one tenant at most: each call is counted under all that cover it.
pub const MAX_LIMITS: i64 = 1_000;

/// A rate limit: so many calls or tokens at once after a rest, and one more each time that its share of the stretch has gone by; or so many
/// calls under way at the same time.
#[derive(Debug, Serialize, ToSchema)]
pub struct RateLimit {
    #[schema(value_type = String, examples("rl_01j9zc5v8mf9r8k7x3w2q1n0pa"))]
    pub id: RateLimitId,
    pub name: String,
    pub scope: Scope,
    #[schema(minimum = 1, maximum = 100_000_000)]
    pub max: u32,
    /// `call`; `token`, of requests to language models; `concurrent`, calls under way at once.
    #[schema(value_type = String)]
    pub unit: Unit,
    /// `second`, `minute`, `hour` or `day`; null for `concurrent`.
    #[schema(value_type = Option<String>)]
    pub per: Option<Per>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    /// For the ETag.
    #[serde(skip)]
    version: i32,
}

impl From<RateLimitRow> for RateLimit {
    fn from(row: RateLimitRow) -> Self {
        let RateLimitRow { limit, created_at, updated_at } = row;
        let tollgate_domain::rate::RateLimit { id, name, scope, max, measure, version } = limit;
        let (unit, per) = (measure.unit(), measure.per());
        Self { id, name, scope: scope.into(), max, unit, per, created_at, updated_at, version }
    }
}

impl Resource for RateLimit {
    fn tag(&self) -> Option<(String, i32)> {
        Some((self.id.to_string(), self.version))
    }
}

/// What is measured, and how much of it is the most: `None`, having said what is wrong.
fn check_measure(checks: &mut Checks, unit: Unit, per: Option<Per>, max: u32) -> Option<Measure> {
    let measure = Measure::of(unit, per);
    let told = match unit {
        Unit::Concurrent => "calls under way at once have no stretch of time: leave it out",
        Unit::Call | Unit::Token => "use second, minute, hour or day",
    };
    checks.require(measure.is_some(), "/per", told);
    if let Some(measure) = measure {
        let most = measure.most();
        checks.require((1..=most).contains(&max), "/max", &format!("use 1 to {most}"));
    }
    measure
}

fn detail(limit: &RateLimit) -> Value {
    json!({"name": limit.name, "scope": limit.scope, "max": limit.max, "unit": limit.unit, "per": limit.per})
}
