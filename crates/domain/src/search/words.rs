//! What is asked for, and whether a call says it.

use std::sync::Arc;

use super::text::{Piece, read};

/// The longest query, in characters.
pub const MAX_QUERY: usize = 200;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadWords {
    #[error("use 1 to {MAX_QUERY} characters")]
    Length,
    #[error("give at least one letter or digit to search for")]
    Nothing,
}

/// Words that must all occur in a call. Each is a sequence of tokens that must follow one another within one text:
/// `ada@example.com` is "ada", "example", "com", and nothing between them but punctuation. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Words(Arc<[Word]>);

#[derive(Debug, PartialEq, Eq)]
struct Word {
    tokens: Vec<String>,
    /// How much of the beginning of the word the first `i + 1` tokens end with (Knuth, Morris, Pratt).
    borders: Vec<usize>,
}

impl Words {
    /// # Errors
    /// [`BadWords`], whose text is for whoever typed the query.
    pub fn parse(query: &str) -> Result<Self, BadWords> {
        if query.is_empty() || query.chars().count() > MAX_QUERY {
            return Err(BadWords::Length);
        }
        let mut words: Vec<Word> = Vec::new();
        for part in query.split_whitespace() {
            let word = Word::new(tokens(part));
            if !word.tokens.is_empty() && !words.contains(&word) {
                words.push(word);
            }
        }
        if words.is_empty() { Err(BadWords::Nothing) } else { Ok(Self(words.into())) }
    }

    /// Every token that a call must hold, the longest first: those are the rarest.
    #[must_use]
    pub fn tokens(&self) -> Vec<&str> {
        let mut tokens: Vec<&str> = self.0.iter().flat_map(|word| word.tokens.iter().map(String::as_str)).collect();
        tokens.sort_unstable_by_key(|token| (std::cmp::Reverse(token.len()), *token));
        tokens.dedup();
        tokens
    }

    /// Whether every word occurs in one of these payloads.
    #[must_use]
    pub fn occur_in<'a>(&self, payloads: impl IntoIterator<Item = &'a str>) -> bool {
        let mut found = vec![false; self.0.len()];
        for payload in payloads {
            let mut matched = vec![0; self.0.len()];
            read(payload, &mut |piece| match piece {
                Piece::Gap => matched.fill(0),
                Piece::Word(token) => {
                    for ((word, matched), found) in self.0.iter().zip(&mut matched).zip(&mut found) {
                        *matched = word.step(*matched, token);
                        *found |= *matched == word.tokens.len();
                    }
                }
            });
        }
        found.into_iter().all(|found| found)
    }
}

impl Word {
    fn new(tokens: Vec<String>) -> Self {
        let mut word = Self { tokens, borders: Vec::new() };
        for (i, token) in word.tokens.iter().enumerate() {
            let border = if i == 0 { 0 } else { word.step(word.borders[i - 1], token) };
            word.borders.push(border);
        }
        word
    }

    /// How many tokens match once `token` has been read, where `matched` did before.
    fn step(&self, mut matched: usize, token: &str) -> usize {
        loop {
            if self.tokens.get(matched).is_some_and(|next| next == token) {
                return matched + 1;
            }
            match matched.checked_sub(1).and_then(|last| self.borders.get(last)) {
                Some(&border) => matched = border,
                None => return 0,
            }
        }
    }
}

/// A word of a query is plain text: nobody types JSON escapes.
fn tokens(word: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    super::text::plain(word, &mut |piece| {
        if let Piece::Word(token) = piece {
            tokens.push(token.to_owned());
        }
    });
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(query: &str, payloads: &[&str]) -> bool {
        Words::parse(query).unwrap().occur_in(payloads.iter().copied())
    }

    #[test]
    fn all_words_must_occur_in_any_case_and_anywhere() {
        let call = [r#"{"to":"Ada@Example.com"}"#, r#"{"sent":true,"id":40017}"#];
        for query in ["ada", "ADA sent", "40017 to", "ada@example.com", "example.COM ada", "@ada", "  ada  ", "ada , sent"] {
            assert!(found(query, &call), "{query}");
        }
        for query in ["ad", "adaexample", "ada sender", "ada@com", "com@example", "4001", "to.ada", "com.sent", "sent.id"] {
            assert!(!found(query, &call), "{query}");
        }
    }

    #[test]
    fn a_word_that_begins_again_within_itself_is_found() {
        assert!(found("a.a.b", &["\"a a a b\""]));
        assert!(found("a-b-a-b-c", &["\"a b a b a b c\""]));
        assert!(!found("a-b-a-b-c", &["[\"a b a b\", \"a b c\"]"]));
        assert!(found("東京", &["\"大東京展\""]) && !found("京東", &["\"大東京展\""]));
    }

    #[test]
    fn a_query_must_ask_for_something() {
        assert_eq!(Words::parse(""), Err(BadWords::Length));
        assert_eq!(Words::parse(&"é".repeat(201)), Err(BadWords::Length));
        assert!(Words::parse(&"é ".repeat(100)).is_ok());
        assert_eq!(Words::parse(" \"@\" -- "), Err(BadWords::Nothing));
        assert_eq!(Words::parse("b.ccc b a-b ccc").unwrap().tokens(), ["ccc", "a", "b"]);
    }
}
