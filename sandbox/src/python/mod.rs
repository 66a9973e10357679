//! From the Python that models write to the Starlark that runs. `translate` reads the author's text into a syntax tree of
//! its own, finds out which variables cannot stay plain variables, and writes Starlark, remembering for every piece of it
//! which place of the author's text it comes from.
//!
//! What Starlark lacks is expressed by what it has: a `try` becomes a function that a native runs and whose error it
//! catches, a `while` becomes a `for` over a long range, `r.key` a call. Nothing is guessed: what cannot be expressed is
//! refused with the line, the column and what to write instead.

mod ast;
mod clauses;
mod emit;
mod expression;
mod fstring;
mod imports;
mod lexer;
mod places;
mod refuse;
mod scope;
mod statement;
mod text;

pub use self::lexer::{Lexeme, Token};
pub use self::places::{Places, line_column};

/// Where in the author's text something is wrong, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyntaxError {
    pub at: usize,
    pub message: String,
}

impl SyntaxError {
    pub(crate) fn new(at: usize, message: impl Into<String>) -> Self {
        Self { at, message: message.into() }
    }
}

/// Starlark text with the way back.
#[derive(Debug)]
pub struct Translated {
    pub text: String,
    pub places: Places,
}

/// # Errors
/// Where the text is not Python, or is Python that has no counterpart here.
pub fn tokens(source: &str) -> Result<Vec<Lexeme>, SyntaxError> {
    lexer::lex(source)
}

/// # Errors
/// Where the text is not Python, or is Python that has no counterpart here.
pub fn translate(source: &str, tokens: Vec<Lexeme>) -> Result<Translated, SyntaxError> {
    let block = statement::parse(source, tokens)?;
    let scopes = scope::analyse(&block)?;
    emit::emit(&block, &scopes)
}
