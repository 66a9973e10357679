use serde::Deserialize;
use tollgate_domain::TeamId;
use tollgate_store::keys;
use utoipa::IntoParams;

use super::Key;
use crate::{
    ctx::Ctx,
    page::{List, ListBody, PageQuery},
    problem::Answer,
};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct KeyFilter {
    /// Only the keys of this team.
    #[param(value_type = Option<String>)]
    pub team_id: Option<TeamId>,
}

/// List the virtual keys, oldest first, revoked ones included.
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}/keys", params(KeyFilter, PageQuery),
    responses((status = 200, description = "A page.", body = ListBody<Key>)))]
pub async fn handle(ctx: Ctx, list: List<KeyFilter>) -> Answer {
    let page = keys::list(&ctx.app.store, ctx.tenant, list.filter.team_id, list.page).await?;
    Ok(list.answer(page, |key| Key::at(key, ctx.now)))
}
