use std::sync::Arc;

use serde::Serialize;
use tollgate_codemode::{Binding, Languages, Library, ServerDef, ToolDef};
use tollgate_domain::{
    KeyId, ToolId, UpstreamId,
    scope::{Scope, ScopedTool, ToolGroup},
    tool::{self, Exposure},
};
use tollgate_store::snapshot::{self, KeyConfig, TenantConfig};
use utoipa::ToSchema;

use crate::{
    ctx::{Ctx, Id, Resource},
    problem::{Answer, Kind, Problem},
};

/// Exactly what the key's model sees.
#[derive(Debug, Serialize, ToSchema)]
pub struct KeyScope {
    pub tools: Vec<VisibleTool>,
    /// The files of the tools that are exposed as code, as `listToolFiles` and `readToolFile` know them.
    pub files: Vec<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct VisibleTool {
    #[schema(value_type = String)]
    pub tool_id: ToolId,
    #[schema(value_type = String)]
    pub upstream_id: UpstreamId,
    /// The upstream's name.
    pub upstream: String,
    /// The tool's name, as the upstream calls it.
    pub name: String,
    /// `classic`: listed by `tools/list`; `code`: behind the meta-tools.
    #[schema(value_type = ExposureName)]
    pub exposure: Exposure,
    /// How many different people must confirm each call; 0 is none.
    pub approval: u8,
}

/// How a tool reaches the model.
#[derive(Debug, ToSchema)]
#[schema(as = Exposure, rename_all = "lowercase")]
pub enum ExposureName {
    Classic,
    Code,
}

impl Resource for KeyScope {}

/// Read what a virtual key's model sees. A key that is revoked or has expired sees nothing.
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}/keys/{key_id}/scope",
    responses((status = 200, description = "The scope.", body = KeyScope)))]
pub async fn handle(ctx: Ctx, Id(id): Id<KeyId>) -> Answer {
    let config = snapshot::load_tenant(&ctx.app.store, ctx.tenant).await?;
    let key = config.keys.get(&id).ok_or_else(|| Problem::new(Kind::NotFound))?;
    let works = !key.revoked && key.expires_at.is_none_or(|end| end > ctx.now);
    let groups: Vec<&ToolGroup> = key.groups.iter().filter(|_| works).filter_map(|id| config.groups.get(id)).collect();
    // The same resolution as at the model door: there is no second one that could disagree.
    let scope = Scope::resolve(&config.tools, &groups);
    Ok(ctx.ok(&KeyScope { tools: scope.iter().map(visible).collect(), files: files(&config, key, &scope) }))
}

fn visible(scoped: &ScopedTool) -> VisibleTool {
    let tool = &scoped.tool;
    VisibleTool {
        tool_id: tool.id,
        upstream_id: tool.upstream.id,
        upstream: tool.upstream.name.clone(),
        name: tool.name.clone(),
        exposure: tool.upstream.exposure,
        approval: scoped.confirmations,
    }
}

fn files(config: &TenantConfig, key: &KeyConfig, scope: &Scope) -> Vec<String> {
    let mut servers: Vec<(UpstreamId, ServerDef)> = Vec::new();
    for scoped in scope.exposed(Exposure::Code) {
        let tool = &scoped.tool;
        let def = ToolDef { tool_id: tool.id.to_string(), name: tool.name.clone(), definition: Arc::clone(&tool.definition) };
        match servers.iter_mut().find(|(id, _)| *id == tool.upstream.id) {
            Some((_, server)) => server.tools.push(def),
            None => {
                let binding = match tool.upstream.binding {
                    tool::Binding::Server => Binding::Server,
                    tool::Binding::Tool => Binding::Tool,
                };
                let server = ServerDef {
                    name: tool.upstream.name.clone(),
                    description: tool.upstream.description.clone(),
                    binding,
                    tools: vec![def],
                };
                servers.push((tool.upstream.id, server));
            }
        }
    }
    debug_assert!(servers.iter().all(|(id, _)| config.upstreams.contains_key(id)));
    let languages = key.code_languages.as_ref().unwrap_or(&config.code_languages);
    let languages = Languages::parse(languages.iter().map(String::as_str)).unwrap_or_default();
    Library::offering(languages, servers.into_iter().map(|(_, server)| server).collect()).files()
}
