//! One JSON object a line: the fields of a tool call as the API shows them, and the tenant's id.

use bytes::Bytes;
use serde::Serialize;
use tollgate_store::calls;

use super::{Encoder, Unwritable};
use crate::tool_calls::ToolCall;

pub struct Lines {
    tenant: String,
}

#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    call: ToolCall,
    tenant_id: &'a str,
}

impl Lines {
    #[must_use]
    pub const fn new(tenant: String) -> Self {
        Self { tenant }
    }
}

impl Encoder for Lines {
    fn push(&mut self, calls: Vec<calls::ToolCall>) -> Result<Bytes, Unwritable> {
        let mut lines = Vec::new();
        for call in calls {
            // The columns of all formats are the same, and readers of files count on them.
            let call = ToolCall::from(calls::ToolCall { approval_id: None, credited: None, ..call });
            line(&mut lines, &Line { call, tenant_id: &self.tenant })?;
        }
        Ok(lines.into())
    }
}

/// Add a line. Line breaks are left only between the tokens of verbatim JSON; here a line break ends the row.
///
/// # Errors
/// When `value` cannot be shown as JSON.
pub fn line(lines: &mut Vec<u8>, value: &impl Serialize) -> Result<(), serde_json::Error> {
    let start = lines.len();
    serde_json::to_writer(&mut *lines, value)?;
    lines[start..].iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
    lines.push(b'\n');
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::{
        COLUMNS, Format,
        fixtures::{bare, full, written},
    };

    #[test]
    fn verbatim_json_stays_on_its_line() {
        let file = String::from_utf8(written(Format::Ndjson, vec![vec![full(1), bare(2)]])).unwrap();
        let lines: Vec<&str> = file.lines().collect();
        assert_eq!(lines.len(), 2);
        assert!(lines[0].contains(r#""arguments":{   "b": 1.0,    "a": "x\ny", "b": 2 }"#), "{}", lines[0]);
        for line in lines {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            // Their order is theirs.
            let fields: BTreeSet<&str> = line.as_object().unwrap().keys().map(String::as_str).collect();
            assert_eq!(fields, BTreeSet::from(COLUMNS));
        }
    }
}
