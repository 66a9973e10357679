//! Rate limits: how often calls may be made.

pub mod create;
pub mod delete;
pub mod get;
pub mod list;
pub mod update;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Value, json};
use tollgate_domain::{RateLimitId, rate::Per};
use tollgate_store::rates::RateLimitRow;
use utoipa::ToSchema;

use crate::{budgets::Scope, ctx::Resource};

/// Rate limits of one tenant at most: each call is counted under all that cover it.
pub const MAX_LIMITS: i64 = 1_000;

/// A rate limit: so many calls at once after a rest, and one more each time that its share of the stretch has gone by.
#[derive(Debug, Serialize, ToSchema)]
pub struct RateLimit {
    #[schema(value_type = String, examples("rl_01j9zc5v8mf9r8k7x3w2q1n0pa"))]
    pub id: RateLimitId,
    pub name: String,
    pub scope: Scope,
    #[schema(minimum = 1, maximum = 1_000_000)]
    pub max: u32,
    /// `second`, `minute`, `hour` or `day`.
    #[schema(value_type = String)]
    pub per: Per,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    /// For the ETag.
    #[serde(skip)]
    version: i32,
}

impl From<RateLimitRow> for RateLimit {
    fn from(row: RateLimitRow) -> Self {
        let RateLimitRow { limit, created_at, updated_at, version } = row;
        let tollgate_domain::rate::RateLimit { id, name, scope, max, per } = limit;
        Self { id, name, scope: scope.into(), max, per, created_at, updated_at, version }
    }
}

impl Resource for RateLimit {
    fn tag(&self) -> Option<(String, i32)> {
        Some((self.id.to_string(), self.version))
    }
}

fn detail(limit: &RateLimit) -> Value {
    json!({"name": limit.name, "scope": limit.scope, "max": limit.max, "per": limit.per})
}
