//! How a request goes to a provider of each kind: where to, and by which credentials.

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use chrono::{DateTime, Utc};
use tollgate_domain::llm::{AwsCredentials, ProviderKind};
use tollgate_store::providers::Provider;

use super::{
    answering::Secret,
    dialect::Dialect,
    sigv4::{Signer, encoded},
};

const VERSION: HeaderName = HeaderName::from_static("anthropic-version");
const DEFAULT_VERSION: HeaderValue = HeaderValue::from_static("2023-06-01");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// What a caller's headers may say to a provider that speaks as the caller does.
pub const PASSED: [HeaderName; 3] = [VERSION, HeaderName::from_static("anthropic-beta"), HeaderName::from_static("openai-beta")];

/// Where a provider is asked. `stream`: whether the answer is to come as events.
#[must_use]
pub fn url(kind: ProviderKind, base: &str, dialect: Dialect, model: &str, stream: bool) -> Option<reqwest::Url> {
    let base = base.trim_end_matches('/');
    let path = match kind {
        ProviderKind::OpenAi if dialect.kind() == kind => dialect.path().to_owned(),
        ProviderKind::OpenAi => Dialect::Chat.path().to_owned(),
        // Both kinds of base are written, with the version and without.
        ProviderKind::Anthropic if base.ends_with("/v1") => "messages".to_owned(),
        ProviderKind::Anthropic => Dialect::Messages.path().to_owned(),
        ProviderKind::Gemini => {
            let (kind, name) = match model.split_once('/') {
                Some((kind @ ("models" | "tunedModels"), name)) => (kind, name),
                _ => ("models", model),
            };
            let verb = if stream { "streamGenerateContent?alt=sse" } else { "generateContent" };
            format!("{kind}/{}:{verb}", encoded(name, false))
        }
        // It would lead elsewhere.
        ProviderKind::Bedrock if matches!(model, "" | "." | "..") => return None,
        ProviderKind::Bedrock => {
            format!("model/{}/{}", encoded(model, false), if stream { "converse-stream" } else { "converse" })
        }
    };
    format!("{base}/{path}").parse().ok()
}

/// The key, and the parts of it.
#[must_use]
pub fn secret(kind: ProviderKind, key: &str) -> Secret {
    match aws(kind, key) {
        Some(AwsCredentials { id, secret, token }) => Secret::new(key, &[secret, token.unwrap_or_default(), id]),
        None => Secret::new(key, &[]),
    }
}

fn aws(kind: ProviderKind, key: &str) -> Option<AwsCredentials<'_>> {
    (kind == ProviderKind::Bedrock).then(|| AwsCredentials::parse(key)).flatten()
}

