use std::collections::BTreeMap;

use reqwest::Url;
use serde::Deserialize;
use tollgate_domain::ProviderId;
use tollgate_store::providers::{self, secrets_purpose};
use utoipa::ToSchema;

use super::{
    KeyBody, Provider,
    address::{address, region_of},
    check_models, check_timeout, check_url, store_keys,
};
use crate::{
    check::Checks,
    ctx::{Ctx, Id},
    json::Json,
    problem::{Answer, Problem},
};

/// What is left out stays. Name and kind are what requests were recorded under: another one is another provider.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProviderPatch {
    /// At another scheme, host or port, every key needs its secret again.
    #[schema(max_length = 2048)]
    pub base_url: Option<String>,
    /// Of `bedrock` alone.
    #[schema(max_length = 32)]
    pub region: Option<String>,
    /// Replaces all of them; a key without a secret keeps its own.
    #[schema(min_items = 1, max_items = 32)]
    pub keys: Option<Vec<KeyBody>>,
    /// Replaces all of them.
    #[schema(max_items = 200)]
    pub models: Option<Vec<String>>,
    #[schema(minimum = 1, maximum = 3_600_000)]
    pub timeout_ms: Option<i32>,
}

/// Change a provider. Workers see it within a second.
#[utoipa::path(patch, path = "/v1/tenants/{tenant_id}/providers/{provider_id}", request_body = ProviderPatch,
    responses((status = 200, description = "Changed.", body = Provider)))]
pub async fn handle(ctx: Ctx, Id(id): Id<ProviderId>, body: Json<ProviderPatch>) -> Answer {
    let ProviderPatch { base_url, region, keys, models, timeout_ms } = body.value;
    let mut checks = Checks::default();
    check_models(&mut checks, models.as_deref().unwrap_or_default());
    check_timeout(&mut checks, timeout_ms);
    checks.done()?;
    let base_url = base_url.map(|url| check_url(&url)).transpose()?;

    let mut write = ctx.change().await?;
    let mut row = providers::lock(&mut write, id).await?;
    write.matches(&Provider::from(row.clone()))?;
    let before = Url::parse(&row.base_url).map_err(|e| Problem::internal(&e))?;
    let moves = base_url.as_ref().is_some_and(|url| url.origin() != before.origin());
    if moves && keys.is_none() {
        return Err(Problem::field("/keys", "a provider that moves to another server needs the secrets of its keys again").into());
    }
    if let Some(keys) = keys {
        let vault = &ctx.app.secrets.vault;
        let plain = vault.open(&secrets_purpose(id), &row.sealed_secrets).map_err(|e| Problem::unopened(&e))?;
        let kept: BTreeMap<String, String> = serde_json::from_slice(&plain).map_err(|e| Problem::internal(&e))?;
        (row.keys, row.sealed_secrets) = store_keys((id, row.kind), keys, (!moves).then_some(&kept), vault)?;
    }
    if base_url.is_some() || region.is_some() {
        let url = base_url.unwrap_or(before);
        // An address that does not name its region stays in the one that was told.
        let region = region.or_else(|| row.region.filter(|_| region_of(&url).is_none()));
        let (url, region) = address(row.kind, Some(url.as_str()), region.as_deref())?;
        (row.base_url, row.region) = (url.into(), region);
    }
    row.models = models.unwrap_or(row.models);
    row.timeout_ms = timeout_ms.unwrap_or(row.timeout_ms);
    let row = providers::update(&mut write, row).await?;
    write.ok(&Provider::from(row)).await
}
