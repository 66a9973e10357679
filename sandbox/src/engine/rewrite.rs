//! Python that Starlark lacks and that can be had by splicing text, line by line as the author wrote it:
//! - `r.key`, uncalled, becomes `__attr(r, "key")`: a dict's field or a tool. `r.key = 1` becomes `r["key"] = 1`.
//! - Type annotations become spaces: nobody checks them, and their names (`Any`, `Optional`) need not exist.
//! - `f"{x:.2f}"` becomes `f"{__format(x, ".2f")}"`.
//!
//! It works on tokens, since the parser's spans leave out parentheses. Whatever looks odd is left for the parser to refuse.

use starlark_syntax::lexer::Token;

use super::source::{Rewritten, Splice};
use super::tokens::Lexeme;

pub const ATTR: &str = "__attr";
pub const FORMAT: &str = "__format";

#[must_use]
pub fn rewrite(source: &str, tokens: &[Lexeme]) -> Rewritten {
    let mut pass = Pass { source, tokens, levels: vec![Level::new(Opener::Statement, 0)], splices: Vec::new() };
    match pass.walk() {
        Some(()) => Rewritten::new(source, pass.splices),
        None => Rewritten::new(source, Vec::new()),
    }
}

struct Pass<'a> {
    source: &'a str,
    tokens: &'a [Lexeme],
    levels: Vec<Level>,
    splices: Vec<Splice>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Opener {
    Statement,
    Bracket,
    /// The parameters of a `def`.
    Parameters,
    FString,
    FStringExpr,
}

struct Level {
    opener: Opener,
    /// Where the primary expression begins that this level is a part of (`f` of `f(..)`, or the bracket itself).
    begin: usize,
    /// Where the primary expression begins that the previous token ended, if it ended one.
    primary: Option<usize>,
    /// `lambda`s whose colon is still to come.
    lambdas: usize,
}

impl Level {
    fn new(opener: Opener, begin: usize) -> Self {
        Self { opener, begin, primary: None, lambdas: 0 }
    }
}

