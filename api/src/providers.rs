//! Providers of language models: where requests of the LLM endpoints are forwarded to, and with which keys.

mod address;
pub mod create;
pub mod delete;
pub mod get;
pub mod list;
pub mod update;

use std::collections::BTreeMap;

use axum::http::HeaderValue;
use chrono::{DateTime, Utc};
use reqwest::Url;
use serde::{Deserialize, Serialize};
use tollgate_domain::{
    ProviderId, Vault,
    llm::{AwsCredentials, ProviderKind},
};
use tollgate_store::providers::{self, ProviderKey, secrets_purpose};
use utoipa::ToSchema;

use crate::{check::Checks, ctx::Resource, problem::Problem};

const MAX_KEYS: usize = 32;
const MAX_MODELS: usize = 200;
const MAX_SECRET: usize = 4096;
const MAX_WEIGHT: u32 = 1_000_000;

/// A provider.
#[derive(Debug, Serialize, ToSchema)]
pub struct Provider {
    #[schema(value_type = String, examples("prov_01j9zc5v8mf9r8k7x3w2q1n0pa"))]
    pub id: ProviderId,
    /// The part before the slash in `name/model`.
    pub name: String,
    /// What it speaks: `openai` (chat completions, responses, embeddings), `anthropic` (messages), `gemini` (generateContent) or `bedrock`
    /// (Converse).
    #[schema(value_type = String)]
    pub kind: ProviderKind,
    pub base_url: String,
    /// Of `bedrock`: the region for which requests are signed.
    pub region: Option<String>,
    /// Without their secrets, which cannot be read again.
    pub keys: Vec<ShownKey>,
    /// Models that it serves, each a name or a beginning with `*`. Empty: whatever no other provider names.
    pub models: Vec<String>,
    /// Until it begins to answer, and between two pieces of an answer.
    pub timeout_ms: i32,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    /// For the ETag.
    #[serde(skip)]
    version: i32,
}

/// A key of a provider, without its secret.
#[derive(Debug, Serialize, ToSchema)]
pub struct ShownKey {
    pub name: String,
    pub weight: u32,
}

/// A key of a provider.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyBody {
    /// By which audit rows tell it from others.
    #[schema(min_length = 1, max_length = 64)]
    pub name: String,
    /// Sealed at rest, and never shown. In a PATCH it may be left out of a key that is there already, which keeps its own. Of `bedrock` a
    /// Bedrock API key, or `ACCESS_KEY_ID:SECRET_ACCESS_KEY` with `:SESSION_TOKEN` behind it where they are temporary.
    #[schema(max_length = 4096)]
    pub secret: Option<String>,
    /// Its share of the requests; 0: for when the others are refused. 1 when left out.
    #[schema(maximum = 1_000_000)]
    pub weight: Option<u32>,
}

impl std::fmt::Debug for KeyBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeyBody({})", self.name)
    }
}

impl From<providers::Provider> for Provider {
    fn from(row: providers::Provider) -> Self {
        let providers::Provider {
            id,
            name,
            kind,
            base_url,
            region,
            keys,
            models,
            timeout_ms,
            created_at,
            updated_at,
            version,
            ..
        } = row;
        let keys = keys.into_iter().map(|ProviderKey { name, weight }| ShownKey { name, weight }).collect();
        Self { id, name, kind, base_url, region, keys, models, timeout_ms, created_at, updated_at, version }
    }
}

impl Resource for Provider {
    fn tag(&self) -> Option<(String, i32)> {
        Some((self.id.to_string(), self.version))
    }
}

fn check_name(checks: &mut Checks, name: &str) {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    let good = (1..=48).contains(&name.len()) && name.chars().all(fits);
    checks.require(good, "/name", "use 1 to 48 lower-case letters, digits, \"-\" and \"_\"");
}

fn check_models(checks: &mut Checks, models: &[String]) {
    checks.require(models.len() <= MAX_MODELS, "/models", "name at most 200 models");
    for (at, model) in models.iter().enumerate() {
        if !is_pattern(model) {
            checks.refuse(
                format!("/models/{at}"),
                "use a model's name of at most 200 characters without spaces, or its beginning with \"*\" behind it",
            );
        }
    }
}

