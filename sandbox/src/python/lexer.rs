//! Text to tokens, as Python does it: indentation becomes tokens, brackets join lines, comments vanish.

use std::ops::Range;

use super::SyntaxError;
use super::refuse;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Token {
    Name(String),
    Number(String),
    Text(Literal),
    /// Operators and brackets.
    Op(&'static str),
    Newline,
    Indent,
    Dedent,
    End,
}

/// A string literal, not decoded yet: f-strings hold expressions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Literal {
    pub raw: bool,
    pub bytes: bool,
    pub formatted: bool,
    /// What stands between the quotes.
    pub body: Range<usize>,
}

#[derive(Debug, Clone)]
pub struct Lexeme {
    pub at: usize,
    pub end: usize,
    pub token: Token,
}

/// Longest first.
const OPERATORS: &[&str] = &[
    "**=", "//=", ">>=", "<<=", "...", "**", "//", "<<", ">>", "<=", ">=", "==", "!=", "->", ":=", "+=", "-=", "*=", "/=", "%=",
    "&=", "|=", "^=", "@=", "+", "-", "*", "/", "%", "<", ">", "=", "(", ")", "[", "]", "{", "}", ",", ":", ".", ";", "@", "&",
    "|", "^", "~", "!",
];
const TAB: usize = 8;

pub fn lex(source: &str) -> Result<Vec<Lexeme>, SyntaxError> {
    let mut lexer = Lexer { source, at: 0, end: source.len(), open: 0, indents: vec![0], out: Vec::new() };
    lexer.at += if source.starts_with('\u{feff}') { 3 } else { 0 };
    lexer.line_start()?;
    lexer.run()?;
    lexer.finish();
    Ok(lexer.out)
}

/// The tokens of an expression inside an f-string.
pub fn lex_inside(source: &str, range: Range<usize>) -> Result<Vec<Lexeme>, SyntaxError> {
    let mut lexer = Lexer { source, at: range.start, end: range.end, open: 1, indents: vec![0], out: Vec::new() };
    lexer.run()?;
    lexer.push(range.end, Token::End);
    Ok(lexer.out)
}

struct Lexer<'a> {
    source: &'a str,
    at: usize,
    end: usize,
    /// Brackets that are open: within them, line ends mean nothing.
    open: usize,
    indents: Vec<usize>,
    out: Vec<Lexeme>,
}

