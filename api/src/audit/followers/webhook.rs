//! Rows and seals over HTTP. Only 2xx acknowledges; a redirect is not followed, since nobody but the operator says where the
//! trail goes.

use std::{fmt, time::Duration};

use aws_lc_rs::hmac;
use chrono::{DateTime, Utc};
use reqwest::{
    Client, RequestBuilder, Url,
    header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
};
use tollgate_boot::config;
use tollgate_domain::TenantId;
use tollgate_evidence::hash::to_hex;

use super::{Failure, row::Message};

const TIMESTAMP: HeaderName = HeaderName::from_static("x-tollgate-timestamp");
const SIGNATURE: HeaderName = HeaderName::from_static("x-tollgate-signature");

pub struct Webhook {
    client: Client,
    url: Url,
    key: Option<hmac::Key>,
    headers: HeaderMap,
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Webhook")
    }
}

/// For all followers: connections are shared and kept.
///
/// # Errors
/// When TLS cannot be set up.
pub fn client(patience: Duration) -> anyhow::Result<Client> {
    let agent = concat!("tollgate/", env!("CARGO_PKG_VERSION"));
    Ok(Client::builder().timeout(patience).redirect(reqwest::redirect::Policy::none()).user_agent(agent).build()?)
}

impl Webhook {
    /// # Errors
    /// For an address or a header that is none.
    pub fn new(config: &config::Webhook, client: Client) -> anyhow::Result<Self> {
        let mut headers = HeaderMap::new();
        for (name, value) in &config.headers {
            let mut value: HeaderValue = value.reveal().parse()?;
            value.set_sensitive(true);
            headers.insert(name.parse::<HeaderName>()?, value);
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let key = config.secret.as_ref().map(|secret| hmac::Key::new(hmac::HMAC_SHA256, secret.reveal().as_bytes()));
        Ok(Self { client, url: Url::parse(config.url.reveal())?, key, headers })
    }

    /// Send rows and wait for the receiver to take them. `from` and `to` are the positions that they cover, `to` exclusive.
    ///
    /// # Errors
    /// When it did not.
    pub async fn send(
        &self,
        tenant: TenantId,
        (from, to): (u64, u64),
        messages: &[Message],
        now: DateTime<Utc>,
    ) -> Result<(), Failure> {
        self.post(self.headers.clone(), &[], body(tenant, from, to, messages), now).await
    }

    /// Send a file with headers of its own, of which the signature covers those that are `signed`.
    ///
    /// # Errors
    /// When the receiver did not take it.
    pub async fn send_file(
        &self,
        own: HeaderMap,
        signed: &[HeaderName],
        body: Vec<u8>,
        now: DateTime<Utc>,
    ) -> Result<(), Failure> {
        let mut headers = self.headers.clone();
        headers.extend(own);
        self.post(headers, signed, body, now).await
    }

    async fn post(&self, headers: HeaderMap, signed: &[HeaderName], body: Vec<u8>, now: DateTime<Utc>) -> Result<(), Failure> {
        let timestamp = now.timestamp().to_string();
        let signature = self.key.as_ref().map(|key| {
            let signed = signed.iter().map(|name| headers.get(name).map(HeaderValue::as_bytes).unwrap_or_default());
            signature(key, std::iter::once(timestamp.as_bytes()).chain(signed), &body)
        });
        let mut request = self.client.post(self.url.clone()).headers(headers).header(TIMESTAMP, &timestamp);
        if let Some(signature) = signature {
            request = request.header(SIGNATURE, signature);
        }
        deliver(request.body(body)).await
    }
}

/// The rows stand in it as they were written: verbatim JSON is not parsed and printed again.
fn body(tenant: TenantId, from: u64, to: u64, messages: &[Message]) -> Vec<u8> {
    let mut body = format!(r#"{{"tenant_id":"{tenant}","from":{from},"to":{to},"rows":["#).into_bytes();
    for (i, message) in messages.iter().enumerate() {
        if i > 0 {
            body.push(b',');
        }
        body.extend_from_slice(&message.body);
    }
    body.extend_from_slice(b"]}");
    body
}

/// The timestamp is covered as well: what was recorded once cannot be sent again later. A dot stands behind each part before the body.
fn signature<'a>(key: &hmac::Key, parts: impl Iterator<Item = &'a [u8]>, body: &[u8]) -> String {
    let mut signing = hmac::Context::with_key(key);
    for part in parts {
        signing.update(part);
        signing.update(b".");
    }
    signing.update(body);
    format!("sha256={}", to_hex(signing.sign().as_ref()))
}

/// # Errors
/// Whatever is not a 2xx.
pub async fn deliver(request: RequestBuilder) -> Result<(), Failure> {
    let answer = request.send().await.map_err(|error| {
        let shown = if error.is_timeout() {
            "the receiver did not answer in time"
        } else if error.is_connect() {
            "the receiver cannot be reached"
        } else {
            "the request broke off"
        };
        Failure::new(shown, anyhow::Error::from(error.without_url()).root_cause())
    })?;
    let status = answer.status();
    if status.is_success() {
        return Ok(());
    }
    let more = if status.is_redirection() { "; redirects are not followed" } else { "" };
    let shown = format!("the receiver answered {}{more}", status.as_u16());
    Err(Failure::new(shown, status))
}
