//! Requests to providers: which key, how often, and what is said where none answers.

use std::{
    borrow::Cow,
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Serialize;
use serde_json::{Map, Value};
use tollgate_domain::{ProviderId, Vault, clock::SharedClock, llm::ProviderKind};
use tollgate_store::providers::{Provider, ProviderKey, secrets_purpose};

use super::{
    answering::{Answering, Secret, media},
    dialect::Dialect,
    model::{Candidate, shuffled},
    translate::{self, Answers, To},
    wire::{self, PASSED},
};
use crate::script::random;

/// Tries of one request at most, over all keys and providers.
const TRIES: usize = 6;
/// Tries where there is one key alone.
const TRIES_OF_ONE: usize = 3;
/// Failures in a row after which a key is left alone.
const TRIPS: u32 = 5;
const COOL: Duration = Duration::from_secs(5);
const COOL_AT_MOST: Duration = Duration::from_secs(60);
/// A key that the provider does not take is not tried again for so long.
const REFUSED: Duration = Duration::from_secs(60);
/// Between two tries with the same key: doubled each time, and a part of it by chance.
const PAUSE: Duration = Duration::from_millis(200);
const PAUSE_AT_MOST: Duration = Duration::from_secs(4);
/// Retries that one provider may have in hand, in tenths: each request earns one tenth, so that retries stay a tenth of the requests when
/// all of it fails. To go to another provider takes none.
const RETRIES: u32 = 200;
/// Keys of one provider that are tried where others come after it.
const KEYS_EACH: usize = 2;
/// Of an answer that says what went wrong.
const MAX_ERROR: usize = 64 << 10;
/// What is told of it.
const MAX_TOLD: usize = 2_000;

/// One try, as the trail keeps it.
#[derive(Debug, Clone, Serialize)]
pub struct Attempt {
    pub provider: String,
    /// The name of the key.
    pub key: String,
    pub model: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    pub latency_us: u64,
}

/// The key with which a provider answers.
#[derive(Debug, Clone)]
pub struct Answerer {
    providers: Providers,
    of: (ProviderId, String),
}

impl Answerer {
    /// How an answer ended that had begun.
    pub fn ended(&self, well: bool) {
        if well {
            self.providers.0.health().remove(&self.of);
        } else {
            self.providers.unwell(&self.of, Next::Again, None);
        }
    }
}

/// Nobody has answered.
#[derive(Debug, Clone)]
pub struct Failed {
    /// Who had the last word.
    pub candidate: Option<Candidate>,
    pub status: StatusCode,
    pub code: &'static str,
    /// For the caller and the trail: no credential stands in it.
    pub message: String,
    pub retry_after: Option<Duration>,
    pub timed_out: bool,
    /// A provider may have counted tokens for it.
    pub sent: bool,
}

/// All providers of a worker. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Providers(Arc<Inner>);

struct Inner {
    client: reqwest::Client,
    private: bool,
    vault: Vault,
    /// By which requests are signed.
    clock: SharedClock,
    health: Mutex<HashMap<(ProviderId, String), Health>>,
    /// In hand, by provider.
    retries: Mutex<HashMap<ProviderId, u32>>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Providers(..)")
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Health {
    failures: u32,
    /// Not before then, unless there is nobody else.
    rests_until: Option<Instant>,
}

impl Providers {
    /// # Errors
    /// When the HTTP client cannot be built.
    pub fn new(vault: Vault, private: bool, clock: SharedClock) -> reqwest::Result<Self> {
        let client = crate::upstream::http_client(private)?;
        let (health, retries) = (Mutex::default(), Mutex::default());
        Ok(Self(Arc::new(Inner { client, private, vault, clock, health, retries })))
    }

    /// Ask the candidates in their order until one begins to answer. What was refused before anything came may be asked again elsewhere; what
    /// may have been answered is not. `limit`: tokens after which the answer has to stop, where the body says nothing of that.
    ///
    /// # Errors
    /// [`Failed`], after the last try.
    pub async fn ask(
        &self,
        candidates: &[Candidate],
        dialect: Dialect,
        (body, limit): (&Map<String, Value>, Option<u64>),
        headers: &HeaderMap,
        attempts: &mut Vec<Attempt>,
    ) -> Result<Answering, Failed> {
        let tries = self.tries(candidates);
        for candidate in candidates {
            let mut retries = self.0.retries();
            let left = retries.entry(candidate.provider.id).or_insert(RETRIES);
            *left = (*left + 1).min(RETRIES);
        }
        let mut last = none_left();
        let (mut same, mut before): (u32, Option<(&Candidate, &ProviderKey)>) = (0, None);
        // Providers that cannot serve this request, whatever the key.
        let mut out: Vec<ProviderId> = Vec::new();
        for (candidate, key) in &tries {
            let id = candidate.provider.id;
            if out.contains(&id) {
                continue;
            }
            if let Some((earlier, earlier_key)) = before {
                if earlier.provider.id == id && !self.may_retry(id) {
                    out.push(id);
                    continue;
                }
                let again = earlier.provider.id == id && earlier_key.name == key.name;
                same = if again { same + 1 } else { 0 };
                if again {
                    tokio::time::sleep(pause(same, last.retry_after)).await;
                }
            }
            before = Some((candidate, key));
            let started = Instant::now();
            let one = self.one(candidate, key, dialect, (body, limit), headers).await;
            let mut attempt = Attempt {
                provider: candidate.provider.name.clone(),
                key: key.name.clone(),
                model: candidate.model.clone(),
                status: None,
                error: None,
                latency_us: u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX),
            };
            let of = (id, key.name.clone());
            match one {
                Ok((response, secret)) => {
                    attempt.status = Some(response.status().as_u16());
                    attempts.push(attempt);
                    let health = Answerer { providers: self.clone(), of };
                    let to = To::new(dialect, candidate);
                    let at = self.0.clock.now().timestamp();
                    let translated = (!to.is_native()).then(|| Answers::new(&to, at, &media(&response)));
                    let patience = patience(&candidate.provider);
                    return Ok(Answering::new(response, (*candidate).clone(), patience, health, secret, translated));
                }
                Err((failed, status, next)) => {
                    attempt.status = status.map(|status| status.as_u16());
                    attempt.error = Some(failed.message.clone());
                    attempts.push(attempt);
                    self.unwell(&of, next, failed.retry_after);
                    last = Failed { sent: failed.sent || last.sent, ..failed };
                    match next {
                        Next::Stop | Next::Silent => break,
                        Next::Elsewhere => out.push(id),
                        Next::Again | Next::OtherKey => {}
                    }
                }
            }
        }
        Err(last)
    }

    /// Each key of each candidate, those that rest at the end; a single one more than once. Every candidate has its turn.
    fn tries<'a>(&self, candidates: &'a [Candidate]) -> Vec<(&'a Candidate, ProviderKey)> {
        let each = if candidates.len() > 1 { KEYS_EACH } else { TRIES };
        let now = Instant::now();
        let health = self.0.health();
        let rests = |candidate: &Candidate, key: &ProviderKey| {
            let health = health.get(&(candidate.provider.id, key.name.clone()));
            health.and_then(|health| health.rests_until).is_some_and(|until| until > now)
        };
        let all = candidates.iter().flat_map(|candidate| {
            let keys = shuffled(candidate.provider.keys.clone(), |key| key.weight);
            let (resting, mut keys): (Vec<_>, Vec<_>) = keys.into_iter().partition(|key| rests(candidate, key));
            keys.extend(resting);
            keys.into_iter().take(each).map(move |key| (candidate, key))
        });
        let (resting, mut tries): (Vec<_>, Vec<_>) = all.partition(|(candidate, key)| rests(candidate, key));
        tries.extend(resting);
        tries.truncate(TRIES.max(candidates.len()));
        if let [one] = &tries[..] {
            tries = vec![one.clone(); TRIES_OF_ONE];
        }
        tries
    }

    fn may_retry(&self, provider: ProviderId) -> bool {
        let mut retries = self.0.retries();
        let left = retries.entry(provider).or_insert(RETRIES);
        match left.checked_sub(10) {
            Some(rest) => {
                *left = rest;
                true
            }
            None => {
                metrics::counter!("tollgate_llm_retries_spared_total").increment(1);
                false
            }
        }
    }

    async fn one(
        &self,
        candidate: &Candidate,
        key: &ProviderKey,
        dialect: Dialect,
        (body, limit): (&Map<String, Value>, Option<u64>),
        headers: &HeaderMap,
    ) -> Result<(reqwest::Response, Secret), (Failed, Option<StatusCode>, Next)> {
        let provider = &candidate.provider;
        let fail = |status, code, message: String| Failed {
            candidate: Some(candidate.clone()),
            status,
            code,
            message,
            retry_after: None,
            timed_out: false,
            sent: false,
        };
        let unusable =
            |message: &str| (fail(StatusCode::BAD_GATEWAY, "provider_unusable", message.to_owned()), None, Next::Elsewhere);
        let key = self.secret(provider, &key.name).map_err(|why| unusable(&why))?;
        let stream = body.get("stream").is_some_and(|stream| *stream == true);
        let url = wire::url(provider.kind, &provider.base_url, dialect, &candidate.model, stream)
            .ok_or_else(|| unusable("the provider's address cannot be read"))?;
        if !crate::upstream::may_connect(&url, self.0.private) {
            return Err(unusable("the provider's address lies in a private network, which this deployment does not allow"));
        }
        let mut sent = Cow::Borrowed(body);
        if body.get("model").and_then(Value::as_str) != Some(candidate.model.as_str()) {
            sent.to_mut().insert("model".to_owned(), candidate.model.clone().into());
        }
        if let Some(limit) = limit {
            dialect.limit_output(sent.to_mut(), limit, &provider.base_url);
        }
        let to = To::new(dialect, candidate);
        let bytes = if to.is_native() {
            let bytes = serde_json::to_vec(sent.as_ref()).unwrap_or_default();
            // Hardly a request has anything of it, and a copy of all is large.
            if translate::remembers(&bytes) {
                translate::forget(dialect, sent.to_mut());
                serde_json::to_vec(sent.as_ref()).unwrap_or_default()
            } else {
                bytes
            }
        } else {
            let refuse = |why| (fail(StatusCode::BAD_REQUEST, "not_translatable", why), None, Next::Elsewhere);
            translate::request(&sent, &to).map_err(refuse)?.to_string().into_bytes()
        };
        let secret = wire::secret(provider.kind, &key);
        let headers = wire::headers(provider, &key, to.is_native().then_some(headers), (&url, &bytes), self.0.clock.now())
            .ok_or_else(|| unusable("the provider's key is no header's value"))?;
        let request = self.0.client.post(url).headers(headers).body(bytes);
        let response = match tokio::time::timeout(patience(provider), request.send()).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) if error.is_connect() => {
                let told = format!("the provider \"{}\" cannot be reached", provider.name);
                return Err((fail(StatusCode::BAD_GATEWAY, "provider_unreachable", told), None, Next::Again));
            }
            Ok(Err(_)) => {
                let told = format!("the connection to the provider \"{}\" broke before it answered", provider.name);
                let failed = Failed { sent: true, ..fail(StatusCode::BAD_GATEWAY, "provider_unreachable", told) };
                // It may have answered: asked again, it would be paid twice.
                return Err((failed, None, Next::Silent));
            }
            Err(_) => {
                let told =
                    format!("the provider \"{}\" has not begun to answer within {} ms", provider.name, provider.timeout_ms);
                let failed =
                    Failed { timed_out: true, sent: true, ..fail(StatusCode::GATEWAY_TIMEOUT, "provider_timeout", told) };
                return Err((failed, None, Next::Silent));
            }
        };
        if response.status().is_success() {
            return Ok((response, secret));
        }
        let status = response.status();
        let (failed, next) = Box::pin(refused(candidate, response, &secret)).await;
        Err((failed, Some(status), next))
    }

    /// Opened for each request and kept no longer than it: what is deleted or changed is in no memory, and to open it takes microseconds.
    fn secret(&self, provider: &Provider, key: &str) -> Result<String, String> {
        let plain = self.0.vault.open(&secrets_purpose(provider.id), &provider.sealed_secrets).map_err(|error| {
            tracing::error!(provider = %provider.id, %error, "a provider's stored keys cannot be opened");
            "the provider's stored key cannot be opened; the gateway's log says why, and `tollgate secrets status` which key is missing".to_owned()
        })?;
        let mut secrets: HashMap<String, String> =
            serde_json::from_slice(&plain).map_err(|_| "the provider's stored keys cannot be read".to_owned())?;
        secrets.remove(key).ok_or_else(|| "the provider's stored keys have none of this name".to_owned())
    }

    fn unwell(&self, of: &(ProviderId, String), next: Next, retry_after: Option<Duration>) {
        if matches!(next, Next::Stop | Next::Elsewhere) && retry_after.is_none() {
            return;
        }
        let mut health = self.0.health();
        let kept = health.entry(of.clone()).or_default();
        kept.failures += 1;
        let rest = match (next, retry_after) {
            (_, Some(after)) => Some(after.min(COOL_AT_MOST)),
            (Next::OtherKey, None) => Some(REFUSED),
            (_, None) if kept.failures >= TRIPS => {
                Some((COOL * 2_u32.saturating_pow(kept.failures - TRIPS).min(16)).min(COOL_AT_MOST))
            }
            _ => None,
        };
        if let Some(rest) = rest {
            kept.rests_until = Some(Instant::now() + rest);
            metrics::counter!("tollgate_llm_keys_rested_total").increment(1);
            tracing::warn!(provider = %of.0, key = of.1, seconds = rest.as_secs(), "a provider's key is left alone");
        }
    }
}

