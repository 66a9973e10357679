use serde_json::json;
use tollgate_domain::ExportJobId;
use tollgate_store::export_jobs;

use super::ExportJob;
use crate::{
    ctx::{Ctx, Id},
    json::{MaybeJson, NoFields},
    problem::Answer,
};

/// Cancel an export job that has not ended. Parts that are whole stay where they are.
#[utoipa::path(post, path = "/v1/tenants/{tenant_id}/audit/export-jobs/{export_job_id}/cancel", request_body = Option<NoFields>,
    responses((status = 200, description = "Cancelled.", body = ExportJob)))]
pub async fn handle(ctx: Ctx, Id(id): Id<ExportJobId>, body: MaybeJson<NoFields>) -> Answer {
    let mut write = ctx.post(&body.sha256).await?;
    let job = export_jobs::cancel(&mut write, id).await?;
    write.event("export_job.cancel", &id, json!({"rows": job.rows, "parts": job.parts})).await?;
    write.ok(&ExportJob::show(&ctx, job, None)).await
}
