//! JSON-RPC as it crosses the wire: read strictly, with the parts that are evidence kept as they were written.

use serde::Deserialize;
use serde_json::{Map, Value, json, value::RawValue};
use tollgate_domain::json;

/// One message of a client.
#[derive(Debug)]
pub enum Message {
    Request(Request),
    Notification {
        method: String,
        params: Map<String, Value>,
    },
    /// An answer to something that a server asks; this one asks nothing.
    Response,
}

#[derive(Debug)]
pub struct Request {
    pub id: Box<RawValue>,
    pub method: String,
    pub params: Params,
}

/// The parts of `params` that this server reads.
#[derive(Debug, Default)]
pub struct Params {
    pub name: Option<String>,
    /// Exactly as written.
    pub arguments: Option<Box<RawValue>>,
    pub meta: Map<String, Value>,
    /// Everything, `arguments` included.
    pub all: Map<String, Value>,
}

/// An error of the protocol.
#[derive(Debug, Clone)]
pub struct RpcError {
    pub code: i32,
    pub message: String,
    pub data: Option<Value>,
}

impl RpcError {
    pub const PARSE: i32 = -32700;
    pub const INVALID_REQUEST: i32 = -32600;
    pub const METHOD_NOT_FOUND: i32 = -32601;
    pub const INVALID_PARAMS: i32 = -32602;
    pub const INTERNAL: i32 = -32603;
    pub const HEADER_MISMATCH: i32 = -32020;
    pub const UNSUPPORTED_VERSION: i32 = -32022;

    #[must_use]
    pub fn new(code: i32, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), data: None }
    }

    #[must_use]
    pub fn answer(&self, id: Option<&RawValue>) -> String {
        let mut error = json!({"code": self.code, "message": self.message});
        if let Some(data) = &self.data {
            error["data"] = data.clone();
        }
        let id = id.map_or("null", RawValue::get);
        format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#)
    }
}

/// A body: one message, or (in the oldest revision alone) a batch of them.
#[derive(Debug)]
pub enum Body {
    One(Message),
    Batch(Vec<Message>),
}

/// Messages in a batch at most.
const MAX_BATCH: usize = 100;

/// Read a body.
///
/// # Errors
/// What to tell the client: not JSON, ambiguous JSON, or not JSON-RPC 2.0.
pub fn read(bytes: &[u8]) -> Result<Body, RpcError> {
    let value = json::read(bytes).map_err(|e| RpcError::new(RpcError::PARSE, format!("Parse error: {e}")))?;
    let text = std::str::from_utf8(bytes).map_err(|_| RpcError::new(RpcError::PARSE, "Parse error: not UTF-8"))?;
    match value {
        Value::Array(_) => {
            let parts: Vec<&RawValue> = serde_json::from_str(text).map_err(invalid)?;
            if parts.is_empty() || parts.len() > MAX_BATCH {
                return Err(RpcError::new(RpcError::INVALID_REQUEST, format!("A batch holds 1 to {MAX_BATCH} messages")));
            }
            parts.into_iter().map(|part| message(part.get())).collect::<Result<_, _>>().map(Body::Batch)
        }
        _ => message(text).map(Body::One),
    }
}

#[derive(Deserialize)]
struct Envelope<'a> {
    jsonrpc: String,
    #[serde(borrow, default, deserialize_with = "present")]
    id: Option<&'a RawValue>,
    method: Option<String>,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
}

/// A request whose id is `null` is a malformed request, not a notification.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

fn message(text: &str) -> Result<Message, RpcError> {
    let envelope: Envelope<'_> = serde_json::from_str(text).map_err(invalid)?;
    if envelope.jsonrpc != "2.0" {
        return Err(RpcError::new(RpcError::INVALID_REQUEST, "Invalid request: \"jsonrpc\" must be \"2.0\""));
    }
    let Some(method) = envelope.method else { return Ok(Message::Response) };
    let params = envelope.params.map(params).transpose()?.unwrap_or_default();
    match envelope.id {
        None => Ok(Message::Notification { method, params: params.all }),
        Some(id) if id.get().starts_with(['"', '-']) || id.get().starts_with(|c: char| c.is_ascii_digit()) => {
            Ok(Message::Request(Request { id: id.to_owned(), method, params }))
        }
        Some(_) => Err(RpcError::new(RpcError::INVALID_REQUEST, "Invalid request: \"id\" must be a string or a number")),
    }
}

fn params(raw: &RawValue) -> Result<Params, RpcError> {
    #[derive(Deserialize)]
    struct Named<'a> {
        name: Option<Value>,
        #[serde(borrow)]
        arguments: Option<&'a RawValue>,
        #[serde(rename = "_meta")]
        meta: Option<Map<String, Value>>,
    }
    let bad = |_| RpcError::new(RpcError::INVALID_PARAMS, "Invalid params: an object is expected, with an object as \"_meta\"");
    let all: Map<String, Value> = serde_json::from_str(raw.get()).map_err(bad)?;
    let named: Named<'_> = serde_json::from_str(raw.get()).map_err(bad)?;
    Ok(Params {
        name: named.name.and_then(|name| name.as_str().map(str::to_owned)),
        arguments: named.arguments.map(ToOwned::to_owned),
        meta: named.meta.unwrap_or_default(),
        all,
    })
}

fn invalid(error: serde_json::Error) -> RpcError {
    RpcError::new(RpcError::INVALID_REQUEST, format!("Invalid request: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_kept_as_they_were_written() {
        let text = r#"{"jsonrpc":"2.0","id":"a","method":"tools/call","params":{"name":"t","arguments":{ "b":1.0,"a":12345678901234567890123 }}}"#;
        let Ok(Body::One(Message::Request(request))) = read(text.as_bytes()) else { panic!() };
        assert_eq!(request.params.arguments.unwrap().get(), r#"{ "b":1.0,"a":12345678901234567890123 }"#);
        assert_eq!(request.id.get(), "\"a\"");
    }

    #[test]
    fn t20_two_readings_of_one_body_are_refused() {
        let text = br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"safe","name":"unsafe"}}"#;
        assert_eq!(read(text).unwrap_err().code, RpcError::PARSE);
    }

    #[test]
    fn what_is_not_json_rpc_is_told_so() {
        for (text, code) in [
            ("", RpcError::PARSE),
            ("{}", RpcError::INVALID_REQUEST),
            (r#"{"jsonrpc":"1.0","id":1,"method":"x"}"#, RpcError::INVALID_REQUEST),
            (r#"{"jsonrpc":"2.0","id":null,"method":"x"}"#, RpcError::INVALID_REQUEST),
            (r#"{"jsonrpc":"2.0","id":{},"method":"x"}"#, RpcError::INVALID_REQUEST),
            (r#"{"jsonrpc":"2.0","id":1,"method":"x","params":[1]}"#, RpcError::INVALID_PARAMS),
            ("[]", RpcError::INVALID_REQUEST),
        ] {
            assert_eq!(read(text.as_bytes()).unwrap_err().code, code, "{text}");
        }
    }
}
