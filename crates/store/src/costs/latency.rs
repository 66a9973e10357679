//! How long calls took, as numbers of calls by bucket: see `tollgate_latency_bucket` in the migration of the rollups.

use std::collections::BTreeMap;

use crate::error::{StoreError, StoreResult};

/// Bytes of one entry: a bucket, and a number of calls.
const ENTRY: usize = 6;
/// Buckets of one power of two.
const STEPS: u16 = 16;

/// Buckets with their numbers of calls. A percentile of it is at most 3.2 % off, and exact below 32 microseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Histogram(BTreeMap<u16, i64>);

impl Histogram {
    /// From entries in any order, in which a bucket may come more than once.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] for what are no entries.
    pub fn read(bytes: &[u8]) -> StoreResult<Self> {
        let entries = bytes.chunks_exact(ENTRY);
        if !entries.remainder().is_empty() {
            return Err(StoreError::Corrupt("a latency histogram of broken length".to_owned()));
        }
        let mut counts: Vec<i64> = Vec::new();
        for entry in entries {
            let (Some(bucket), Some(count)) = (entry.first_chunk::<2>(), entry.last_chunk::<4>()) else { continue };
            let bucket = usize::from(u16::from_be_bytes(*bucket));
            if counts.len() <= bucket {
                counts.resize(bucket + 1, 0);
            }
            counts[bucket] += i64::from(i32::from_be_bytes(*count));
        }
        let buckets = (0..=u16::MAX).zip(counts).filter(|(_, count)| *count != 0);
        Ok(Self(buckets.collect()))
    }

    pub fn add(&mut self, other: &Self) {
        for (bucket, count) in &other.0 {
            *self.0.entry(*bucket).or_default() += count;
        }
    }

    /// The latency that this share of the calls does not exceed, or none where no call has one.
    pub fn percentile(&self, hundredths: i64) -> Option<i64> {
        let all: i64 = self.0.values().sum();
        let place = (all * hundredths + 99) / 100;
        let mut seen = 0;
        let found = self.0.iter().find(|(_, count)| {
            seen += **count;
            seen >= place
        });
        found.filter(|_| all > 0).map(|(bucket, _)| middle(*bucket))
    }
}

/// The middle of a bucket in microseconds.
fn middle(bucket: u16) -> i64 {
    if bucket < 2 * STEPS {
        return i64::from(bucket);
    }
    let shift = u32::from(bucket / STEPS - 1);
    let low = i64::from(STEPS + bucket % STEPS).checked_shl(shift).unwrap_or(i64::MAX);
    low.saturating_add((1 << shift.min(62)) / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(bucket: u16, count: i32) -> Vec<u8> {
        [bucket.to_be_bytes().as_slice(), &count.to_be_bytes()].concat()
    }

    #[test]
    fn entries_come_in_any_order_and_cancel_out() {
        let bytes = [entry(40, 2), entry(3, 1), entry(40, 1), entry(7, 1), entry(7, -1)].concat();
        let histogram = Histogram::read(&bytes).unwrap();
        assert_eq!(histogram.0, BTreeMap::from([(3, 1), (40, 3)]));
        assert_eq!((histogram.percentile(25), histogram.percentile(26)), (Some(3), Some(49)));
        assert_eq!(Histogram::read(&bytes[1..]).unwrap_err().to_string(), "corrupt row: a latency histogram of broken length");
        assert_eq!(Histogram::default().percentile(50), None);
    }

    #[test]
    fn the_middle_of_a_bucket_is_near_everything_in_it() {
        let mut bucket = 0;
        let mut low = 0_i64;
        while bucket < 959 {
            let next = if bucket + 1 < 32 { i64::from(bucket) + 1 } else { middle(bucket + 1) - width(bucket + 1) / 2 };
            for value in [low, next - 1] {
                let off = (middle(bucket) - value).abs();
                assert!(i128::from(off) * 1000 <= i128::from(value) * 32, "{value} in bucket {bucket}: {off} off");
            }
            (bucket, low) = (bucket + 1, next);
        }
        assert!(middle(959) > i64::MAX / 100 * 95);
    }

    fn width(bucket: u16) -> i64 {
        if bucket < 32 { 1 } else { 1 << (bucket / 16 - 1) }
    }
}
