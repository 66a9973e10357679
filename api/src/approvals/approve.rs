use tollgate_domain::ApprovalId;

use super::{ApprovalDetail, ApprovalReason, decide};
use crate::{
    ctx::{Ctx, Id},
    json::MaybeJson,
    problem::Answer,
};

/// Confirm a call.
///
/// Where two confirmations are needed, they are of two different people. Confirming again changes nothing; 409 once it is decided
/// otherwise, or has expired. 403 for whoever holds the key that asks (`held_by` of the key): nobody confirms what they ask for themselves.
#[utoipa::path(post, path = "/v1/tenants/{tenant_id}/approvals/{approval_id}/approve", request_body = Option<ApprovalReason>,
    responses((status = 200, description = "Confirmed.", body = ApprovalDetail)))]
pub async fn handle(ctx: Ctx, Id(id): Id<ApprovalId>, body: MaybeJson<ApprovalReason>) -> Answer {
    decide(ctx, id, body, true).await
}
