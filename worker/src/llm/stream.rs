//! A provider's stream on its way to the caller: nothing waits in it but what must not go yet.

use std::time::Duration;

use axum::http::header;
use bytes::Bytes;
use serde_json::Value;
use tokio::sync::mpsc;
use tollgate_domain::Outcome;

use super::{
    dialect::{Dialect, Passage, Read},
    messages,
    provider::Answering,
    request::{Ended, Open},
    sse::{self, Frames},
    streamed::Streamed,
};

/// To the caller. It is closed when the caller has gone.
pub type Out = mpsc::Sender<Bytes>;

/// An answer that came at once at most.
const MAX_ANSWER: usize = 64 << 20;

/// What is held back of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// Its end, until its row is durable.
    End,
    /// Tool calls too: it is not known yet whose they are.
    Calls,
}

/// Where a turn stands in the caller's one stream.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    pub hold: Hold,
    /// The caller has asked for the count of tokens itself.
    pub own_usage: bool,
    /// Blocks of earlier turns that the caller has seen.
    pub blocks: u64,
    /// Whether it is the first turn: of a later one, nothing begins anew.
    pub first: bool,
}

/// A turn that has gone by.
#[derive(Debug)]
pub struct Turned {
    pub ended: Ended,
    /// Its answer, put together.
    pub answer: Value,
    pub read: Read,
    /// What was held back, in its order.
    pub held: Vec<Bytes>,
    /// Blocks that the caller has seen of it.
    pub blocks: u64,
    /// It came to its end.
    pub whole: bool,
}

/// Why a stream has ended.
enum Why {
    End,
    /// The caller has gone.
    Gone,
    Silent(Duration),
    Broken(String),
}

/// Pass on a stream until it ends, breaks, or nobody listens.
pub async fn pump(open: &mut Open, answering: Answering, dialect: Dialect, out: &Out, place: Place) -> Turned {
    let Answering { mut response, candidate, patience } = answering;
    let mut streamed = Streamed::new(dialect, place.own_usage);
    let (mut frames, mut held, mut seen) = (Frames::default(), Vec::new(), 0);
    let why = loop {
        let piece = tokio::select! {
            biased;
            () = out.closed() => break Why::Gone,
            piece = tokio::time::timeout(patience, response.chunk()) => piece,
        };
        match piece {
            Err(_) => break Why::Silent(patience),
            Ok(Err(_)) => break Why::Broken("the connection to the provider broke in the middle of its answer".to_owned()),
            Ok(Ok(None)) => {
                // The last event may have no blank line behind it.
                let rest = frames.rest();
                if let Some(frame) = (!rest.is_empty()).then(|| pass(&mut streamed, rest, place, &mut held)).flatten() {
                    let _ = out.send(frame).await;
                }
                break Why::End;
            }
            Ok(Ok(Some(piece))) => {
                open.first_token.get_or_insert(open.elapsed());
                if let Err(error) = frames.push(&piece) {
                    break Why::Broken(error.to_string());
                }
            }
        }
        let mut gone = false;
        while let Some(frame) = frames.next() {
            let on = pass(&mut streamed, frame, place, &mut held);
            if let Some(frame) = on {
                seen = seen.max(streamed.blocks());
                gone |= out.send(frame).await.is_err();
            }
        }
        if gone {
            break Why::Gone;
        }
        if streamed.ended() {
            break Why::End;
        }
    };
    let (answer, read) = streamed.answer(dialect);
    // Some say how the answer finished, and then just stop.
    let whole = streamed.ended() || (matches!(why, Why::End) && read.finish_reason.is_some());
    let (outcome, error) = match why {
        Why::End if whole => (Outcome::Ok, None),
        Why::End => (Outcome::UpstreamError, Some("the provider's answer ended in the middle".to_owned())),
        Why::Gone => (Outcome::Cancelled, Some("the caller went away before the answer had ended".to_owned())),
        Why::Silent(patience) => (
            Outcome::Timeout,
            Some(format!("the provider was silent for {} ms in the middle of its answer", patience.as_millis())),
        ),
        Why::Broken(error) => (Outcome::UpstreamError, Some(error)),
    };
    let kept = (!streamed.is_too_large() && !answer.is_null()).then(|| answer.to_string().into_bytes());
    let ended = Ended {
        outcome,
        error,
        candidate: Some(candidate),
        read: read.clone(),
        bytes: streamed.bytes(),
        sent: true,
        answer: kept,
    };
    Turned { ended, answer, read, held, blocks: seen, whole }
}

