//! Amazon's event streams: messages with headers, each with its length and its checksums.

use bytes::{Buf, Bytes, BytesMut};

/// One message at most, as with events of other streams.
const MAX_MESSAGE: usize = 16 << 20;
/// Two lengths and their checksum.
const PRELUDE: usize = 12;
const CHECKSUM: usize = 4;

/// One message.
#[derive(Debug, PartialEq, Eq)]
pub struct Message {
    /// `event`, `exception` or `error`.
    pub kind: String,
    /// Which event or exception it is.
    pub name: String,
    pub payload: Bytes,
}

/// Cuts bytes into messages.
#[derive(Debug, Default)]
pub struct Messages {
    buffer: BytesMut,
}

impl Messages {
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message.
    ///
    /// # Errors
    /// Why the stream cannot be read any further.
    pub fn next(&mut self) -> Result<Option<Message>, &'static str> {
        let Some(mut prelude) = self.buffer.get(..PRELUDE) else { return Ok(None) };
        if crc32fast::hash(&prelude[..8]) != u32::from_be_bytes([prelude[8], prelude[9], prelude[10], prelude[11]]) {
            return Err("the provider's event stream is broken: a length does not match its checksum");
        }
        let length = |prelude: &mut &[u8]| usize::try_from(prelude.get_u32()).unwrap_or(usize::MAX);
        let (whole, headers) = (length(&mut prelude), length(&mut prelude));
        if whole > MAX_MESSAGE {
            return Err("an event of the provider's stream is too large");
        }
        if whole < PRELUDE + CHECKSUM || headers > whole - PRELUDE - CHECKSUM {
            return Err("the provider's event stream is broken: its lengths contradict each other");
        }
        if self.buffer.len() < whole {
            return Ok(None);
        }
        let message = self.buffer.split_to(whole).freeze();
        let (body, checksum) = message.split_at(whole - CHECKSUM);
        if crc32fast::hash(body).to_be_bytes() != checksum {
            return Err("the provider's event stream is broken: an event does not match its checksum");
        }
        let (kind, name) = named(&message[PRELUDE..PRELUDE + headers])
            .ok_or("the provider's event stream is broken: headers that nobody can read")?;
        Ok(Some(Message { kind, name, payload: message.slice(PRELUDE + headers..whole - CHECKSUM) }))
    }

    /// Whether bytes of a message are left that has not come to its end.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        !self.buffer.is_empty()
    }
}

/// The kind of a message and its name.
fn named(mut headers: &[u8]) -> Option<(String, String)> {
    let (mut kind, mut name) = (String::new(), String::new());
    while !headers.is_empty() {
        let length = usize::from(headers.try_get_u8().ok()?);
        let header = take(&mut headers, length)?;
        let value = match headers.try_get_u8().ok()? {
            0 | 1 => &[],
            2 => take(&mut headers, 1)?,
            3 => take(&mut headers, 2)?,
            4 => take(&mut headers, 4)?,
            5 | 8 => take(&mut headers, 8)?,
            6 | 7 => {
                let length = usize::from(headers.try_get_u16().ok()?);
                take(&mut headers, length)?
            }
            9 => take(&mut headers, 16)?,
            _ => return None,
        };
        let text = || String::from_utf8_lossy(value).into_owned();
        match header {
            b":message-type" => kind = text(),
            b":event-type" | b":exception-type" | b":error-code" => name = text(),
            _ => {}
        }
    }
    Some((kind, name))
}

fn take<'a>(from: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = from.split_at_checked(length)?;
    *from = rest;
    Some(taken)
}

#[cfg(test)]
pub fn message(kind: &str, name: &str, payload: &str) -> Vec<u8> {
    let mut headers = Vec::new();
    let of_name = if kind == "exception" { ":exception-type" } else { ":event-type" };
    for (header, value) in [(of_name, name), (":content-type", "application/json"), (":message-type", kind)] {
        headers.push(u8::try_from(header.len()).unwrap());
        headers.extend(header.bytes());
        headers.push(7);
        headers.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
        headers.extend(value.bytes());
    }
    let whole = u32::try_from(PRELUDE + headers.len() + payload.len() + CHECKSUM).unwrap();
    let mut all = whole.to_be_bytes().to_vec();
    all.extend(u32::try_from(headers.len()).unwrap().to_be_bytes());
    all.extend(crc32fast::hash(&all).to_be_bytes());
    all.extend(headers);
    all.extend(payload.bytes());
    all.extend(crc32fast::hash(&all).to_be_bytes());
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An empty message and one with a header, from the vectors that AWS publishes with its C library.
    #[test]
    fn published_messages_are_read() {
        let empty = [0, 0, 0, 0x10, 0, 0, 0, 0, 0x05, 0xc2, 0x48, 0xeb, 0x7d, 0x98, 0xc8, 0xff];
        let mut messages = Messages::default();
        messages.push(&empty);
        let read = messages.next().unwrap().unwrap();
        assert!(read.payload.is_empty() && read.kind.is_empty());
        let mut payload = vec![0, 0, 0, 0x3d, 0, 0, 0, 0x20, 0x07, 0xfd, 0x83, 0x96, 0x0c];
        payload.extend(b"content-type");
        payload.extend([0x07, 0x00, 0x10]);
        payload.extend(b"application/json");
        payload.extend(b"{'foo':'bar'}");
        payload.extend([0x8d, 0x9c, 0x08, 0xb1]);
        messages.push(&payload);
        assert_eq!(messages.next().unwrap().unwrap().payload.as_ref(), b"{'foo':'bar'}");
        assert!(!messages.is_cut());
    }

    #[test]
    fn every_cut_gives_the_same_messages() {
        let stream =
            [message("event", "messageStart", "{}"), message("exception", "throttlingException", r#"{"message":"slow"}"#)]
                .concat();
        for size in 1..=stream.len() {
            let (mut messages, mut found) = (Messages::default(), Vec::new());
            for piece in stream.chunks(size) {
                messages.push(piece);
                while let Some(message) = messages.next().unwrap() {
                    found.push((message.kind, message.name, String::from_utf8(message.payload.to_vec()).unwrap()));
                }
            }
            let expected = [("event", "messageStart", "{}"), ("exception", "throttlingException", r#"{"message":"slow"}"#)];
            let found: Vec<_> = found.iter().map(|(a, b, c)| (a.as_str(), b.as_str(), c.as_str())).collect();
            assert_eq!(found, expected, "{size}");
            assert!(!messages.is_cut());
        }
    }

    #[test]
    fn what_is_damaged_is_refused_and_what_is_cut_is_known() {
        let good = message("event", "metadata", "{\"a\":1}");
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            let mut messages = Messages::default();
            messages.push(&bad);
            assert!(messages.next().is_err(), "{at}");
        }
        let mut messages = Messages::default();
        messages.push(&good[..good.len() - 1]);
        assert_eq!(messages.next(), Ok(None));
        assert!(messages.is_cut());
        // Lengths whose checksum is right, and which lie.
        for (whole, headers) in [(u32::MAX, 0_u32), (15, 0), (16, 1), (0, 0)] {
            let mut lies = [whole.to_be_bytes(), headers.to_be_bytes()].concat();
            lies.extend(crc32fast::hash(&lies).to_be_bytes());
            lies.extend([0; 64]);
            let mut messages = Messages::default();
            messages.push(&lies);
            assert!(messages.next().is_err(), "{whole} {headers}");
        }
    }
}
