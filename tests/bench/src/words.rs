//! What generated calls say: JSON bodies over a vocabulary in which few words are frequent and most are rare.

use std::io::Write;

use crate::dice::Dice;

/// The most frequent words, the most frequent first.
const FREQUENT: [&str; 32] = [
    "customer",
    "order",
    "invoice",
    "status",
    "shipped",
    "payment",
    "address",
    "pending",
    "account",
    "update",
    "delivery",
    "total",
    "refund",
    "product",
    "price",
    "stock",
    "warehouse",
    "return",
    "email",
    "contract",
    "ticket",
    "support",
    "error",
    "network",
    "search",
    "report",
    "region",
    "quarter",
    "revenue",
    "renewal",
    "agent",
    "notes",
];
const SYLLABLES: [&str; 32] = [
    "ba", "ce", "di", "fo", "gu", "ha", "ke", "li", "mo", "nu", "pa", "re", "si", "to", "vu", "wa", "xe", "zi", "bro", "clu",
    "dra", "fle", "gri", "plo", "sku", "tra", "ble", "cri", "dro", "glu", "pra", "ste",
];
const WORDS: usize = 50_000;
/// People that calls are about; a few come again and again.
const CUSTOMERS: usize = 200_000;
/// No body holds it.
pub const ABSENT: &str = "quizzacious";

#[derive(Debug)]
pub struct Vocabulary {
    words: Vec<String>,
}

impl Vocabulary {
    pub fn new() -> Self {
        let made = (0..).map(|n: usize| {
            // Three syllables and more: nothing of what is made is one of the frequent words.
            let tail = SYLLABLES[n / (32 * 32) % 32];
            let more = n / (32 * 32 * 32);
            let end = if more == 0 { "" } else { SYLLABLES[more % 32] };
            format!("{}{}{tail}{end}", SYLLABLES[n % 32], SYLLABLES[n / 32 % 32])
        });
        let words = FREQUENT.iter().map(|word| (*word).to_owned()).chain(made).take(WORDS).collect();
        Self { words }
    }

    /// In more than half of all bodies.
    pub fn common(&self) -> &str {
        &self.words[0]
    }

    /// In about one call of ten thousand.
    pub fn rare(&self) -> &str {
        &self.words[WORDS - 1]
    }

    fn word(&self, dice: &mut Dice) -> &str {
        &self.words[dice.zipf(WORDS)]
    }

    fn sentence(&self, dice: &mut Dice, words: usize, out: &mut Vec<u8>) {
        for n in 0..words {
            if n > 0 {
                out.push(b' ');
            }
            out.extend_from_slice(self.word(dice).as_bytes());
        }
    }

    /// About 200 bytes. The order number is the call's own and in no other.
    pub fn arguments(&self, dice: &mut Dice, out: &mut Vec<u8>) {
        out.clear();
        let customer = dice.zipf(CUSTOMERS);
        let (first, last) = (&self.words[customer % 997], &self.words[customer % 1999]);
        let _ = write!(out, r#"{{"order_id":"{}","email":"{first}.{last}.{customer}@example.com","query":""#, order(dice));
        self.sentence(dice, 10, out);
        let _ = write!(out, r#"","limit":{},"include_history":{}}}"#, 10 * (1 + dice.below(10)), dice.chance(0.3));
    }

    /// About 500 bytes.
    pub fn result(&self, dice: &mut Dice, out: &mut Vec<u8>) {
        out.clear();
        let (id, euros, cents) = (dice.below(10_000_000), dice.below(900), dice.below(100));
        out.extend_from_slice(br#"{"content":[{"type":"text","text":""#);
        self.sentence(dice, 24, out);
        let _ = write!(out, r#""}}],"structuredContent":{{"id":{id},"total":"{euros}.{cents:02}","status":""#);
        out.extend_from_slice(self.word(dice).as_bytes());
        out.extend_from_slice(br#"","notes":""#);
        self.sentence(dice, 20, out);
        out.extend_from_slice(br#""},"isError":false}"#);
    }

    /// What a tool answers that failed.
    pub fn failure(&self, dice: &mut Dice, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(br#"{"content":[{"type":"text","text":"cannot: "#);
        self.sentence(dice, 8, out);
        out.extend_from_slice(br#""}],"isError":true}"#);
    }

    /// An object of about `size` bytes, for calls that are really made.
    pub fn object(&self, dice: &mut Dice, size: usize) -> Vec<u8> {
        let mut out = format!(r#"{{"order_id":"{}","query":""#, order(dice)).into_bytes();
        while out.len() + 12 < size {
            out.extend_from_slice(self.word(dice).as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(br#""}"#);
        out
    }
}

fn order(dice: &mut Dice) -> String {
    format!("ord{:014x}", dice.roll() >> 8)
}

/// The order number in a body that [`Vocabulary::arguments`] wrote.
pub fn order_of(arguments: &[u8]) -> Option<String> {
    let start = br#"{"order_id":""#.len();
    let text = arguments.get(start..start + 17)?;
    String::from_utf8(text.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn words_are_distinct_and_bodies_are_json_of_the_size_that_is_promised() {
        let vocabulary = Vocabulary::new();
        let distinct: HashSet<&String> = vocabulary.words.iter().collect();
        assert_eq!(distinct.len(), WORDS);
        assert!(!distinct.contains(&ABSENT.to_owned()));
        let (mut dice, mut out, mut sizes) = (Dice::new(3), Vec::new(), (0, 0));
        for _ in 0..1000 {
            vocabulary.arguments(&mut dice, &mut out);
            let arguments: serde_json::Value = serde_json::from_slice(&out).unwrap();
            assert_eq!(arguments["order_id"].as_str(), order_of(&out).as_deref());
            sizes.0 += out.len();
            vocabulary.result(&mut dice, &mut out);
            serde_json::from_slice::<serde_json::Value>(&out).unwrap();
            sizes.1 += out.len();
            vocabulary.failure(&mut dice, &mut out);
            serde_json::from_slice::<serde_json::Value>(&out).unwrap();
        }
        assert!((150..260).contains(&(sizes.0 / 1000)), "{}", sizes.0 / 1000);
        assert!((400..600).contains(&(sizes.1 / 1000)), "{}", sizes.1 / 1000);
        let large = vocabulary.object(&mut dice, 2048);
        assert!((1990..2080).contains(&large.len()), "{}", large.len());
        serde_json::from_slice::<serde_json::Value>(&large).unwrap();
    }
}
