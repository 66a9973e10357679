//! Tool lists and tool results as the upstream wrote them.
//!
//! rmcp's models drop fields that they do not know. Answers to `tools/list` and `tools/call` therefore travel through it as an
//! opaque envelope around the exact JSON text; handshakes and notifications stay typed.

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

const ENVELOPE: &str = "tollgate/raw";

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
        serde_json::from_str(text)
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
