//! Tool groups: which tools of which upstreams a key's model sees, and which of them people must confirm.

pub mod create;
pub mod delete;
pub mod get;
pub mod list;
mod tools;
pub mod update;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tollgate_domain::{
    ToolGroupId, UpstreamId,
    scope::{Grant, ToolNames},
};
use tollgate_store::groups;
use utoipa::ToSchema;

use crate::ctx::Resource;

/// A tool group.
#[derive(Debug, Serialize, ToSchema)]
pub struct ToolGroup {
    #[schema(value_type = String, examples("tg_01j9zc5v8mf9r8k7x3w2q1n0pa"))]
    pub id: ToolGroupId,
    pub name: String,
    /// Unique in the tenant; `/mcp/{slug}` serves this group alone.
    pub slug: String,
    /// What the group grants; none is nothing.
    pub members: Vec<Member>,
    /// Which calls are held until people confirm. It grants nothing by itself.
    pub approval: Vec<Rule>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    /// For the ETag.
    #[serde(skip)]
    version: i32,
}

/// Tools of one upstream.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ToolGroupMember)]
pub struct Member {
    #[schema(value_type = String)]
    pub upstream_id: UpstreamId,
    /// The tools' names, or `["*"]` for all of the upstream, now and later.
    #[schema(max_items = 1000)]
    pub tools: Vec<String>,
}

/// Tools of one upstream whose calls wait for confirmations.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ToolGroupApproval)]
pub struct Rule {
    #[schema(value_type = String)]
    pub upstream_id: UpstreamId,
    /// The tools' names, or `["*"]` for all of the upstream, now and later.
    #[schema(max_items = 1000)]
    pub tools: Vec<String>,
    /// By how many different people: 1 or 2.
    #[schema(minimum = 1, maximum = 2)]
    pub confirmations: u8,
}

impl From<groups::ToolGroup> for ToolGroup {
    fn from(row: groups::ToolGroup) -> Self {
        let groups::ToolGroup { id, name, slug, members, approval, created_at, updated_at, version } = row;
        let members = members.into_iter().map(|grant| Member { upstream_id: grant.upstream_id, tools: written(grant) }).collect();
        let rule =
            |(grant, confirmations): (Grant, u8)| Rule { upstream_id: grant.upstream_id, tools: written(grant), confirmations };
        let approval = approval.into_iter().map(rule).collect();
        Self { id, name, slug, members, approval, created_at, updated_at, version }
    }
}

fn written(grant: Grant) -> Vec<String> {
    match grant.tools {
        ToolNames::All => vec![tools::ALL.to_owned()],
        ToolNames::Named(names) => names,
    }
}

impl Resource for ToolGroup {
    fn tag(&self) -> Option<(String, i32)> {
        Some((self.id.to_string(), self.version))
    }
}
