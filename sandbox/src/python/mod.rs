//! From the Python that models write to the Starlark that runs. `parse` reads the author's text into a syntax tree of
//! its own, finds out which variables cannot stay plain variables; `translate` writes Starlark, remembering for every piece of it
//! which place of the author's text it comes from.
//!
//! What Starlark lacks is expressed by what it has: a `try` becomes a function that a native runs and whose error it
//! catches, a `while` becomes a `for` over a long range, `r.key` a call. Nothing is guessed: what cannot be expressed is
//! refused with the line, the column and what to write instead.

pub mod ast;
mod clauses;
mod emit;
mod expression;
mod fstring;
mod imports;
mod lexer;
mod places;
mod refuse;
pub mod scope;
mod statement;
pub mod text;

use self::ast::Block;
pub use self::lexer::{Lexeme, Token};
pub use self::places::{Places, line_column};
use self::scope::Scopes;

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

/// A script as it was understood.
#[derive(Debug)]
pub struct Script {
    pub block: Box<Block>,
    pub scopes: Scopes,
}

/// # Errors
/// Where the text is not Python, or is Python that has no counterpart here.
pub fn parse(source: &str, tokens: Vec<Lexeme>) -> Result<Script, SyntaxError> {
    // Scopes are found by address: the block must not move afterwards.
    let block = Box::new(statement::parse(source, tokens)?);
    let scopes = scope::analyse(&block)?;
    Ok(Script { block, scopes })
}

impl Script {
    /// # Errors
    /// Where the script is Python that has no counterpart here.
    pub fn translate(&self) -> Result<Translated, SyntaxError> {
        emit::emit(&self.block, &self.scopes)
    }
}
