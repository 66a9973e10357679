//! The words of a payload: maximal runs of letters and digits, lower-cased.
//!
//! In JSON every string, key and number is a text of its own, read as it is meant and not as it is escaped; a string that
//! itself holds a JSON object or array (tools answer so) is read as that. What is not JSON is one text.

use std::borrow::Cow;

use serde::de::IgnoredAny;

/// JSON in a string in a string: deeper, it is read as plain text.
const MAX_NESTING: u8 = 4;

/// What [`read`] finds, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Follows the word before it, with nothing but punctuation or blanks between the two.
    Word(&'a str),
    /// Here one text ends and another begins.
    Gap,
}

/// Hand every word of a payload to `take`.
pub fn read(payload: &str, take: &mut dyn FnMut(Piece<'_>)) {
    let mut reader = Reader { word: String::new(), take };
    if is_json(payload) {
        reader.json(payload, 0);
    } else {
        reader.plain(payload);
    }
}

/// [`read`], for what is one text whatever it looks like.
pub(super) fn plain(text: &str, take: &mut dyn FnMut(Piece<'_>)) {
    Reader { word: String::new(), take }.plain(text);
}

struct Reader<'a> {
    /// The word under way.
    word: String,
    take: &'a mut dyn FnMut(Piece<'_>),
}

impl Reader<'_> {
    /// `text` is valid JSON.
    fn json(&mut self, text: &str, depth: u8) {
        let bytes = text.as_bytes();
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            let start = at;
            match byte {
                b'"' => {
                    at = end_of_string(bytes, at + 1);
                    self.string(&unescape(text.get(start + 1..at).unwrap_or_default()), depth);
                    at += 1;
                }
                _ if byte.is_ascii_alphanumeric() => {
                    // A number with its fraction and exponent, or a literal.
                    let number = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'+' | b'-');
                    at += bytes.iter().skip(at).take_while(|b| number(b)).count();
                    self.plain(text.get(start..at).unwrap_or_default());
                }
                _ => at += 1,
            }
        }
    }

    fn string(&mut self, text: &str, depth: u8) {
        let nested = text.trim_ascii_start().starts_with(['{', '[']) && depth < MAX_NESTING;
        if nested && is_json(text) { self.json(text, depth + 1) } else { self.plain(text) }
    }

    fn plain(&mut self, text: &str) {
        for c in text.chars() {
            if c.is_ascii() {
                if c.is_ascii_alphanumeric() { self.word.push(c.to_ascii_lowercase()) } else { self.end_word() }
            } else if !c.is_alphanumeric() {
                self.end_word();
            } else if is_ideograph(c) {
                // Their words are not set apart: each is one, and a run of them is found by its sequence.
                self.end_word();
                self.word.push(c);
                self.end_word();
            } else {
                self.word.extend(c.to_lowercase());
            }
        }
        self.end_word();
        (self.take)(Piece::Gap);
    }

    fn end_word(&mut self) {
        if !self.word.is_empty() {
            (self.take)(Piece::Word(&self.word));
            self.word.clear();
        }
    }
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// The place of the quote that ends the string whose first byte is at `at`.
fn end_of_string(bytes: &[u8], mut at: usize) -> usize {
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => return at,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// The inside of a valid JSON string. Half a surrogate pair, which JSON allows and Unicode does not, becomes U+FFFD.
fn unescape(raw: &str) -> Cow<'_, str> {
    if !raw.contains('\\') {
        return Cow::Borrowed(raw);
    }
    let mut out = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((before, escape)) = rest.split_once('\\') {
        out.push_str(before);
        let (c, used) = match escape.as_bytes().first() {
            Some(b'u') => unicode(escape),
            Some(b'n') => ('\n', 1),
            Some(b't') => ('\t', 1),
            Some(b'r') => ('\r', 1),
            Some(b'b') => ('\u{8}', 1),
            Some(b'f') => ('\u{c}', 1),
            Some(&other) => (char::from(other), 1),
            None => (char::REPLACEMENT_CHARACTER, 0),
        };
        out.push(c);
        rest = escape.get(used..).unwrap_or_default();
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// `uXXXX`, and the second half of a pair behind it; the character and the bytes that it took.
fn unicode(escape: &str) -> (char, usize) {
    let unit = |at: usize| escape.get(at..at + 4).and_then(|hex| u16::from_str_radix(hex, 16).ok());
    let first = unit(1).unwrap_or(0xFFFD);
    let second = if escape.get(5..7) == Some("\\u") { unit(7) } else { None };
    if let Some(second) = second
        && let Some(Ok(c)) = char::decode_utf16([first, second]).next()
        && u32::from(c) > 0xFFFF
    {
        return (c, 11);
    }
    (char::from_u32(u32::from(first)).unwrap_or(char::REPLACEMENT_CHARACTER), 5)
}

fn is_ideograph(c: char) -> bool {
    matches!(u32::from(c), 0x3040..=0x30FF | 0x3400..=0x4DBF | 0x4E00..=0x9FFF | 0xF900..=0xFAFF | 0x2_0000..=0x3_FFFF)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words parted by blanks, texts by `|`.
    fn told(payload: &str) -> String {
        let mut out = String::new();
        read(payload, &mut |piece| match piece {
            Piece::Word(word) => out.extend([word, " "]),
            Piece::Gap => out.push_str("| "),
        });
        out.split('|').map(str::trim).filter(|text| !text.is_empty()).collect::<Vec<_>>().join("|")
    }

    #[test]
    fn strings_keys_and_numbers_are_texts_of_their_own() {
        assert_eq!(told(r#"{"First_Name":"Ada L.","n":[1.50,-2e+7,true,null]}"#), "first name|ada l|n|1 50|2e 7|true|null");
        assert_eq!(told(r#"["ada","example.com"]"#), "ada|example com");
        assert_eq!(told("123456789012345678901234567890"), "123456789012345678901234567890", "no float in between");
        assert_eq!(told(r#""""#), "");
    }

    #[test]
    fn escapes_are_read_as_what_they_mean() {
        assert_eq!(told(r#"{"k":"M\u00e4rz\nA\tb\\c\"d\/e"}"#), "k|märz a b c d e");
        assert_eq!(told(r#""\ud835\udc00x \ud835 y\udc00 \u0041\u0042""#), "𝐀x y ab", "a pair, two halves, plain");
        assert_eq!(told("\"\\u00C4 \u{00c4}\""), "ä ä");
    }

    #[test]
    fn json_in_a_string_is_read_as_json() {
        let inner = r#"{"name":"Zo\u00eb","tags":["a.b"]}"#;
        let outer = serde_json::json!({"content": [{"type": "text", "text": inner}]}).to_string();
        assert_eq!(told(&outer), "content|type|text|text|name|zoë|tags|a b");
        let mut deep = r#"["x\u00eby"]"#.to_owned();
        for _ in 0..8 {
            deep = serde_json::json!([deep]).to_string();
        }
        assert!(!told(&deep).contains("xëy"), "bounded: {}", told(&deep));
    }

    #[test]
    fn other_scripts_have_words_too() {
        assert_eq!(told("\"ΣΊΣΥΦΟΣ привет, МИР 東京タワー ٣٤\""), "σίσυφοσ привет мир 東 京 タ ワ ー ٣٤");
    }

    #[test]
    fn what_is_not_json_is_one_text() {
        assert_eq!(told("{broken: \"a.b\" \\u00e4"), "broken a b u00e4");
        assert_eq!(told("{\"a\":1} {\"b\":2}"), "a 1 b 2");
        assert_eq!(told(&"[".repeat(100_000)), "", "no stack is spent on it");
    }
}
