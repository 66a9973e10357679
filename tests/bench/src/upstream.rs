//! A lean MCP server (2026-07-28, no sessions): it answers at once and remembers nothing, so that what is measured is the
//! way to it.

use std::sync::Arc;

use anyhow::Result;
use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use bytes::{BufMut, Bytes, BytesMut};
use serde::Deserialize;
use serde_json::{json, value::RawValue};
use tokio::net::TcpListener;

use crate::{dice::Dice, words::Vocabulary};

/// The tool that is called; the others are there to be listed.
pub const TOOL: &str = "lookup";
const TOOLS: [&str; 4] = [TOOL, "search", "update", "summarize"];
const RESULT_BYTES: usize = 2048;
/// Different answers, taken in turn by the id of the request.
const ANSWERS: usize = 64;

#[derive(Debug)]
struct Answers {
    list: String,
    /// The results of calls.
    calls: Vec<Bytes>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    method: &'a str,
}

/// Serve on a free port of the loopback, which is the first line of the output.
pub async fn run() -> Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    crate::process::announce(listener.local_addr()?)?;
    let router = Router::new().route("/mcp", post(answer)).with_state(Arc::new(Answers::new()));
    Ok(axum::serve(axum::serve::ListenerExt::tap_io(listener, |stream| drop(stream.set_nodelay(true))), router).await?)
}

impl Answers {
    fn new() -> Self {
        let (vocabulary, mut dice) = (Vocabulary::new(), Dice::new(7));
        let call = |_| {
            let object = vocabulary.object(&mut dice, RESULT_BYTES);
            let mut text = BytesMut::from(
                &br#"{"resultType":"complete","content":[{"type":"text","text":"found"}],"structuredContent":"#[..],
            );
            text.put_slice(&object);
            text.put_slice(br#","isError":false}"#);
            text.freeze()
        };
        let calls = (0..ANSWERS).map(call).collect();
        let tools: Vec<_> = TOOLS.iter().map(|name| tool(name)).collect();
        let list = json!({"resultType": "complete", "tools": tools, "ttlMs": 0, "cacheScope": "private"}).to_string();
        Self { list, calls }
    }
}

fn tool(name: &str) -> serde_json::Value {
    let properties = json!({"order_id": {"type": "string"}, "query": {"type": "string"}});
    json!({
        "name": name,
        "description": format!("{name} in the order book"),
        "inputSchema": {"type": "object", "properties": properties},
    })
}

async fn answer(State(answers): State<Arc<Answers>>, body: Bytes) -> Response {
    let Ok(Message { id, method }) = serde_json::from_slice(&body) else { return StatusCode::BAD_REQUEST.into_response() };
    let Some(id) = id.map(RawValue::get) else { return StatusCode::ACCEPTED.into_response() };
    match method {
        "tools/call" => {
            let turn = id.bytes().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(byte)));
            result(id, &answers.calls[turn % ANSWERS])
        }
        "tools/list" => result(id, answers.list.as_bytes()),
        "ping" => result(id, b"{}"),
        "server/discover" => result(id, discovery().to_string().as_bytes()),
        _ => not_found(id),
    }
}

/// What `server/discover` says of a server without sessions.
pub fn discovery() -> serde_json::Value {
    json!({
        "resultType": "complete", "supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}, "ttlMs": 0,
        "cacheScope": "private", "_meta": {"io.modelcontextprotocol/serverInfo": {"name": "bench", "version": "1"}},
    })
}

/// The answer to a method that there is not.
pub fn not_found(id: &str) -> Response {
    json_answer(format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":-32601,"message":"Method not found"}}}}"#).into())
}

/// A result, as an answer to the request of this id.
pub fn result(id: &str, result: &[u8]) -> Response {
    let mut text = BytesMut::with_capacity(result.len() + 64);
    text.put_slice(br#"{"jsonrpc":"2.0","id":"#);
    text.put_slice(id.as_bytes());
    text.put_slice(br#","result":"#);
    text.put_slice(result);
    text.put_slice(b"}");
    json_answer(text.freeze())
}

fn json_answer(body: Bytes) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}
