use serde::Deserialize;
use tollgate_domain::{ProviderId, llm::ProviderKind};
use tollgate_store::providers;
use utoipa::ToSchema;

use super::{KeyBody, Provider, address::address, check_models, check_name, check_timeout, store_keys};
use crate::{check::Checks, ctx::Ctx, json::Json, problem::Answer};

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewProvider {
    /// Lower-case letters, digits, `-` and `_`; it cannot be changed.
    #[schema(min_length = 1, max_length = 48, examples("openai"))]
    pub name: String,
    /// What it speaks: `openai` (whatever speaks OpenAI's API: OpenAI, Azure, vLLM, Ollama), `anthropic`, `gemini` (Google's
    /// generateContent) or `bedrock` (Amazon's Converse).
    #[schema(value_type = String)]
    pub kind: ProviderKind,
    /// Before `/chat/completions`; of `anthropic` before `/v1/messages`, of `gemini` before `/models/..`, of `bedrock` before `/model/..`. The
    /// last two have Google's and Amazon's own when it is left out.
    #[schema(max_length = 2048, examples("https://api.openai.com/v1"))]
    pub base_url: Option<String>,
    /// Of `bedrock` alone: the region for which requests are signed. It may be left out where the address names it.
    #[schema(max_length = 32, examples("eu-central-1"))]
    pub region: Option<String>,
    #[schema(min_items = 1, max_items = 32)]
    pub keys: Vec<KeyBody>,
    /// Models that it serves, each a name or a beginning with `*`. Empty or left out: whatever no other provider names.
    #[serde(default)]
    #[schema(max_items = 200)]
    pub models: Vec<String>,
    /// Until it begins to answer, and between two pieces of an answer; 120000 when left out.
    #[schema(minimum = 1, maximum = 3_600_000)]
    pub timeout_ms: Option<i32>,
}

/// Add a provider of language models.
#[utoipa::path(post, path = "/v1/tenants/{tenant_id}/providers", request_body = NewProvider,
    responses((status = 201, description = "Added.", body = Provider)))]
pub async fn handle(ctx: Ctx, body: Json<NewProvider>) -> Answer {
    let NewProvider { name, kind, base_url, region, keys, models, timeout_ms } = body.value;
    let mut checks = Checks::default();
    check_name(&mut checks, &name);
    check_models(&mut checks, &models);
    check_timeout(&mut checks, timeout_ms);
    checks.done()?;
    let (base_url, region) = address(kind, base_url.as_deref(), region.as_deref())?;
    let id = ProviderId::mint(ctx.now);
    let (keys, sealed_secrets) = store_keys((id, kind), keys, None, &ctx.app.secrets.vault)?;
    let mut write = ctx.post(&body.sha256).await?;
    let row = providers::Provider {
        id,
        name,
        kind,
        base_url: base_url.into(),
        region,
        keys,
        sealed_secrets,
        models,
        timeout_ms: timeout_ms.unwrap_or(120_000),
        created_at: ctx.now,
        updated_at: ctx.now,
        version: 1,
    };
    providers::create(&mut write, &row).await?;
    write.created(&Provider::from(row)).await
}
