//! Teams: what keys are grouped by in reports.

pub mod create;
pub mod delete;
pub mod get;
pub mod list;
pub mod update;

use chrono::{DateTime, Utc};
use serde::Serialize;
use tollgate_domain::TeamId;
use tollgate_store::teams;
use utoipa::ToSchema;

use crate::ctx::Resource;

/// A team.
#[derive(Debug, Serialize, ToSchema)]
pub struct Team {
    #[schema(value_type = String, examples("team_01j9zc5v8mf9r8k7x3w2q1n0pa"))]
    pub id: TeamId,
    /// Unique in the tenant.
    pub name: String,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    /// For the ETag.
    #[serde(skip)]
    version: i32,
}

impl From<teams::Team> for Team {
    fn from(row: teams::Team) -> Self {
        let teams::Team { id, name, created_at, updated_at, version } = row;
        Self { id, name, created_at, updated_at, version }
    }
}

impl Resource for Team {
    fn tag(&self) -> Option<(String, i32)> {
        Some((self.id.to_string(), self.version))
    }
}
