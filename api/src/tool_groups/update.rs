use serde::Deserialize;
use serde_json::json;
use tollgate_domain::ToolGroupId;
use tollgate_store::groups;
use utoipa::ToSchema;

use super::{Member, Rule, ToolGroup, tools};
use crate::{
    check::Checks,
    ctx::{Ctx, Id},
    json::Json,
    problem::Answer,
};

/// What is left out stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ToolGroupPatch {
    #[schema(min_length = 1, max_length = 200)]
    pub name: Option<String>,
    pub slug: Option<String>,
    /// Replaces all of them.
    #[schema(max_items = 1000)]
    pub members: Option<Vec<Member>>,
    /// Replaces all of them.
    #[schema(max_items = 1000)]
    pub approval: Option<Vec<Rule>>,
}

/// Change a tool group. Workers see it within a second.
#[utoipa::path(patch, path = "/v1/tenants/{tenant_id}/tool-groups/{tool_group_id}", request_body = ToolGroupPatch,
    responses((status = 200, description = "Changed.", body = ToolGroup)))]
pub async fn handle(ctx: Ctx, Id(id): Id<ToolGroupId>, body: Json<ToolGroupPatch>) -> Answer {
    let ToolGroupPatch { name, slug, members, approval } = body.value;
    let mut checks = Checks::default();
    if let Some(name) = &name {
        checks.name("/name", name);
    }
    if let Some(slug) = &slug {
        checks.slug("/slug", slug);
    }
    tools::check_form(members.as_deref(), approval.as_deref(), &mut checks);
    checks.done()?;

    let mut write = ctx.change().await?;
    let mut group = groups::lock(&mut write, id).await?;
    write.matches(&ToolGroup::from(group.clone()))?;
    let checked =
        tools::resolve(&mut write, members.as_deref().unwrap_or_default(), approval.as_deref().unwrap_or_default()).await?;
    group.name = name.unwrap_or(group.name);
    group.slug = slug.unwrap_or(group.slug);
    if members.is_some() {
        group.members = checked.members;
    }
    if approval.is_some() {
        group.approval = checked.approval;
    }
    let group = ToolGroup::from(groups::update(&mut write, group).await?);
    let detail = json!({"name": group.name, "slug": group.slug, "members": group.members, "approval": group.approval});
    write.event("tool_group.update", &id, detail).await?;
    write.ok(&group).await
}
