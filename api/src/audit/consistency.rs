use serde::{Deserialize, Serialize};
use tollgate_evidence::seal;
use tollgate_store::seals;
use utoipa::{IntoParams, ToSchema};

use super::seals::SignedSealDoc;
use crate::{
    check::Checks,
    ctx::{Ctx, Resource},
    page::Query,
    problem::{Answer, Problem},
};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ConsistencyQuery {
    /// The sequence of the seal that you have kept; the first when left out.
    #[param(minimum = 1)]
    pub from: Option<u64>,
    /// The sequence of a later one; the newest when left out.
    #[param(minimum = 1)]
    pub to: Option<u64>,
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
struct Proof(seal::ConsistencyProof);

impl Resource for Proof {}

/// That the log at one seal is the beginning of the log at a later one.
#[derive(ToSchema)]
#[schema(as = ConsistencyProof)]
#[expect(dead_code, reason = "describes tollgate_evidence::seal::ConsistencyProof, which knows no OpenAPI")]
pub struct ConsistencyProofDoc {
    #[schema(inline)]
    from: SignedSealDoc,
    #[schema(inline)]
    to: SignedSealDoc,
    /// From `from.seal.tree` to `to.seal.tree`, after RFC 6962, 2.1.2: trees of `sequence` leaves each.
    path: Vec<String>,
}

/// Prove that nothing that was sealed has been changed or taken out since.
///
/// Keep a seal (or have it anchored), and ask from it to the newest: the proof fails unless the one log continues the other.
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}/audit/consistency", params(ConsistencyQuery), responses((status = 200, description = "The proof.", body = ConsistencyProofDoc)))]
pub async fn handle(ctx: Ctx, Query(asked): Query<ConsistencyQuery>) -> Answer {
    let mut checks = Checks::default();
    let from = asked.from.unwrap_or(1);
    checks.require(from > 0, "?from", "seals are numbered from 1");
    checks.require(asked.to.is_none_or(|to| to >= from), "?to", "use a seal that is not before `from`");
    checks.done()?;
    let mut tx = ctx.app.store.tenant_snapshot(ctx.tenant).await?;
    let newest = seals::newest(&mut tx, ctx.tenant).await?.map_or(0, |signed| signed.seal.sequence);
    let to = asked.to.unwrap_or(newest);
    if newest < from.max(to) {
        return Err(Problem::field("?from", format!("the newest seal is number {newest}")).into());
    }
    Ok(ctx.ok(&Proof(seals::consistency(&mut tx, ctx.tenant, from, to).await?)))
}
