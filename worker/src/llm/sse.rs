//! Server-sent events, taken apart and passed on without a byte changed.

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};
use serde_json::Value;

use super::dialect::Dialect;

/// One event at most. Providers send a few hundred bytes; a whole image or a long tool call may come at once.
const MAX_FRAME: usize = 16 << 20;

/// The stream was longer without an end of an event than any event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event of the stream is larger than {MAX_FRAME} bytes")]
pub struct TooLarge;

/// Cuts bytes into events, each with the blank line behind it.
#[derive(Debug, Default)]
pub struct Frames {
    buffer: BytesMut,
    /// So far no end was found.
    searched: usize,
}

impl Frames {
    /// # Errors
    /// [`TooLarge`].
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), TooLarge> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() > MAX_FRAME { Err(TooLarge) } else { Ok(()) }
    }

    /// Bytes that came and are in no event yet.
    #[must_use]
    pub fn held(&self) -> usize {
        self.buffer.len()
    }

    /// The next whole event.
    pub fn next(&mut self) -> Option<Bytes> {
        // An end may have begun in what was searched before.
        let from = self.searched.saturating_sub(3);
        match end(&self.buffer[from..]) {
            Some(at) => {
                self.searched = 0;
                Some(self.buffer.split_to(from + at).freeze())
            }
            None => {
                self.searched = self.buffer.len();
                None
            }
        }
    }

    /// What stands behind the last whole event, once nothing more comes.
    pub fn rest(&mut self) -> Bytes {
        self.searched = 0;
        self.buffer.split().freeze()
    }
}

/// Where the first event ends: behind its blank line.
fn end(bytes: &[u8]) -> Option<usize> {
    let ends: [&[u8]; 3] = [b"\n\n", b"\r\n\r\n", b"\r\r"];
    let breaks = bytes.iter().enumerate().filter(|(_, byte)| matches!(byte, b'\n' | b'\r'));
    breaks.map(|(at, _)| at).find_map(|at| ends.iter().find(|end| bytes[at..].starts_with(end)).map(|end| at + end.len()))
}

/// An event of ours in a stream of this dialect.
#[must_use]
pub fn event(dialect: Dialect, event: &Value) -> Bytes {
    let name = event["type"].as_str().filter(|_| matches!(dialect, Dialect::Messages | Dialect::Responses));
    frame(name, &event.to_string())
}

/// The data of an event: its lines, put together as the standard says. Nothing for a comment.
#[must_use]
pub fn data(frame: &[u8]) -> Option<Cow<'_, str>> {
    let text = std::str::from_utf8(frame).ok()?;
    let mut lines = text.split(['\n', '\r']).filter_map(|line| {
        let data = line.strip_prefix("data:")?;
        Some(data.strip_prefix(' ').unwrap_or(data))
    });
    let first = lines.next()?;
    match lines.next() {
        None => Some(first.into()),
        Some(second) => {
            let mut all = format!("{first}\n{second}");
            for line in lines {
                all.push('\n');
                all.push_str(line);
            }
            Some(all.into())
        }
    }
}

/// An event of ours.
#[must_use]
pub fn frame(name: Option<&str>, data: &str) -> Bytes {
    match name {
        Some(name) => format!("event: {name}\ndata: {data}\n\n").into(),
        None => format!("data: {data}\n\n").into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cut_of_a_stream_gives_the_same_events_byte_by_byte() {
        let stream = b"data: {\"a\":1}\n\n: note\r\n\r\nevent: x\ndata: one\ndata:two\n\nid: 3\rdata: z\r\rdata: [DONE]\n\n";
        for size in 1..=stream.len() {
            let (mut frames, mut found) = (Frames::default(), Vec::new());
            for piece in stream.chunks(size) {
                frames.push(piece).unwrap();
                while let Some(frame) = frames.next() {
                    found.push(frame);
                }
            }
            assert_eq!(found.concat(), stream, "{size}");
            let read: Vec<_> = found.iter().map(|frame| data(frame).map(Cow::into_owned)).collect();
            let read: Vec<_> = read.iter().map(Option::as_deref).collect();
            assert_eq!(read, [Some("{\"a\":1}"), None, Some("one\ntwo"), Some("z"), Some("[DONE]")], "{size}");
            assert!(frames.rest().is_empty());
        }
    }

    #[test]
    fn what_has_no_end_is_left_over_or_refused() {
        let mut frames = Frames::default();
        frames.push(b"data: cut").unwrap();
        assert_eq!(frames.next(), None);
        assert_eq!(frames.rest().as_ref(), b"data: cut");
        let mut frames = Frames::default();
        assert_eq!(frames.push(&vec![b'x'; MAX_FRAME + 1]), Err(TooLarge));
    }
}