impl Lexer<'_> {
    fn rest(&self) -> &str {
        &self.source[self.at..self.end]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn push(&mut self, at: usize, token: Token) {
        self.out.push(Lexeme { at, end: self.at, token });
    }

    fn run(&mut self) -> Result<(), SyntaxError> {
        while let Some(c) = self.peek() {
            match c {
                ' ' | '\t' | '\r' | '\u{c}' | '\u{a0}' => self.at += c.len_utf8(),
                '#' => self.at += self.rest().find('\n').unwrap_or(self.rest().len()),
                '\n' if self.open > 0 => self.at += 1,
                '\n' => {
                    self.end_line(self.at);
                    self.at += 1;
                    self.line_start()?;
                }
                '\\' if self.rest()[1..].starts_with('\n') => self.at += 2,
                '\\' if self.rest()[1..].starts_with("\r\n") => self.at += 3,
                '0'..='9' => self.number()?,
                '.' if self.rest()[1..].starts_with(|c: char| c.is_ascii_digit()) => self.number()?,
                '"' | '\'' => self.text(self.at, Literal { raw: false, bytes: false, formatted: false, body: 0..0 })?,
                c if c == '_' || c.is_alphabetic() => self.name()?,
                _ => self.operator()?,
            }
        }
        Ok(())
    }

    fn finish(&mut self) {
        self.end_line(self.at);
        for _ in 1..self.indents.len() {
            self.push(self.at, Token::Dedent);
        }
        self.push(self.at, Token::End);
    }

    fn end_line(&mut self, at: usize) {
        if !matches!(self.out.last().map(|l| &l.token), None | Some(Token::Newline | Token::Indent | Token::Dedent)) {
            self.push(at, Token::Newline);
        }
    }

    /// Indentation of the next line that has something on it.
    fn line_start(&mut self) -> Result<(), SyntaxError> {
        loop {
            let rest = self.rest();
            let blank = rest.find(|c| !matches!(c, ' ' | '\t' | '\r' | '\u{c}')).unwrap_or(rest.len());
            match rest[blank..].chars().next() {
                None => {
                    self.at = self.end;
                    return Ok(());
                }
                Some('\n') => self.at += blank + 1,
                Some('#') => self.at += blank + rest[blank..].find('\n').unwrap_or(rest.len() - blank),
                Some(_) => {
                    let width = rest[..blank].chars().fold(0, |w, c| match c {
                        '\t' => (w / TAB + 1) * TAB,
                        ' ' => w + 1,
                        _ => w,
                    });
                    self.at += blank;
                    return self.indent(width);
                }
            }
        }
    }

    fn indent(&mut self, width: usize) -> Result<(), SyntaxError> {
        let current = self.indents.last().copied().unwrap_or(0);
        if width > current {
            self.indents.push(width);
            self.push(self.at, Token::Indent);
        }
        while width < self.indents.last().copied().unwrap_or(0) {
            self.indents.pop();
            self.push(self.at, Token::Dedent);
        }
        if self.indents.last().copied().unwrap_or(0) == width {
            return Ok(());
        }
        Err(SyntaxError::new(self.at, "This line's indentation fits no block above it. Indent it like the block it belongs to."))
    }

    fn number(&mut self) -> Result<(), SyntaxError> {
        let at = self.at;
        let rest = self.rest();
        let radix = rest.get(..2).is_some_and(|p| matches!(p.to_ascii_lowercase().as_str(), "0x" | "0o" | "0b"));
        let mut end = 0;
        let mut previous = ' ';
        for c in rest.chars() {
            let sign = !radix && matches!(c, '+' | '-') && matches!(previous, 'e' | 'E');
            if !(c.is_ascii_alphanumeric() || c == '_' || (c == '.' && !radix) || sign) {
                break;
            }
            end += 1;
            previous = c;
        }
        let text = rest[..end].replace('_', "").to_ascii_lowercase();
        let body = if radix { &text[2..] } else { text.as_str() };
        let base = match text.get(..2) {
            Some("0x") => 16,
            Some("0o") => 8,
            Some("0b") => 2,
            _ => 10,
        };
        let digits = !body.is_empty() && body.chars().all(|c| c.is_digit(base));
        let float = !radix && text.parse::<f64>().is_ok();
        if !digits && !float {
            let hint = if text.ends_with('j') { "There are no complex numbers." } else { "This is not a number." };
            return Err(SyntaxError::new(at, format!("{hint} Write digits, `1.5`, `1e3` or `0xff`.")));
        }
        if !radix && digits && text.len() > 1 && text.starts_with('0') && text.bytes().any(|b| b != b'0') {
            return Err(SyntaxError::new(at, format!("Numbers do not begin with 0. Write `{}`.", text.trim_start_matches('0'))));
        }
        self.at += end;
        let text = if digits && !radix { text.trim_start_matches('0').to_owned() } else { text };
        self.push(at, Token::Number(if text.is_empty() { "0".into() } else { text }));
        Ok(())
    }

    fn name(&mut self) -> Result<(), SyntaxError> {
        let at = self.at;
        let rest = self.rest();
        let end = rest.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(rest.len());
        let name = rest[..end].to_owned();
        self.at += end;
        if matches!(self.peek(), Some('"' | '\'')) && name.len() <= 2 {
            let lower = name.to_ascii_lowercase();
            if matches!(lower.as_str(), "r" | "u" | "b" | "f" | "br" | "rb" | "fr" | "rf") {
                let has = |c| lower.contains(c);
                return self.text(at, Literal { raw: has('r'), bytes: has('b'), formatted: has('f'), body: 0..0 });
            }
        }
        self.push(at, Token::Name(name));
        Ok(())
    }

    fn text(&mut self, at: usize, mut literal: Literal) -> Result<(), SyntaxError> {
        let rest = self.rest();
        let quote = &rest[..1];
        let triple = rest.starts_with(&quote.repeat(3));
        let closing = if triple { quote.repeat(3) } else { quote.to_owned() };
        let from = self.at + closing.len();
        let to = close(&self.source[..self.end], from, &closing, literal.formatted).ok_or_else(|| {
            SyntaxError::new(at, "This string is not closed. Close the string on its line, or use three quotes for a long one.")
        })?;
        literal.body = from..to;
        self.at = to + closing.len();
        self.push(at, Token::Text(literal));
        Ok(())
    }

    fn operator(&mut self) -> Result<(), SyntaxError> {
        let at = self.at;
        if let Some(message) = refuse::foreign(self.rest()) {
            return Err(SyntaxError::new(at, message));
        }
        let Some(op) = OPERATORS.iter().find(|op| self.rest().starts_with(**op)) else {
            let c = self.peek().unwrap_or(' ');
            return Err(SyntaxError::new(at, refuse::character(c)));
        };
        match *op {
            "(" | "[" | "{" => self.open += 1,
            ")" | "]" | "}" => self.open = self.open.saturating_sub(1),
            _ => {}
        }
        self.at += op.len();
        self.push(at, Token::Op(op));
        Ok(())
    }
}

/// Where the string that begins at `from` meets its closing quotes. In an f-string the expressions between braces may use
/// the same quotes.
fn close(source: &str, from: usize, closing: &str, formatted: bool) -> Option<usize> {
    let mut at = from;
    let mut depth = 0usize;
    loop {
        let rest = source.get(at..)?;
        let c = rest.chars().next()?;
        match c {
            _ if depth == 0 && rest.starts_with(closing) => return Some(at),
            '\\' if depth == 0 => at += 1 + rest[1..].chars().next()?.len_utf8(),
            '\n' if closing.len() == 1 => return None,
            '{' if formatted && depth == 0 && rest.starts_with("{{") => at += 2,
            '{' | '[' | '(' if formatted && (depth > 0 || c == '{') => {
                depth += 1;
                at += 1;
            }
            '}' | ']' | ')' if formatted && depth > 0 => {
                depth -= 1;
                at += 1;
            }
            // A string inside the braces. Where no other one closes it, it is this string's own end.
            '"' | '\'' if depth > 0 => match inner(rest, c) {
                Some(length) => at += length,
                None => return rest.starts_with(closing).then_some(at),
            },
            _ => at += c.len_utf8(),
        }
    }
}

/// Length of the string that `rest` begins with.
fn inner(rest: &str, quote: char) -> Option<usize> {
    let mut at = 1;
    loop {
        let c = rest.get(at..)?.chars().next()?;
        match c {
            _ if c == quote => return Some(at + 1),
            '\n' => return None,
            '\\' => at += 1 + rest.get(at + 1..)?.chars().next()?.len_utf8(),
            _ => at += c.len_utf8(),
        }
    }
}
