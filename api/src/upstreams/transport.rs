//! How an upstream is reached. A command line is never taken from the API (whoever holds an admin token could run anything
//! on the gateway's host), and header values go in but never come out.

use std::collections::BTreeMap;

use axum::http::{HeaderName, HeaderValue};
use reqwest::Url;
use serde::{Deserialize, Serialize};
use tollgate_boot::Config;
use tollgate_domain::{UpstreamId, Vault};
use tollgate_store::upstreams::{self, UpstreamRow, headers_purpose};
use utoipa::ToSchema;

use crate::problem::{Kind, Problem};

/// What stands in an answer where a header's value is, and in a PATCH where it is to stay.
pub const HIDDEN: &str = "***";

const MAX_URL: usize = 2048;
const MAX_HEADERS: usize = 32;
const MAX_HEADER_BYTES: usize = 8 << 10;

/// Headers that belong to the connection or to the protocol spoken over it.
const OWN: &[&str] = &[
    "host",
    "content-length",
    "content-type",
    "content-encoding",
    "accept",
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "expect",
    "last-event-id",
];

/// How an upstream is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub enum Transport {
    /// A program on the gateway's host, by the name under which the operator's configuration lists it.
    Stdio { program: String },
    /// MCP over Streamable HTTP.
    Http {
        url: String,
        /// Sent with every request. Values are sealed at rest and read back as `***`; sent as `***` in a PATCH that leaves
        /// scheme, host and port as they are, a value stays.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        headers: BTreeMap<String, String>,
    },
    /// HTTP with server-sent events, as MCP had it until 2025. Not served by this release: it is refused.
    Sse {
        url: String,
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        headers: BTreeMap<String, String>,
    },
}

impl From<upstreams::Transport> for Transport {
    fn from(stored: upstreams::Transport) -> Self {
        match stored {
            upstreams::Transport::Stdio { program } => Self::Stdio { program },
            upstreams::Transport::Http { url, headers } => {
                Self::Http { url, headers: headers.into_iter().map(|name| (name, HIDDEN.to_owned())).collect() }
            }
        }
    }
}

/// A transport as the row keeps it, and the sealed values of its headers.
pub type Stored = (upstreams::Transport, Option<Vec<u8>>);

impl Transport {
    /// Check a transport and seal what is secret. `current` is what it replaces.
    ///
    /// # Errors
    /// 422 with the field.
    pub fn store(self, id: UpstreamId, current: Option<&UpstreamRow>, config: &Config, vault: &Vault) -> Result<Stored, Problem> {
        match self {
            Self::Stdio { program } => {
                check_program(&program, config)?;
                Ok((upstreams::Transport::Stdio { program }, None))
            }
            Self::Sse { .. } => Err(Problem::because(
                Kind::UnsupportedTransport,
                "This release does not serve the transport \"sse\". Most such servers answer Streamable HTTP as well: use {\"type\": \"http\"}.",
            )),
            Self::Http { url, headers } => {
                let url = check_url(&url)?;
                let kept = kept_headers(id, &url, &headers, current, vault)?;
                let headers = check_headers(headers, &kept)?;
                let sealed = if headers.is_empty() {
                    None
                } else {
                    let plain = serde_json::to_vec(&headers).map_err(|e| Problem::internal(&e))?;
                    Some(vault.seal(&headers_purpose(id), &plain))
                };
                Ok((upstreams::Transport::Http { url: url.into(), headers: headers.into_keys().collect() }, sealed))
            }
        }
    }
}

fn check_program(program: &str, config: &Config) -> Result<(), Problem> {
    if config.program(program).is_some() {
        return Ok(());
    }
    let names: Vec<&str> = config.programs.iter().map(|p| p.name.as_str()).collect();
    let sentence = if names.is_empty() {
        "the operator's configuration lists no programs; add a [[program]] to tollgate.toml".to_owned()
    } else {
        format!("the operator's configuration lists no such program; it lists {}", names.join(", "))
    };
    Err(Problem::field("/transport/program", sentence))
}

fn check_url(text: &str) -> Result<Url, Problem> {
    let refuse = |sentence: &str| Problem::field("/transport/url", sentence);
    if text.len() > MAX_URL || text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(refuse("use at most 2048 characters, without spaces or control characters"));
    }
    let url = Url::parse(text).map_err(|_| refuse("this is not a URL"))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(refuse("use an http or https address"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(refuse("leave out user and password: send credentials in headers, where they are sealed"));
    }
    if url.fragment().is_some() {
        return Err(refuse("leave out the fragment"));
    }
    Ok(url)
}

/// The values that `***` stands for. They stay with the server that they were given for: whoever may change an address but
/// never saw the credential could otherwise have it sent to a place of their own.
fn kept_headers(
    id: UpstreamId,
    url: &Url,
    headers: &BTreeMap<String, String>,
    current: Option<&UpstreamRow>,
    vault: &Vault,
) -> Result<BTreeMap<String, String>, Problem> {
    let Some(name) = headers.iter().find(|(_, value)| *value == HIDDEN).map(|(name, _)| name) else {
        return Ok(BTreeMap::new());
    };
    let refuse = |sentence: &str| Problem::field(pointer(name), sentence);
    let (before, sealed) = match current.map(|row| (&row.transport, &row.sealed_headers)) {
        Some((upstreams::Transport::Http { url, .. }, Some(sealed))) => (url, sealed),
        _ => return Err(refuse("there is no stored value for \"***\" to stand for")),
    };
    if Url::parse(before).map_err(|e| Problem::internal(&e))?.origin() != url.origin() {
        return Err(refuse("stored values stay with the server they were given for; send the value again"));
    }
    let plain = vault.open(&headers_purpose(id), sealed).map_err(|e| Problem::unopened(&e))?;
    serde_json::from_slice(&plain).map_err(|e| Problem::internal(&e))
}

