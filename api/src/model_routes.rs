//! Model routes: names under which a tenant's callers ask for models, and where those requests go.

pub mod create;
pub mod delete;
pub mod get;
pub mod list;
pub mod update;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tollgate_domain::{ModelRouteId, ProviderId, llm};
use tollgate_store::providers::RouteRow;
use utoipa::ToSchema;

use crate::{check::Checks, ctx::Resource};

const MAX_TARGETS: usize = 20;

/// A model's name of the tenant's own.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelRoute {
    #[schema(value_type = String, examples("route_01j9zc5v8mf9r8k7x3w2q1n0pa"))]
    pub id: ModelRouteId,
    /// What callers ask for.
    pub name: String,
    /// Those with a weight share the first tries by it; where one fails, the others follow, those of weight 0 last.
    pub targets: Vec<RouteTarget>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    /// For the ETag.
    #[serde(skip)]
    version: i32,
}

/// A model at a provider.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteTarget {
    #[schema(value_type = String)]
    pub provider_id: ProviderId,
    /// As the provider names it.
    #[schema(min_length = 1, max_length = 200)]
    pub model: String,
    /// 1 when left out.
    #[serde(default = "one")]
    #[schema(maximum = 1_000_000)]
    pub weight: u32,
}

const fn one() -> u32 {
    1
}

impl From<RouteRow> for ModelRoute {
    fn from(row: RouteRow) -> Self {
        let RouteRow { route: llm::ModelRoute { id, name, targets }, created_at, updated_at, version } = row;
        let shown = |llm::Target { provider_id, model, weight }| RouteTarget { provider_id, model, weight };
        Self { id, name, targets: targets.into_iter().map(shown).collect(), created_at, updated_at, version }
    }
}

impl Resource for ModelRoute {
    fn tag(&self) -> Option<(String, i32)> {
        Some((self.id.to_string(), self.version))
    }
}

fn is_name(text: &str) -> bool {
    (1..=200).contains(&text.len()) && !text.chars().any(|c| c.is_control() || c.is_whitespace() || c == '*')
}

fn checked(checks: &mut Checks, targets: Vec<RouteTarget>) -> Vec<llm::Target> {
    checks.require((1..=MAX_TARGETS).contains(&targets.len()), "/targets", "give 1 to 20 targets");
    for (at, target) in targets.iter().enumerate() {
        if !is_name(&target.model) {
            checks.refuse(format!("/targets/{at}/model"), "use the model's name: 1 to 200 characters without spaces");
        }
        if target.weight > 1_000_000 {
            checks.refuse(format!("/targets/{at}/weight"), "use at most 1000000");
        }
    }
    let stored = |RouteTarget { provider_id, model, weight }| llm::Target { provider_id, model, weight };
    targets.into_iter().map(stored).collect()
}
