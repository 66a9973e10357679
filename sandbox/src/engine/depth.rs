//! Refuse what would overflow a parser's stack, before a parser sees it: lexers are loops, parsers recurse.

use starlark_syntax::codemap::CodeMap;
use starlark_syntax::lexer::{Lexer, Token as Starlark};
use starlark_syntax::syntax::Dialect;

use super::limits::{BLOCK_DEPTH, ELIF_CHAIN, EXPRESSION_TOKENS, Limit};
use crate::python::{Lexeme, Token};

/// What the translation may add: an attribute is three tokens around its value where the author wrote two behind it.
const TRANSLATED: usize = 4;

/// As much of a token as the depth depends on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Open,
    Close,
    Comma,
    LineEnd,
    Indent,
    Dedent,
    If,
    Elif,
    Other,
}

/// # Errors
/// The limit, and the offset at which it was reached.
pub fn check(tokens: &[Lexeme]) -> Result<(), (Limit, usize)> {
    let part = |lexeme: &Lexeme| match &lexeme.token {
        Token::Op("(" | "[" | "{") => Part::Open,
        Token::Op(")" | "]" | "}") => Part::Close,
        Token::Op(",") => Part::Comma,
        Token::Op(";") | Token::Newline => Part::LineEnd,
        Token::Indent => Part::Indent,
        Token::Dedent => Part::Dedent,
        Token::Name(word) if word == "if" => Part::If,
        Token::Name(word) if word == "elif" => Part::Elif,
        _ => Part::Other,
    };
    walk(tokens.iter().map(|lexeme| (lexeme.at, part(lexeme))), 1)
}

/// The same for the translated text.
///
/// # Errors
/// The limit, and the offset at which it was reached.
pub fn check_starlark(text: &str, dialect: &Dialect) -> Result<(), (Limit, usize)> {
    let codemap = CodeMap::new("script".to_owned(), text.to_owned());
    let parts = Lexer::new(text, dialect, codemap).flatten().map(|(at, token, _)| {
        let part = match token {
            Starlark::OpeningRound | Starlark::OpeningSquare | Starlark::OpeningCurly => Part::Open,
            Starlark::ClosingRound | Starlark::ClosingSquare | Starlark::ClosingCurly => Part::Close,
            Starlark::Comma => Part::Comma,
            Starlark::Newline | Starlark::Semicolon => Part::LineEnd,
            Starlark::Indent => Part::Indent,
            Starlark::Dedent => Part::Dedent,
            Starlark::If => Part::If,
            Starlark::Elif => Part::Elif,
            _ => Part::Other,
        };
        (at, part)
    });
    walk(parts, TRANSLATED)
}

/// The syntax tree is at most as deep as the number of tokens on the way to its deepest leaf, so it is enough to count
/// those: per bracket level, from the last comma on.
fn walk(parts: impl Iterator<Item = (usize, Part)>, factor: usize) -> Result<(), (Limit, usize)> {
    let mut open: Vec<usize> = vec![0]; // tokens of the current element, for each bracket level
    let mut path = 0; // their sum
    let mut elifs: Vec<usize> = vec![0]; // for each block level
    let mut statement_begins = true; // only such an `if` starts a new chain: `elif 1 if 1 else 1:` does not
    for (at, part) in parts {
        let first = std::mem::replace(&mut statement_begins, false);
        match part {
            Part::Open => open.push(0),
            Part::Close if open.len() > 1 => path -= open.pop().unwrap_or(0),
            Part::Comma | Part::LineEnd => {
                if let Some(top) = open.last_mut() {
                    path -= std::mem::take(top);
                }
                statement_begins = part == Part::LineEnd;
            }
            Part::Indent => {
                elifs.push(0);
                statement_begins = true;
            }
            Part::Dedent => {
                elifs.pop();
                statement_begins = true;
            }
            Part::If if first => elifs.last_mut().into_iter().for_each(|n| *n = 0),
            Part::Elif => elifs.last_mut().into_iter().for_each(|n| *n += 1),
            _ => {}
        }
        if let Some(top) = open.last_mut() {
            *top += 1;
            path += 1;
        }
        let limit = if path > EXPRESSION_TOKENS * factor {
            Limit::Expression
        } else if elifs.len() > BLOCK_DEPTH * factor {
            Limit::BlockDepth
        } else if elifs.last().is_some_and(|n| *n > ELIF_CHAIN * factor) {
            Limit::ElifChain
        } else {
            continue;
        };
        return Err((limit, at));
    }
    Ok(())
}