impl Pass<'_> {
    /// None when the script is not well formed.
    fn walk(&mut self) -> Option<()> {
        let mut i = 0;
        while let Some(lexeme) = self.tokens.get(i) {
            i = self.token(i, lexeme)?;
        }
        (self.levels.len() == 1).then_some(())
    }

    /// Handle one token; returns the index of the next.
    fn token(&mut self, i: usize, lexeme: &Lexeme) -> Option<usize> {
        let annotates = self.is_annotation(i);
        let top = self.levels.last_mut()?;
        match lexeme.token.as_ref()? {
            Token::Identifier(_) | Token::Int(_) | Token::Float(_) | Token::String(_) | Token::Bytes(_) => {
                top.primary = Some(lexeme.start)
            }
            Token::OpeningRound | Token::OpeningSquare | Token::OpeningCurly => {
                let begin = top.primary.unwrap_or(lexeme.start);
                let opener = if self.is_parameters(i) { Opener::Parameters } else { Opener::Bracket };
                self.levels.push(Level::new(opener, begin));
            }
            Token::ClosingRound | Token::ClosingSquare | Token::ClosingCurly => {
                self.close(&[Opener::Bracket, Opener::Parameters])?
            }
            Token::FStringStart(_) => self.levels.push(Level::new(Opener::FString, lexeme.start)),
            Token::FStringText(_) => {}
            Token::FStringEnd => self.close(&[Opener::FString])?,
            Token::FStringExprStart => self.levels.push(Level::new(Opener::FStringExpr, lexeme.end)),
            Token::FStringExprEnd => {
                self.close(&[Opener::FStringExpr])?;
                self.levels.last_mut()?.primary = None;
            }
            Token::Lambda => {
                top.lambdas += 1;
                top.primary = None;
            }
            Token::Colon if top.lambdas > 0 => {
                top.lambdas -= 1;
                top.primary = None;
            }
            Token::Colon if top.opener == Opener::FStringExpr => return self.format_spec(i),
            Token::Colon if top.opener == Opener::Parameters => {
                return self.erase(i, |t| matches!(t, Token::Comma | Token::Equal));
            }
            Token::Colon if top.opener == Opener::Statement && annotates => {
                return self.erase(i, |t| matches!(t, Token::Equal | Token::Newline | Token::Semicolon));
            }
            Token::MinusGreater => return self.erase(i, |t| matches!(t, Token::Colon)),
            Token::Dot => return self.attribute(i),
            _ => top.primary = None,
        }
        Some(i + 1)
    }

    fn close(&mut self, openers: &[Opener]) -> Option<()> {
        let closed = self.levels.pop().filter(|level| openers.contains(&level.opener))?;
        self.levels.last_mut()?.primary = Some(closed.begin);
        Some(())
    }

    /// Is the bracket at `i` that of `def name(`?
    fn is_parameters(&self, i: usize) -> bool {
        i >= 2 && self.tokens[i - 2].token == Some(Token::Def)
    }

    /// Is the colon at `i` that of a statement `name: type`?
    fn is_annotation(&self, i: usize) -> bool {
        let begins = |t: Option<&Lexeme>| {
            t.is_none_or(|t| matches!(t.token, Some(Token::Newline | Token::Indent | Token::Dedent | Token::Semicolon)))
        };
        i >= 1
            && matches!(self.tokens[i - 1].token, Some(Token::Identifier(_)))
            && begins(i.checked_sub(2).map(|j| &self.tokens[j]))
    }

    /// Put spaces over the tokens from `from` up to one that ends the annotation, or the bracket around it.
    fn erase(&mut self, from: usize, ends: impl Fn(&Token) -> bool) -> Option<usize> {
        let mut depth = 0;
        let mut end = from + 1;
        loop {
            match self.tokens.get(end)?.token.as_ref()? {
                Token::OpeningRound | Token::OpeningSquare | Token::OpeningCurly => depth += 1,
                Token::ClosingRound | Token::ClosingSquare | Token::ClosingCurly if depth > 0 => depth -= 1,
                Token::ClosingRound | Token::ClosingSquare | Token::ClosingCurly => break,
                token if depth == 0 && ends(token) => break,
                _ => {}
            }
            end += 1;
        }
        let (start, stop) = (self.tokens[from].start, self.tokens[end - 1].end);
        let blank: String = self.source[start..stop].chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
        self.splice(start, stop - start, &blank);
        self.levels.last_mut()?.primary = None;
        Some(end)
    }

    fn attribute(&mut self, dot: usize) -> Option<usize> {
        let level = self.levels.last()?;
        let begin = level.primary?;
        let name = self.tokens.get(dot + 1).filter(|t| matches!(t.token, Some(Token::Identifier(_))))?;
        let at_statement = level.opener == Opener::Statement;
        let dot_at = self.tokens[dot].start;
        match self.tokens.get(dot + 2).and_then(|t| t.token.as_ref()) {
            Some(Token::OpeningRound) => {} // a method or a tool call: Starlark's own attribute
            Some(next) if at_statement && is_assignment(next) => {
                self.splice(dot_at, 1, "[");
                self.splice(name.start, 0, "\"");
                self.splice(name.end, 0, "\"]");
            }
            _ => {
                self.splice(begin, 0, &format!("{ATTR}("));
                self.splice(dot_at, 1, ",");
                self.splice(name.start, 0, "\"");
                self.splice(name.end, 0, "\")");
            }
        }
        Some(dot + 2)
    }

    fn format_spec(&mut self, colon: usize) -> Option<usize> {
        let begin = self.levels.last()?.begin;
        let end = colon + self.tokens[colon..].iter().position(|t| t.token == Some(Token::FStringExprEnd))?;
        let from = self.tokens[colon].start;
        let spec = &self.source[from + 1..self.tokens[end].start];
        if spec.contains(['"', '\\', '\n', '{']) {
            return None;
        }
        let call = format!(",\"{spec}\")");
        self.splices.push(Splice { at: begin, rank: 0, removed: 0, inserted: format!("{FORMAT}(") });
        self.splice(from, 1 + spec.len(), &call);
        Some(end)
    }

    fn splice(&mut self, at: usize, removed: usize, inserted: &str) {
        self.splices.push(Splice { at, rank: 1, removed, inserted: inserted.to_owned() });
    }
}

fn is_assignment(token: &Token) -> bool {
    matches!(
        token,
        Token::Equal
            | Token::PlusEqual
            | Token::MinusEqual
            | Token::StarEqual
            | Token::SlashEqual
            | Token::SlashSlashEqual
            | Token::PercentEqual
            | Token::AmpersandEqual
            | Token::PipeEqual
            | Token::CaretEqual
            | Token::LessLessEqual
            | Token::GreaterGreaterEqual
    )
}
