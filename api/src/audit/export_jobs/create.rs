use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::json;
use tollgate_domain::{ExportJobId, KeyId, Outcome, TeamId, ToolId, UpstreamId};
use tollgate_store::{
    export_jobs::{self, JobFilter, NewJob},
    follow::{self, Start},
};
use utoipa::ToSchema;

use super::ExportJob;
use crate::{
    audit::{cursor, formats::Format},
    check::Checks,
    ctx::Ctx,
    json::Json,
    problem::Answer,
};

/// The longest path, and the longest name in it.
const MAX_PATH: usize = 512;
const MAX_NAME: usize = 128;

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewExportJob {
    /// `ndjson` (when left out), `csv`, `parquet` or `ocsf`.
    pub format: Option<String>,
    /// One of the names in the operator's file.
    pub destination: String,
    /// Folders below the destination, such as `trail/dt=2026-11-27`.
    pub path: Option<String>,
    /// Calls opened at this time or later; not together with `cursor`.
    pub from: Option<DateTime<Utc>>,
    /// Calls opened before this time; not together with `cursor`.
    pub to: Option<DateTime<Utc>>,
    /// What follows this cursor. Left out, with no window either: from the oldest row that is left.
    pub cursor: Option<String>,
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
}

/// Have closed calls written to a destination.
///
/// The job covers the calls that are closed and sealed at this moment, in the order of the log, as numbered parts of about 64 MiB
/// or 500,000 rows, each whole in itself; `_manifest.json` lists them with their SHA-256 and is
/// written last; `_manifest.sig` is Ed25519 over `tollgate-export-v1`, a line break and its bytes. Another process goes
/// on with the job when its own dies. Like every export it leaves an admin event.
#[utoipa::path(post, path = "/v1/tenants/{tenant_id}/audit/export-jobs", request_body = NewExportJob,
    responses((status = 201, description = "It waits for its turn.", body = ExportJob),
        (status = 410, description = "The rows that follow this cursor are no longer there.")))]
pub async fn handle(ctx: Ctx, body: Json<NewExportJob>) -> Answer {
    let NewExportJob { format, destination, path, from, to, cursor, key_id, team_id, tool_id, upstream_id, outcome } = body.value;
    let format = Format::parse(format.as_deref())?;
    let path = path.unwrap_or_default();
    let mut checks = Checks::default();
    let known = ctx.app.config.destination(&destination).is_some();
    checks.require(known, "/destination", "use the name of an `[[audit.destination]]` in the operator's file");
    let names = "use folders of letters, digits, `.`, `_`, `=` and `-`, joined by `/`; none is `.` or `..`";
    checks.require(is_path(&path), "/path", names);
    checks.require(from.zip(to).is_none_or(|(from, to)| from <= to), "/from", "use a time before `to`");
    let both = cursor.is_some() && (from.is_some() || to.is_some());
    checks.require(!both, "/cursor", "use either a cursor or a window of time");
    checks.done()?;
    let filter = JobFilter { from, to, key_id, team_id, tool_id, upstream_id, outcome };
    let calls = filter.wanted().calls;
    let start = cursor.as_deref().map(|text| cursor::open(&ctx.app.secrets, ctx.tenant, &calls, text)).transpose()?;
    let start = start.unwrap_or(Start::Oldest);
    let rows = follow::open(&ctx.app.store, ctx.tenant, filter.wanted(), start).await?;

    let mut write = ctx.post(&body.sha256).await?;
    let id = ExportJobId::mint(ctx.now);
    let job = NewJob {
        id,
        format: format.name().to_owned(),
        destination,
        path,
        filter,
        first: rows.position(),
        until: rows.end(),
        lenient: start == Start::Oldest,
    };
    let made = export_jobs::create(&mut write, &job).await?;
    let detail = json!({
        "format": job.format, "destination": job.destination, "path": job.path, "filter": job.filter, "first": job.first,
        "until": job.until,
    });
    write.event("export_job.create", &id, detail).await?;
    write.created(&ExportJob::show(&ctx, made, None)).await
}

/// Relative, and with no way up: what an object store and a file system both take for the same place.
fn is_path(path: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._=-".contains(c);
    let name = |name: &str| !name.is_empty() && name.len() <= MAX_NAME && name.chars().all(plain) && name != "." && name != "..";
    path.is_empty() || (path.len() <= MAX_PATH && path.split('/').all(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t56_a_path_stays_below_its_destination() {
        for good in ["", "a", "trail/dt=2026-11-27", "a.b/..c/d_e"] {
            assert!(is_path(good), "{good}");
        }
        let long = "x".repeat(MAX_NAME + 1);
        for bad in
            ["/", "/etc", "a/", "a//b", ".", "..", "a/../b", "../x", "a\\..\\b", "a b", "a\0", "%2e%2e", "é", "s3://b", &long]
        {
            assert!(!is_path(bad), "{bad:?}");
        }
    }
}