impl Inner {
    fn health(&self) -> MutexGuard<'_, HashMap<(ProviderId, String), Health>> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn retries(&self) -> MutexGuard<'_, HashMap<ProviderId, u32>> {
        self.retries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a failed try says of the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// It may go well a moment later.
    Again,
    /// Not with this key.
    OtherKey,
    /// Not at this provider.
    Elsewhere,
    /// It is the request that is wrong.
    Stop,
    /// It may have been answered, and is not sent again; that nobody heard of it speaks against the provider.
    Silent,
}

fn none_left() -> Failed {
    Failed {
        candidate: None,
        status: StatusCode::BAD_GATEWAY,
        code: "provider_unusable",
        message: "no provider of this model has a key".to_owned(),
        retry_after: None,
        timed_out: false,
        sent: false,
    }
}

fn patience(provider: &Provider) -> Duration {
    Duration::from_millis(u64::try_from(provider.timeout_ms).unwrap_or(60_000))
}

fn pause(same: u32, retry_after: Option<Duration>) -> Duration {
    let doubled = PAUSE * 2_u32.saturating_pow(same.saturating_sub(1)).min(64);
    let by_chance = Duration::from_millis(random() % 100);
    (retry_after.unwrap_or(doubled) + by_chance).min(PAUSE_AT_MOST)
}

/// What of a caller's headers goes on to providers, as copies: as they came, each holds the buffer in which all of them came.
#[must_use]
pub fn passed(asked: &HeaderMap) -> HeaderMap {
    let mut kept = HeaderMap::new();
    for name in PASSED {
        for value in asked.get_all(&name).iter().filter_map(|value| HeaderValue::from_bytes(value.as_bytes()).ok()) {
            kept.append(name.clone(), value);
        }
    }
    kept
}

/// What a provider says that does not answer. Its words are told where they are about the request, and never where they are about the key.
async fn refused(candidate: &Candidate, mut response: reqwest::Response, secret: &Secret) -> (Failed, Next) {
    let status = response.status();
    let kind = response.headers().get("x-amzn-errortype").and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let retry_after = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let mut body = Vec::new();
    let read = async {
        while let Ok(Some(piece)) = response.chunk().await {
            body.extend_from_slice(&piece);
            if body.len() > MAX_ERROR {
                break;
            }
        }
    };
    // What it says is of use, and not needed.
    let _ = tokio::time::timeout(Duration::from_secs(5), read).await;
    let parsed: Value = serde_json::from_slice(&body).unwrap_or_default();
    // Google puts what it says of a stream into a list.
    let parsed = if parsed.is_array() { &parsed[0] } else { &parsed };
    let words = parsed["error"]["message"].as_str().or_else(|| parsed["message"].as_str()).unwrap_or_default();
    let words: String = secret.clean(words).chars().filter(|c| !c.is_control()).take(MAX_TOLD).collect();
    let name = &candidate.provider.name;
    let answers = || format!("the provider \"{name}\" answers {status}: {words}");
    let (told, code, message, next) = match status.as_u16() {
        _ if is_of_key(candidate.provider.kind, status, &kind, parsed) => {
            let message = format!("the provider \"{name}\" does not take the gateway's key ({status})");
            (StatusCode::BAD_GATEWAY, "provider_refused_key", message, Next::OtherKey)
        }
        401 => {
            let message = format!("the provider \"{name}\" does not take the gateway's key ({status})");
            (StatusCode::BAD_GATEWAY, "provider_refused_key", message, Next::OtherKey)
        }
        402 => (
            StatusCode::BAD_GATEWAY,
            "provider_refused_key",
            format!("the gateway's account at \"{name}\" is out of credit"),
            Next::OtherKey,
        ),
        // Of the request as often as of the key: a model that is not for it, a filter.
        403 => (StatusCode::FORBIDDEN, "provider_refused", answers(), Next::Elsewhere),
        429 => (status, "provider_rate_limited", format!("the provider \"{name}\" is asked too often: {words}"), Next::Again),
        404 => (StatusCode::NOT_FOUND, "model_not_found", answers(), Next::Elsewhere),
        // Somebody on the way has lost patience; the provider may be at work.
        408 | 504 | 524 => (StatusCode::GATEWAY_TIMEOUT, "provider_timeout", answers(), Next::Silent),
        // 424: Bedrock's word for a model that failed.
        409 | 424 | 500..=599 => (StatusCode::BAD_GATEWAY, "provider_error", answers(), Next::Again),
        400..=499 => (status, "provider_refused", words, Next::Stop),
        _ => {
            let message = format!("the provider \"{name}\" answers {status}, which says nothing");
            (StatusCode::BAD_GATEWAY, "provider_error", message, Next::Elsewhere)
        }
    };
    let retry_after = retry_after.map(Duration::from_secs);
    let candidate = Some(candidate.clone());
    let silent = next == Next::Silent;
    (Failed { candidate, status: told, code, message, retry_after, timed_out: silent, sent: silent }, next)
}

/// Whether a refusal is about the key, where its status does not say so: Google's is 400, Amazon's 403.
fn is_of_key(kind: ProviderKind, status: StatusCode, error: &str, body: &Value) -> bool {
    const OF_KEY: [&str; 6] = [
        "UnrecognizedClientException",
        "InvalidSignatureException",
        "ExpiredTokenException",
        "IncompleteSignatureException",
        "MissingAuthenticationTokenException",
        "InvalidClientTokenId",
    ];
    let reasons = || body["error"]["details"].as_array().into_iter().flatten().filter_map(|detail| detail["reason"].as_str());
    match (kind, status.as_u16()) {
        (ProviderKind::Gemini, 400) => reasons().any(|reason| reason == "API_KEY_INVALID" || reason == "API_KEY_EXPIRED"),
        (ProviderKind::Bedrock, 400 | 403) => OF_KEY.contains(&error.split(':').next().unwrap_or_default()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_of_a_key_are_known_by_what_each_provider_says_of_them() {
        let google = serde_json::json!({"error": {"code": 400, "status": "INVALID_ARGUMENT", "message": "API key not valid.",
            "details": [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}]}});
        let other = serde_json::json!({"error": {"code": 400, "status": "INVALID_ARGUMENT", "message": "contents is empty"}});
        let (bad, forbidden) = (StatusCode::BAD_REQUEST, StatusCode::FORBIDDEN);
        assert!(is_of_key(ProviderKind::Gemini, bad, "", &google) && !is_of_key(ProviderKind::Gemini, bad, "", &other));
        let expired = "ExpiredTokenException:http://internal.amazon.com/coral/com.amazon.coral.service/";
        assert!(is_of_key(ProviderKind::Bedrock, forbidden, expired, &Value::Null));
        assert!(!is_of_key(ProviderKind::Bedrock, forbidden, "AccessDeniedException", &Value::Null));
        assert!(!is_of_key(ProviderKind::OpenAi, bad, expired, &google));
    }
}
