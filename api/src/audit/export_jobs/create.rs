use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::json;
use tollgate_domain::{ExportJobId, KeyId, Outcome, TeamId, ToolId, UpstreamId};
use tollgate_store::{
    StoreError,
    bundle::{self as bundles, Cover},
    export::Rows,
    export_jobs::{self, JobFilter, NewJob},
    follow::{self, Start},
};
use utoipa::ToSchema;

use super::ExportJob;
use crate::{
    audit::{
        bundle, cursor,
        formats::{self, Format},
    },
    check::Checks,
    ctx::Ctx,
    json::Json,
    problem::{Answer, Stop},
};

/// The longest path, and the longest name in it.
const MAX_PATH: usize = 512;
const MAX_NAME: usize = 128;

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewExportJob {
    /// `ndjson` (when left out), `csv`, `parquet`, `ocsf`, or `bundle`: the whole seals made in the window, with admin events and
    /// proofs, as one file.
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
    /// `tool_calls` (when left out) or `llm_requests`, in all formats but `ocsf`; a bundle has everything.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub rows: Rows,
}

/// Have closed calls written to a destination.
///
/// The job covers the calls that are closed and sealed at this moment, in the order of the log, as numbered parts of about 64 MiB
/// or 500,000 rows, each whole in itself. A bundle is one part, takes no filter and no cursor, and is begun again by whoever takes
/// the job over. `_manifest.json` lists the parts with their SHA-256 and is
/// written last; `_manifest.sig` is Ed25519 over `tollgate-export-v1`, a line break and its bytes. Another process goes
/// on with the job when its own dies. Like every export it leaves an admin event.
#[utoipa::path(post, path = "/v1/tenants/{tenant_id}/audit/export-jobs", request_body = NewExportJob,
    responses((status = 201, description = "It waits for its turn.", body = ExportJob),
        (status = 410, description = "The rows that follow this cursor are no longer there.")))]
pub async fn handle(ctx: Ctx, body: Json<NewExportJob>) -> Answer {
    let NewExportJob { format, destination, path, from, to, cursor, key_id, team_id, tool_id, upstream_id, outcome, rows } =
        body.value;
    let bundled = format.as_deref() == Some(bundle::NAME);
    let format = if bundled { bundle::NAME } else { Format::parse(format.as_deref())?.name() };
    let path = path.unwrap_or_default();
    let mut checks = Checks::default();
    let known = ctx.app.config.destination(&destination).is_some();
    checks.require(known, "/destination", "use the name of an `[[audit.destination]]` in the operator's file");
    let names = "use folders of letters, digits, `.`, `_`, `=` and `-`, joined by `/`; none is `.` or `..`";
    checks.require(is_path(&path), "/path", names);
    checks.require(from.zip(to).is_none_or(|(from, to)| from <= to), "/from", "use a time before `to`");
    let both = cursor.is_some() && (from.is_some() || to.is_some());
    checks.require(!both, "/cursor", "use either a cursor or a window of time");
    let filter = JobFilter { from, to, key_id, team_id, tool_id, upstream_id, outcome, rows };
    let whole = filter == JobFilter { from, to, ..JobFilter::default() };
    checks.require(!bundled || whole, "/format", "a bundle proves whole seals: leave the filters out");
    checks.require(!bundled || cursor.is_none(), "/cursor", "a bundle has no cursor; use `from`: the seals made since");
    formats::check_rows(
        &mut checks,
        (rows, "/rows"),
        Format::parse(Some(format)).ok(),
        tool_id.is_some() || upstream_id.is_some(),
    );
    checks.done()?;
    let (first, until, lenient) =
        if bundled { seals(&ctx, &filter).await? } else { positions(&ctx, &filter, cursor.as_deref()).await? };

    let mut write = ctx.post(&body.sha256).await?;
    let id = ExportJobId::mint(ctx.now);
    let job = NewJob { id, format: format.to_owned(), destination, path, filter, first, until, lenient };
    let made = export_jobs::create(&mut write, &job).await?;
    let detail = json!({
        "format": job.format, "destination": job.destination, "path": job.path, "filter": job.filter, "first": job.first,
        "until": job.until,
    });
    write.event("export_job.create", &id, detail).await?;
    write.created(&ExportJob::show(&ctx, made, None)).await
}

/// What of the log the calls of a job are looked for in.
async fn positions(ctx: &Ctx, filter: &JobFilter, cursor: Option<&str>) -> Result<(u64, u64, bool), Stop> {
    let calls = filter.wanted().calls;
    let start = cursor.map(|text| cursor::open(&ctx.app.secrets, ctx.tenant, (&calls, filter.rows), text)).transpose()?;
    let start = start.unwrap_or(Start::Oldest);
    let rows = follow::open(&ctx.app.store, ctx.tenant, filter.wanted(), start).await?;
    Ok((rows.position(), rows.end(), start == Start::Oldest))
}

/// What of the log the seals of a bundle cover: it is opened to see that it can be, and written by the runner.
async fn seals(ctx: &Ctx, filter: &JobFilter) -> Result<(u64, u64, bool), Stop> {
    let cover = Cover { from: filter.from, to: filter.to, ..Cover::default() };
    let opened = bundles::open(&ctx.app.store, ctx.tenant, cover, ctx.now).await;
    let (first, until) = opened
        .map_err(|error| match error {
            StoreError::Invalid { message, .. } => StoreError::invalid("/from", message),
            other => other,
        })?
        .positions();
    Ok((first, until, false))
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
