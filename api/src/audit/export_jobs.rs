//! Export jobs: the trail written by the server itself, part by part, to one of the operator's destinations.

pub mod cancel;
pub mod create;
pub mod destination;
pub mod get;
pub mod list;
pub mod runner;

use chrono::{DateTime, Utc};
use serde::Serialize;
use tollgate_domain::{ExportJobId, KeyId, Outcome, TeamId, TenantId, ToolId, UpstreamId};
use tollgate_evidence::hash::to_hex;
use tollgate_store::{
    export::Rows,
    export_jobs::{Job, JobFilter, Part},
};
use utoipa::ToSchema;

use super::{bundle, cursor};
use crate::ctx::{Ctx, Resource};

/// An export job and how far it is.
#[derive(Debug, Serialize, ToSchema)]
pub struct ExportJob {
    #[schema(value_type = String, examples("exp_01j9zc5v8mf9r8k7x3w2q1n0pa"))]
    pub id: ExportJobId,
    /// `queued`, `running`, `done`, `failed` or `cancelled`.
    pub state: String,
    pub format: String,
    pub destination: String,
    pub path: String,
    /// Where the files are, below the destination's address: the tenant's id, the path, the job's id.
    pub folder: String,
    pub from: Option<DateTime<Utc>>,
    pub to: Option<DateTime<Utc>>,
    #[schema(value_type = Option<String>)]
    pub key_id: Option<KeyId>,
    #[schema(value_type = Option<String>)]
    pub team_id: Option<TeamId>,
    #[schema(value_type = Option<String>)]
    pub tool_id: Option<ToolId>,
    #[schema(value_type = Option<String>)]
    pub upstream_id: Option<UpstreamId>,
    #[schema(value_type = Option<String>)]
    pub outcome: Option<Outcome>,
    /// `tool_calls` or `llm_requests`; a bundle has everything.
    #[schema(value_type = String)]
    pub rows_of: Rows,
    /// Of the parts that are whole; of a bundle, entries of the log.
    pub rows: i64,
    pub bytes: i64,
    pub part_count: i32,
    /// The parts that are whole; null in a list.
    pub parts: Option<Vec<ExportPart>>,
    /// 0 to 1, by what of the log has been read.
    #[schema(minimum = 0, maximum = 1)]
    pub progress: f64,
    /// Where the next export by cursor begins, once this job is done; null for one that has a window of time, and for a bundle.
    pub next_cursor: Option<String>,
    pub error: Option<String>,
    pub created_at: DateTime<Utc>,
    pub started_at: Option<DateTime<Utc>>,
    pub finished_at: Option<DateTime<Utc>>,
}

/// One file, whole in itself.
#[derive(Debug, Serialize, ToSchema)]
pub struct ExportPart {
    pub name: String,
    pub rows: i64,
    pub bytes: i64,
    /// Of its bytes, hexadecimal.
    pub sha256: String,
}

impl From<Part> for ExportPart {
    fn from(part: Part) -> Self {
        let Part { name, rows, bytes, sha256, .. } = part;
        Self { name, rows, bytes, sha256: to_hex(&sha256) }
    }
}

/// Work in progress has no version.
impl Resource for ExportJob {}

impl ExportJob {
    fn show(ctx: &Ctx, job: Job, parts: Option<Vec<Part>>) -> Self {
        let id = ExportJobId::from_uuid(job.export_job_id);
        let JobFilter { from, to, key_id, team_id, tool_id, upstream_id, outcome, rows } = job.filter.0.clone();
        let done = job.state == "done";
        let until = u64::try_from(job.until).unwrap_or(0);
        let calls = job.filter.0.wanted().calls;
        Self {
            id,
            folder: folder(ctx.tenant, &job.path, id),
            progress: if done { 1.0 } else { share(job.position - job.first, job.until - job.first) },
            next_cursor: (done && from.is_none() && to.is_none() && job.format != bundle::NAME)
                .then(|| cursor::seal(&ctx.app.secrets, ctx.tenant, (&calls, rows), until)),
            state: job.state,
            format: job.format,
            destination: job.destination,
            path: job.path,
            from,
            to,
            key_id,
            team_id,
            tool_id,
            upstream_id,
            outcome,
            rows_of: rows,
            rows: job.rows,
            bytes: job.bytes,
            part_count: job.parts,
            parts: parts.map(|parts| parts.into_iter().map(ExportPart::from).collect()),
            error: job.error,
            created_at: job.created_at,
            started_at: job.started_at,
            finished_at: job.finished_at,
        }
    }
}

/// Below a destination. Tenants share destinations, and never a folder.
fn folder(tenant: TenantId, path: &str, job: ExportJobId) -> String {
    if path.is_empty() { format!("{tenant}/{job}") } else { format!("{tenant}/{path}/{job}") }
}

/// In thousandths: an estimate for people.
fn share(read: i64, all: i64) -> f64 {
    let thousandths = if all > 0 { read.saturating_mul(1000) / all } else { 0 };
    f64::from(i32::try_from(thousandths.clamp(0, 1000)).unwrap_or(0)) / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_between_nothing_and_all() {
        for (read, all, told) in [(0, 0, "0"), (0, 10, "0"), (1, 3, "0.333"), (10, 10, "1"), (i64::MAX, 1, "1"), (-1, 5, "0")] {
            assert_eq!(share(read, all).to_string(), told);
        }
    }
}
