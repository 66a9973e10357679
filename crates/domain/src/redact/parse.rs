//! The grammar of JSONPath (RFC 9535), filters and functions left out.

use super::path::{Segment, Selector};

/// The longest path, in bytes.
const MAX_PATH: usize = 256;
const MAX_SEGMENTS: usize = 16;
const MAX_DESCENTS: usize = 2;
/// Integers that every JSON implementation reads alike, which is what the RFC asks for.
const MAX_INT: i64 = (1 << 53) - 1;

/// Read a path.
///
/// # Errors
/// What to write instead.
pub(super) fn path(text: &str) -> Result<Vec<Segment>, String> {
    Parser { text, at: 0 }.path()
}

struct Parser<'t> {
    text: &'t str,
    at: usize,
}

impl Parser<'_> {
    fn path(mut self) -> Result<Vec<Segment>, String> {
        if self.text.len() > MAX_PATH {
            return Err(format!("use at most {MAX_PATH} bytes"));
        }
        if !self.eat('$') {
            return Err("a path starts at the root: write \"$\" first, as in $.customer.ssn or $..password".to_owned());
        }
        let mut segments = Vec::new();
        while self.at < self.text.len() {
            segments.push(self.segment()?);
        }
        if segments.len() > MAX_SEGMENTS {
            return Err(format!("use at most {MAX_SEGMENTS} steps in a path"));
        }
        if segments.iter().filter(|s| s.descends).count() > MAX_DESCENTS {
            return Err(format!("use \"..\" at most {MAX_DESCENTS} times in a path"));
        }
        Ok(segments)
    }

    fn segment(&mut self) -> Result<Segment, String> {
        self.space();
        let descends = self.rest().starts_with("..");
        let dotted = self.eat('.');
        if descends {
            self.eat('.');
        }
        let selectors = if (descends || !dotted) && self.eat('[') {
            self.bracketed()?
        } else if dotted {
            vec![self.shorthand()?]
        } else {
            return Err(self.refusal("use .name, ['name'], [0], [*], .* or ..name after \"$\""));
        };
        Ok(Segment { descends, selectors, last: false })
    }

    fn shorthand(&mut self) -> Result<Selector, String> {
        if self.eat('*') {
            return Ok(Selector::Wildcard);
        }
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || !c.is_ascii();
        let rest = self.rest();
        let name = &rest[..rest.find(|c| !fits(c)).unwrap_or(rest.len())];
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(self.refusal("a name after a dot starts with a letter or \"_\"; write ['name'] for any other"));
        }
        let name = name.to_owned();
        self.at += name.len();
        if self.rest().starts_with('-') {
            return Err(self.refusal("a name after a dot has letters, digits and \"_\" only; write ['first-name'] for any other"));
        }
        Ok(Selector::Name(name))
    }

    fn bracketed(&mut self) -> Result<Vec<Selector>, String> {
        let mut selectors = Vec::new();
        loop {
            self.space();
            selectors.push(self.selector()?);
            self.space();
            if self.eat(']') {
                return Ok(selectors);
            }
            if !self.eat(',') {
                return Err(self.refusal("close the bracket with \"]\""));
            }
        }
    }

    fn selector(&mut self) -> Result<Selector, String> {
        match self.rest().chars().next() {
            Some('*') => {
                self.at += 1;
                Ok(Selector::Wildcard)
            }
            Some(quote @ ('\'' | '"')) => self.quoted(quote).map(Selector::Name),
            Some('?') => Err(self.refusal("filters (?) are not accepted; select by name, index, slice or *")),
            _ => self.numbers(),
        }
    }

    fn numbers(&mut self) -> Result<Selector, String> {
        let start = self.int()?;
        self.space();
        if !self.eat(':') {
            let wanted = "use a quoted name, an index, a slice or * in a bracket, as in ['name'], [0], [1:3] or [*]";
            return start.map(Selector::Index).ok_or_else(|| self.refusal(wanted));
        }
        self.space();
        let end = self.int()?;
        self.space();
        let mut step = None;
        if self.eat(':') {
            self.space();
            step = self.int()?;
        }
        Ok(Selector::Slice { start, end, step: step.unwrap_or(1) })
    }

    fn int(&mut self) -> Result<Option<i64>, String> {
        let rest = self.rest();
        let len = rest.find(|c: char| !c.is_ascii_digit() && c != '-').unwrap_or(rest.len());
        let digits = &rest[..len];
        if digits.is_empty() {
            return Ok(None);
        }
        let plain = digits == "0" || !digits.trim_start_matches('-').starts_with('0');
        let number = digits.parse::<i64>().ok().filter(|n| plain && (-MAX_INT..=MAX_INT).contains(n));
        let number = number.ok_or_else(|| self.refusal("use a whole number without leading zeros, at most 2^53 - 1"))?;
        self.at += len;
        Ok(Some(number))
    }

    fn quoted(&mut self, quote: char) -> Result<String, String> {
        self.at += 1;
        let mut name = String::new();
        loop {
            let Some(c) = self.next() else { return Err(self.refusal("close the quotation mark")) };
            match c {
                c if c == quote => return Ok(name),
                '\\' => name.push(self.escaped(quote)?),
                '\0'..' ' => return Err(self.refusal("write control characters as \\u00XX")),
                c => name.push(c),
            }
        }
    }

    fn escaped(&mut self, quote: char) -> Result<char, String> {
        Ok(match self.next() {
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some(c @ ('/' | '\\')) => c,
            Some(c) if c == quote => c,
            Some('u') => {
                let high = self.hex()?;
                let pair = (0xD800..0xDC00).contains(&high) && self.rest().starts_with("\\u");
                let code = if pair {
                    self.at += 2;
                    0x10000 + ((high - 0xD800) << 10) + self.hex()?.wrapping_sub(0xDC00)
                } else {
                    high
                };
                char::from_u32(code).ok_or_else(|| self.refusal("\\u must name a character; write surrogates in pairs"))?
            }
            _ => return Err(self.refusal("after \\ write one of b f n r t / \\ uXXXX or the quotation mark")),
        })
    }

    fn hex(&mut self) -> Result<u32, String> {
        let digits = self.rest().get(..4).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
        let code = digits
            .and_then(|d| u32::from_str_radix(d, 16).ok())
            .ok_or_else(|| self.refusal("write four hex digits after \\u"))?;
        self.at += 4;
        Ok(code)
    }

    fn next(&mut self) -> Option<char> {
        let c = self.rest().chars().next()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn eat(&mut self, c: char) -> bool {
        let found = self.rest().starts_with(c);
        if found {
            self.at += c.len_utf8();
        }
        found
    }

    fn space(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start_matches([' ', '\t', '\n', '\r']).len();
    }

    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn refusal(&self, advice: &str) -> String {
        format!("{advice} (at byte {})", self.at)
    }
}
