//! What an erasure looks for in payloads: a text, in whatever letters and behind whatever escapes it stands.

use std::borrow::Cow;

/// A JSON text in a string of a JSON text is one level; beyond this many nobody looks.
const LEVELS: usize = 6;

/// The text that is looked for.
#[derive(Debug)]
pub(super) struct Needle(String);

impl Needle {
    pub fn new(text: &str) -> Self {
        Self(text.to_lowercase())
    }

    /// Whether a payload holds the text: as it stands, or once its JSON escapes are read, as often as there are any. Where the
    /// strings of a document begin and end does not matter for that, so what is not quite JSON is searched like the rest.
    pub fn is_in(&self, payload: &[u8]) -> bool {
        let mut text = String::from_utf8_lossy(payload);
        for _ in 0..LEVELS {
            if text.to_lowercase().contains(&self.0) {
                return true;
            }
            match unescape(&text) {
                Some(plain) => text = Cow::Owned(plain),
                None => return false,
            }
        }
        text.to_lowercase().contains(&self.0)
    }
}

/// The text with its JSON escapes read; `None` when it has none.
fn unescape(text: &str) -> Option<String> {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        plain.push_str(before);
        let mut chars = after.chars();
        let (read, left) = match chars.next() {
            Some('u') => match unicode(chars.as_str()) {
                Some((c, left)) => (Some(c), left),
                None => (Some('u'), chars.as_str()),
            },
            escaped => (escaped.map(control), chars.as_str()),
        };
        plain.extend(read);
        rest = left;
    }
    plain.push_str(rest);
    (rest.len() < text.len()).then_some(plain)
}

const fn control(escaped: char) -> char {
    match escaped {
        'n' => '\n',
        't' => '\t',
        'r' => '\r',
        'b' => '\u{8}',
        'f' => '\u{c}',
        other => other,
    }
}

/// The character of `XXXX`, or of `XXXX\uYYYY` where it takes two, and what follows it.
fn unicode(text: &str) -> Option<(char, &str)> {
    let unit = |text: &str| u16::from_str_radix(text.get(..4)?, 16).ok();
    let (first, rest) = (unit(text)?, text.get(4..)?);
    if let Some(c) = char::from_u32(first.into()) {
        return Some((c, rest));
    }
    let second = rest.strip_prefix("\\u").and_then(unit);
    let pair = second.and_then(|second| char::decode_utf16([first, second]).next()?.ok());
    Some(pair.and_then(|c| Some((c, rest.get(6..)?))).unwrap_or((char::REPLACEMENT_CHARACTER, rest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finds(needle: &str, payload: &str) -> bool {
        Needle::new(needle).is_in(payload.as_bytes())
    }

    #[test]
    fn a_text_is_found_however_it_is_written() {
        let plain = r#"{"to":["Ada@Example.com"],"n":1}"#;
        let once = serde_json::Value::from(plain).to_string();
        let twice = serde_json::Value::from(once.clone()).to_string();
        for payload in [plain, &once, &twice, "not json: ada@example.com", "{\"ADA@EXAMPLE.COM\":1}"] {
            assert!(finds("ada@example.com", payload), "{payload}");
            assert!(!finds("ada@example.org", payload), "{payload}");
        }
        let escaped = r#"{"a":"ada\u0040example.com","b":"M\u00fcller","c":"\ud83d\ude00 grin","d":"a\/b","e":"say \"hi\""}"#;
        for needle in ["ADA@example.com", "müller", "MÜLLER", "😀 grin", "a/b", "say \"hi\""] {
            assert!(finds(needle, escaped), "{needle}");
        }
        assert!(finds("ada@example.com", &serde_json::Value::from(escaped).to_string()));
        assert!(finds("4000123", r#"{"id":4000123}"#), "numbers");
        assert!(finds(r"C:\new", r#"{"path":"C:\\new"}"#), "what was meant, not what a second reading makes of it");
    }

    #[test]
    fn broken_escapes_end() {
        for payload in ["\\", "\\u", "\\u12", "\\ud83d", "\\ud83d\\u0041", "\\ud83d\\uzzzz", "\\é", &"\\".repeat(100_001)] {
            assert!(!finds("needle", payload));
            assert!(finds("needle", &format!("{payload} need\\u006ce")), "what follows is read");
        }
    }
}
