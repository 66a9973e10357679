//! From what was thrown to what the author reads, at the place in the text the author wrote.

use rquickjs::{Ctx, Value};
use tollgate_codemode::wire::{Catalog, ErrorKind, ScriptError};

use super::hints;
use super::host::{Described, Prelude};
use super::places::Written;
use super::value;
use crate::engine::limits::Limit;
use crate::python::line_column;

/// The name of the script's own text in stacks.
pub const FILE: &str = "script";
/// Of a message that the script made.
const MESSAGE_BYTES: usize = 8 << 10;

/// The way from a stack to the author's text.
pub struct Reader {
    pub source: String,
    pub written: Written,
    pub calls: Vec<Call>,
}

#[derive(Debug, Clone, Copy)]
pub struct Place {
    pub line: u32,
    pub column: u32,
}

/// `crm.notes({..})`: where it begins and ends, and what is called.
#[derive(Debug)]
pub struct Call {
    pub from: usize,
    pub to: usize,
    pub name: String,
}

impl Reader {
    /// The first place in the script that a stack names: `    at f (script:3:9)`.
    pub fn place(&self, stack: &str) -> Option<Place> {
        self.offset(stack).map(|at| self.at(at))
    }

    /// Where the call of this tool begins that a stack names: the engine names one of its arguments, which may stand lines below.
    pub fn place_of_call(&self, stack: &str, tool: &str) -> Option<Place> {
        let at = self.offset(stack)?;
        let around = self.calls.iter().filter(|call| call.name == tool && (call.from..call.to).contains(&at));
        Some(self.at(around.map(|call| call.from).max().unwrap_or(at)))
    }

    fn at(&self, offset: usize) -> Place {
        let (line, column) = line_column(&self.source, offset);
        Place { line, column }
    }

    fn offset(&self, stack: &str) -> Option<usize> {
        let frame = stack.lines().find_map(|frame| frame.rsplit_once(&format!("{FILE}:")))?.1;
        let mut numbers = frame.trim_end_matches(')').split(':').map(|n| n.parse::<u32>().ok());
        let (line, column) = (numbers.next()??, numbers.next().flatten().unwrap_or(1));
        Some(self.written.original(line, column))
    }
}

/// What the script, or a promise that nobody looked at, has ended with.
pub fn script_error<'js>(
    ctx: &Ctx<'js>,
    prelude: &Prelude<'js>,
    reader: &Reader,
    catalog: &Catalog,
    thrown: &Value<'js>,
) -> ScriptError {
    let (kind, message, place) = match prelude.describe(thrown) {
        Ok(described) => {
            let place = match described.label.rsplit_once('.') {
                Some((_, tool)) => reader.place_of_call(&described.stack, tool),
                None => reader.place(&described.stack),
            };
            let (kind, message) = tell(prelude, catalog, thrown, described);
            (kind, message, place)
        }
        Err(_) => {
            ctx.catch();
            (ErrorKind::Runtime, "The script threw something that cannot be read.".to_owned(), None)
        }
    };
    ScriptError { kind, message: cut(message), line: place.map(|p| p.line), column: place.map(|p| p.column) }
}

fn tell<'js>(prelude: &Prelude<'js>, catalog: &Catalog, thrown: &Value<'js>, described: Described) -> (ErrorKind, String) {
    let Described { kind, name, message, label, .. } = described;
    let Some(message) = message else {
        let shown = value::show(prelude, thrown, MESSAGE_BYTES).unwrap_or_else(|_| "a value that cannot be shown".to_owned());
        return (ErrorKind::Runtime, shown);
    };
    match kind.as_str() {
        "tool_error" => return (ErrorKind::ToolError, format!("{label} failed: {message}")),
        "arguments" => return (ErrorKind::Arguments, message),
        "unknown_tool" => return (ErrorKind::UnknownTool, message),
        _ => {}
    }
    match name.as_str() {
        "RangeError" | "InternalError" if message.contains("call stack size exceeded") || message == "stack overflow" => {
            (ErrorKind::Limit, Limit::Recursion.to_string())
        }
        "ReferenceError" => hints::unknown_name(&message, catalog),
        "" | "Error" => (ErrorKind::Runtime, message),
        name => (ErrorKind::Runtime, hints::runtime(&format!("{name}: {message}"))),
    }
}

fn cut(mut message: String) -> String {
    if message.len() > MESSAGE_BYTES {
        let end = (0..=MESSAGE_BYTES).rev().find(|&i| message.is_char_boundary(i)).unwrap_or(0);
        message.truncate(end);
        message += "...";
    }
    message
}
