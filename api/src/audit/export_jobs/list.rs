use tollgate_store::export_jobs;

use super::ExportJob;
use crate::{
    ctx::Ctx,
    page::{List, ListBody, PageQuery},
    problem::Answer,
};

/// List the export jobs, newest first, without their parts.
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}/audit/export-jobs", params(PageQuery),
    responses((status = 200, description = "A page.", body = ListBody<ExportJob>)))]
pub async fn handle(ctx: Ctx, list: List) -> Answer {
    let page = export_jobs::list(&ctx.app.store, ctx.tenant, list.page).await?;
    Ok(list.answer(page, |job| ExportJob::show(&ctx, job, None)))
}
