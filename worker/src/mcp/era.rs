//! Two eras of one protocol. Up to 2025-11-25 a client shakes hands once; since 2026-07-28 every request stands for itself
//! and says in headers what its body says.

use axum::http::HeaderMap;
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;

use super::message::{Request, RpcError};

pub const MODERN: &str = "2026-07-28";
/// Newest first.
pub const LEGACY: [&str; 3] = ["2025-11-25", "2025-06-18", "2025-03-26"];
/// The revision of a client that names none.
pub const OLDEST: &str = "2025-03-26";

const VERSION_HEADER: &str = "mcp-protocol-version";
const VERSION_META: &str = "io.modelcontextprotocol/protocolVersion";
const CAPABILITIES_META: &str = "io.modelcontextprotocol/clientCapabilities";
const CLIENT_META: &str = "io.modelcontextprotocol/clientInfo";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Era {
    Legacy,
    Modern,
}

/// All revisions, newest first.
#[must_use]
pub fn supported() -> Vec<&'static str> {
    std::iter::once(MODERN).chain(LEGACY).collect()
}

/// The era of a request, once its headers and body agree.
///
/// # Errors
/// What to tell the client: an unknown revision, or headers that contradict the body.
pub fn of(request: &Request, headers: &HeaderMap) -> Result<Era, RpcError> {
    let header = text(headers, VERSION_HEADER)?;
    if request.method == "initialize" {
        return Ok(Era::Legacy);
    }
    let meta = request.params.meta.get(VERSION_META).and_then(|v| v.as_str());
    let Some(version) = meta.or(header) else { return Ok(Era::Legacy) };
    if !supported().contains(&version) {
        let mut error = RpcError::new(RpcError::UNSUPPORTED_VERSION, "Unsupported protocol version");
        error.data = Some(json!({"requested": version, "supported": supported()}));
        return Err(error);
    }
    if version != MODERN {
        return if meta.is_none_or(|meta| header.is_none_or(|header| header == meta)) {
            Ok(Era::Legacy)
        } else {
            Err(mismatch("MCP-Protocol-Version", header, version))
        };
    }
    let missing: Vec<_> = [VERSION_META, CAPABILITIES_META]
        .into_iter()
        .filter(|key| !request.params.meta.get(*key).is_some_and(|v| v.is_string() || v.is_object()))
        .collect();
    if !missing.is_empty() {
        let message =
            format!("Invalid params: request _meta is missing or has malformed required fields: {}", missing.join(", "));
        return Err(RpcError::new(RpcError::INVALID_PARAMS, message));
    }
    if header != Some(version) {
        return Err(mismatch("MCP-Protocol-Version", header, version));
    }
    agree(headers, "mcp-method", &request.method)?;
    if let Some(name) = request.params.name.as_deref().filter(|_| request.method == "tools/call") {
        agree(headers, "mcp-name", name)?;
    }
    if let Some(task) = super::tasks::named(request) {
        agree(headers, "mcp-name", task)?;
    }
    Ok(Era::Modern)
}

/// What the client calls itself.
#[must_use]
pub fn client(request: &Request) -> Option<String> {
    let info = match request.method.as_str() {
        "initialize" => request.params.all.get("clientInfo"),
        _ => request.params.meta.get(CLIENT_META),
    }?;
    let part = |name: &str| info.get(name).and_then(|v| v.as_str()).unwrap_or_default().chars().take(100).collect::<String>();
    Some(format!("{} {}", part("name"), part("version")).trim().to_owned())
}

fn agree(headers: &HeaderMap, name: &'static str, body: &str) -> Result<(), RpcError> {
    let header = text(headers, name)?;
    let decoded = header.map(|header| decode(header).unwrap_or_default());
    if decoded.as_deref() == Some(body) { Ok(()) } else { Err(mismatch(name, header, body)) }
}

/// Header values outside ASCII come as `=?base64?..?=`.
fn decode(value: &str) -> Option<String> {
    match value.strip_prefix("=?base64?").and_then(|v| v.strip_suffix("?=")) {
        Some(encoded) => String::from_utf8(STANDARD.decode(encoded).ok()?).ok(),
        None => Some(value.to_owned()),
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<Option<&'a str>, RpcError> {
    let mut values = headers.get_all(name).iter();
    let first = values.next().map(|value| value.to_str()).transpose();
    match (first, values.next()) {
        (Ok(value), None) => Ok(value.map(str::trim)),
        _ => Err(RpcError::new(RpcError::HEADER_MISMATCH, format!("{name} header is malformed or comes more than once"))),
    }
}

fn mismatch(name: &str, header: Option<&str>, body: &str) -> RpcError {
    let message = match header {
        None => format!("missing required {name} header"),
        Some(header) => format!("{name} header `{header}` does not match body value `{body}`"),
    };
    RpcError::new(RpcError::HEADER_MISMATCH, message)
}

#[cfg(test)]
mod tests {
    use super::super::message::{Body, Message, read};
    use super::*;
    use axum::http::HeaderValue;

    fn request(text: &str) -> Request {
        match read(text.as_bytes()).unwrap() {
            Body::One(Message::Request(request)) => request,
            other => panic!("{other:?}"),
        }
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    fn modern_call() -> Request {
        request(
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}"#,
        )
    }

    const GOOD: [(&str, &str); 3] = [("mcp-protocol-version", "2026-07-28"), ("mcp-method", "tools/call"), ("mcp-name", "t")];

    #[test]
    fn t21_every_header_that_contradicts_the_body_is_refused() {
        assert_eq!(of(&modern_call(), &headers(&GOOD)).unwrap(), Era::Modern);
        assert_eq!(of(&modern_call(), &headers(&[GOOD[0], GOOD[1], ("mcp-name", "=?base64?dA==?=")])).unwrap(), Era::Modern);
        for bad in [
            headers(&[]),
            headers(&GOOD[..1]),
            headers(&GOOD[..2]),
            headers(&[("mcp-protocol-version", "2025-11-25"), GOOD[1], GOOD[2]]),
            headers(&[GOOD[0], ("mcp-method", "tools/list"), GOOD[2]]),
            headers(&[GOOD[0], GOOD[1], ("mcp-name", "other")]),
            headers(&[GOOD[0], GOOD[1], GOOD[2], ("mcp-name", "other")]),
        ] {
            assert_eq!(of(&modern_call(), &bad).unwrap_err().code, RpcError::HEADER_MISMATCH, "{bad:?}");
        }
    }

    #[test]
    fn revisions_are_told_apart() {
        let list = request(r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#);
        for version in LEGACY {
            assert_eq!(of(&list, &headers(&[("mcp-protocol-version", version)])).unwrap(), Era::Legacy);
        }
        assert_eq!(of(&list, &headers(&[])).unwrap(), Era::Legacy);
        assert_eq!(
            of(&list, &headers(&[("mcp-protocol-version", "2019-01-01")])).unwrap_err().code,
            RpcError::UNSUPPORTED_VERSION
        );
        assert_eq!(of(&list, &headers(&[("mcp-protocol-version", MODERN)])).unwrap_err().code, RpcError::INVALID_PARAMS);
    }
}
