//! A JSON text as a flat list of spans, so that a value can be replaced where it stands and every other byte is kept:
//! the spelling of numbers, white space, the order of keys and keys that come twice are all evidence.

use std::borrow::Cow;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Object,
    Array,
    /// The name of a member; its value is the next token.
    Key,
    String,
    Number,
    /// `true`, `false` or `null`.
    Word,
}

/// One value or key. Offsets are 32 bits wide to keep a list of a million tokens small.
#[derive(Debug, Clone, Copy)]
pub(super) struct Token {
    pub kind: Kind,
    start: u32,
    end: u32,
    next: u32,
    len: u32,
}

impl Token {
    pub const fn start(&self) -> usize {
        self.start as usize
    }

    pub const fn end(&self) -> usize {
        self.end as usize
    }

    /// The token that follows this value and all that it contains.
    pub const fn next(&self) -> usize {
        self.next as usize
    }

    /// How many items or members it has.
    pub const fn len(&self) -> usize {
        self.len as usize
    }

    pub fn text<'t>(&self, text: &'t str) -> &'t str {
        &text[self.start()..self.end()]
    }

    /// The text that a string or key stands for. Half a surrogate pair stands for no character and becomes U+FFFD.
    pub fn decoded<'t>(&self, text: &'t str) -> Cow<'t, str> {
        decode(&text[self.start() + 1..self.end() - 1])
    }
}

/// Read exactly one JSON value; `None` for whatever is not one. Nesting costs no stack, so depth has no limit here.
pub(super) fn read_one(text: &str) -> Option<Vec<Token>> {
    Reader::new(text).run(false)
}

/// Read one or more JSON values that follow each other, as in newline-delimited JSON.
pub(super) fn read_many(text: &str) -> Option<Vec<Token>> {
    Reader::new(text).run(true)
}

struct Reader<'t> {
    bytes: &'t [u8],
    at: usize,
    tape: Vec<Token>,
    open: Vec<usize>,
}

impl<'t> Reader<'t> {
    const fn new(text: &'t str) -> Self {
        Self { bytes: text.as_bytes(), at: 0, tape: Vec::new(), open: Vec::new() }
    }

    fn run(mut self, many: bool) -> Option<Vec<Token>> {
        u32::try_from(self.bytes.len()).ok()?;
        loop {
            self.space();
            if self.value()? {
                continue;
            }
            while let Some(&container) = self.open.last() {
                self.space();
                let object = self.tape[container].kind == Kind::Object;
                match self.peek()? {
                    b',' => {
                        self.at += 1;
                        if object {
                            self.key()?;
                        }
                        break;
                    }
                    b'}' if object => self.close(container)?,
                    b']' if !object => self.close(container)?,
                    _ => return None,
                }
            }
            if self.open.is_empty() {
                self.space();
                if self.at == self.bytes.len() {
                    return Some(self.tape);
                }
                if !many {
                    return None;
                }
            }
        }
    }

    /// Read a scalar or an empty container whole, or open a container up to its first item: then the answer is `true`.
    fn value(&mut self) -> Option<bool> {
        if let Some(&container) = self.open.last() {
            self.tape[container].len += 1;
        }
        let start = self.at;
        match self.peek()? {
            b'{' => self.open(Kind::Object, b'}'),
            b'[' => self.open(Kind::Array, b']'),
            b'"' => {
                self.string()?;
                self.push(Kind::String, start)
            }
            b't' => self.word(b"true"),
            b'f' => self.word(b"false"),
            b'n' => self.word(b"null"),
            _ => {
                self.number()?;
                self.push(Kind::Number, start)
            }
        }
    }

    fn open(&mut self, kind: Kind, end: u8) -> Option<bool> {
        let (start, index) = (self.at, self.tape.len());
        self.at += 1;
        self.push(kind, start)?;
        self.space();
        if self.peek()? == end {
            self.open.push(index);
            self.close(index)?;
            return Some(false);
        }
        self.open.push(index);
        if kind == Kind::Object {
            self.key()?;
        }
        Some(true)
    }

    fn close(&mut self, container: usize) -> Option<()> {
        self.at += 1;
        self.open.pop();
        let next = u32::try_from(self.tape.len()).ok()?;
        let token = &mut self.tape[container];
        token.end = u32::try_from(self.at).ok()?;
        token.next = next;
        Some(())
    }

    fn key(&mut self) -> Option<()> {
        self.space();
        let start = self.at;
        self.string()?;
        self.push(Kind::Key, start)?;
        self.space();
        self.eat(b':')
    }

    fn word(&mut self, word: &[u8]) -> Option<bool> {
        let start = self.at;
        word.iter().try_for_each(|&b| self.eat(b))?;
        self.push(Kind::Word, start)
    }

    fn push(&mut self, kind: Kind, start: usize) -> Option<bool> {
        let next = u32::try_from(self.tape.len() + 1).ok()?;
        self.tape.push(Token { kind, start: u32::try_from(start).ok()?, end: u32::try_from(self.at).ok()?, next, len: 0 });
        Some(false)
    }

