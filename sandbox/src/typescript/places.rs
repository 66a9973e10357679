//! Pieces of a text that are replaced, and the way back to where they stood.

/// Replacements, in any order; none may overlap another.
#[derive(Debug, Default)]
pub struct Edits(Vec<Edit>);

#[derive(Debug)]
struct Edit {
    from: usize,
    to: usize,
    text: String,
}

/// The text that runs, with the way back to the author's.
#[derive(Debug, Default)]
pub struct Written {
    pub text: String,
    /// For ascending offsets of the text: where the piece comes from, and whether it was copied as it stood.
    marks: Vec<(usize, usize, bool)>,
}

impl Edits {
    pub fn replace(&mut self, from: u32, to: u32, text: String) {
        self.0.push(Edit { from: from as usize, to: to as usize, text });
    }

    /// The source with all of it replaced, between a head and a tail that are nobody's.
    pub fn apply(mut self, source: &str, head: &str, tail: &str) -> Written {
        self.0.sort_by_key(|edit| (edit.from, edit.to));
        let mut written = Written { text: head.to_owned(), marks: vec![(0, 0, false)] };
        let mut at = 0;
        for edit in self.0 {
            if edit.from < at {
                continue;
            }
            written.copy(source, at, edit.from);
            written.marks.push((written.text.len(), edit.from, false));
            written.text.push_str(&edit.text);
            at = edit.to;
        }
        written.copy(source, at, source.len());
        written.marks.push((written.text.len(), source.len(), false));
        written.text.push_str(tail);
        written
    }
}

impl Written {
    fn copy(&mut self, source: &str, from: usize, to: usize) {
        self.marks.push((self.text.len(), from, true));
        self.text.push_str(source.get(from..to).unwrap_or_default());
    }

    /// Where in the author's text the piece at this line and column comes from. Both count from 1, columns in bytes.
    #[must_use]
    pub fn original(&self, line: u32, column: u32) -> usize {
        let line = usize::try_from(line).unwrap_or(1).max(1);
        let start =
            if line == 1 { 0 } else { self.text.match_indices('\n').nth(line - 2).map_or(self.text.len(), |(at, _)| at + 1) };
        let offset = start + usize::try_from(column).unwrap_or(1).max(1) - 1;
        let after = self.marks.partition_point(|(written, ..)| *written <= offset);
        let Some((written, read, copied)) = after.checked_sub(1).and_then(|i| self.marks.get(i)) else { return 0 };
        if *copied { read + (offset - written) } else { *read }
    }
}
