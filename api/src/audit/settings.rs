//! What a tenant decides about its trail.

pub mod get;
pub mod update;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tollgate_domain::{Durability, RedactionPattern, RedactionRules, TenantId};
use tollgate_store::settings;
use utoipa::ToSchema;

use crate::{ctx::Resource, problem::Problem};

/// How calls are recorded, what is kept of them, and for how long.
#[derive(Debug, Serialize, ToSchema)]
pub struct AuditSettings {
    /// `strict`: an answer is released when its row is durable. `relaxed`: at once, and the row follows within half a second.
    /// A call's opening row is durable before its upstream hears of it either way.
    #[schema(value_type = String)]
    pub durability: Durability,
    /// Larger arguments, results and script texts leave their hash alone; null keeps whatever the gateway lets through.
    pub payload_limit_bytes: Option<i32>,
    pub redaction: Redaction,
    /// Null keeps the rows for ever. Whole months go, once their last instant is this many days old.
    pub retention_days: Option<i32>,
    /// While it stands, nothing of the tenant is dropped or erased.
    pub legal_hold: bool,
    /// Null before the first change.
    pub updated_at: Option<DateTime<Utc>>,
    /// For the ETag.
    #[serde(skip)]
    tag: (TenantId, i32),
}

/// What is taken out of payloads before they are written. It applies to calls from then on; models and upstreams always see
/// the original, and the row keeps its hash.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Redaction {
    /// JSONPath (RFC 9535) without filters: what is selected becomes `"[redacted]"`.
    #[schema(max_items = 64)]
    pub paths: Vec<String>,
    /// Names of built-in detectors; what they find becomes `[redacted:<name>]`.
    pub detectors: Vec<String>,
    #[schema(max_items = 32)]
    pub patterns: Vec<Pattern>,
}

/// A detector of the tenant's own.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Pattern {
    /// Stands in place of what was found, as `[redacted:<name>]`.
    #[schema(max_length = 40)]
    pub name: String,
    /// In the syntax of RE2.
    #[schema(max_length = 512)]
    pub regex: String,
}

impl AuditSettings {
    /// # Errors
    /// When the stored rules are none: a defect of ours.
    pub fn of(tenant: TenantId, row: settings::AuditSettings) -> Result<Self, Problem> {
        let settings::AuditSettings { durability, payload_limit_bytes, redaction, retention_days, legal_hold, .. } = row;
        Ok(Self {
            durability,
            payload_limit_bytes,
            redaction: serde_json::from_value(redaction).map_err(|error| Problem::internal(&error))?,
            retention_days,
            legal_hold,
            updated_at: (row.version > 0).then_some(row.updated_at),
            tag: (tenant, row.version),
        })
    }
}

impl Resource for AuditSettings {
    fn tag(&self) -> Option<(String, i32)> {
        // Not the tenant's own tag, which has the same id.
        Some((format!("audit_{}", self.tag.0), self.tag.1))
    }
}

impl From<Redaction> for RedactionRules {
    fn from(Redaction { paths, detectors, patterns }: Redaction) -> Self {
        let pattern = |Pattern { name, regex }| RedactionPattern { name, regex };
        Self { paths, detectors, patterns: patterns.into_iter().map(pattern).collect() }
    }
}
