//! The fake MCP servers (2026-07-28, no sessions): the real definitions, and answers out of the world.

use std::{net::SocketAddr, sync::Arc};

use anyhow::Result;
use axum::{
    Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::post,
};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use tokio::net::TcpListener;

use super::{answers, catalog::Server, world::World};
use crate::upstream::{discovery, not_found, result};

#[derive(Debug)]
struct Servers {
    servers: Vec<Server>,
    world: Arc<World>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    method: &'a str,
    #[serde(default)]
    params: Value,
}

/// Serve all of them, each under `/<name>/mcp`, until the process ends.
pub async fn serve(servers: Vec<Server>, world: Arc<World>) -> Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    let router = Router::new().route("/{server}/mcp", post(answer)).with_state(Arc::new(Servers { servers, world }));
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(address)
}

async fn answer(State(all): State<Arc<Servers>>, Path(name): Path<String>, body: Bytes) -> Response {
    let Some(server) = all.servers.iter().find(|server| server.name == name) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let Ok(Message { id, method, params }) = serde_json::from_slice(&body) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let Some(id) = id.map(RawValue::get) else { return StatusCode::ACCEPTED.into_response() };
    let value = match method {
        "tools/call" => called(server, &all.world, &params),
        "tools/list" => json!({"resultType": "complete", "tools": server.tools, "ttlMs": 0, "cacheScope": "private"}),
        "ping" => json!({}),
        "server/discover" => discovery(),
        _ => return not_found(id),
    };
    result(id, value.to_string().as_bytes())
}

fn called(server: &Server, world: &World, params: &Value) -> Value {
    let name = params["name"].as_str().unwrap_or_default();
    let Some(tool) = server.tools.iter().find(|tool| tool["name"] == name) else {
        return json!({"resultType": "complete", "content": [{"type": "text", "text": "no such tool"}], "isError": true});
    };
    match answers::answer(world, &server.name, name, &params["arguments"]) {
        Err(text) => json!({"resultType": "complete", "content": [{"type": "text", "text": text}], "isError": true}),
        Ok(value) => {
            let content = json!([{"type": "text", "text": value.to_string()}]);
            let mut answer = json!({"resultType": "complete", "content": content, "isError": false});
            if tool.get("outputSchema").is_some() {
                answer["structuredContent"] = value;
            }
            answer
        }
    }
}
