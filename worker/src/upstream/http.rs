//! Streamable HTTP upstreams over one pooled client: rmcp keeps the protocol, this keeps the bytes.

use std::{
    borrow::Cow,
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt, stream::BoxStream};
use http::{HeaderName, HeaderValue, header};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use rmcp::{
    model::{ClientJsonRpcMessage, ClientRequest, ErrorData, JsonRpcMessage, RequestId, ServerJsonRpcMessage},
    transport::streamable_http_client::{
        AuthRequiredError, SseError, StreamableHttpClient, StreamableHttpError, StreamableHttpPostResponse,
    },
};
use sse_stream::{Sse, SseStream};

use super::raw::{self, RawIds};

const MAX_ERROR_BODY: usize = 64 << 10;

/// The client for all upstreams: pooled, no redirects (they would carry credentials elsewhere), no proxy, no decompression.
///
/// # Errors
/// When the TLS library cannot be set up.
pub fn client(allow_private_networks: bool) -> reqwest::Result<reqwest::Client> {
    let builder = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .tcp_nodelay(true)
        .connect_timeout(Duration::from_secs(5))
        .pool_max_idle_per_host(64)
        .pool_idle_timeout(Duration::from_secs(90))
        .user_agent(concat!("tollgate/", env!("CARGO_PKG_VERSION")));
    if allow_private_networks { builder.build() } else { builder.dns_resolver(Arc::new(GlobalOnly)).build() }
}

/// Whether an upstream's URL may be connected to. Names are checked again when they are resolved, at every connection.
#[must_use]
pub fn may_connect(url: &reqwest::Url, allow_private_networks: bool) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    allow_private_networks || host.parse::<IpAddr>().map_or(true, is_global)
}

/// Resolves names to global addresses alone, so that a name cannot be turned to an inner address between check and use.
struct GlobalOnly;

impl Resolve for GlobalOnly {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let global: Vec<SocketAddr> = found.filter(|address| is_global(address.ip())).collect();
            if global.is_empty() {
                return Err(format!("{} has no address outside private networks", name.as_str()).into());
            }
            Ok(Box::new(global.into_iter()) as Addrs)
        })
    }
}

fn is_global(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            !(v4.is_private()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_unspecified()
                || v4.is_multicast()
                || v4.is_documentation()
                || a == 0
                || a >= 240
                || (a == 100 && (64..128).contains(&b))
                || (a == 192 && b == 0 && c == 0)
                || (a == 198 && (b == 18 || b == 19)))
        }
        IpAddr::V6(v6) => {
            if let Some(v4) = v6.to_ipv4_mapped() {
                return is_global(IpAddr::V4(v4));
            }
            let segments = v6.segments();
            // 2000::/3 is what is routed; within it, the ranges that carry an IPv4 address or are for documentation are not.
            (segments[0] & 0xe000) == 0x2000
                && segments[0] != 0x2002
                && !(segments[0] == 0x2001 && segments[1] < 0x0200)
                && !(segments[0] == 0x2001 && segments[1] == 0x0db8)
        }
    }
}

#[derive(Debug, Clone)]
pub struct RawHttp {
    inner: reqwest::Client,
    /// The longest answer taken, in bytes, whether it comes at once or as a stream.
    max_answer: usize,
    raw: RawIds,
}

type Failure = StreamableHttpError<reqwest::Error>;

impl RawHttp {
    #[must_use]
    pub fn new(inner: reqwest::Client, max_answer: usize) -> Self {
        Self { inner, max_answer, raw: RawIds::default() }
    }

