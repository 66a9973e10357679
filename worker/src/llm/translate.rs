//! Between the dialect of a caller and what a provider of another kind speaks. It happens at the provider's edge: a request is translated when
//! it is sent, and the answer is back in the caller's dialect before anybody reads it. What a provider of the caller's own kind says is never
//! translated.
//!
//! What has no place in the other dialect, and is known to be lost: where a system's text stood among the messages (all of it goes first), marks
//! of caches, the strictness of a tool's schema, citations, whether a result is a failure (to OpenAI's), thoughts (to OpenAI's, and to Gemini
//! but for its signatures of tool calls; to Claude they go back signed).

mod anthropic;
mod bedrock;
mod chat;
mod eventstream;
mod fields;
mod gemini;
mod messages;
mod neutral;
mod openai;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use bytes::Bytes;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use tollgate_domain::{llm::ProviderKind, llm_price::Usage};

use self::neutral::{Answer, Conversation, Event, Finish};
use super::{dialect::Dialect, model::Candidate, sse};
use crate::script::random;

/// An answer that comes at once, at most.
const MAX_ANSWER: usize = 64 << 20;

/// Where a request goes.
#[derive(Debug, Clone, Copy)]
pub struct To<'a> {
    pub dialect: Dialect,
    pub kind: ProviderKind,
    pub model: &'a str,
    /// The provider's address.
    pub base: &'a str,
}

impl<'a> To<'a> {
    #[must_use]
    pub fn new(dialect: Dialect, candidate: &'a Candidate) -> Self {
        let provider = &candidate.provider;
        Self { dialect, kind: provider.kind, model: &candidate.model, base: &provider.base_url }
    }

    /// Whether the provider speaks as the caller does.
    #[must_use]
    pub fn is_native(&self) -> bool {
        self.kind == self.dialect.kind()
    }

    fn cannot(&self, what: &str) -> String {
        fields::cannot(what, self.dialect, self.kind)
    }
}

/// What an answer says of itself where the provider does not.
#[derive(Debug, Clone)]
pub struct Told {
    id: String,
    model: String,
    created: i64,
}

impl Told {
    fn learn(&mut self, id: Option<String>, model: Option<String>) {
        self.id = id.filter(|id| !id.is_empty()).unwrap_or_else(|| std::mem::take(&mut self.id));
        self.model = model.filter(|model| !model.is_empty()).unwrap_or_else(|| std::mem::take(&mut self.model));
    }
}

/// Reads a provider's answers.
trait Reads: Send + std::fmt::Debug {
    /// One event of a stream; its name where the provider's framing has one.
    fn event(&mut self, name: &str, event: &Value, out: &mut Vec<Event>);

    /// An answer that came at once.
    ///
    /// # Errors
    /// Why it is none.
    fn whole(&mut self, answer: &Value, out: &mut Vec<Event>) -> Result<(), &'static str>;
}

/// Writes answers for a caller.
trait Writes: Send + std::fmt::Debug {
    /// Of the content of a stream.
    fn event(&mut self, event: Event, out: &mut Vec<u8>);

    fn end(&mut self, finish: &Finish, usage: Option<&Usage>, out: &mut Vec<u8>);

    fn failed(&mut self, words: &str, usage: Option<&Usage>, out: &mut Vec<u8>);

    fn whole(&mut self, answer: Answer) -> Value;
}

/// A request as another kind of provider reads it.
///
/// # Errors
/// A sentence that names what cannot be said.
pub fn request(body: &Map<String, Value>, to: &To<'_>) -> Result<Value, String> {
    fields::check(to.dialect, to.kind, body)?;
    let read: Conversation = match to.dialect {
        Dialect::Messages => messages::read(body)?,
        _ => chat::read(body)?,
    };
    match to.kind {
        ProviderKind::OpenAi => openai::write(&read, to),
        ProviderKind::Anthropic => anthropic::write(&read, to),
        ProviderKind::Gemini => gemini::write(&read, to),
        ProviderKind::Bedrock => bedrock::write(&read, to),
    }
}

