//! CSV that a spreadsheet can open without running it: RFC 4180, and no cell that begins like a formula.

use std::borrow::Cow;

use crate::problem::Problem;

/// A cell as it may stand in a file: one that a spreadsheet would read as a formula gets an apostrophe in front, which a
/// spreadsheet reads as "this is text".
#[must_use]
pub fn neutral(cell: &str) -> Cow<'_, str> {
    match cell.chars().next() {
        Some('=' | '+' | '-' | '@' | '\t' | '\r' | '\n' | '＝' | '＋' | '－' | '＠') => Cow::Owned(format!("'{cell}")),
        _ => Cow::Borrowed(cell),
    }
}

/// Rows on their way into a file.
pub struct Rows(csv::Writer<Vec<u8>>);

impl Rows {
    /// With the file's header.
    ///
    /// # Errors
    /// Never for want of space: it is memory.
    pub fn new(header: &[&str]) -> Result<Self, Problem> {
        let mut rows = Self::more();
        rows.push(header.iter().copied())?;
        Ok(rows)
    }

    /// For rows that come after others.
    #[must_use]
    pub fn more() -> Self {
        Self(csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(Vec::new()))
    }

    /// # Errors
    /// When rows differ in length.
    pub fn push<C: AsRef<str>>(&mut self, cells: impl IntoIterator<Item = C>) -> Result<(), Problem> {
        for cell in cells {
            self.0.write_field(neutral(cell.as_ref()).as_ref()).map_err(|e| Problem::internal(&e))?;
        }
        self.0.write_record(None::<&[u8]>).map_err(|e| Problem::internal(&e))
    }

    /// # Errors
    /// Never for want of space: it is memory.
    pub fn finish(self) -> Result<Vec<u8>, Problem> {
        self.0.into_inner().map_err(|e| Problem::internal(&e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t54_no_cell_begins_like_a_formula() {
        for start in ["=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠"] {
            let evil = format!("{start}HYPERLINK(\"http://evil\",\"x\")");
            assert_eq!(neutral(&evil), format!("'{evil}"));
            let mut rows = Rows::new(&["a", "b"]).unwrap();
            rows.push([&evil, "fine"]).unwrap();
            let file = rows.finish().unwrap();
            let mut reader = csv::Reader::from_reader(file.as_slice());
            let record = reader.records().next().unwrap().unwrap();
            assert!(record[0].starts_with('\''), "{start:?}");
            assert_eq!(&record[1], "fine");
        }
        for fine in ["", "a=b", "'=1", "0.002", "{\"a\":\"=1\"}", "call_01"] {
            assert_eq!(neutral(fine), fine);
        }
    }

    #[test]
    fn separators_quotes_and_line_breaks_stay_inside_their_cell() {
        let mut rows = Rows::more();
        rows.push(["a,b", "say \"x\"", "one\r\ntwo", ""]).unwrap();
        assert_eq!(String::from_utf8(rows.finish().unwrap()).unwrap(), "\"a,b\",\"say \"\"x\"\"\",\"one\r\ntwo\",\r\n");
    }
}
