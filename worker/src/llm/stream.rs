//! A provider's stream on its way to the caller: nothing waits in it but what must not go yet.

use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use serde_json::Value;
use tokio::sync::mpsc;
use tollgate_domain::Outcome;

use super::{
    answering::{Answering, Broken},
    dialect::{Dialect, Passage, Read, words_of},
    request::{Ended, Open},
    sse::{self, Frames},
    streamed::Streamed,
};

/// To the caller. It is closed when the caller has gone.
pub type Out = mpsc::Sender<Bytes>;

/// An answer that came at once at most.
const MAX_ANSWER: usize = 64 << 20;
/// What is held back of one turn at most.
const MAX_HELD: usize = 8 << 20;
/// Pieces that go on together at most, where a provider sends faster than they are passed on.
const TOGETHER: usize = 32;
const TOGETHER_BYTES: usize = 64 << 10;
/// A caller who takes nothing for so long has gone.
const SLOW: Duration = Duration::from_secs(60);
/// Where the caller has gone, the provider is listened to for so long: perhaps it comes to say what the answer cost.
const GRACE: Duration = Duration::from_secs(1);

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
    /// Blocks and events of earlier turns that the caller has seen.
    pub blocks: u64,
    pub passed: u64,
    /// Whether it is the first turn: of a later one, nothing begins anew.
    pub first: bool,
}

/// A turn that has gone by.
#[derive(Debug)]
pub struct Turned {
    pub ended: Ended,
    /// Its answer, put together; and as it came, where it came at once.
    pub answer: Value,
    pub bytes: Bytes,
    pub read: Read,
    /// What was held back, in its order.
    pub held: Vec<Bytes>,
    /// Blocks that the caller has seen of it.
    pub blocks: u64,
    /// Events that it has seen so far.
    pub passed: u64,
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

/// What goes by, and what of it is held back.
struct Passing {
    dialect: Dialect,
    streamed: Streamed,
    place: Place,
    held: Vec<Bytes>,
    held_bytes: usize,
    blocks: u64,
    /// Events that the caller has seen, of this turn and those before.
    passed: u64,
}

impl Passing {
    /// The event, where it goes on at once.
    fn pass(&mut self, frame: Bytes) -> Option<Bytes> {
        // A comment of the provider's is a sign of life.
        let Some(data) = sse::data(&frame) else { return Some(frame) };
        let passage = self.streamed.push(&data);
        let later = self.place.blocks > 0 || !self.place.first;
        let mut event = later.then(|| serde_json::from_str::<Value>(&data).unwrap_or_default());
        let kind = event.as_ref().and_then(|event| event["type"].as_str()).map(str::to_owned);
        let kind = kind.as_deref();
        if passage == Passage::Dropped || kind.is_some_and(|kind| !self.place.first && self.dialect.begins_anew(kind)) {
            return None;
        }
        let is_block = self.dialect.block_begins().is_some_and(|name| data.contains(name));
        let renumbered = event.as_mut().is_some_and(|event| self.dialect.renumber(event, self.place.blocks, self.passed));
        let behind = !self.held.is_empty() && data.trim_start().starts_with('{') && kind != Some("ping");
        let frame = match &event {
            Some(event) if renumbered => sse::event(self.dialect, event),
            _ => frame,
        };
        match (passage, self.place.hold) {
            (Passage::Tool, Hold::Calls) | (Passage::End, _) => self.hold(frame),
            // What comes behind a tool call that is held would overtake it.
            _ if behind => self.hold(frame),
            _ => {
                self.blocks += u64::from(is_block);
                self.passed += 1;
                Some(frame)
            }
        }
    }

    fn hold(&mut self, frame: Bytes) -> Option<Bytes> {
        self.held_bytes += frame.len();
        self.held.push(frame);
        None
    }