fn check_headers(
    headers: BTreeMap<String, String>,
    kept: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, Problem> {
    if headers.len() > MAX_HEADERS {
        return Err(Problem::field("/transport/headers", "use at most 32 headers"));
    }
    let mut checked = BTreeMap::new();
    for (written, value) in headers {
        let refuse = |sentence: &str| Problem::field(pointer(&written), sentence);
        let name = HeaderName::from_bytes(written.as_bytes()).map_err(|_| refuse("this is not a header's name"))?;
        let name = name.as_str().to_owned();
        if OWN.contains(&name.as_str()) || name.starts_with("mcp-") {
            return Err(refuse("this header belongs to the connection or the protocol and is set by the gateway"));
        }
        let value = if value == HIDDEN {
            kept.get(&name).cloned().ok_or_else(|| refuse("there is no stored value for \"***\" to stand for"))?
        } else {
            value
        };
        // Visible ASCII and inner spaces: no line break can start another header.
        let visible = value.bytes().all(|b| (0x20..0x7f).contains(&b)) && HeaderValue::from_str(&value).is_ok();
        if !visible || value.is_empty() || value.trim() != value || value.len() > MAX_HEADER_BYTES {
            return Err(refuse("use 1 to 8192 visible ASCII characters, without spaces at the ends"));
        }
        if checked.insert(name, value).is_some() {
            return Err(refuse("this header comes twice, in different spellings"));
        }
    }
    Ok(checked)
}

fn pointer(name: &str) -> String {
    format!("/transport/headers/{}", name.replace('~', "~0").replace('/', "~1"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tollgate_domain::Secrets;

    fn store(json: serde_json::Value) -> Result<Stored, String> {
        let config = Config { programs: Vec::new(), ..Config::default() };
        let transport: Transport = serde_json::from_value(json).map_err(|e| e.to_string())?;
        let vault = Secrets::from_bytes([1; 32]).vault;
        let id = UpstreamId::from_uuid(uuid::Uuid::from_u128(1));
        transport
            .store(id, None, &config, &vault)
            .map_err(|p| p.errors().first().map_or(p.kind().code().to_owned(), |e| e.pointer.clone()))
    }

    #[test]
    fn t35_a_command_line_is_no_field() {
        for field in ["command", "args", "env", "cwd"] {
            let refused = store(serde_json::json!({"type": "stdio", "program": "x", field: "sh"})).unwrap_err();
            assert!(refused.contains("unknown field"), "{refused}");
        }
        assert_eq!(store(serde_json::json!({"type": "stdio", "program": "/bin/sh"})).unwrap_err(), "/transport/program");
    }

    #[test]
    fn t33_headers_cannot_carry_another_header() {
        for (name, value) in [
            ("x-a", "b\r\nhost: evil"),
            ("x-a", "b\n"),
            ("x-a", "\u{85}"),
            ("x-a", ""),
            ("x-a\r\nb", "c"),
            ("Host", "evil"),
            ("content-length", "0"),
            ("Transfer-Encoding", "chunked"),
            ("MCP-Session-Id", "x"),
            ("x a", "b"),
            ("", "b"),
            ("x-a", "***"),
        ] {
            let refused = store(serde_json::json!({"type": "http", "url": "https://example.com/mcp", "headers": {name: value}}));
            assert!(refused.unwrap_err().starts_with("/transport/headers/"), "{name}: {value:?}");
        }
    }

    #[test]
    fn addresses_are_plain_http() {
        for url in [
            "file:///etc/passwd",
            "ftp://example.com",
            "http://",
            "https://user:pass@example.com",
            "https://user@example.com",
            "https://example.com/#x",
            "example.com",
            "https://exa mple.com",
            "https://example.com/\n",
            "",
        ] {
            assert_eq!(store(serde_json::json!({"type": "http", "url": url})).unwrap_err(), "/transport/url", "{url}");
        }
        assert_eq!(store(serde_json::json!({"type": "sse", "url": "https://example.com"})).unwrap_err(), "unsupported_transport");
    }

    #[test]
    fn header_values_rest_sealed_and_their_names_in_lower_case() {
        let (transport, sealed) = store(
            serde_json::json!({"type": "http", "url": "https://example.com/mcp", "headers": {"Authorization": "Bearer s3cret"}}),
        )
        .unwrap();
        assert_eq!(
            transport,
            upstreams::Transport::Http { url: "https://example.com/mcp".into(), headers: vec!["authorization".into()] }
        );
        let id = UpstreamId::from_uuid(uuid::Uuid::from_u128(1));
        let plain = Secrets::from_bytes([1; 32]).vault.open(&headers_purpose(id), &sealed.unwrap()).unwrap();
        assert_eq!(plain, br#"{"authorization":"Bearer s3cret"}"#);
        let shown = serde_json::to_string(&Transport::from(transport)).unwrap();
        assert_eq!(shown, r#"{"type":"http","url":"https://example.com/mcp","headers":{"authorization":"***"}}"#);
    }
}