/// A request's headers. `asked`: the caller's, where the provider speaks as the caller does.
#[must_use]
pub fn headers(
    provider: &Provider,
    key: &str,
    asked: Option<&HeaderMap>,
    (url, body): (&reqwest::Url, &[u8]),
    at: DateTime<Utc>,
) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    for name in PASSED {
        for value in asked.into_iter().flat_map(|asked| asked.get_all(&name)) {
            headers.append(name.clone(), value.clone());
        }
    }
    headers.insert(header::CONTENT_TYPE, JSON);
    let mut secret = |name: HeaderName, text: &str| {
        let mut value = HeaderValue::from_str(text).ok()?;
        value.set_sensitive(true);
        headers.insert(name, value);
        Some(())
    };
    match (provider.kind, aws(provider.kind, key)) {
        (ProviderKind::Bedrock, Some(credentials)) => {
            let signer = Signer { credentials, region: provider.region.as_deref()?, service: "bedrock", at };
            for (name, value) in signer.headers("POST", url, &[("content-type", "application/json")], body) {
                secret(HeaderName::from_static(name), &value)?;
            }
        }
        (ProviderKind::OpenAi | ProviderKind::Bedrock, _) => secret(header::AUTHORIZATION, &format!("Bearer {key}"))?,
        (ProviderKind::Gemini, _) => secret(HeaderName::from_static("x-goog-api-key"), key)?,
        (ProviderKind::Anthropic, _) => {
            secret(HeaderName::from_static("x-api-key"), key)?;
            headers.entry(VERSION).or_insert(DEFAULT_VERSION);
        }
    }
    Some(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn provider(kind: ProviderKind) -> Provider {
        let at = DateTime::UNIX_EPOCH;
        Provider {
            id: uuid::Uuid::nil().into(),
            name: "p".to_owned(),
            kind,
            base_url: String::new(),
            region: (kind == ProviderKind::Bedrock).then(|| "eu-west-1".to_owned()),
            keys: Vec::new(),
            sealed_secrets: Vec::new(),
            models: Vec::new(),
            timeout_ms: 1,
            created_at: at,
            updated_at: at,
            version: 1,
        }
    }

    #[test]
    fn addresses_are_taken_with_and_without_their_version() {
        let at = |kind, base, dialect| url(kind, base, dialect, "m", false).map(|url| url.to_string()).unwrap_or_default();
        let (openai, anthropic) = (ProviderKind::OpenAi, ProviderKind::Anthropic);
        assert_eq!(at(openai, "https://api.openai.com/v1/", Dialect::Chat), "https://api.openai.com/v1/chat/completions");
        assert_eq!(at(openai, "https://api.openai.com/v1", Dialect::Messages), "https://api.openai.com/v1/chat/completions");
        assert_eq!(at(anthropic, "https://api.anthropic.com", Dialect::Messages), "https://api.anthropic.com/v1/messages");
        assert_eq!(at(anthropic, "https://api.anthropic.com/v1", Dialect::Chat), "https://api.anthropic.com/v1/messages");
        assert_eq!(at(openai, "http://x/openai/deployments/d", Dialect::Embeddings), "http://x/openai/deployments/d/embeddings");
    }

    #[test]
    fn a_models_name_leads_to_no_other_place() {
        let at = |kind, model, stream| url(kind, "http://x/base", Dialect::Chat, model, stream).map(|url| url.to_string());
        let gemini = |model, stream| at(ProviderKind::Gemini, model, stream).unwrap_or_default();
        assert_eq!(gemini("gemini-2.5-flash", false), "http://x/base/models/gemini-2.5-flash:generateContent");
        assert_eq!(gemini("models/g", true), "http://x/base/models/g:streamGenerateContent?alt=sse");
        assert_eq!(gemini("tunedModels/t-1", false), "http://x/base/tunedModels/t-1:generateContent");
        assert_eq!(gemini("../x?y#z", false), "http://x/base/models/..%2Fx%3Fy%23z:generateContent");
        let bedrock = |model| at(ProviderKind::Bedrock, model, true);
        assert_eq!(bedrock("a.claude-v2:0").as_deref(), Some("http://x/base/model/a.claude-v2%3A0/converse-stream"));
        assert_eq!(bedrock("../../invoke").as_deref(), Some("http://x/base/model/..%2F..%2Finvoke/converse-stream"));
        assert_eq!((bedrock(".."), bedrock(".")), (None, None));
    }

    #[test]
    fn of_a_callers_headers_only_those_of_the_dialect_go_on() {
        let mut asked = HeaderMap::new();
        for (name, value) in
            [("authorization", "Bearer tg_live_x"), ("x-api-key", "tg_live_x"), ("cookie", "c"), ("anthropic-beta", "b")]
        {
            asked.insert(name, HeaderValue::from_static(value));
        }
        let url = "http://x/".parse().unwrap();
        let sent = |kind, key, asked| headers(&provider(kind), key, asked, (&url, b"{}"), DateTime::UNIX_EPOCH).unwrap();
        let native = sent(ProviderKind::Anthropic, "sk-real", Some(&asked));
        assert_eq!(native.get("x-api-key").unwrap(), "sk-real");
        assert_eq!(native.get("anthropic-beta").unwrap(), "b");
        assert_eq!(native.get("anthropic-version").unwrap(), "2023-06-01");
        assert!(native.get("authorization").is_none() && native.get("cookie").is_none());
        assert!(!format!("{native:?}").contains("sk-real"));
        assert!(sent(ProviderKind::Anthropic, "sk-real", None).get("anthropic-beta").is_none());
        assert_eq!(sent(ProviderKind::Gemini, "AIza", None).get("x-goog-api-key").unwrap(), "AIza");
        assert_eq!(sent(ProviderKind::Bedrock, "api-key", None).get("authorization").unwrap(), "Bearer api-key");
        let signed = sent(ProviderKind::Bedrock, "ASIAIOSFODNN7EXAMPLE:wJalrX:FQoGZX", None);
        let authorization = signed.get("authorization").unwrap().to_str().unwrap();
        assert!(authorization.starts_with("AWS4-HMAC-SHA256 Credential=ASIAIOSFODNN7EXAMPLE/19700101/eu-west-1/bedrock/aws4_request, SignedHeaders=content-type;host;x-amz-date;x-amz-security-token, Signature="), "{authorization}");
        assert_eq!(signed.get("x-amz-security-token").unwrap(), "FQoGZX");
        assert!(!format!("{signed:?}").contains("FQoGZX") && !format!("{signed:?}").contains("wJalrX"));
    }
}
