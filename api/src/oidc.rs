//! ID tokens of the operator's identity providers: issuer, audience, algorithm and key are what the configuration says,
//! never what the token says.

use std::{str::FromStr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use chrono::{DateTime, Utc};
use jsonwebtoken::{
    Algorithm, DecodingKey, Validation, decode, decode_header,
    jwk::{Jwk, PublicKeyUse},
};
use serde::Deserialize;
use serde_json::Value;
use tokio::{sync::Mutex, time::Instant};
use tollgate_boot::config;
use tollgate_domain::Role;

/// Clocks of an identity provider and of ours differ by at most this many seconds.
const LEEWAY: i64 = 60;
/// A token with an unknown key asks the provider again, but not more often than this.
const REFRESH_AT_MOST: Duration = Duration::from_secs(30);
/// Keys are read again this often, so that a key that the provider withdrew stops working.
pub const REFRESH_EVERY: Duration = Duration::from_secs(600);
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_DOCUMENT: usize = 256 << 10;
const MAX_KEYS: usize = 64;

/// A person, as a verified token names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub issuer: String,
    pub subject: String,
    /// A tenant's id or slug, where the configuration names a claim and the token has it.
    pub tenant: Option<String>,
    pub role: Option<Role>,
    pub label: String,
}

#[derive(Debug)]
pub struct Oidc {
    providers: Vec<Provider>,
}

#[derive(Debug)]
struct Provider {
    config: config::Oidc,
    algorithms: Vec<Algorithm>,
    keys: ArcSwap<Vec<Key>>,
    /// When the keys were last asked for. Held while asking: whoever comes meanwhile waits for the same answer.
    asked: Mutex<Option<Instant>>,
}

#[derive(Debug)]
struct Key {
    id: Option<String>,
    /// What the provider says the key is for.
    algorithm: Option<Algorithm>,
    key: DecodingKey,
}

impl Oidc {
    #[must_use]
    pub fn new(providers: &[config::Oidc]) -> Self {
        let provider = |config: &config::Oidc| Provider {
            algorithms: config.algorithms.iter().filter_map(|name| asymmetric(name)).collect(),
            config: config.clone(),
            keys: ArcSwap::default(),
            asked: Mutex::default(),
        };
        Self { providers: providers.iter().map(provider).collect() }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.providers.is_empty()
    }

    /// Read every provider's keys again, whatever was read before.
    pub async fn refresh(&self) {
        for provider in &self.providers {
            let mut asked = provider.asked.lock().await;
            provider.fetch(&mut asked).await;
        }
    }

    /// Whose token this is, or a word for the log.
    ///
    /// # Errors
    /// Why it is nobody's. The client does not learn it.
    pub async fn verify(&self, token: &str, now: DateTime<Utc>) -> Result<Identity, &'static str> {
        if self.providers.is_empty() || token.bytes().filter(|b| *b == b'.').count() != 2 {
            return Err("unknown_token");
        }
        let header = decode_header(token).map_err(|_| "malformed")?;
        let unproved: Value = jsonwebtoken::dangerous::insecure_decode_claims(token).map_err(|_| "malformed")?;
        let issuer = unproved.get("iss").and_then(Value::as_str).ok_or("no_issuer")?;
        let provider = self.provider(issuer, &unproved)?;
        if !provider.algorithms.contains(&header.alg) {
            return Err("algorithm_not_allowed");
        }
        let claims = provider.prove(token, header.kid.as_deref(), header.alg).await?;
        check_times(&claims, now)?;
        provider.identity(&claims)
    }
}

impl Oidc {
    /// One issuer may be configured for several audiences, with rules of their own.
    fn provider(&self, issuer: &str, claims: &Value) -> Result<&Provider, &'static str> {
        let mut of_issuer = self.providers.iter().filter(|p| p.config.issuer == issuer).peekable();
        of_issuer.peek().ok_or("unknown_issuer")?;
        of_issuer.find(|p| has_audience(claims, &p.config.audience)).ok_or("wrong_audience")
    }
}

