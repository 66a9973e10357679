//! The way back from the Starlark text to the author's.

/// For ascending offsets of the Starlark text, the offsets of the author's that they come from.
#[derive(Debug, Default)]
pub struct Places {
    marks: Vec<(usize, usize)>,
}

impl Places {
    pub(crate) fn mark(&mut self, written: usize, read: usize) {
        match self.marks.last_mut() {
            Some(last) if last.0 == written => last.1 = read,
            _ => self.marks.push((written, read)),
        }
    }

    /// Where the piece of Starlark text at `offset` comes from.
    #[must_use]
    pub fn original(&self, offset: usize) -> usize {
        let after = self.marks.partition_point(|(written, _)| *written <= offset);
        after.checked_sub(1).map_or(0, |i| self.marks[i].1)
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
