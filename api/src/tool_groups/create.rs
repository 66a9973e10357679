use serde::Deserialize;
use serde_json::json;
use tollgate_domain::ToolGroupId;
use tollgate_store::groups;
use utoipa::ToSchema;

use super::{Member, Rule, ToolGroup, tools};
use crate::{
    check::{Checks, slug_of},
    ctx::Ctx,
    json::Json,
    problem::Answer,
};

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewToolGroup {
    #[schema(min_length = 1, max_length = 200)]
    pub name: String,
    /// Made from the name when left out.
    pub slug: Option<String>,
    /// What the group grants. Empty is nothing, and it has to be said.
    #[schema(max_items = 1000)]
    pub members: Vec<Member>,
    /// Which calls are held until people confirm.
    #[serde(default)]
    #[schema(max_items = 1000)]
    pub approval: Vec<Rule>,
}

/// Make a tool group.
#[utoipa::path(post, path = "/v1/tenants/{tenant_id}/tool-groups", request_body = NewToolGroup,
    responses((status = 201, description = "Made.", body = ToolGroup)))]
pub async fn handle(ctx: Ctx, body: Json<NewToolGroup>) -> Answer {
    let NewToolGroup { name, slug, members, approval } = body.value;
    let mut checks = Checks::default();
    checks.name("/name", &name);
    if let Some(slug) = &slug {
        checks.slug("/slug", slug);
    }
    tools::check_form(Some(&members), Some(&approval), &mut checks);
    checks.done()?;

    let mut write = ctx.post(&body.sha256).await?;
    let checked = tools::resolve(&mut write, &members, &approval).await?;
    let slug = match slug {
        Some(slug) => slug,
        None => groups::free_slug(&mut write, &slug_of(&name, "tools")).await?,
    };
    let group = groups::ToolGroup {
        id: ToolGroupId::mint(ctx.now),
        name,
        slug,
        members: checked.members,
        approval: checked.approval,
        created_at: ctx.now,
        updated_at: ctx.now,
        version: 1,
    };
    groups::create(&mut write, &group).await?;
    let group = ToolGroup::from(group);
    let detail = json!({"name": group.name, "slug": group.slug, "members": group.members, "approval": group.approval});
    write.event("tool_group.create", &group.id, detail).await?;
    write.created(&group).await
}
