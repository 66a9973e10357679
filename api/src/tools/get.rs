use serde::Serialize;
use serde_json::Value;
use tollgate_domain::ToolId;
use tollgate_store::tools;
use utoipa::ToSchema;

use super::{
    Tool,
    diff::{Change, changes},
};
use crate::{
    ctx::{Ctx, Id, Resource},
    problem::{Answer, Problem},
};

/// A tool with the definition that an approval is about.
#[derive(Debug, Serialize, ToSchema)]
pub struct ToolDetail {
    #[serde(flatten)]
    pub tool: Tool,
    /// What the upstream serves now.
    pub definition: Value,
    /// What is approved, if anything is.
    pub approved_definition: Option<Value>,
    /// From the approved definition to the present one; empty where they agree or nothing is approved.
    pub changes: Vec<Change>,
}

impl Resource for ToolDetail {
    fn tag(&self) -> Option<(String, i32)> {
        self.tool.tag()
    }
}

/// Read a tool, its definitions, and what changed between them.
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}/tools/{tool_id}", responses((status = 200, description = "The tool.", body = ToolDetail)))]
pub async fn handle(ctx: Ctx, Id(id): Id<ToolId>) -> Answer {
    let mut tx = ctx.app.store.tenant_snapshot(ctx.tenant).await?;
    let row = tools::get(&mut tx, ctx.tenant, id).await?;
    let definition = read(&row.definition)?;
    let approved_definition = match row.approved_sha256 {
        Some(hash) => Some(read(&tools::definition(&mut tx, ctx.tenant, id, hash).await?)?),
        None => None,
    };
    let changes = approved_definition.as_ref().map_or_else(Vec::new, |approved| changes(approved, &definition));
    Ok(ctx.ok(&ToolDetail { tool: Tool::from(row), definition, approved_definition, changes }))
}

fn read(text: &str) -> Result<Value, Problem> {
    serde_json::from_str(text).map_err(|e| Problem::internal(&e))
}
