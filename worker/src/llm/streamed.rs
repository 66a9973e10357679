//! A streamed answer, put together while it goes by.

use serde_json::Value;
use tollgate_domain::llm_price::Usage;

use super::{
    chat,
    dialect::{Dialect, Passage, Read},
    messages, responses,
};

/// Of an answer that is kept as it goes by; of a larger one its beginning is passed on and counted, and nothing is kept.
const MAX_KEPT: usize = 8 << 20;

#[derive(Debug)]
pub struct Streamed {
    inner: Inner,
    /// The caller has asked for the count of tokens itself.
    own_usage: bool,
    /// Bytes of events that came.
    came: usize,
}

#[derive(Debug)]
enum Inner {
    Chat(chat::Streamed),
    Responses(responses::Streamed),
    Messages(messages::Streamed),
}

impl Streamed {
    #[must_use]
    pub fn new(dialect: Dialect, own_usage: bool) -> Self {
        let inner = match dialect {
            Dialect::Chat | Dialect::Embeddings => Inner::Chat(chat::Streamed::default()),
            Dialect::Responses => Inner::Responses(responses::Streamed::default()),
            Dialect::Messages => Inner::Messages(messages::Streamed::default()),
        };
        Self { inner, own_usage, came: 0 }
    }

    /// Take in one event.
    pub fn push(&mut self, data: &str) -> Passage {
        self.came += data.len();
        let keep = !self.is_too_large();
        match &mut self.inner {
            Inner::Chat(streamed) => streamed.push(data, self.own_usage, keep),
            Inner::Responses(streamed) => streamed.push(data),
            Inner::Messages(streamed) => streamed.push(data, keep),
        }
    }

    /// What the provider says went wrong, in the middle of its answer.
    #[must_use]
    pub fn error(&self) -> Option<&str> {
        match &self.inner {
            Inner::Chat(streamed) => streamed.error.as_deref(),
            Inner::Responses(streamed) => streamed.error.as_deref(),
            Inner::Messages(streamed) => streamed.error.as_deref(),
        }
    }

    /// Of an answer that was cut off: what the provider has counted of the input.
    #[must_use]
    pub fn input(&self) -> Option<Usage> {
        match &self.inner {
            Inner::Messages(streamed) => streamed.input(),
            Inner::Chat(_) | Inner::Responses(_) => None,
        }
    }

    /// Whether the answer came to its end.
    #[must_use]
    pub const fn ended(&self) -> bool {
        match &self.inner {
            Inner::Chat(streamed) => streamed.ended(),
            Inner::Responses(streamed) => streamed.ended(),
            Inner::Messages(streamed) => streamed.ended(),
        }
    }

    #[must_use]
    pub const fn is_too_large(&self) -> bool {
        self.came > MAX_KEPT
    }

    /// Bytes of what the model has said so far.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        match &self.inner {
            Inner::Chat(streamed) => streamed.bytes,
            Inner::Responses(streamed) => streamed.bytes,
            Inner::Messages(streamed) => streamed.bytes,
        }
    }

    #[must_use]
    pub fn usage(&self) -> Option<Usage> {
        match &self.inner {
            Inner::Chat(streamed) => streamed.usage(),
            Inner::Responses(streamed) => streamed.usage(),
            Inner::Messages(streamed) => streamed.usage(),
        }
    }

    /// The answer as it would have come at once, as far as it came; and what it says of itself.
    #[must_use]
    pub fn answer(&self, dialect: Dialect) -> (Value, Read) {
        let answer = match &self.inner {
            Inner::Chat(streamed) => streamed.answer(),
            Inner::Responses(streamed) => streamed.answer(),
            Inner::Messages(streamed) => streamed.answer(),
        };
        let read = Read { usage: self.usage(), ..dialect.read(&answer) };
        (answer, read)
    }
}
