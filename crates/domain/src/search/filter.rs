//! A Bloom filter over the tokens of a run of calls: it may say "perhaps" for a token that is not there (about once in 1,700
//! times), never "no" for one that is.
//!
//! Filters are stored, and the database reads single bytes of them: hash, places and length are a format. Whoever changes
//! one of them has to build every filter anew.

use std::collections::HashSet;

use super::text::{Piece, read};

/// Bytes of filter for a token: 16 bits.
const BYTES_PER_TOKEN: usize = 2;
/// Bits that a token sets.
pub const PROBES: usize = 8;
/// So that few tokens do not share few bits.
const MIN_BYTES: usize = 64;

/// A builder with this many tokens has enough: the next call belongs into another filter.
const ENOUGH: usize = 1 << 19;
/// More are not counted; the filter then says nothing.
const MAX_TOKENS: usize = 1 << 20;

/// Gathers the tokens of a run of calls.
#[derive(Debug, Default)]
pub struct Builder {
    hashes: HashSet<u64>,
}

impl Builder {
    /// Add the words of a payload.
    pub fn payload(&mut self, payload: &str) {
        read(payload, &mut |piece| {
            if let Piece::Word(word) = piece
                && self.hashes.len() < MAX_TOKENS
            {
                self.hashes.insert(token(word));
            }
        });
    }

    /// Add what a call has besides its texts.
    pub fn field(&mut self, name: &str, value: &str) {
        self.hashes.insert(field(name, value));
    }

    /// Whether another call would make the filter larger than it should be.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.hashes.len() >= ENOUGH
    }

    /// The filter. Empty when there were too many tokens for one.
    #[must_use]
    pub fn build(&self) -> Vec<u8> {
        if self.hashes.len() >= MAX_TOKENS {
            return Vec::new();
        }
        let mut filter = vec![0u8; (self.hashes.len() * BYTES_PER_TOKEN).max(MIN_BYTES)];
        for probe in self.hashes.iter().flat_map(|hash| probes(*hash)) {
            let at = place(probe, filter.len());
            filter[at] |= probe.mask;
        }
        filter
    }
}

/// The hash of one token of a text.
#[must_use]
pub fn token(token: &str) -> u64 {
    mix(fnv(FNV_START, token.as_bytes()))
}

/// The hash of something that a call has besides its texts, such as its outcome. No token of a text hashes so: none
/// holds a colon.
#[must_use]
pub fn field(name: &str, value: &str) -> u64 {
    mix([name, ":", value].iter().fold(FNV_START, |hash, part| fnv(hash, part.as_bytes())))
}

/// One bit of a filter, of whatever length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// The byte, modulo the length of the filter.
    pub byte: u32,
    pub mask: u8,
}

/// The bits that must all be set where a token is.
#[must_use]
pub fn probes(hash: u64) -> [Probe; PROBES] {
    // Two hashes make eight (Kirsch and Mitzenmacher).
    let (start, step) = (hash & 0xFFFF_FFFF, (hash >> 32) | 1);
    std::array::from_fn(|i| {
        let bit = start + step * i as u64;
        // 35 bits, without the three that name the bit within its byte.
        Probe { byte: u32::try_from((bit >> 3) & 0xFFFF_FFFF).unwrap_or(u32::MAX), mask: 1 << (bit & 7) }
    })
}

/// Whether a token may be among those that `filter` was built of. An empty filter may hold anything.
#[must_use]
pub fn may_hold(filter: &[u8], hash: u64) -> bool {
    filter.is_empty() || probes(hash).iter().all(|probe| filter[place(*probe, filter.len())] & probe.mask != 0)
}

fn place(probe: Probe, length: usize) -> usize {
    probe.byte as usize % length.max(1)
}

const FNV_START: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a, 64 bits.
fn fnv(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// FNV's upper bits hardly move for short words; this spreads them (the finaliser of MurmurHash3).
const fn mix(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(words: impl IntoIterator<Item = String>) -> Builder {
        let mut builder = Builder::default();
        words.into_iter().for_each(|word| builder.payload(&word));
        builder
    }

    #[test]
    fn the_format_does_not_change() {
        // Stored filters were built with these.
        assert_eq!((token("ada"), field("outcome", "ok")), (2_424_364_561_116_844_265, 8_404_319_536_797_752_643));
        let filter = of(["ada".to_owned()]).build();
        let set: Vec<_> = (0..512).filter(|bit| filter[bit / 8] & (1 << (bit % 8)) != 0).collect();
        assert_eq!((filter.len(), set), (64, vec![91, 134, 233, 276, 319, 418, 461, 504]));
    }

    #[test]
    fn what_is_not_there_is_rarely_suspected() {
        for count in [10, 1_000, 20_000] {
            let filter = of((0..count).map(|i| format!("w{i}"))).build();
            assert!((0..count).all(|i| may_hold(&filter, token(&format!("w{i}")))));
            let suspected = (0..100_000).filter(|i| may_hold(&filter, token(&format!("x{i}")))).count();
            assert!(suspected < 150, "{suspected} of 100,000 at {count}");
        }
    }

    #[test]
    fn too_many_tokens_make_a_filter_that_says_nothing() {
        let mut builder = Builder::default();
        assert!(!builder.is_full());
        builder.hashes = (0..1 << 19).collect();
        assert!(builder.is_full() && builder.build().len() == 1 << 20);
        builder.payload(&(0..600_000).map(|i| format!("{i} ")).collect::<String>());
        assert_eq!((builder.hashes.len(), builder.build().len()), (1 << 20, 0));
        assert!(may_hold(&[], token("ada")));
    }
}
