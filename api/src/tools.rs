//! Tools: what upstreams list, and whether an admin stands behind it.

pub mod approve;
mod diff;
pub mod get;
pub mod list;
pub mod quarantine;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tollgate_domain::{
    ToolId, UpstreamId,
    tool::{DefinitionHash, ToolStatus},
};
use tollgate_store::tools::ToolRow;
use utoipa::ToSchema;

use crate::ctx::Resource;

/// A tool of an upstream.
#[derive(Debug, Serialize, ToSchema)]
pub struct Tool {
    #[schema(value_type = String, examples("tool_01j9zc5v8mf9r8k7x3w2q1n0pa"))]
    pub id: ToolId,
    #[schema(value_type = String)]
    pub upstream_id: UpstreamId,
    pub upstream_name: String,
    /// As the upstream calls it.
    pub name: String,
    /// `approved`, or `quarantined`: its definition is new or changed, and no key sees it.
    #[schema(value_type = String)]
    pub status: ToolStatus,
    /// SHA-256 over the canonical JSON of the definition that the upstream serves now.
    #[schema(value_type = String)]
    pub definition_sha256: DefinitionHash,
    /// The one that is approved, if one is.
    #[schema(value_type = Option<String>)]
    pub approved_sha256: Option<DefinitionHash>,
    /// As the upstream says.
    pub description: Option<String>,
    /// MCP's hints (`readOnlyHint` and others), as the upstream says.
    #[schema(value_type = Option<serde_json::Value>)]
    pub annotations: Option<Box<RawValue>>,
    /// The upstream does not list it any more.
    pub removed: bool,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    /// For the ETag.
    #[serde(skip)]
    version: i32,
}

/// What a list shows of a definition. Upstreams write these fields as they like: one that is odd is left out.
#[derive(Default, Deserialize)]
struct Shown {
    description: Option<String>,
    annotations: Option<Box<RawValue>>,
}

impl From<ToolRow> for Tool {
    fn from(row: ToolRow) -> Self {
        let shown: Shown = serde_json::from_str(&row.definition).unwrap_or_default();
        Self {
            id: row.id,
            upstream_id: row.upstream_id,
            upstream_name: row.upstream_name,
            name: row.name,
            status: row.status,
            definition_sha256: row.definition_sha256,
            approved_sha256: row.approved_sha256,
            description: shown.description,
            annotations: shown.annotations,
            removed: row.removed_at.is_some(),
            created_at: row.created_at,
            updated_at: row.updated_at,
            version: row.version,
        }
    }
}

impl Resource for Tool {
    fn tag(&self) -> Option<(String, i32)> {
        Some((self.id.to_string(), self.version))
    }
}