/// Those who can be asked for it, and the bytes of the longest form in which one would be. Nothing is sent that has not been read before.
///
/// # Errors
/// A sentence, where there is none.
pub fn sendable(dialect: Dialect, body: &Map<String, Value>, found: Vec<Candidate>) -> Result<(Vec<Candidate>, usize), String> {
    let (mut fit, mut longest, mut why) = (Vec::new(), 0, None);
    // Bodies are large and kinds are few.
    let mut known: Vec<(ProviderKind, Result<usize, String>)> = Vec::new();
    for candidate in found {
        let to = To::new(dialect, &candidate);
        let length = match known.iter().find(|(kind, _)| *kind == to.kind) {
            _ if to.is_native() => Ok(0),
            Some((_, length)) => length.clone(),
            None => {
                let length = request(body, &to).map(|sent| sent.to_string().len());
                known.push((to.kind, length.clone()));
                length
            }
        };
        match length {
            Ok(length) => {
                longest = longest.max(length);
                fit.push(candidate);
            }
            Err(sentence) => why = why.or(Some(sentence)),
        }
    }
    match why {
        Some(why) if fit.is_empty() => Err(why),
        _ => Ok((fit, longest)),
    }
}

/// What all of that bears.
const OURS: &str = "tollgate";

/// Whether a body may have in it what earlier translations have put there.
#[must_use]
pub fn remembers(body: &[u8]) -> bool {
    std::str::from_utf8(body).is_ok_and(|text| text.contains(OURS))
}

/// Take out of a conversation what earlier translations have put into it, for a provider that knows nothing of them.
pub fn forget(dialect: Dialect, body: &mut Map<String, Value>) {
    match dialect {
        Dialect::Chat => chat::forget(body),
        Dialect::Messages => messages::forget(body),
        Dialect::Responses | Dialect::Embeddings => {}
    }
}

/// An id that nobody else gives.
fn minted() -> String {
    format!("{:016x}", random())
}

