use tollgate_store::seals;

use super::{Sealed, SignedSealDoc};
use crate::{
    ctx::Ctx,
    page::{List, ListBody, PageQuery},
    problem::Answer,
};

/// List the seals, newest first.
///
/// Every row of the trail is sealed about a second after it was written. The newest seal speaks for all that came before it.
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}/audit/seals", params(PageQuery), responses((status = 200, description = "A page.", body = ListBody<SignedSealDoc>)))]
pub async fn handle(ctx: Ctx, list: List) -> Answer {
    let mut tx = ctx.app.store.tenant_snapshot(ctx.tenant).await?;
    let page = seals::list(&mut tx, ctx.tenant, list.page).await?;
    Ok(list.answer(page, Sealed))
}
