//! A script's text after small rewrites, with the way back from its offsets to the author's.

pub struct Splice {
    /// Offset in the author's text.
    pub at: usize,
    /// Of two insertions at one offset, the lower rank goes first.
    pub rank: u8,
    pub removed: usize,
    pub inserted: String,
}

pub struct Rewritten {
    pub text: String,
    splices: Vec<Splice>,
}

impl Rewritten {
    #[must_use]
    pub fn new(source: &str, mut splices: Vec<Splice>) -> Self {
        splices.sort_by_key(|s| (s.at, s.rank));
        let mut text = String::with_capacity(source.len() + 16 * splices.len());
        let mut copied = 0;
        for splice in &splices {
            text.push_str(&source[copied..splice.at]);
            text.push_str(&splice.inserted);
            copied = splice.at + splice.removed;
        }
        text.push_str(&source[copied..]);
        Self { text, splices }
    }

    /// Where in the author's text `offset` of the rewritten text comes from.
    #[must_use]
    pub fn original(&self, offset: usize) -> usize {
        let (mut written, mut read) = (0, 0); // how far both texts have been walked, side by side
        for splice in &self.splices {
            let start = written + (splice.at - read);
            if offset < start {
                break;
            }
            if offset < start + splice.inserted.len() {
                return splice.at;
            }
            written = start + splice.inserted.len();
            read = splice.at + splice.removed;
        }
        read + (offset - written)
    }
}

/// Line and column of an offset, both from 1.
#[must_use]
pub fn line_column(source: &str, offset: usize) -> (u32, u32) {
    let before = source.get(..offset).unwrap_or(source);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().map_or(0, |tail| tail.chars().count()) + 1;
    (u32::try_from(line).unwrap_or(u32::MAX), u32::try_from(column).unwrap_or(u32::MAX))
}
