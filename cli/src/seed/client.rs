//! As much of an admin API client as the demo needs.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use reqwest::{Method, RequestBuilder};
use serde_json::Value;

const TIMEOUT: Duration = Duration::from_secs(30);
/// Of a hundred items each; the demo has fewer, a database that is shared may have more.
const PAGES_MAX: usize = 1_000;

pub struct Client {
    http: reqwest::Client,
    url: String,
    token: String,
}

impl Client {
    pub fn new(url: &str, token: &str) -> Result<Self> {
        let http = reqwest::Client::builder()
            .timeout(TIMEOUT)
            // Our own server, on this machine: no proxy between us, and no need for the system's certificates.
            .no_proxy()
            .tls_certs_only([])
            .build()
            .context("cannot set up an HTTP client")?;
        Ok(Self { http, url: url.to_owned(), token: token.to_owned() })
    }

    /// All items of a list.
    pub async fn list(&self, path: &str) -> Result<Vec<Value>> {
        let mut items = Vec::new();
        let mut token: Option<String> = None;
        for _ in 0..PAGES_MAX {
            let mut request = self.http.request(Method::GET, format!("{}{path}", self.url)).query(&[("limit", "100")]);
            if let Some(token) = &token {
                request = request.query(&[("page_token", token)]);
            }
            let mut page = self.send(request, path).await?;
            let Value::Array(found) = page["items"].take() else { bail!("GET {path}: no items in the answer") };
            items.extend(found);
            token = page["next_page"].as_str().map(str::to_owned);
            if token.is_none() {
                return Ok(items);
            }
        }
        bail!("GET {path}: more pages than anybody reads")
    }

    pub async fn create(&self, path: &str, body: &Value) -> Result<Value> {
        let request = self
            .http
            .request(Method::POST, format!("{}{path}", self.url))
            // Of no use to us, who look before we create; but clients should send one, and this is an example of one.
            .header("idempotency-key", uuid::Uuid::new_v4().to_string())
            .json(body);
        self.send(request, path).await
    }

    /// The item whose `field` is that of `body`, else a new one.
    pub async fn find_or_create(&self, path: &str, field: &str, body: Value) -> Result<Value> {
        let items = self.list(path).await?;
        match items.into_iter().find(|item| item[field] == body[field] && !is_gone(item)) {
            Some(found) => Ok(found),
            None => self.create(path, &body).await,
        }
    }

    async fn send(&self, request: RequestBuilder, path: &str) -> Result<Value> {
        let response = request.bearer_auth(&self.token).send().await.with_context(|| format!("no answer to {path}"))?;
        let status = response.status();
        let body = response.text().await.with_context(|| format!("half an answer to {path}"))?;
        if !status.is_success() {
            bail!("{path} answered {status}: {body}");
        }
        serde_json::from_str(&body).with_context(|| format!("{path} answered something that is not JSON"))
    }
}

/// A key that somebody revoked stays in its list.
fn is_gone(item: &Value) -> bool {
    !item["revoked_at"].is_null()
}

pub fn text(value: &Value, field: &str) -> Result<String> {
    value[field].as_str().map(str::to_owned).with_context(|| format!("no {field} in {value}"))
}