    /// POST a request whose answer stays raw.
    async fn post_raw(
        &self,
        uri: &str,
        message: &ClientJsonRpcMessage,
        session: Option<&str>,
        auth: Option<String>,
        headers: HashMap<HeaderName, HeaderValue>,
    ) -> Result<StreamableHttpPostResponse, Failure> {
        self.raw.sent(message);
        let mut request = self.inner.post(uri).header(header::ACCEPT, "text/event-stream, application/json");
        if let Some(token) = auth {
            request = request.bearer_auth(token);
        }
        for (name, value) in headers {
            request = request.header(name, value);
        }
        if let Some(session) = session {
            request = request.header("mcp-session-id", session);
        }
        let body = raw::write(message).map_err(|e| unexpected(format!("the request cannot be written: {e}")))?;
        let answer = request.header(header::CONTENT_TYPE, "application/json").body(body).send().await?;
        let status = answer.status();
        if !status.is_success() {
            let id = match message {
                JsonRpcMessage::Request(request) => Some(request.id.clone()),
                _ => None,
            };
            return Err(self.refused(answer, id, session.is_some()).await).or_else(|failure| match failure {
                Refusal::Answer(message) => Ok(StreamableHttpPostResponse::Json(*message, None)),
                Refusal::Failure(failure) => Err(failure),
            });
        }
        let header_text = |name: &str| answer.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let (session, kind) = (header_text("mcp-session-id"), header_text("content-type").unwrap_or_default());
        if kind.starts_with("text/event-stream") {
            return Ok(StreamableHttpPostResponse::Sse(self.raw_events(answer, message), session));
        }
        if !kind.starts_with("application/json") {
            return Err(StreamableHttpError::UnexpectedContentType(Some(kind)));
        }
        let Some(body) = bounded(answer, self.max_answer).await? else {
            return Ok(StreamableHttpPostResponse::Json(too_long(message, self.max_answer), session));
        };
        let message = self.raw.read(&body).map_err(|e| unexpected(format!("not a JSON-RPC message: {e}")))?;
        Ok(StreamableHttpPostResponse::Json(message, session))
    }

    async fn refused(&self, answer: reqwest::Response, id: Option<RequestId>, in_session: bool) -> Refusal {
        let status = answer.status();
        if status == reqwest::StatusCode::NOT_FOUND && in_session {
            return Refusal::Failure(StreamableHttpError::SessionExpired);
        }
        if status == reqwest::StatusCode::UNAUTHORIZED {
            let challenge = answer.headers().get(header::WWW_AUTHENTICATE).and_then(|v| v.to_str().ok()).unwrap_or_default();
            let refused = AuthRequiredError::new(challenge.to_owned());
            return Refusal::Failure(StreamableHttpError::AuthRequired(refused));
        }
        match bounded(answer, MAX_ERROR_BODY).await {
            // An error of the protocol is an answer, whatever its status.
            Ok(body) => match self.raw.read(&body.unwrap_or_default()) {
                // Whatever id it bears, it is the answer to this request: there is no other on this connection.
                Ok(JsonRpcMessage::Error(mut error)) => {
                    error.id = id.or(error.id);
                    Refusal::Answer(Box::new(JsonRpcMessage::Error(error)))
                }
                _ => Refusal::Failure(unexpected(format!("HTTP {status}"))),
            },
            Err(failure) => Refusal::Failure(failure),
        }
    }

    /// The events of an answer, raw ones enveloped, under the limit on one answer.
    fn raw_events(&self, answer: reqwest::Response, asked: &ClientJsonRpcMessage) -> BoxStream<'static, Result<Sse, SseError>> {
        let mut left = self.max_answer;
        let over = Arc::new(AtomicBool::new(false));
        let tell = Arc::clone(&over);
        let bytes = answer.bytes_stream().map(move |chunk| {
            let chunk = chunk.map_err(std::io::Error::other)?;
            left = left.checked_sub(chunk.len()).ok_or_else(|| {
                tell.store(true, Ordering::Relaxed);
                std::io::Error::other("the answer is over the size limit")
            })?;
            Ok::<_, std::io::Error>(chunk)
        });
        let raw = self.raw.clone();
        let instead = serde_json::to_string(&too_long(asked, self.max_answer)).unwrap_or_default();
        let event = move |event: Result<Sse, SseError>| match event {
            Err(_) if over.swap(false, Ordering::Relaxed) => Ok(Sse::default().data(instead.clone())),
            event => event.map(|event| enveloped(&raw, event)),
        };
        SseStream::from_bytes_stream(bytes).map(event).boxed()
    }
}

