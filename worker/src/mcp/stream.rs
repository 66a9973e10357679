//! Answers that come as a stream of events: progress before a result, and the news that the list of tools has changed.

use std::{convert::Infallible, time::Duration};

use axum::response::sse::{Event, KeepAlive, Sse};
use futures::{Stream, StreamExt, stream};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tollgate_domain::tool::DefinitionHash;

use crate::caller::Caller;

const KEEP_ALIVE: Duration = Duration::from_secs(15);

pub type Events = Sse<axum::response::sse::KeepAliveStream<stream::BoxStream<'static, Result<Event, Infallible>>>>;

pub fn events(stream: impl Stream<Item = String> + Send + 'static) -> Events {
    let events = stream.map(|data| Ok(Event::default().event("message").data(data))).boxed();
    Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
}

/// Progress of an upstream under the token that the client chose, then the answer.
pub fn with_progress(
    mut progress: mpsc::Receiver<rmcp::model::ProgressNotificationParam>,
    token: Value,
    answer: impl Future<Output = String> + Send + 'static,
) -> impl Stream<Item = String> + Send + 'static {
    let (to, lines) = mpsc::channel::<String>(64);
    tokio::spawn(async move {
        let mut answer = std::pin::pin!(answer);
        let last = loop {
            tokio::select! {
                biased;
                Some(params) = progress.recv() => {
                    // A client that does not read loses progress, never the answer.
                    drop(to.try_send(notification(&params, &token)));
                }
                text = &mut answer => break text,
                // The client has gone; what that means is for the answer's own guard to say.
                () = to.closed() => return,
            }
        };
        drop(to.send(last).await);
    });
    tokio_stream::wrappers::ReceiverStream::new(lines)
}

fn notification(params: &rmcp::model::ProgressNotificationParam, token: &Value) -> String {
    let mut params = serde_json::to_value(params).unwrap_or_default();
    params["progressToken"] = token.clone();
    json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": params}).to_string()
}

/// What a key sees, to tell whether it has changed.
#[must_use]
pub fn fingerprint(caller: &Caller) -> Vec<(tollgate_domain::ToolId, DefinitionHash)> {
    let mut seen: Vec<_> = caller.scope().iter().map(|s| (s.tool.id, s.tool.definition_sha256)).collect();
    seen.sort_unstable_by_key(|(id, _)| *id);
    seen
}
