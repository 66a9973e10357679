//! Erasures: payloads that were taken out of the trail on purpose.

pub mod create;
pub mod get;
pub mod list;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use tollgate_domain::ErasureId;
use tollgate_store::erasures;
use utoipa::ToSchema;

use crate::ctx::Resource;

/// Payloads that were erased together. Their rows stay, and keep the hashes.
#[derive(Debug, Serialize, ToSchema)]
pub struct Erasure {
    #[schema(value_type = String, examples("era_01j9zc5v8mf9r8k7x3w2q1n0pa"))]
    pub id: ErasureId,
    pub at: DateTime<Utc>,
    /// The admin or service token.
    pub by: String,
    pub reason: String,
    /// As it was asked for; a text that was looked for is not kept.
    pub selection: Value,
    /// Calls that lost their arguments and results.
    pub calls: i64,
    /// Script runs that lost their source, result, logs, error and journal.
    pub runs: i64,
    /// LLM requests that lost their prompts and answers.
    pub requests: i64,
}

impl From<erasures::Erasure> for Erasure {
    fn from(row: erasures::Erasure) -> Self {
        let erasures::Erasure { id, at, by, reason, selection, counts } = row;
        Self { id, at, by, reason, selection, calls: counts.calls, runs: counts.runs, requests: counts.requests }
    }
}

impl Resource for Erasure {
    fn tag(&self) -> Option<(String, i32)> {
        Some((self.id.to_string(), 1))
    }
}