/// What a request is answered whose own answer is longer than is taken. The connection is as good as before.
fn too_long(asked: &ClientJsonRpcMessage, limit: usize) -> ServerJsonRpcMessage {
    let id = match asked {
        JsonRpcMessage::Request(request) => Some(request.id.clone()),
        _ => None,
    };
    let message = format!("The server's answer is over the limit of {limit} bytes");
    JsonRpcMessage::error(ErrorData::internal_error(message, None), id)
}

enum Refusal {
    Answer(Box<ServerJsonRpcMessage>),
    Failure(Failure),
}

fn enveloped(raw: &RawIds, mut event: Sse) -> Sse {
    if let Some(text) = event.data.as_deref().and_then(|data| raw.rewrite(data)) {
        event.data = Some(text);
    }
    event
}

fn unexpected(what: String) -> Failure {
    StreamableHttpError::UnexpectedServerResponse(Cow::Owned(what))
}

/// `None` beyond the limit.
async fn bounded(answer: reqwest::Response, limit: usize) -> Result<Option<String>, Failure> {
    let mut body = Vec::new();
    let mut chunks = answer.bytes_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk?;
        if body.len() + chunk.len() > limit {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    String::from_utf8(body).map(Some).map_err(|_| unexpected("the answer is not UTF-8".to_owned()))
}

impl StreamableHttpClient for RawHttp {
    type Error = reqwest::Error;

    async fn post_message(
        &self,
        uri: Arc<str>,
        message: ClientJsonRpcMessage,
        session_id: Option<Arc<str>>,
        auth_header: Option<String>,
        custom_headers: HashMap<HeaderName, HeaderValue>,
    ) -> Result<StreamableHttpPostResponse, Failure> {
        let stays_raw = matches!(&message, JsonRpcMessage::Request(r)
            if matches!(r.request, ClientRequest::CallToolRequest(_) | ClientRequest::ListToolsRequest(_)));
        if stays_raw {
            self.post_raw(&uri, &message, session_id.as_deref(), auth_header, custom_headers).await
        } else {
            self.inner.post_message(uri, message, session_id, auth_header, custom_headers).await
        }
    }

    async fn delete_session(
        &self,
        uri: Arc<str>,
        session_id: Arc<str>,
        auth_header: Option<String>,
        custom_headers: HashMap<HeaderName, HeaderValue>,
    ) -> Result<(), Failure> {
        self.inner.delete_session(uri, session_id, auth_header, custom_headers).await
    }

    async fn get_stream(
        &self,
        uri: Arc<str>,
        session_id: Option<Arc<str>>,
        last_event_id: Option<String>,
        auth_header: Option<String>,
        custom_headers: HashMap<HeaderName, HeaderValue>,
    ) -> Result<BoxStream<'static, Result<Sse, SseError>>, Failure> {
        // A broken answer is resumed here, so raw answers may arrive by this way as well.
        let events = self.inner.get_stream(uri, session_id, last_event_id, auth_header, custom_headers).await?;
        let raw = self.raw.clone();
        Ok(events.map(move |event| event.map(|event| enveloped(&raw, event))).boxed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t29_addresses_that_are_not_global_are_refused_in_every_spelling() {
        let inner = [
            "127.0.0.1",
            "127.255.1.2",
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.169.254",
            "0.0.0.0",
            "0.1.2.3",
            "100.64.0.1",
            "192.0.0.8",
            "198.18.0.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "fe80::1",
            "fc00::1",
            "fd12::1",
            "ff02::1",
            "2002:7f00:1::",
            "2001:db8::1",
            "2001::1",
            "64:ff9b::7f00:1",
            "::127.0.0.1",
        ];
        for ip in inner {
            assert!(!is_global(ip.parse().unwrap()), "{ip}");
        }
        for ip in ["1.1.1.1", "8.8.8.8", "2606:4700::1111", "100.128.0.1", "172.32.0.1"] {
            assert!(is_global(ip.parse().unwrap()), "{ip}");
        }
        // The URL parser turns odd spellings of an address into the address before we look at it.
        for url in ["http://2130706433/", "http://0x7f.1/", "http://0177.0.0.1/", "http://[::ffff:7f00:1]/", "http://127.1/"] {
            let url: reqwest::Url = url.parse().unwrap();
            assert!(!may_connect(&url, false) && may_connect(&url, true), "{url}");
        }
    }
}