impl Provider {
    async fn prove(&self, token: &str, kid: Option<&str>, algorithm: Algorithm) -> Result<Value, &'static str> {
        let mut keys = self.keys.load_full();
        if find(&keys, kid, algorithm).is_none() {
            let mut asked = self.asked.lock().await;
            keys = self.keys.load_full();
            let may_ask = asked.is_none_or(|at| at.elapsed() >= REFRESH_AT_MOST);
            if find(&keys, kid, algorithm).is_none() && may_ask {
                self.fetch(&mut asked).await;
                keys = self.keys.load_full();
            }
        }
        let key = find(&keys, kid, algorithm).ok_or("unknown_key")?;
        let mut validation = Validation::new(algorithm);
        // The library reads the machine's clock; the times are checked against the injected one below. The audience was
        // compared when the provider was chosen.
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        let proved = decode::<Value>(token, &key.key, &validation).map_err(|_| "bad_signature")?;
        Ok(proved.claims)
    }

    /// From the proved claims alone.
    fn identity(&self, claims: &Value) -> Result<Identity, &'static str> {
        let text = |name: &str| claims.get(name).and_then(Value::as_str).filter(|s| !s.is_empty() && s.len() <= 512);
        let subject = text("sub").ok_or("no_subject")?;
        let tenant = self.config.tenant_claim.as_deref().and_then(text).map(str::to_owned);
        let named = self.config.role_claim.as_deref().and_then(|name| claims.get(name));
        let role = match named {
            None | Some(Value::Null) => None,
            // A role that nobody knows is not the role from somewhere else.
            Some(value) => Some(strongest(value).ok_or("unknown_role")?),
        };
        let label = text("email").or_else(|| text("name")).unwrap_or(subject).to_owned();
        Ok(Identity { issuer: self.config.issuer.clone(), subject: subject.to_owned(), tenant, role, label })
    }

    async fn fetch(&self, asked: &mut Option<Instant>) {
        *asked = Some(Instant::now());
        match self.read_keys().await {
            Ok(keys) => self.keys.store(Arc::new(keys)),
            // The keys of before stay: a provider that is away for a minute locks nobody out.
            Err(error) => {
                tracing::warn!(issuer = self.config.issuer, error = format!("{error:#}"), "cannot read the provider's keys")
            }
        }
    }

    async fn read_keys(&self) -> anyhow::Result<Vec<Key>> {
        // No redirects: the configured address is the one that is trusted.
        let client = reqwest::Client::builder().timeout(FETCH_TIMEOUT).redirect(reqwest::redirect::Policy::none()).build()?;
        let address = match &self.config.jwks_url {
            Some(address) => address.clone(),
            None => self.discover(&client).await?,
        };
        let set: KeySet = serde_json::from_slice(&get(&client, &address).await?)?;
        let keys: Vec<Key> = set.keys.into_iter().take(MAX_KEYS).filter_map(read_key).collect();
        anyhow::ensure!(!keys.is_empty(), "{address} holds no key that can verify a signature");
        Ok(keys)
    }

    async fn discover(&self, client: &reqwest::Client) -> anyhow::Result<String> {
        let issuer = self.config.issuer.trim_end_matches('/');
        let found: Discovery =
            serde_json::from_slice(&get(client, &format!("{issuer}/.well-known/openid-configuration")).await?)?;
        anyhow::ensure!(found.issuer == self.config.issuer, "the discovery document names another issuer: {:?}", found.issuer);
        anyhow::ensure!(
            found.jwks_uri.starts_with("https://") || self.config.issuer.starts_with("http://"),
            "the discovery document names keys outside https"
        );
        Ok(found.jwks_uri)
    }
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

#[derive(Deserialize)]
struct KeySet {
    /// One by one: a key of a kind that we do not know must not hide the others.
    keys: Vec<Value>,
}

async fn get(client: &reqwest::Client, address: &str) -> anyhow::Result<Vec<u8>> {
    let mut answer = client.get(address).send().await?;
    anyhow::ensure!(answer.status().as_u16() == 200, "{address} answered {}", answer.status());
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        anyhow::ensure!(body.len() + chunk.len() <= MAX_DOCUMENT, "{address} is larger than {MAX_DOCUMENT} bytes");
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn read_key(value: Value) -> Option<Key> {
    let jwk: Jwk = serde_json::from_value(value).ok()?;
    if matches!(jwk.common.public_key_use, Some(ref u) if *u != PublicKeyUse::Signature) {
        return None;
    }
    let key = DecodingKey::from_jwk(&jwk).ok()?;
    let algorithm = match jwk.common.key_algorithm {
        Some(named) => Some(asymmetric(&named.to_string())?),
        None => None,
    };
    Some(Key { id: jwk.common.key_id, algorithm, key })
}

/// The key that the token names. Without a name there must be only one that fits.
fn find<'a>(keys: &'a [Key], kid: Option<&str>, algorithm: Algorithm) -> Option<&'a Key> {
    let mut fitting = keys.iter().filter(|k| k.algorithm.is_none_or(|a| a == algorithm) && k.key.family() == algorithm.family());
    match kid {
        Some(kid) => fitting.find(|k| k.id.as_deref() == Some(kid)),
        None => {
            let only = fitting.next()?;
            if fitting.next().is_none() { Some(only) } else { None }
        }
    }
}

