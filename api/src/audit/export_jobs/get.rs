use tollgate_domain::ExportJobId;
use tollgate_store::export_jobs;

use super::ExportJob;
use crate::{
    ctx::{Ctx, Id},
    problem::Answer,
};

/// Read an export job: how far it is, and its parts.
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}/audit/export-jobs/{export_job_id}",
    responses((status = 200, description = "The job.", body = ExportJob)))]
pub async fn handle(ctx: Ctx, Id(id): Id<ExportJobId>) -> Answer {
    let (job, parts) = export_jobs::get(&ctx.app.store, ctx.tenant, id).await?;
    Ok(ctx.ok(&ExportJob::show(&ctx, job, Some(parts))))
}
