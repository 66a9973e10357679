//! A client of the admin API.

use reqwest::{Method, header::HeaderMap};
use serde_json::Value;

use super::http_client;

#[derive(Debug, Clone)]
pub struct Admin {
    http: reqwest::Client,
    pub url: String,
    pub token: Option<String>,
    headers: Vec<(String, String)>,
}

/// An answer, read to its end.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
    what: String,
}

impl Answer {
    pub async fn of(what: String, response: reqwest::Response) -> reqwest::Result<Self> {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Ok(Self { status, headers, text: response.text().await?, what })
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{}: {error} in {}", self.what, self.text))
    }

    /// The body of an answer that must have this status.
    #[track_caller]
    pub fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}: {}", self.what, self.text);
        if self.text.is_empty() { Value::Null } else { self.json() }
    }

    /// The body of an answer that must be a success.
    #[track_caller]
    pub fn ok(&self) -> Value {
        assert!((200..300).contains(&self.status), "{} answered {}: {}", self.what, self.status, self.text);
        if self.text.is_empty() { Value::Null } else { self.json() }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }
}

impl Admin {
    pub fn new(url: &str, token: &str) -> Self {
        Self { http: http_client(), url: url.to_owned(), token: Some(token.to_owned()), headers: Vec::new() }
    }

    /// The same server, asked by somebody else.
    #[must_use]
    pub fn with_token(&self, token: &str) -> Self {
        Self { token: Some(token.to_owned()), ..self.clone() }
    }

    #[must_use]
    pub fn anonymous(&self) -> Self {
        Self { token: None, ..self.clone() }
    }

    #[must_use]
    pub fn with_header(&self, name: &str, value: &str) -> Self {
        let mut other = self.clone();
        other.headers.push((name.to_owned(), value.to_owned()));
        other
    }

    /// One request; the error is that of a connection that failed.
    pub async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> reqwest::Result<Answer> {
        let what = format!("{method} {path}");
        let mut request = self.http.request(method, format!("{}{path}", self.url));
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        Answer::of(what, request.send().await?).await
    }

    /// A body that is no JSON; its type is among the client's headers.
    pub async fn send_text(&self, method: Method, path: &str, body: &str) -> Answer {
        let what = format!("{method} {path}");
        let mut request = self.http.request(method, format!("{}{path}", self.url)).body(body.to_owned());
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let answer = request.send().await.unwrap_or_else(|error| panic!("{what}: {error:?}"));
        Answer::of(what.clone(), answer).await.unwrap_or_else(|error| panic!("{what}: {error:?}"))
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, None).await.unwrap_or_else(|error| panic!("GET {path}: {error:?}"))
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(Method::POST, path, Some(&body)).await.unwrap_or_else(|error| panic!("POST {path}: {error:?}"))
    }

    /// PATCH of what is there now: `If-Match` is filled in.
    pub async fn patch(&self, path: &str, body: Value) -> Answer {
        let tag = self.tag(path).await;
        let ask = self.with_header("if-match", &tag);
        ask.send(Method::PATCH, path, Some(&body)).await.unwrap_or_else(|error| panic!("PATCH {path}: {error:?}"))
    }

    /// DELETE of what is there now: `If-Match` is filled in.
    pub async fn delete(&self, path: &str) -> Answer {
        let tag = self.tag(path).await;
        let ask = self.with_header("if-match", &tag);
        ask.send(Method::DELETE, path, None).await.unwrap_or_else(|error| panic!("DELETE {path}: {error:?}"))
    }

    async fn tag(&self, path: &str) -> String {
        let now = self.get(path).await;
        now.header("etag").unwrap_or_else(|| panic!("GET {path} has no ETag: {} {}", now.status, now.text)).to_owned()
    }

    /// All items of a list, page by page.
    pub async fn list(&self, path: &str) -> Vec<Value> {
        let mut items = Vec::new();
        let mut token = String::new();
        loop {
            let join = if path.contains('?') { '&' } else { '?' };
            let page = self.get(&format!("{path}{join}limit=100{token}")).await.expect(200);
            items.extend(page["items"].as_array().expect("items").iter().cloned());
            match page["next_page"].as_str() {
                Some(next) => token = format!("&page_token={next}"),
                None => return items,
            }
        }
    }
}
