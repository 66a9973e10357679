use serde::Deserialize;
use tollgate_domain::{ToolId, tool::DefinitionHash};
use tollgate_store::tools;
use utoipa::ToSchema;

use super::Tool;
use crate::{
    ctx::{Ctx, Id},
    json::Json,
    problem::{Answer, Problem},
};

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ToolApproval {
    /// Of the definition that was read, in hex. What the upstream has slipped in since is not approved by it.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    pub definition_sha256: String,
}

/// Approve the definition that was read.
///
/// 409 when the upstream serves another one by now.
#[utoipa::path(post, path = "/v1/tenants/{tenant_id}/tools/{tool_id}/approve", request_body = ToolApproval, responses((status = 200, description = "Approved.", body = Tool)))]
pub async fn handle(ctx: Ctx, Id(id): Id<ToolId>, body: Json<ToolApproval>) -> Answer {
    let read = hash(&body.value.definition_sha256)
        .ok_or_else(|| Problem::field("/definition_sha256", "use the 64 lower-case hex digits that the tool shows"))?;
    let mut write = ctx.post(&body.sha256).await?;
    tools::approve(&mut write, id, read).await?;
    let tool = tools::get(&mut write.tx, ctx.tenant, id).await?;
    write.ok(&Tool::from(tool)).await
}

fn hash(hex: &str) -> Option<DefinitionHash> {
    let digit = |c: u8| char::from(c).to_digit(16).filter(|_| !c.is_ascii_uppercase()).and_then(|d| u8::try_from(d).ok());
    let bytes: Option<Vec<u8>> =
        hex.as_bytes().chunks(2).map(|pair| Some(digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?)).collect();
    DefinitionHash::from_slice(&bytes?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_read_as_it_is_shown() {
        let shown = DefinitionHash([0x0f; 32]).to_string();
        assert_eq!(hash(&shown), Some(DefinitionHash([0x0f; 32])));
        for bad in ["", "0f", &shown[1..], &shown.to_uppercase(), &format!("{shown}00"), &shown.replace('f', "g"), "é"] {
            assert_eq!(hash(bad), None, "{bad}");
        }
    }
}
