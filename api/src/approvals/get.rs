use tollgate_domain::ApprovalId;

use super::ApprovalDetail;
use crate::{
    ctx::{Ctx, Id},
    problem::Answer,
};

/// Read an approval, with what people said of it.
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}/approvals/{approval_id}", responses((status = 200, description = "The approval.", body = ApprovalDetail)))]
pub async fn handle(ctx: Ctx, Id(id): Id<ApprovalId>) -> Answer {
    let mut tx = ctx.app.store.tenant_snapshot(ctx.tenant).await?;
    Ok(ctx.ok(&ApprovalDetail::read(&mut tx, ctx.tenant, id).await?))
}
