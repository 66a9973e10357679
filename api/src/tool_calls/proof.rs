use serde::Serialize;
use tollgate_domain::CallId;
use tollgate_evidence::seal;
use tollgate_store::seals;
use utoipa::ToSchema;

use crate::{
    audit::seals::SignedSealDoc,
    ctx::{Ctx, Id, Resource},
    problem::Answer,
};

#[derive(Debug, Serialize)]
struct Proofs {
    proofs: Vec<seal::InclusionProof>,
}

impl Resource for Proofs {}

/// That the rows of a call stand in the tenant's log.
#[derive(ToSchema)]
#[schema(as = CallProofs)]
#[expect(dead_code, reason = "describes the answer, whose types know no OpenAPI")]
pub struct CallProofsDoc {
    /// One for each row of the call: its intent, its completion. Empty in the second before it is sealed.
    #[schema(inline)]
    proofs: Vec<InclusionProofDoc>,
}

#[derive(ToSchema)]
#[schema(as = InclusionProof)]
#[expect(dead_code, reason = "describes tollgate_evidence::seal::InclusionProof")]
pub struct InclusionProofDoc {
    /// The row in canonical JSON: its leaf is SHA-256 over a zero byte and these bytes.
    line: String,
    position: u64,
    /// From the leaf (at `position - seal.first` of `seal.count`) to `seal.root`, after RFC 6962.
    path: Vec<String>,
    #[schema(inline)]
    seal: SignedSealDoc,
    /// From the seal's leaf (at `seal.sequence - 1` of `head.sequence`) to `head.tree`.
    seal_path: Vec<String>,
    /// The newest seal.
    #[schema(inline)]
    head: SignedSealDoc,
}

/// Prove that a call stands in the log as it was written.
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}/tool-calls/{call_id}/proof", responses((status = 200, description = "The proofs.", body = CallProofsDoc)))]
pub async fn handle(ctx: Ctx, Id(id): Id<CallId>) -> Answer {
    let mut tx = ctx.app.store.tenant_snapshot(ctx.tenant).await?;
    Ok(ctx.ok(&Proofs { proofs: seals::of_call(&mut tx, ctx.tenant, id).await? }))
}
