use tollgate_domain::ApprovalId;

use super::{ApprovalDetail, ApprovalReason, decide};
use crate::{
    ctx::{Ctx, Id},
    json::MaybeJson,
    problem::Answer,
};

/// Deny a call, for everyone. The model reads the reason.
///
/// One denial ends it, also of someone who has confirmed before. Denying again changes nothing; 409 once it is decided otherwise,
/// or has expired.
#[utoipa::path(post, path = "/v1/tenants/{tenant_id}/approvals/{approval_id}/deny", request_body = Option<ApprovalReason>,
    responses((status = 200, description = "Denied.", body = ApprovalDetail)))]
pub async fn handle(ctx: Ctx, Id(id): Id<ApprovalId>, body: MaybeJson<ApprovalReason>) -> Answer {
    decide(ctx, id, body, false).await
}
