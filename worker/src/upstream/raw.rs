//! Tool lists and tool results as the upstream wrote them.
//!
//! rmcp's models drop fields that they do not know. Answers to `tools/list` and `tools/call` therefore travel through it as an
//! opaque envelope around the exact JSON text; handshakes and notifications stay typed. The arguments of a call go the other way:
//! rmcp keeps them as values, so their text travels beside them and takes their place when the message is written.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use rmcp::model::{
    ClientJsonRpcMessage, ClientRequest, CustomResult, JsonRpcMessage, JsonRpcResponse, JsonRpcVersion2_0, RequestId,
    ServerJsonRpcMessage, ServerResult,
};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use crate::verbatim::Members;

const ENVELOPE: &str = "tollgate/raw";
/// The member of a call's `_meta` under which the text of its arguments travels as far as [`write`].
pub const ARGUMENTS: &str = "tollgate/arguments";

/// An outgoing message as text. What the audit row says was sent is sent: 1.10 as 1.10, and long integers with all their digits.
///
/// # Errors
/// Never in practice: the message is ours.
pub fn write(message: &ClientJsonRpcMessage) -> serde_json::Result<String> {
    let text = serde_json::to_string(message)?;
    let is_call = matches!(message, JsonRpcMessage::Request(r) if matches!(r.request, ClientRequest::CallToolRequest(_)));
    if !is_call {
        return Ok(text);
    }
    let mut whole = Members::read(&text)?;
    let mut params = Members::read(whole.get("params").unwrap_or("{}"))?;
    let mut meta = Members::read(params.get("_meta").unwrap_or("{}"))?;
    let Some(arguments) = meta.remove(ARGUMENTS) else { return Ok(text) };
    let (arguments, meta) = (serde_json::from_str(&arguments)?, meta.to_string());
    params.replace("arguments", arguments);
    params.replace("_meta", meta);
    let params = params.to_string();
    whole.replace("params", params);
    Ok(whole.to_string())
}

/// The requests whose answers stay raw.
#[derive(Debug, Clone, Default)]
pub struct RawIds(Arc<Mutex<HashSet<RequestId>>>);

#[derive(Deserialize)]
struct Answer<'a> {
    id: RequestId,
    #[serde(borrow)]
    result: &'a RawValue,
}

impl RawIds {
    /// Take note of an outgoing message.
    pub fn sent(&self, message: &ClientJsonRpcMessage) {
        if let JsonRpcMessage::Request(request) = message
            && matches!(request.request, ClientRequest::CallToolRequest(_) | ClientRequest::ListToolsRequest(_))
        {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(request.id.clone());
        }
    }

    /// Read an incoming message; answers to noted requests come as an envelope.
    ///
    /// # Errors
    /// When the text is not a JSON-RPC message.
    pub fn read(&self, text: &str) -> serde_json::Result<ServerJsonRpcMessage> {
        if let Ok(answer) = serde_json::from_str::<Answer<'_>>(text)
            && self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&answer.id)
        {
            let result = CustomResult::new(json!({ENVELOPE: answer.result.get()}));
            return Ok(JsonRpcMessage::Response(JsonRpcResponse {
                jsonrpc: JsonRpcVersion2_0,
                id: answer.id,
                result: ServerResult::CustomResult(result),
            }));
        }
        let message: ServerJsonRpcMessage = serde_json::from_str(text)?;
        if let JsonRpcMessage::Error(error) = &message
            && let Some(id) = &error.id
        {
            self.forget(id);
        }
        Ok(message)
    }

    /// The request has ended without an answer that was read here.
    pub fn forget(&self, id: &RequestId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    /// [`Self::read`] for a transport that wants text again.
    #[must_use]
    pub fn rewrite(&self, text: &str) -> Option<String> {
        let message = self.read(text).ok()?;
        matches!(&message, JsonRpcMessage::Response(r) if matches!(r.result, ServerResult::CustomResult(_)))
            .then(|| serde_json::to_string(&message).ok())?
    }
}

/// The exact JSON text in the envelope.
#[must_use]
pub fn open(result: ServerResult) -> Option<Box<RawValue>> {
    let ServerResult::CustomResult(CustomResult(Value::Object(mut envelope))) = result else { return None };
    match envelope.remove(ENVELOPE)? {
        Value::String(text) => RawValue::from_string(text).ok(),
        _ => None,
    }
}
