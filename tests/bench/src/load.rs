//! Callers: each holds one connection open and sends the next call when the last is answered.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use axum::body::{Body, BodyDataStream};
use bytes::Bytes;
use futures::{StreamExt, future::try_join_all};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri, header};
use hyper::{
    body::Incoming,
    client::conn::http1::{SendRequest, handshake},
};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpStream;

use crate::{
    dice::{Dice, to_f64, to_usize},
    table::note,
    words::Vocabulary,
};

const VERSION: &str = "2026-07-28";
const ARGUMENT_BYTES: usize = 500;
/// Different requests that a caller sends in turn.
const VARIETY: usize = 64;
/// What is answered in this time after the start is not counted: connections are made, caches filled.
pub const WARM_UP: Duration = Duration::from_millis(300);
const MAX_ANSWER: usize = 1 << 20;

/// Whom to call, with what.
#[derive(Debug, Clone)]
pub struct Target {
    address: SocketAddr,
    path: &'static str,
    headers: HeaderMap,
    bodies: Arc<Vec<Bytes>>,
    /// Whether an answer is as it should be.
    good: fn(&[u8]) -> bool,
}

/// What one round measured.
#[derive(Debug, Clone, Copy, Default)]
pub struct Round {
    pub per_second: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    /// Until the first piece of the answer's body.
    pub first_p50_us: f64,
    /// Calls that were answered as they should be, those of the warm-up included.
    pub answered: usize,
    pub failed: usize,
}

#[derive(Default)]
struct Tally {
    micros: Vec<u64>,
    first: Vec<u64>,
    answered: usize,
    failed: usize,
}

