//! CSV that a spreadsheet can open without running it: RFC 4180, and no cell that begins like a formula.

use std::borrow::Cow;

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::value::RawValue;
use tollgate_store::calls;

use super::{COLUMNS, Encoder, Unwritable};
use crate::tool_calls::ToolCall;

/// Tool calls as CSV: a header, then [`COLUMNS`]; arguments and results are JSON text.
pub struct Table {
    tenant: String,
}

/// A cell as it may stand in a file: one that a spreadsheet would read as a formula gets an apostrophe in front, which a
/// spreadsheet reads as "this is text".
#[must_use]
pub fn neutral(cell: &str) -> Cow<'_, str> {
    match cell.chars().next() {
        Some('=' | '+' | '-' | '@' | '\t' | '\r' | '\n' | '＝' | '＋' | '－' | '＠') => Cow::Owned(format!("'{cell}")),
        _ => Cow::Borrowed(cell),
    }
}

/// A figure as it may stand in a file: a negative number stays one, anything else is as [`neutral`] has it.
fn figure(cell: &str) -> Cow<'_, str> {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_number = |text: &str| {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        digits(whole) && digits(fraction)
    };
    if cell.strip_prefix('-').is_some_and(is_number) { Cow::Borrowed(cell) } else { neutral(cell) }
}

/// Rows on their way into a file.
pub struct Rows(csv::Writer<Vec<u8>>);

impl Rows {
    /// With the file's header.
    ///
    /// # Errors
    /// Never for want of space: it is memory.
    pub fn new(header: &[&str]) -> Result<Self, Unwritable> {
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
    pub fn push<C: AsRef<str>>(&mut self, cells: impl IntoIterator<Item = C>) -> Result<(), Unwritable> {
        self.write(cells, neutral)
    }

    /// A row of a report, in which a number may be negative.
    ///
    /// # Errors
    /// When rows differ in length.
    pub fn push_figures<C: AsRef<str>>(&mut self, cells: impl IntoIterator<Item = C>) -> Result<(), Unwritable> {
        self.write(cells, figure)
    }

    fn write<C: AsRef<str>>(
        &mut self,
        cells: impl IntoIterator<Item = C>,
        form: fn(&str) -> Cow<'_, str>,
    ) -> Result<(), Unwritable> {
        for cell in cells {
            self.0.write_field(form(cell.as_ref()).as_ref()).map_err(unwritable)?;
        }
        self.0.write_record(None::<&[u8]>).map_err(unwritable)
    }

    /// # Errors
    /// Never for want of space: it is memory.
    pub fn finish(self) -> Result<Vec<u8>, Unwritable> {
        self.0.into_inner().map_err(unwritable)
    }
}

fn unwritable(error: impl std::fmt::Display) -> Unwritable {
    Unwritable::Csv(error.to_string())
}

impl Table {
    #[must_use]
    pub const fn new(tenant: String) -> Self {
        Self { tenant }
    }
}

impl Encoder for Table {
    fn begin(&mut self) -> Result<Bytes, Unwritable> {
        Ok(Rows::new(&COLUMNS)?.finish()?.into())
    }

    fn push(&mut self, calls: Vec<calls::ToolCall>) -> Result<Bytes, Unwritable> {
        let mut rows = Rows::more();
        for call in calls {
            rows.push(cells(ToolCall::from(call), &self.tenant))?;
        }
        Ok(rows.finish()?.into())
    }
}

/// In the order of [`COLUMNS`].
fn cells(call: ToolCall, tenant: &str) -> [String; COLUMNS.len()] {
    fn text<T: ToString>(value: Option<T>) -> String {
        value.map(|v| v.to_string()).unwrap_or_default()
    }
    let json = |value: Option<Box<RawValue>>| value.map(|v| v.get().to_owned()).unwrap_or_default();
    let time = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::AutoSi, true);
    [
        call.id.to_string(),
        call.llm_request_id.to_string(),
        text(call.script_run_id),
        text(call.sequence),
        call.origin.to_string(),
        call.key_id.to_string(),
        text(call.team_id),
        text(call.upstream_id),
        text(call.upstream_name),
        text(call.tool_id),
        call.tool_name,
        text(call.definition_sha256),
        call.decision.to_string(),
        text(call.reason),
        text(call.outcome),
        json(call.arguments),
        text(call.arguments_form),
        json(call.result),
        text(call.result_form),
        text(call.error),
        time(call.opened_at),
        text(call.closed_at.map(time)),
        text(call.latency_us),
        text(call.price_id),
        text(call.amount),
        text(call.currency),
        tenant.to_owned(),
        text(call.unit),
        text(call.unit_amount),
        text(call.tier),
        text(call.call_number),
    ]
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            Format,
            fixtures::{bare, full, tenant, written},
        },
        *,
    };

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

        for evil in ["-", "-1+1", "-1.2.3", "-.5", "-5.", "-1e5", "-１", "--1", "+1"] {
            assert_eq!(figure(evil), format!("'{evil}"));
        }
        for fine in ["", "a=b", "'=1", "0.002", "{\"a\":\"=1\"}", "call_01"] {
            assert_eq!(neutral(fine), fine);
        }
        for number in ["-12", "-0.002"] {
            assert_eq!((figure(number).as_ref(), neutral(number).as_ref()), (number, format!("'{number}").as_str()));
        }
    }

    #[test]
    fn separators_quotes_and_line_breaks_stay_inside_their_cell() {
        let mut rows = Rows::more();
        rows.push(["a,b", "say \"x\"", "one\r\ntwo", ""]).unwrap();
        assert_eq!(String::from_utf8(rows.finish().unwrap()).unwrap(), "\"a,b\",\"say \"\"x\"\"\",\"one\r\ntwo\",\r\n");
    }

    #[test]
    fn a_row_has_every_field_in_its_place() {
        let file = written(Format::Csv, vec![vec![full(1)], vec![bare(2)]]);
        let mut reader = csv::Reader::from_reader(file.as_slice());
        assert_eq!(reader.headers().unwrap().iter().collect::<Vec<_>>(), COLUMNS);
        let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
        assert_eq!(rows.len(), 2);
        assert_eq!((&rows[0][24], &rows[0][26]), ("0.002000000001", tenant().to_string().as_str()));
        assert_eq!((&rows[0][20], &rows[0][15]), ("2023-11-14T22:13:20.123456Z", full(1).arguments.unwrap().as_str()));
        assert_eq!((&rows[1][10], &rows[1][14]), ("ghost", ""));
    }

    #[test]
    fn t54_a_tools_name_is_no_formula() {
        let evil = calls::ToolCall { tool_name: "=cmd|' /C calc'!A0".into(), arguments: Some("-1".into()), ..bare(1) };
        let file = written(Format::Csv, vec![vec![evil]]);
        let mut reader = csv::Reader::from_reader(file.as_slice());
        let row = reader.records().next().unwrap().unwrap();
        assert_eq!((&row[10], &row[15]), ("'=cmd|' /C calc'!A0", "'-1"));
    }
}