/// With a symmetric algorithm whoever can verify can also issue.
fn asymmetric(name: &str) -> Option<Algorithm> {
    Algorithm::from_str(name).ok().filter(|a| !matches!(a, Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512))
}

fn has_audience(claims: &Value, audience: &str) -> bool {
    match claims.get("aud") {
        Some(Value::String(one)) => one == audience,
        Some(Value::Array(several)) => several.iter().any(|a| a.as_str() == Some(audience)),
        _ => false,
    }
}

fn check_times(claims: &Value, now: DateTime<Utc>) -> Result<(), &'static str> {
    // NumericDate may have a fraction.
    let time = |name: &str| match claims.get(name) {
        None => Ok(None),
        Some(value) => value.as_i64().or_else(|| value.as_f64().map(|f| f as i64)).map(Some).ok_or("malformed"),
    };
    let now = now.timestamp();
    let expires = time("exp")?.ok_or("no_expiry")?;
    if now.saturating_sub(LEEWAY) >= expires {
        return Err("expired");
    }
    if time("nbf")?.is_some_and(|starts| starts > now.saturating_add(LEEWAY)) {
        return Err("not_yet_valid");
    }
    Ok(())
}

/// Of a role's name or a list of names, the one that may most; [`Role::ALL`] stands in that order.
fn strongest(value: &Value) -> Option<Role> {
    let names: Vec<&str> = match value {
        Value::String(name) => vec![name],
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
        _ => return None,
    };
    Role::ALL.iter().copied().find(|role| names.contains(&role.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn t14_the_audience_is_compared_whole() {
        assert!(has_audience(&json!({"aud": "tollgate"}), "tollgate"));
        assert!(has_audience(&json!({"aud": ["x", "tollgate"]}), "tollgate"));
        for other in [json!({}), json!({"aud": "tollgate2"}), json!({"aud": ["toll", "gate"]}), json!({"aud": {"tollgate": 1}})] {
            assert!(!has_audience(&other, "tollgate"), "{other}");
        }
    }

    #[test]
    fn times_are_checked_against_the_injected_clock() {
        let now = DateTime::from_timestamp(1_000_000, 0).unwrap();
        assert_eq!(check_times(&json!({"exp": 1_000_001}), now), Ok(()));
        assert_eq!(check_times(&json!({"exp": 999_941}), now), Ok(()), "within the leeway");
        assert_eq!(check_times(&json!({"exp": 999_940}), now), Err("expired"));
        assert_eq!(check_times(&json!({}), now), Err("no_expiry"));
        assert_eq!(check_times(&json!({"exp": "soon"}), now), Err("malformed"));
        assert_eq!(check_times(&json!({"exp": 2_000_000, "nbf": 1_000_060}), now), Ok(()));
        assert_eq!(check_times(&json!({"exp": 2_000_000, "nbf": 1_000_061}), now), Err("not_yet_valid"));
    }

    #[test]
    fn the_strongest_known_role_counts_and_unknown_ones_do_not() {
        assert_eq!(strongest(&json!("finance")), Some(Role::Finance));
        assert_eq!(strongest(&json!(["auditor", "admin", "root"])), Some(Role::Admin));
        assert_eq!(strongest(&json!(["root"])), None);
        assert_eq!(strongest(&json!(7)), None);
    }

    #[test]
    fn symmetric_algorithms_are_none() {
        assert!(asymmetric("RS256").is_some() && asymmetric("ES256").is_some() && asymmetric("EdDSA").is_some());
        for name in ["HS256", "HS512", "none", "None", ""] {
            assert!(asymmetric(name).is_none(), "{name}");
        }
    }
}
