//! String literals: what stands between the quotes, decoded, and the expressions inside f-strings.

use std::ops::Range;

use super::SyntaxError;
use super::ast::{Expr, Expression, Piece};
use super::expression::Parser;
use super::lexer::{self, Literal, Token};
use super::text;

/// Tokens of one expression in an f-string, and f-strings within one another: the depth of the tree stays bounded.
const TOKENS: usize = 300;
const NESTED: usize = 4;

/// One or several literals side by side, which are one string.
pub fn strings(parser: &mut Parser) -> Result<Expression, SyntaxError> {
    let at = parser.place();
    let mut pieces: Vec<Piece> = Vec::new();
    let mut formatted = false;
    while let Token::Text(literal) = parser.token().clone() {
        let place = parser.place();
        if literal.bytes {
            return Err(SyntaxError::new(place, "There are no bytes. Leave out the `b`: strings are text."));
        }
        parser.at += 1;
        if literal.formatted {
            formatted = true;
            Reader { source: parser.source, literal: &literal, at: literal.body.start, nested: parser.nested }.pieces(
                literal.body.end,
                false,
                &mut pieces,
            )?;
        } else {
            push_text(&mut pieces, &text::decode(&parser.source[literal.body.clone()], literal.raw));
        }
    }
    if formatted {
        return Ok(Expression::new(at, Expr::Formatted(pieces)));
    }
    let text = pieces.into_iter().map(|p| if let Piece::Text(t) = p { t } else { String::new() }).collect();
    Ok(Expression::new(at, Expr::Text(text)))
}

fn push_text(pieces: &mut Vec<Piece>, text: &str) {
    match pieces.last_mut() {
        Some(Piece::Text(last)) => last.push_str(text),
        _ => pieces.push(Piece::Text(text.to_owned())),
    }
}

struct Reader<'a> {
    source: &'a str,
    literal: &'a Literal,
    at: usize,
    nested: usize,
}

impl Reader<'_> {
    fn error(&self, message: &str) -> SyntaxError {
        SyntaxError::new(self.at, message)
    }

    /// Text and expressions up to `end`; in a format specification also up to the closing brace.
    fn pieces(&mut self, end: usize, specification: bool, out: &mut Vec<Piece>) -> Result<(), SyntaxError> {
        let mut from = self.at;
        while self.at < end {
            let rest = &self.source[self.at..end];
            if !specification && (rest.starts_with("{{") || rest.starts_with("}}")) {
                push_text(out, &text::decode(&self.source[from..=self.at], self.literal.raw));
                self.at += 2;
                from = self.at;
            } else if rest.starts_with('{') {
                push_text(out, &text::decode(&self.source[from..self.at], self.literal.raw));
                self.at += 1;
                self.value(end, out)?;
                from = self.at;
            } else if rest.starts_with('}') {
                if specification {
                    break;
                }
                return Err(self.error("A single '}' in an f-string. Write `}}` for a brace."));
            } else if rest.starts_with('\\') && !self.literal.raw {
                self.at += 1 + rest[1..].chars().next().map_or(0, char::len_utf8);
            } else {
                self.at += rest.chars().next().map_or(1, char::len_utf8);
            }
        }
        push_text(out, &text::decode(&self.source[from..self.at.min(end)], self.literal.raw));
        Ok(())
    }

    /// Behind an opening brace: `expression [=] [!r] [:specification] }`.
    fn value(&mut self, end: usize, out: &mut Vec<Piece>) -> Result<(), SyntaxError> {
        let begin = self.at;
        let (stop, debug) = self.extent(end)?;
        if self.source[begin..stop].trim().is_empty() {
            return Err(SyntaxError::new(begin, "An expression is missing between the braces. Write `{{}}` for braces."));
        }
        if debug {
            push_text(out, &self.source[begin..self.at]);
        }
        let expression = self.parse(begin..stop)?;
        let mut conversion = None;
        if self.source[self.at..end].starts_with('!') {
            conversion = self.source[self.at + 1..end].chars().next();
            if !matches!(conversion, Some('r' | 's' | 'a')) {
                return Err(self.error("Behind `!` stands r, s or a: `{x!r}`."));
            }
            self.at += 2;
        }
        let mut specification = Vec::new();
        if self.source[self.at..end].starts_with(':') {
            self.at += 1;
            self.pieces(end, true, &mut specification)?;
        } else if debug && conversion.is_none() {
            conversion = Some('r');
        }
        if !self.source[self.at..end].starts_with('}') {
            return Err(self.error("The brace of this expression is not closed. Write `}` behind it."));
        }
        self.at += 1;
        out.push(Piece::Value(expression, conversion, specification));
        Ok(())
    }

    /// Where the expression ends; `self.at` then stands behind it (and behind the `=` of `{x=}`).
    fn extent(&mut self, end: usize) -> Result<(usize, bool), SyntaxError> {
        let begin = self.at;
        let mut depth = 0usize;
        let bytes = self.source.as_bytes();
        let mut at = begin;
        while at < end {
            let next = bytes.get(at + 1).copied().unwrap_or(0);
            match bytes[at] {
                b'(' | b'[' | b'{' => depth += 1,
                b')' | b']' | b'}' if depth > 0 => depth -= 1,
                b'}' | b':' if depth == 0 => {
                    self.at = at;
                    return Ok((at, false));
                }
                b'!' if depth == 0 && next != b'=' => {
                    self.at = at;
                    return Ok((at, false));
                }
                b'=' if depth == 0 && next != b'=' && !matches!(bytes[at - 1], b'=' | b'!' | b'<' | b'>') => {
                    let blank = self.source[at + 1..end].len() - self.source[at + 1..end].trim_start().len();
                    self.at = at + 1 + blank;
                    return Ok((at, true));
                }
                quote @ (b'"' | b'\'') => {
                    at += 1;
                    while at < end && bytes[at] != quote {
                        at += 1;
                    }
                }
                _ => {}
            }
            at += 1;
        }
        Err(SyntaxError::new(begin, "The brace of this expression is not closed. Write `}` behind it, or `{{` for a brace."))
    }

    fn parse(&self, range: Range<usize>) -> Result<Expression, SyntaxError> {
        if self.nested >= NESTED {
            return Err(SyntaxError::new(range.start, "f-strings are nested too deeply. Put the inner one into a variable."));
        }
        let tokens = lexer::lex_inside(self.source, range.clone())?;
        if tokens.len() > TOKENS {
            return Err(SyntaxError::new(range.start, "This expression is too long for an f-string. Put it into a variable."));
        }
        let mut parser = Parser { source: self.source, tokens, at: 0, nested: self.nested + 1, waits: false };
        let value = parser.list_of()?;
        match parser.token() {
            Token::End => Ok(value),
            _ => Err(parser.unexpected("the end of the expression")),
        }
    }
}