impl Target {
    /// Calls of one tool, over MCP.
    ///
    /// # Errors
    /// When the tool's name or the credential is no header's value.
    pub fn new(address: SocketAddr, bearer: Option<String>, tool: &str) -> Result<Self> {
        let (vocabulary, mut dice) = (Vocabulary::new(), Dice::new(11));
        let body = |n: usize| {
            let arguments = vocabulary.object(&mut dice, ARGUMENT_BYTES);
            let arguments: serde_json::Value = serde_json::from_slice(&arguments).unwrap_or_default();
            let meta = json!({
                "io.modelcontextprotocol/protocolVersion": VERSION, "io.modelcontextprotocol/clientCapabilities": {},
                "io.modelcontextprotocol/clientInfo": {"name": "tollgate-bench", "version": "1"},
            });
            let params = json!({"name": tool, "arguments": arguments, "_meta": meta});
            Bytes::from(json!({"jsonrpc": "2.0", "id": n, "method": "tools/call", "params": params}).to_string())
        };
        let bodies = (0..VARIETY).map(body).collect();
        let headers = [
            (header::ACCEPT, "application/json, text/event-stream"),
            (HeaderName::from_static("mcp-protocol-version"), VERSION),
            (HeaderName::from_static("mcp-method"), "tools/call"),
            (HeaderName::from_static("mcp-name"), tool),
        ];
        let good = |text: &[u8]| holds(text, br#""result":"#) && !holds(text, br#""isError":true"#);
        Self::to(address, "/mcp", bearer.as_deref(), bodies, good)?.with(&headers)
    }

    /// Posts of JSON, to be answered with what is `good`.
    ///
    /// # Errors
    /// When the credential is no header's value.
    pub fn to(
        address: SocketAddr,
        path: &'static str,
        bearer: Option<&str>,
        bodies: Vec<Bytes>,
        good: fn(&[u8]) -> bool,
    ) -> Result<Self> {
        let target = Self { address, path, headers: HeaderMap::new(), bodies: Arc::new(bodies), good };
        let target = target.with(&[(header::HOST, "localhost"), (header::CONTENT_TYPE, "application/json")])?;
        match bearer {
            Some(bearer) => target.with(&[(header::AUTHORIZATION, bearer)]),
            None => Ok(target),
        }
    }

    fn with(mut self, headers: &[(HeaderName, &str)]) -> Result<Self> {
        for (name, value) in headers {
            self.headers.insert(name.clone(), HeaderValue::from_str(value)?);
        }
        Ok(self)
    }

    /// Let `callers` call for `length` and measure what they see.
    ///
    /// # Errors
    /// When a connection cannot be made; one that breaks, and an answer that is an error, are counted.
    pub async fn round(&self, callers: usize, length: Duration) -> Result<Round> {
        let connections = try_join_all((0..callers).map(|_| self.connect())).await?;
        let begin = Instant::now() + WARM_UP;
        let end = begin + length;
        let tasks = connections.into_iter().enumerate().map(|(n, connection)| {
            let target = self.clone();
            tokio::spawn(async move { target.call_until(connection, n, begin, end).await })
        });
        let mut all = Tally::default();
        for tally in try_join_all(tasks).await? {
            all.micros.extend(tally.micros);
            all.first.extend(tally.first);
            all.answered += tally.answered;
            all.failed += tally.failed;
        }
        all.micros.sort_unstable();
        all.first.sort_unstable();
        Ok(Round {
            per_second: to_f64(all.micros.len()) / length.as_secs_f64(),
            p50_us: quantile(&all.micros, 0.5),
            p99_us: quantile(&all.micros, 0.99),
            first_p50_us: quantile(&all.first, 0.5),
            answered: all.answered,
            failed: all.failed,
        })
    }

    async fn connect(&self) -> Result<SendRequest<Body>> {
        let stream = TcpStream::connect(self.address).await.context("cannot connect")?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // Ends with the sender; what went wrong is what the sender says.
        tokio::spawn(connection);
        Ok(sender)
    }

    async fn call_until(&self, mut to: SendRequest<Body>, n: usize, begin: Instant, end: Instant) -> Tally {
        let mut tally = Tally::default();
        for body in self.bodies.iter().cycle().skip(n % VARIETY) {
            let sent = Instant::now();
            if sent >= end {
                break;
            }
            let (good, first) = match self.call(&mut to, body.clone()).await {
                Ok(called) => called,
                Err(error) => {
                    // The others go on: one broken connection must not cost an hour of measuring.
                    note(format_args!("a caller gives up: {error:#}"));
                    tally.failed += 1;
                    return tally;
                }
            };
            let answered = Instant::now();
            if !good {
                tally.failed += 1;
                continue;
            }
            tally.answered += 1;
            // Counted by when they end, so that a long one at the edge counts in one place.
            if answered >= begin && answered < end {
                let micros = |until: Instant| u64::try_from((until - sent).as_micros()).unwrap_or(u64::MAX);
                tally.micros.push(micros(answered));
                tally.first.push(micros(first));
            }
        }
        tally
    }

    /// One call; whether it was answered with a result, and when that began.
    async fn call(&self, to: &mut SendRequest<Body>, body: Bytes) -> Result<(bool, Instant)> {
        let answer = self.send(to, body).await?;
        let (status, mut first, mut text) = (answer.status(), None, Vec::new());
        let mut pieces = Body::new(answer.into_body()).into_data_stream();
        while let Some(piece) = pieces.next().await {
            first.get_or_insert_with(Instant::now);
            text.extend_from_slice(&piece?);
            ensure!(text.len() <= MAX_ANSWER, "an answer is too large");
        }
        Ok((status.is_success() && (self.good)(&text), first.unwrap_or_else(Instant::now)))
    }

    async fn send(&self, to: &mut SendRequest<Body>, body: Bytes) -> Result<Response<Incoming>> {
        let mut request = Request::new(Body::from(body));
        (*request.method_mut(), *request.uri_mut()) = (Method::POST, Uri::from_static(self.path));
        *request.headers_mut() = self.headers.clone();
        to.ready().await?;
        Ok(to.send_request(request).await?)
    }

    /// A connection on which one answer has come.
    ///
    /// # Errors
    /// When it cannot be reached, or does not answer as it should.
    pub async fn idle(&self) -> Result<SendRequest<Body>> {
        let mut to = self.connect().await?;
        let (good, _) = self.call(&mut to, self.bodies.first().cloned().unwrap_or_default()).await?;
        ensure!(good, "the answer is not as it should be");
        Ok(to)
    }

    /// Ask once, on a connection of its own, and leave the answer where it begins.
    ///
    /// # Errors
    /// When it cannot be reached, or does not answer as asked.
    pub async fn open(&self) -> Result<BodyDataStream> {
        let mut to = self.connect().await?;
        let body = self.bodies.first().cloned().unwrap_or_default();
        let answer = self.send(&mut to, body).await?;
        ensure!(answer.status().is_success(), "an answer of {}", answer.status());
        Ok(Body::new(answer.into_body()).into_data_stream())
    }
}

pub fn holds(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// Of sorted times.
pub fn quantile(sorted: &[u64], q: f64) -> f64 {
    let at = to_usize(to_f64(sorted.len()) * q).min(sorted.len().saturating_sub(1));
    sorted.get(at).map_or(0.0, |&micros| Duration::from_micros(micros).as_secs_f64() * 1e6)
}

/// The middle of some measurements; 0 of none.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_is_the_middle() {
        let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-6, "{a} {b}");
        near(median([3.0, 1.0, 2.0]), 2.0);
        near(median([4.0, 1.0, 2.0, 3.0]), 2.5);
        near(median([]), 0.0);
        let times: Vec<u64> = (1..=100).collect();
        near(quantile(&times, 0.5), 51.0);
        near(quantile(&times, 0.99), 100.0);
        near(quantile(&[], 0.5), 0.0);
    }
}