/// The event, where it goes on at once.
fn pass(streamed: &mut Streamed, frame: Bytes, place: Place, held: &mut Vec<Bytes>) -> Option<Bytes> {
    // A comment of the provider's is a sign of life.
    let Some(data) = sse::data(&frame) else { return Some(frame) };
    let passage = streamed.push(&data);
    let starts_anew = !place.first && is_start(&data);
    let frame = if place.blocks > 0 && !starts_anew { renumber(&frame, &data, place.blocks) } else { frame.clone() };
    match (passage, place.hold) {
        (Passage::Dropped, _) => None,
        _ if starts_anew => None,
        (Passage::On, _) | (Passage::Tool, Hold::End) => Some(frame),
        (Passage::Tool, Hold::Calls) | (Passage::End, _) => {
            held.push(frame);
            None
        }
    }
}

fn is_start(data: &str) -> bool {
    data.contains("\"message_start\"") && serde_json::from_str::<Value>(data).is_ok_and(|event| event["type"] == "message_start")
}

fn renumber(frame: &Bytes, data: &str, blocks: u64) -> Bytes {
    let Ok(event) = serde_json::from_str::<Value>(data) else { return frame.clone() };
    match (event["index"].is_u64(), event["type"].as_str()) {
        (true, Some(name)) if name.starts_with("content_block") => sse::frame(Some(name), &messages::renumbered(data, blocks)),
        _ => frame.clone(),
    }
}

/// An answer that comes at once.
pub async fn whole(open: &mut Open, answering: Answering, dialect: Dialect) -> Turned {
    let Answering { mut response, candidate, patience } = answering;
    let mut body = Vec::new();
    let error = loop {
        match tokio::time::timeout(patience, response.chunk()).await {
            Ok(Ok(Some(piece))) if body.len() + piece.len() <= MAX_ANSWER => {
                open.first_token.get_or_insert(open.elapsed());
                body.extend_from_slice(&piece);
            }
            Ok(Ok(Some(_))) => break Some((Outcome::UpstreamError, "the provider's answer is too large".to_owned())),
            Ok(Ok(None)) => break None,
            Ok(Err(_)) => {
                break Some((
                    Outcome::UpstreamError,
                    "the connection to the provider broke in the middle of its answer".to_owned(),
                ));
            }
            Err(_) => break Some((Outcome::Timeout, "the provider fell silent in the middle of its answer".to_owned())),
        }
    };
    let parsed = serde_json::from_slice::<Value>(&body).ok().filter(Value::is_object);
    let (outcome, error) = match (error, &parsed) {
        (Some((outcome, error)), _) => (outcome, Some(error)),
        (None, None) => (Outcome::UpstreamError, Some("the provider's answer is no JSON object".to_owned())),
        (None, Some(_)) => (Outcome::Ok, None),
    };
    let answer = parsed.unwrap_or_default();
    let read = dialect.read(&answer);
    let ended = Ended {
        outcome,
        error,
        candidate: Some(candidate),
        read: read.clone(),
        bytes: body.len(),
        sent: true,
        // As it came, byte by byte; what cannot be read is no evidence of anything but itself.
        answer: (outcome == Outcome::Ok).then_some(body),
    };
    Turned { whole: outcome == Outcome::Ok, ended, answer, read, held: Vec::new(), blocks: 0 }
}

/// Whether an answer comes as events.
#[must_use]
pub fn is_stream(response: &reqwest::Response) -> bool {
    let kind = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    kind.trim_start().to_ascii_lowercase().starts_with("text/event-stream")
}