    fn string(&mut self) -> Option<()> {
        self.eat(b'"')?;
        loop {
            let byte = self.peek()?;
            self.at += 1;
            match byte {
                b'"' => return Some(()),
                b'\\' => {
                    let escaped = self.peek()?;
                    self.at += 1;
                    match escaped {
                        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {}
                        b'u' => {
                            let hex = self.bytes.get(self.at..self.at + 4)?;
                            if !hex.iter().all(u8::is_ascii_hexdigit) {
                                return None;
                            }
                            self.at += 4;
                        }
                        _ => return None,
                    }
                }
                0..0x20 => return None,
                _ => {}
            }
        }
    }

    fn number(&mut self) -> Option<()> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek()? == b'0' {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Some(())
    }

    fn digits(&mut self) -> Option<()> {
        let start = self.at;
        while self.peek().is_some_and(|b| b.is_ascii_digit()) {
            self.at += 1;
        }
        (self.at > start).then_some(())
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn eat(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }
}

fn decode(raw: &str) -> Cow<'_, str> {
    let Some(first) = raw.find('\\') else { return Cow::Borrowed(raw) };
    let mut text = String::with_capacity(raw.len());
    text.push_str(&raw[..first]);
    let mut rest = &raw[first..];
    while let Some(at) = rest.find('\\') {
        text.push_str(&rest[..at]);
        let (c, used) = unescape(&rest[at + 1..]);
        text.push(c);
        rest = &rest[at + 1 + used..];
    }
    text.push_str(rest);
    Cow::Owned(text)
}

/// The character behind a backslash and how many bytes spell it. The reader has seen that the escape is complete.
fn unescape(escape: &str) -> (char, usize) {
    match escape.as_bytes().first() {
        Some(b'b') => ('\u{8}', 1),
        Some(b'f') => ('\u{c}', 1),
        Some(b'n') => ('\n', 1),
        Some(b'r') => ('\r', 1),
        Some(b't') => ('\t', 1),
        Some(b'u') => {
            let high = hex(escape, 1);
            let low = if escape[5..].starts_with("\\u") { hex(escape, 7) } else { 0 };
            if (0xD800..0xDC00).contains(&high) && (0xDC00..0xE000).contains(&low) {
                let code = 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00);
                return (char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER), 11);
            }
            (char::from_u32(high).unwrap_or(char::REPLACEMENT_CHARACTER), 5)
        }
        Some(&b) => (char::from(b), 1),
        None => (char::REPLACEMENT_CHARACTER, 0),
    }
}

fn hex(escape: &str, at: usize) -> u32 {
    escape.get(at..at + 4).and_then(|digits| u32::from_str_radix(digits, 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::de::IgnoredAny;
    use serde_json::Value;

    use super::*;

    fn agree(text: &str) {
        let theirs = serde_json::from_str::<IgnoredAny>(text).is_ok();
        assert_eq!(read_one(text).is_some(), theirs, "{text:?}");
    }

    #[test]
    fn it_reads_what_serde_json_reads() {
        for text in [
            "",
            " ",
            "{}",
            "[]",
            "[ ]",
            "{ }",
            "[1,]",
            "[,1]",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{a:1}",
            "[1 2]",
            "{} {}",
            "nul",
            "nulll",
            "tru e",
            "01",
            "-",
            "-0",
            "-01",
            "1.",
            "1.5e",
            "1e+5",
            "1E-5",
            ".5",
            "+1",
            "\"\\x\"",
            "\"\\u12g4\"",
            "\"\\u12",
            "\"\n\"",
            "\"",
            "\"\\\"",
            "[\"a\",{\"b\":[null,true,false,-1.5e3]}]",
            "[}",
            "{]",
            "[[[]",
            "]",
            "\u{feff}{}",
            "{\"a\":1]",
        ] {
            agree(text);
        }
    }

    #[test]
    fn depth_costs_no_stack() {
        let deep = format!("{}{}", "[".repeat(1_000_000), "]".repeat(1_000_000));
        assert_eq!(read_one(&deep).map(|tape| tape.len()), Some(1_000_000));
        assert!(read_one(&deep[1..]).is_none());
    }

    proptest! {
        #[test]
        fn it_agrees_with_serde_json_on_likely_and_unlikely_texts(text in r#"[\[\]{}":,0-9eE.\\u+\-a tnrfbl]{0,12}"#) {
            agree(&text);
        }

        #[test]
        fn strings_decode_as_serde_json_decodes_them(text in any::<String>(), escapes in r"(\\u00[0-9a-f]{2}|\\ud83d\\ude00|\\[bfnrt/])*") {
            let mut token = serde_json::to_string(&text).unwrap();
            token.insert_str(1, &escapes);
            let theirs: Value = serde_json::from_str(&token).unwrap();
            let tape = read_one(&token).unwrap();
            prop_assert_eq!(tape[0].decoded(&token), theirs.as_str().unwrap());
        }
    }
}
