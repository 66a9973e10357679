use axum::http::{HeaderValue, header};
use chrono::TimeDelta;
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

/// Rows are sealed about a second after they were written.
const ASK_AGAIN: &str = "2";
/// A row that is older than this and not sealed waits for a sealer that does not work, or never came through the writer: asking
/// again soon does not help.
const SOON: TimeDelta = TimeDelta::minutes(5);

#[derive(Debug, Serialize)]
struct Proofs {
    proofs: Vec<seal::InclusionProof>,
    unsealed: usize,
}

impl Resource for Proofs {}

/// That the rows of a call stand in the tenant's log.
#[derive(ToSchema)]
#[schema(as = CallProofs)]
#[expect(dead_code, reason = "describes the answer, whose types know no OpenAPI")]
pub struct CallProofsDoc {
    /// One for each row of the call that is sealed: its intent, its completion.
    #[schema(inline)]
    proofs: Vec<InclusionProofDoc>,
    /// Rows of the call that are not sealed yet; while they are a few minutes old at most, `Retry-After` says when to ask again.
    #[schema(minimum = 0)]
    unsealed: usize,
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
///
/// A row is sealed about a second after it was written; until then it is counted as `unsealed`.
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}/tool-calls/{call_id}/proof", responses((status = 200, description = "The proofs.",
    body = CallProofsDoc, headers(("retry-after" = String, description = "While rows wait to be sealed: seconds.")))))]
pub async fn handle(ctx: Ctx, Id(id): Id<CallId>) -> Answer {
    let mut tx = ctx.app.store.tenant_snapshot(ctx.tenant).await?;
    let seals::CallProofs { proofs, unsealed } = seals::of_call(&mut tx, ctx.tenant, id).await?;
    let mut answer = ctx.ok(&Proofs { proofs, unsealed: unsealed.len() });
    if unsealed.iter().any(|written| ctx.now - *written < SOON) {
        answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(ASK_AGAIN));
    }
    Ok(answer)
}