/// What Anthropic's and Amazon's take for the id of a tool call.
fn is_known_id(id: &str) -> bool {
    (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// An id as these take it: the same for the call and for its result.
fn known_id(id: &str) -> Cow<'_, str> {
    if is_known_id(id) {
        return id.into();
    }
    let hash: String = Sha256::digest(id).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("call_{hash}").into()
}

/// How bytes become events.
#[derive(Debug)]
enum Framing {
    /// All of it is one answer.
    Whole(Vec<u8>),
    Sse(sse::Frames),
    Amazon(eventstream::Messages),
}

/// An answer on its way from a provider to a caller who speaks otherwise.
#[derive(Debug)]
pub struct Answers {
    framing: Framing,
    reader: Box<dyn Reads>,
    writer: Box<dyn Writes>,
    finish: Option<Finish>,
    usage: Option<Usage>,
    /// Nothing more is written.
    over: bool,
}

impl Answers {
    /// `at`: when the provider began to answer, in seconds; `kind` of media: what its answer says it is.
    #[must_use]
    pub fn new(to: &To<'_>, at: i64, kind: &str) -> Self {
        let framing = match kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
            "text/event-stream" => Framing::Sse(sse::Frames::default()),
            "application/vnd.amazon.eventstream" => Framing::Amazon(eventstream::Messages::default()),
            _ => Framing::Whole(Vec::new()),
        };
        let reader: Box<dyn Reads> = match to.kind {
            ProviderKind::OpenAi => Box::new(openai::Reader::default()),
            ProviderKind::Anthropic => Box::new(anthropic::Reader::default()),
            ProviderKind::Gemini => Box::new(gemini::Reader::default()),
            ProviderKind::Bedrock => Box::new(bedrock::Reader::default()),
        };
        let prefix = if to.dialect == Dialect::Messages { "msg_" } else { "chatcmpl-" };
        let told = Told { id: format!("{prefix}{}", minted()), model: to.model.to_owned(), created: at };
        let writer: Box<dyn Writes> = match to.dialect {
            Dialect::Messages => Box::new(messages::Blocks::new(told)),
            _ => Box::new(chat::Chunks::new(told)),
        };
        Self { framing, reader, writer, finish: None, usage: None, over: false }
    }

    #[must_use]
    pub const fn is_stream(&self) -> bool {
        !matches!(self.framing, Framing::Whole(_))
    }

    /// What a piece of the provider's answer comes to; often nothing yet.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub fn push(&mut self, piece: &[u8]) -> Result<Bytes, String> {
        let mut out = Vec::new();
        match &mut self.framing {
            Framing::Whole(all) if all.len() + piece.len() > MAX_ANSWER => {
                return Err("the provider's answer is too large".to_owned());
            }
            Framing::Whole(all) => all.extend_from_slice(piece),
            Framing::Sse(frames) => {
                frames.push(piece).map_err(|error| error.to_string())?;
                while let Framing::Sse(frames) = &mut self.framing {
                    let Some(frame) = frames.next() else { break };
                    self.frame(&frame, &mut out);
                }
            }
            Framing::Amazon(messages) => {
                messages.push(piece);
                while let Framing::Amazon(messages) = &mut self.framing {
                    let Some(message) = messages.next()? else { break };
                    let event = serde_json::from_slice(&message.payload).unwrap_or_default();
                    if message.kind == "error" {
                        self.say(vec![Event::Failed(message.name)], &mut out);
                    } else {
                        self.event(&message.name, &event, &mut out);
                    }
                }
            }
        }
        Ok(out.into())
    }

    /// The provider has no more to say: what is left to tell of it.
    pub fn end(&mut self) -> Bytes {
        let mut out = Vec::new();
        match &mut self.framing {
            Framing::Whole(all) => {
                let all = std::mem::take(all);
                return if std::mem::replace(&mut self.over, true) { Bytes::new() } else { self.whole(all) };
            }
            // The last event may have no blank line behind it.
            Framing::Sse(frames) => {
                let rest = frames.rest();
                self.frame(&rest, &mut out);
            }
            // Of a message that was cut nothing can be said.
            Framing::Amazon(messages) if messages.is_cut() => return Bytes::new(),
            Framing::Amazon(_) => {}
        }
        self.say(vec![Event::Done], &mut out);
        out.into()
    }

    fn frame(&mut self, frame: &[u8], out: &mut Vec<u8>) {
        let Some(data) = sse::data(frame) else { return };
        if data.trim() == "[DONE]" {
            return self.say(vec![Event::Done], out);
        }
        let event = serde_json::from_str(&data).unwrap_or_default();
        self.event("", &event, out);
    }

    fn event(&mut self, name: &str, event: &Value, out: &mut Vec<u8>) {
        let mut events = Vec::new();
        self.reader.event(name, event, &mut events);
        self.say(events, out);
    }

    fn say(&mut self, events: Vec<Event>, out: &mut Vec<u8>) {
        for event in events {
            match event {
                _ if self.over => return,
                Event::Finish(finish) => self.finish = Some(finish),
                Event::Usage(usage) => self.usage = Some(usage),
                Event::Failed(words) => {
                    self.over = true;
                    self.writer.failed(&words, self.usage.as_ref(), out);
                }
                // An answer that has not said why it ended was cut off, and whoever reads it sees that it has no end.
                Event::Done => {
                    if let Some(finish) = self.finish.take() {
                        self.over = true;
                        self.writer.end(&finish, self.usage.as_ref(), out);
                    }
                }
                event => self.writer.event(event, out),
            }
        }
    }

    /// What is no JSON goes on as it came: it is recorded as no answer.
    fn whole(&mut self, all: Vec<u8>) -> Bytes {
        let Ok(answer @ Value::Object(_)) = serde_json::from_slice::<Value>(&all) else { return all.into() };
        let mut events = Vec::new();
        let failed = match answer.get("error").filter(|error| error.is_object() || error.is_string()) {
            Some(error) => Some(super::dialect::words_of(error)),
            None => self.reader.whole(&answer, &mut events).err().map(str::to_owned),
        };
        events.extend(failed.map(Event::Failed));
        self.writer.whole(Answer::of(events)).to_string().into()
    }
}