fn is_pattern(model: &str) -> bool {
    let name = model.strip_suffix('*').unwrap_or(model);
    model.len() <= 200 && !model.is_empty() && !name.contains('*') && !model.chars().any(|c| c.is_control() || c.is_whitespace())
}

fn check_timeout(checks: &mut Checks, timeout: Option<i32>) {
    checks.require(timeout.is_none_or(|ms| (1..=3_600_000).contains(&ms)), "/timeout_ms", "use 1 to 3600000 milliseconds");
}

/// Where requests go: nothing but a scheme, a host and a path.
fn check_url(text: &str) -> Result<Url, Problem> {
    let refuse = |sentence: &str| Problem::field("/base_url", sentence);
    if text.len() > 2048 || text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(refuse("use at most 2048 characters, without spaces or control characters"));
    }
    let url = Url::parse(text).map_err(|_| refuse("this is not a URL"))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(refuse("use an http or https address"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(refuse("leave out user and password: keys have a field of their own, where they are sealed"));
    }
    if url.fragment().is_some() || url.query().is_some() {
        return Err(refuse("leave out query and fragment: the endpoint's path is put behind it"));
    }
    Ok(url)
}

/// The keys as the row keeps them, and their secrets sealed. A key without a secret keeps the one that it has, as long as the provider
/// stays at its place: whoever may change an address but never saw the secret could otherwise have it sent to a place of their own.
fn store_keys(
    (id, kind): (ProviderId, ProviderKind),
    keys: Vec<KeyBody>,
    kept: Option<&BTreeMap<String, String>>,
    vault: &Vault,
) -> Result<(Vec<ProviderKey>, Vec<u8>), Problem> {
    if keys.is_empty() || keys.len() > MAX_KEYS {
        return Err(Problem::field("/keys", "give 1 to 32 keys; one for a server that takes none may have any secret"));
    }
    let (mut rows, mut secrets) = (Vec::with_capacity(keys.len()), BTreeMap::new());
    for (at, KeyBody { name, secret, weight }) in keys.into_iter().enumerate() {
        let refuse = |field: &str, sentence: &str| Problem::field(format!("/keys/{at}/{field}"), sentence);
        if name.is_empty() || name.len() > 64 || name.chars().any(char::is_control) {
            return Err(refuse("name", "use 1 to 64 characters"));
        }
        let weight = weight.unwrap_or(1);
        if weight > MAX_WEIGHT {
            return Err(refuse("weight", "use at most 1000000"));
        }
        let secret = match (secret, kept.and_then(|kept| kept.get(&name))) {
            (Some(secret), _) => secret,
            (None, Some(kept)) => kept.clone(),
            (None, None) => {
                return Err(refuse("secret", "a new key needs its secret, and so does every key of a provider that moves"));
            }
        };
        let visible = secret.bytes().all(|b| (0x21..0x7f).contains(&b)) && HeaderValue::from_str(&secret).is_ok();
        if secret.is_empty() || secret.len() > MAX_SECRET || !visible {
            return Err(refuse("secret", "use 1 to 4096 visible ASCII characters without spaces"));
        }
        if kind == ProviderKind::Bedrock && secret.contains(':') && AwsCredentials::parse(&secret).is_none() {
            return Err(refuse(
                "secret",
                "use a Bedrock API key, or ACCESS_KEY_ID:SECRET_ACCESS_KEY with :SESSION_TOKEN behind it where they are temporary",
            ));
        }
        if secrets.insert(name.clone(), secret).is_some() {
            return Err(refuse("name", "two keys have this name"));
        }
        rows.push(ProviderKey { name, weight });
    }
    if rows.iter().all(|key| key.weight == 0) {
        return Err(Problem::field("/keys", "at least one key needs a weight above 0"));
    }
    let plain = serde_json::to_vec(&secrets).map_err(|e| Problem::internal(&e))?;
    Ok((rows, vault.seal(&secrets_purpose(id), &plain)))
}