    /// Why it cannot go on.
    fn broken(&self) -> Option<String> {
        match self.streamed.error() {
            Some(words) => Some(format!("the provider broke off: {words}")),
            None if self.held_bytes > MAX_HELD => Some("the model's tool calls are too large".to_owned()),
            None => None,
        }
    }
}

/// Pass on a stream until it ends, breaks, or nobody listens.
pub async fn pump(open: &mut Open, mut answering: Answering, dialect: Dialect, out: &Out, place: Place) -> Turned {
    let streamed = Streamed::new(dialect, place.own_usage);
    let mut passing = Passing { dialect, streamed, place, held: Vec::new(), held_bytes: 0, blocks: 0, passed: place.passed };
    let mut frames = Frames::default();
    let why = go_by(open, &mut answering, &mut passing, &mut frames, Some(out)).await;
    let why = match why {
        Why::Gone => {
            let rest = go_by(open, &mut answering, &mut passing, &mut frames, None);
            let _ = tokio::time::timeout(GRACE, rest).await;
            Why::Gone
        }
        why => why,
    };
    let (response, candidate, health) = answering.apart();
    if matches!(why, Why::End) {
        drain(response);
    }
    let Passing { streamed, held, blocks, passed, .. } = passing;
    let (answer, read) = streamed.answer(dialect);
    // Some say how the answer finished, and then just stop.
    let whole = matches!(why, Why::End) && (streamed.ended() || read.finish_reason.is_some());
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
    if outcome != Outcome::Cancelled {
        health.ended(whole);
    }
    let kept = (!streamed.is_too_large() && !answer.is_null()).then(|| answer.to_string().into_bytes());
    let ended = Ended {
        outcome: Some(outcome),
        error,
        candidate: Some(candidate),
        read: read.clone(),
        input: streamed.input(),
        bytes: streamed.bytes(),
        sent: true,
        unknown: false,
        answer: kept,
    };
    Turned { ended, answer, bytes: Bytes::new(), read, held, blocks, passed, whole }
}

/// Events that came together go on together: each by itself would wake all who wait behind it.
fn together(mut frames: Vec<Bytes>) -> Option<Bytes> {
    match frames.len() {
        0 | 1 => frames.pop(),
        _ => Some(frames.concat().into()),
    }
}

/// The last event of an answer is not its last byte: once that is read as well, the connection serves others.
fn drain(mut response: reqwest::Response) {
    tokio::spawn(tokio::time::timeout(GRACE, async move { while let Ok(Some(_)) = response.chunk().await {} }));
}

/// Without `out`, nobody is left to hear it.
async fn go_by(open: &mut Open, answering: &mut Answering, passing: &mut Passing, frames: &mut Frames, out: Option<&Out>) -> Why {
    loop {
        let gone = async {
            match out {
                Some(out) => out.closed().await,
                None => std::future::pending().await,
            }
        };
        let piece = tokio::select! {
            biased;
            () = gone => return Why::Gone,
            piece = tokio::time::timeout(answering.patience, answering.chunk()) => piece,
        };
        let Ok(piece) = piece else { return Why::Silent(answering.patience) };
        let mut end = take(open, frames, piece);
        for _ in 0..TOGETHER {
            if end.is_some() || frames.held() > TOGETHER_BYTES {
                break;
            }
            // What has come as well goes on with it.
            let Some(piece) = answering.chunk().now_or_never() else { break };
            end = take(open, frames, piece);
        }
        // The last event may have no blank line behind it.
        let rest = |frames: &mut Frames| matches!(end, Some(Why::End)).then(|| frames.rest()).filter(|rest| !rest.is_empty());
        let (mut on, mut broken) = (Vec::new(), None);
        while let Some(frame) = frames.next().or_else(|| rest(frames)) {
            on.extend(passing.pass(answering.clean(frame)));
            broken = passing.broken();
            if broken.is_some() {
                break;
            }
        }
        if let (Some(together), Some(out)) = (together(on), out)
            && !matches!(tokio::time::timeout(SLOW, out.send(together)).await, Ok(Ok(())))
        {
            return Why::Gone;
        }
        match (broken, end) {
            (Some(error), _) => return Why::Broken(error),
            _ if passing.streamed.ended() => return Why::End,
            (None, Some(end)) => return end,
            (None, None) => {}
        }
    }
}

/// Take in a piece; what ends the stream with it.
fn take(open: &mut Open, frames: &mut Frames, piece: Result<Option<Bytes>, Broken>) -> Option<Why> {
    match piece {
        Ok(Some(piece)) => {
            open.first_token();
            frames.push(&piece).err().map(|error| Why::Broken(error.to_string()))
        }
        Ok(None) => Some(Why::End),
        Err(broken) => Some(Why::Broken(broken.to_string())),
    }
}

/// An answer that comes at once.
pub async fn whole(open: &mut Open, mut answering: Answering, dialect: Dialect) -> Turned {
    let mut body = Vec::new();
    let error = loop {
        match tokio::time::timeout(answering.patience, answering.chunk()).await {
            Ok(Ok(Some(piece))) if body.len() + piece.len() <= MAX_ANSWER => {
                open.first_token();
                body.extend_from_slice(&piece);
            }
            Ok(Ok(Some(_))) => break Some((Outcome::UpstreamError, "the provider's answer is too large".to_owned())),
            Ok(Ok(None)) => break None,
            Ok(Err(broken)) => break Some((Outcome::UpstreamError, broken.to_string())),
            Err(_) => break Some((Outcome::Timeout, "the provider fell silent in the middle of its answer".to_owned())),
        }
    };
    let bytes = answering.clean(body.into());
    let parsed = serde_json::from_slice::<Value>(&bytes).ok().filter(Value::is_object);
    let failed = parsed.as_ref().map(|answer| &answer["error"]).filter(|error| error.is_object() || error.is_string());
    let (outcome, error) = match (error, &parsed, failed) {
        (Some((outcome, error)), ..) => (outcome, Some(error)),
        (None, None, _) => (Outcome::UpstreamError, Some("the provider's answer is no JSON object".to_owned())),
        (None, Some(_), Some(error)) => (Outcome::UpstreamError, Some(format!("the provider failed: {}", words_of(error)))),
        (None, Some(_), None) => (Outcome::Ok, None),
    };
    let whole = outcome == Outcome::Ok;
    answering.health.ended(whole);
    let answer = parsed.unwrap_or_default();
    let read = dialect.read(&answer);
    let ended = Ended {
        outcome: Some(outcome),
        error,
        candidate: Some(answering.candidate),
        read: read.clone(),
        input: None,
        bytes: bytes.len(),
        sent: true,
        unknown: false,
        // As it came, byte by byte; what cannot be read is no evidence of anything but itself.
        answer: whole.then(|| bytes.to_vec()),
    };
    Turned { whole, ended, answer, bytes, read, held: Vec::new(), blocks: 0, passed: 0 }
}
