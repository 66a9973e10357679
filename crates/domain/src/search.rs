//! Finding calls by what their payloads say: the words of a text, the words that are asked for, and the filter that says
//! which run of calls cannot hold them. The index and the search read texts by the same rules, so that they agree.

pub mod filter;
pub mod text;
pub mod words;

pub use text::{Piece, read};
pub use words::{BadWords, MAX_QUERY, Words};
