//! Upstreams: the MCP servers that tools come from.

pub mod create;
pub mod delete;
pub mod get;
pub mod list;
pub mod sync;
pub mod transport;
pub mod update;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tollgate_domain::{
    UpstreamId,
    tool::{Binding, Exposure, UpstreamState},
};
use tollgate_store::upstreams::UpstreamRow;
use utoipa::ToSchema;

use crate::{check::Checks, ctx::Resource};
use transport::Transport;

/// An MCP server, and what the workers see of it at present.
#[derive(Debug, Serialize, ToSchema)]
pub struct Upstream {
    #[schema(value_type = String, examples("ups_01j9zc5v8mf9r8k7x3w2q1n0pa"))]
    pub id: UpstreamId,
    /// The global by which scripts reach it, and the first part of its tools' names. It cannot be changed.
    pub name: String,
    pub description: Option<String>,
    pub transport: Transport,
    /// `classic`: each tool is listed to models; `code`: the tools are stubs behind the meta-tools.
    #[schema(value_type = String)]
    pub exposure: Exposure,
    /// Whether stubs come as one file for the upstream (`server`) or one for each tool (`tool`).
    #[schema(value_type = String)]
    pub binding: Binding,
    /// For one call.
    pub timeout_ms: i32,
    pub sync_interval_seconds: i32,
    pub tool_approval: String,
    /// `connected`, `connecting`, `disconnected` or `error`: the best of what workers said in the last 30 seconds.
    #[schema(value_type = String)]
    pub state: UpstreamState,
    /// Why it is not connected.
    pub error: Option<String>,
    /// Name, version and protocol of the peer, as it says.
    #[schema(value_type = Option<Value>)]
    pub server: Option<Value>,
    /// When a worker last spoke of it, if lately.
    pub checked_at: Option<DateTime<Utc>>,
    /// When its tools were first discovered.
    pub discovered_at: Option<DateTime<Utc>>,
    pub tools: ToolCounts,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    /// For the ETag.
    #[serde(skip)]
    version: i32,
}

/// How many tools the upstream lists.
#[derive(Debug, Serialize, ToSchema)]
pub struct ToolCounts {
    pub approved: i64,
    pub quarantined: i64,
}

/// What becomes of a tool that nobody has seen before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ToolApproval {
    /// It is approved as it is found. A definition that changes later is quarantined all the same.
    #[default]
    Auto,
    /// It waits for an admin.
    Review,
}

impl ToolApproval {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Review => "review",
        }
    }
}

impl From<UpstreamRow> for Upstream {
    fn from(row: UpstreamRow) -> Self {
        Self {
            id: row.id,
            name: row.name,
            description: row.description,
            transport: row.transport.into(),
            exposure: row.exposure,
            binding: row.binding,
            timeout_ms: row.timeout_ms,
            sync_interval_seconds: row.sync_interval_s,
            tool_approval: row.tool_approval,
            state: row.state,
            error: row.error,
            server: row.server,
            checked_at: row.checked_at,
            discovered_at: row.discovered_at,
            tools: ToolCounts { approved: row.tools_approved, quarantined: row.tools_quarantined },
            created_at: row.created_at,
            updated_at: row.updated_at,
            version: row.version,
        }
    }
}

impl Resource for Upstream {
    fn tag(&self) -> Option<(String, i32)> {
        Some((self.id.to_string(), self.version))
    }
}

const MAX_DESCRIPTION: usize = 2000;

/// The fields that POST and PATCH have in common.
fn check_numbers(checks: &mut Checks, timeout_ms: Option<i32>, sync_interval_seconds: Option<i32>) {
    let within = |value: Option<i32>, from: i32, to: i32| value.is_none_or(|v| (from..=to).contains(&v));
    checks.require(within(timeout_ms, 1, 3_600_000), "/timeout_ms", "use 1 to 3600000 milliseconds");
    checks.require(within(sync_interval_seconds, 10, 86_400), "/sync_interval_seconds", "use 10 to 86400 seconds");
}

fn check_description(checks: &mut Checks, description: Option<&str>) {
    let fits = |text: &str| text.chars().count() <= MAX_DESCRIPTION && !text.contains('\0');
    checks.require(description.is_none_or(fits), "/description", "use at most 2000 characters, none of them NUL");
}
