//! A client of the admin API.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use reqwest::{Method, Response, StatusCode};
use serde_json::Value;

/// Longer than the API itself gives any answer.
const PATIENCE: Duration = Duration::from_secs(600);

#[derive(Debug, Clone)]
pub struct Admin {
    http: reqwest::Client,
    url: String,
    token: String,
}

impl Admin {
    pub fn new(url: &str, token: &str) -> Result<Self> {
        let http = reqwest::Client::builder().no_proxy().tls_certs_only([]).timeout(PATIENCE).build()?;
        Ok(Self { http, url: url.to_owned(), token: token.to_owned() })
    }

    pub async fn ready(&self) -> Option<()> {
        let answer = self.http.get(format!("{}/readyz", self.url)).send().await.ok()?;
        answer.status().is_success().then_some(())
    }

    /// The answer as it comes, whatever its status.
    pub async fn open(&self, path: &str) -> Result<Response> {
        Ok(self.http.get(format!("{}{path}", self.url)).bearer_auth(&self.token).send().await?)
    }

    /// Status and body.
    pub async fn try_get(&self, path: &str) -> Result<(StatusCode, Value)> {
        let answer = self.open(path).await?;
        let status = answer.status();
        Ok((status, serde_json::from_slice(&answer.bytes().await?).unwrap_or(Value::Null)))
    }

    pub async fn get(&self, path: &str) -> Result<Value> {
        read(self.open(path).await?, path).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let ask = self.http.request(Method::POST, format!("{}{path}", self.url)).bearer_auth(&self.token).json(body);
        read(ask.send().await?, path).await
    }

    /// Change what is there now. False where this build has no such thing.
    pub async fn try_patch(&self, path: &str, body: &Value) -> Result<bool> {
        let now = self.open(path).await?;
        if now.status() == StatusCode::NOT_FOUND {
            return Ok(false);
        }
        let tag = now.headers().get("etag").cloned().with_context(|| format!("GET {path} has no ETag: {}", now.status()))?;
        let ask = self.http.request(Method::PATCH, format!("{}{path}", self.url)).bearer_auth(&self.token);
        read(ask.header("if-match", tag).json(body).send().await?, path).await?;
        Ok(true)
    }
}

async fn read(answer: Response, path: &str) -> Result<Value> {
    let status = answer.status();
    let text = answer.text().await?;
    if !status.is_success() {
        bail!("{path} answered {status}: {text}");
    }
    serde_json::from_str(&text).with_context(|| format!("{path} answered {text}"))
}

/// A field that must be a text.
pub fn text(value: &Value, field: &str) -> Result<String> {
    Ok(value[field].as_str().with_context(|| format!("no {field} in {value}"))?.to_owned())
}
