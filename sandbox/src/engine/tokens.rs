//! The lexer's view of a script, taken before the parser sees it: the lexer is a loop, the parser recurses.

use starlark_syntax::codemap::CodeMap;
use starlark_syntax::lexer::{Lexer, Token};
use starlark_syntax::syntax::Dialect;

use super::limits::{BLOCK_DEPTH, ELIF_CHAIN, EXPRESSION_TOKENS, Limit};
use super::source::line_column;

pub struct Lexeme {
    pub start: usize,
    pub end: usize,
    /// None where the lexer refused; the parser will say why.
    pub token: Option<Token>,
}

#[must_use]
pub fn lex(source: &str, dialect: &Dialect) -> Vec<Lexeme> {
    let codemap = CodeMap::new("script".to_owned(), source.to_owned());
    Lexer::new(source, dialect, codemap)
        .map(|lexeme| match lexeme {
            Ok((start, token, end)) => Lexeme { start, end, token: Some(token) },
            Err(_) => Lexeme { start: 0, end: 0, token: None },
        })
        .filter(|lexeme| !matches!(lexeme.token, Some(Token::Comment(_))))
        .collect()
}

/// Refuse what would overflow the parser's stack. The syntax tree is at most as deep as the number of tokens on the way
/// to its deepest leaf, so it is enough to count those: per bracket level, from the last comma on.
///
/// # Errors
/// The limit, and the line on which it was reached.
pub fn check_depth(source: &str, tokens: &[Lexeme]) -> Result<(), (Limit, u32)> {
    let mut open: Vec<usize> = vec![0]; // tokens of the current element, for each bracket level
    let mut path = 0; // their sum
    let mut elifs: Vec<usize> = vec![0]; // for each block level
    let mut statement_begins = true; // only such an `if` starts a new chain: `elif 1 if 1 else 1:` does not
    for lexeme in tokens {
        let mut limit = None;
        let first = std::mem::replace(&mut statement_begins, false);
        match &lexeme.token {
            Some(Token::OpeningRound | Token::OpeningSquare | Token::OpeningCurly | Token::FStringExprStart) => open.push(0),
            Some(Token::ClosingRound | Token::ClosingSquare | Token::ClosingCurly | Token::FStringExprEnd) if open.len() > 1 => {
                path -= open.pop().unwrap_or(0);
            }
            Some(Token::Comma | Token::Newline | Token::Semicolon) => {
                if let Some(top) = open.last_mut() {
                    path -= std::mem::take(top);
                }
                statement_begins = lexeme.token != Some(Token::Comma);
            }
            Some(Token::Indent) => {
                elifs.push(0);
                statement_begins = true;
            }
            Some(Token::Dedent) => {
                elifs.pop();
                statement_begins = true;
            }
            Some(Token::If) if first => elifs.last_mut().into_iter().for_each(|n| *n = 0),
            Some(Token::Elif) => elifs.last_mut().into_iter().for_each(|n| *n += 1),
            _ => {}
        }
        if let Some(top) = open.last_mut() {
            *top += 1;
            path += 1;
        }
        if path > EXPRESSION_TOKENS {
            limit = Some(Limit::Expression);
        } else if elifs.len() > BLOCK_DEPTH {
            limit = Some(Limit::BlockDepth);
        } else if elifs.last().is_some_and(|n| *n > ELIF_CHAIN) {
            limit = Some(Limit::ElifChain);
        }
        if let Some(limit) = limit {
            return Err((limit, line_column(source, lexeme.start).0));
        }
    }
    Ok(())
}
