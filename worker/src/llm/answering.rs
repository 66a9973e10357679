//! A provider's answer while it comes, in the dialect of the caller.

use std::time::Duration;

use axum::http::{HeaderMap, header};
use bytes::Bytes;

use super::{model::Candidate, provider::Answerer, translate::Answers};

/// A provider has begun to answer.
#[derive(Debug)]
pub struct Answering {
    /// Without its headers: they would hold the buffer in which they came for as long as the answer takes.
    response: reqwest::Response,
    /// It comes as events.
    streams: bool,
    pub candidate: Candidate,
    /// Between two pieces of its answer.
    pub patience: Duration,
    /// Who has to know how it went on.
    pub health: Answerer,
    secret: Secret,
    /// Where the provider speaks otherwise than the caller.
    translated: Option<Answers>,
    ended: bool,
}

/// Why an answer goes no further.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    #[error("the connection to the provider broke in the middle of its answer")]
    Connection,
    #[error("{0}")]
    Unreadable(String),
}

/// A key, and what it is made of. Never shown.
pub struct Secret(Vec<String>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Secret {
    /// Credentials of AWS have parts, each of which is to be seen by nobody.
    #[must_use]
    pub fn new(whole: &str, parts: &[&str]) -> Self {
        Self([&[whole], parts].concat().into_iter().filter(|part| !part.is_empty()).map(str::to_owned).collect())
    }

    fn stands_in(&self, text: &str) -> bool {
        self.0.iter().any(|part| text.contains(part))
    }

    /// A text without it.
    #[must_use]
    pub fn clean(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, part| text.replace(part, "[key]"))
    }
}

impl Answering {
    #[must_use]
    pub fn new(
        mut response: reqwest::Response,
        candidate: Candidate,
        patience: Duration,
        health: Answerer,
        secret: Secret,
        translated: Option<Answers>,
    ) -> Self {
        let streams = translated.as_ref().map_or_else(|| media(&response).starts_with("text/event-stream"), Answers::is_stream);
        *response.headers_mut() = HeaderMap::new();
        Self { response, streams, candidate, patience, health, secret, translated, ended: false }
    }

    /// Bytes of the answer without the gateway's own key, should the provider have put it there.
    #[must_use]
    pub fn clean(&self, bytes: Bytes) -> Bytes {
        match std::str::from_utf8(&bytes) {
            Ok(text) if self.secret.stands_in(text) => self.secret.clean(text).into(),
            _ => bytes,
        }
    }

    /// The next piece; of an answer that is translated it may be empty, which is a sign of life.
    ///
    /// # Errors
    /// [`Broken`].
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Broken> {
        if self.ended {
            return Ok(None);
        }
        let piece = self.response.chunk().await.map_err(|_| Broken::Connection)?;
        self.ended = piece.is_none();
        match (&mut self.translated, piece) {
            (None, piece) => Ok(piece),
            (Some(answers), Some(piece)) => answers.push(&piece).map(Some).map_err(Broken::Unreadable),
            (Some(answers), None) => Ok(Some(answers.end())),
        }
    }

    /// The connection with what is left of the answer in it, who has answered, and who has to know how.
    #[must_use]
    pub fn apart(self) -> (reqwest::Response, Candidate, Answerer) {
        (self.response, self.candidate, self.health)
    }

    /// Whether it comes as events.
    #[must_use]
    pub const fn is_stream(&self) -> bool {
        self.streams
    }
}

/// What an answer says it is.
#[must_use]
pub fn media(response: &reqwest::Response) -> String {
    let kind = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    kind.trim_start().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_part_of_a_key_is_seen() {
        let secret = Secret::new("AKIA:secret/x:token==", &["AKIA", "secret/x", "token=="]);
        let told = secret.clean("AKIA:secret/x:token== and secret/x and token== of AKIA");
        assert_eq!(told, "[key] and [key] and [key] of [key]");
        assert_eq!(format!("{secret:?}"), "Secret(..)");
    }
}
