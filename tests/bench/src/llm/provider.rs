//! The provider that `llm` calls: a chat completion of a fixed size, at once or in pieces, which takes as little time as it can. The model
//! `slow` says a piece every half second and never ends.

use std::{convert::Infallible, sync::Arc, time::Duration};

use anyhow::Result;
use axum::{
    Router,
    body::Body,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use bytes::Bytes;
use futures::{StreamExt, stream};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::stage::PROMPT;
use crate::{dice::Dice, words::Vocabulary};

/// Pieces of content in a streamed answer.
pub const PIECES: usize = 50;
/// The model whose streams never end.
pub const SLOW: &str = "slow";
const PAUSE: Duration = Duration::from_millis(500);

#[derive(Debug)]
struct Answers {
    whole: Bytes,
    /// Events, the last of them included.
    events: Vec<Bytes>,
}

#[derive(Deserialize)]
struct Asked<'a> {
    #[serde(borrow)]
    model: &'a str,
    #[serde(default)]
    stream: bool,
}

/// Serve on a free port of the loopback, which is the first line of the output.
pub async fn run() -> Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    crate::process::announce(listener.local_addr()?)?;
    let router = Router::new().route("/v1/chat/completions", post(answer)).with_state(Arc::new(Answers::new()));
    Ok(axum::serve(axum::serve::ListenerExt::tap_io(listener, |stream| drop(stream.set_nodelay(true))), router).await?)
}

impl Answers {
    fn new() -> Self {
        let said = Vocabulary::new().object(&mut Dice::new(5), PROMPT);
        let pieces: Vec<String> =
            said.chunks(said.len().div_ceil(PIECES)).map(|piece| String::from_utf8_lossy(piece).into_owned()).collect();
        let usage = json!({"prompt_tokens": 400, "completion_tokens": 500, "total_tokens": 900});
        let message = json!({"role": "assistant", "content": pieces.concat()});
        let whole = json!({"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "bench",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop", "logprobs": null}], "usage": usage});
        let chunk = |choices: Value, usage: &Value| {
            let chunk = json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "bench", "choices": choices,
                "usage": usage});
            Bytes::from(format!("data: {chunk}\n\n"))
        };
        let said =
            |delta: Value, finish: Value| chunk(json!([{"index": 0, "delta": delta, "finish_reason": finish}]), &Value::Null);
        let mut events: Vec<Bytes> = pieces.iter().map(|piece| said(json!({"content": piece}), Value::Null)).collect();
        events.push(said(json!({}), "stop".into()));
        events.push(chunk(json!([]), &usage));
        events.push(Bytes::from_static(b"data: [DONE]\n\n"));
        Self { whole: whole.to_string().into(), events }
    }
}

async fn answer(State(answers): State<Arc<Answers>>, body: Bytes) -> Response {
    let Ok(Asked { model, stream }) = serde_json::from_slice(&body) else { return StatusCode::BAD_REQUEST.into_response() };
    if !stream {
        return ([(header::CONTENT_TYPE, "application/json")], answers.whole.clone()).into_response();
    }
    let kind = [(header::CONTENT_TYPE, "text/event-stream")];
    if model == SLOW {
        let pieces = stream::unfold(0_usize, move |at| {
            let piece = answers.events[at % PIECES].clone();
            async move {
                tokio::time::sleep(PAUSE).await;
                Some((piece, at + 1))
            }
        });
        return (kind, Body::from_stream(pieces.map(Ok::<_, Infallible>))).into_response();
    }
    let pieces = stream::iter(answers.events.clone().into_iter().map(Ok::<_, Infallible>));
    (kind, Body::from_stream(pieces)).into_response()
}
