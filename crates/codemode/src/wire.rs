//! What the gateway and the sandbox process say to each other: one `Step` in, one `StepReply` out, as length-prefixed JSON.
//!
//! Every enum here is externally tagged: the sandbox is built with `serde_json/arbitrary_precision`, under which floats
//! inside untagged, flattened or internally tagged types do not parse.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

/// The largest frame either side accepts, in bytes.
pub const MAX_FRAME: usize = 64 << 20;

/// A pending call under this server asks the gateway itself and reaches no tool: `tool_id` is one of the two below. It is
/// journalled like any other call, so that a replay gives the script the same time and the same numbers.
pub const GATEWAY: &str = "tollgate";
pub const GATEWAY_PREFIX: &str = "tollgate:";
/// Answered by the time of day: microseconds since 1970-01-01T00:00:00Z, an integer.
pub const NOW: &str = "tollgate:now";
/// Answered by a random integer from 0 to 2^63 - 1, from which the script's random numbers are derived.
pub const RANDOM: &str = "tollgate:random";

/// Run `source` from the top; calls found in `journal` return what stands there, the first that is not suspends the run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Step {
    #[serde(default, skip_serializing_if = "Language::is_python")]
    pub language: Language,
    pub source: String,
    pub catalog: Catalog,
    pub journal: Vec<JournalEntry>,
    pub limits: Limits,
}

/// What a script is written in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Language {
    #[default]
    Python,
    Typescript,
}

impl Language {
    /// The language that an engine runs, by the name under which the engine stands in a run's row.
    #[must_use]
    pub fn of_engine(engine: &str) -> Self {
        if engine.starts_with("quickjs") { Self::Typescript } else { Self::Python }
    }

    /// As it stands in settings and arguments.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::Typescript => "typescript",
        }
    }

    fn is_python(&self) -> bool {
        *self == Self::Python
    }
}

/// Ceilings of one step, enforced inside the sandbox process; the gateway adds a wall clock of its own.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Limits {
    /// Calls and loop back-edges.
    pub ticks: u64,
    pub heap_bytes: u64,
    pub callstack: u32,
    /// Over all `print` lines together; what is beyond is cut and marked.
    pub log_bytes: usize,
    /// Of the JSON text of `result`.
    pub result_bytes: usize,
    /// Of the source text.
    pub source_bytes: usize,
    /// Tool calls in one run.
    pub calls: u32,
    /// Processor time. Of runs of before there was this field, it is the default.
    #[serde(default = "default_step_milliseconds")]
    pub step_milliseconds: u32,
}

fn default_step_milliseconds() -> u32 {
    Limits::default().step_milliseconds
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            ticks: 5_000_000,
            heap_bytes: 128 << 20,
            callstack: 200,
            log_bytes: 256 << 10,
            result_bytes: 1 << 20,
            source_bytes: 64 << 10,
            calls: 200,
            step_milliseconds: 2_000,
        }
    }
}

/// Every tool the script may name: what the caller's scope exposes in Code Mode and nothing else.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Catalog {
    pub servers: Vec<CatalogServer>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CatalogServer {
    /// The global under which a script reaches the server: a Python identifier.
    pub name: String,
    pub tools: Vec<CatalogTool>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CatalogTool {
    /// Name in the script: a Python identifier, unique within its server.
    pub name: String,
    /// The tool's identity (`tool_..`), carried by the value a script holds; the gateway dispatches on this alone.
    pub tool_id: String,
    pub params: Vec<CatalogParam>,
    /// Keywords beyond `params` are passed through (the schema allows additional properties and names none).
    pub open: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CatalogParam {
    /// Name in the script (`class_` where the schema says `class`).
    pub name: String,
    /// Name in the tool's input schema.
    pub key: String,
    pub required: bool,
    /// What a value may be; empty where the schema does not say so plainly, and then everything may be passed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub types: Vec<Scalar>,
    /// The strings that a string may be; empty where any may.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<String>,
}

/// The kinds of values that can be told apart by looking at a literal. An integer is a float as well, as in JSON Schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scalar {
    Str,
    Int,
    Float,
    Bool,
    None,
    List,
    Dict,
}

impl Scalar {
    /// Its name in a stub.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Str => "str",
            Self::Int => "int",
            Self::Float => "float",
            Self::Bool => "bool",
            Self::None => "None",
            Self::List => "list",
            Self::Dict => "dict",
        }
    }
}

/// The answer to the call with this `sequence`, as the script saw it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JournalEntry {
    /// Position of the call in its run, from 1.
    pub sequence: u32,
    pub tool_id: String,
    /// Copied from the `PendingCall`; a replay whose call differs has lost its determinism and fails.
    pub fingerprint: String,
    pub answer: Answer,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Answer {
    Value(Value),
    /// The tool, the upstream or the policy refused; the text is what the script's author may read.
    Error(String),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StepReply {
    pub outcome: Outcome,
    /// All lines printed from the top of the script up to where it stopped.
    pub logs: Vec<String>,
    pub ticks: u64,
    /// In the reply to a run's first step (its journal is empty) alone: the tools that the text of the script names, as
    /// `server.tool`, in order; `server.?` where a server is handed around or its tool is chosen as the script runs, a final
    /// `?` where there are too many to list. For people to read: authority is decided when a call is made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub may_call: Vec<String>,
}

impl StepReply {
    /// A step that came to nothing.
    #[must_use]
    pub fn failed(error: ScriptError) -> Self {
        Self { outcome: Outcome::Failed { error }, logs: Vec::new(), ticks: 0, may_call: Vec::new() }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Outcome {
    /// The script ended; `result` is the value of its variable of that name, null where it set none.
    Done {
        result: Value,
    },
    /// The script waits for these calls; they may run concurrently and are answered by sequence.
    Need {
        calls: Vec<PendingCall>,
    },
    Failed {
        error: ScriptError,
    },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PendingCall {
    pub sequence: u32,
    pub tool_id: String,
    pub server: String,
    pub tool: String,
    /// Keyed by the names of the tool's input schema.
    pub arguments: Map<String, Value>,
    /// SHA-256 over tool and arguments as the sandbox printed them, hex. Opaque to the gateway.
    pub fingerprint: String,
    /// Line of the call in the script, from 1.
    pub line: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScriptError {
    pub kind: ErrorKind,
    /// Says what is wrong and, in a second sentence where one exists, what to write instead.
    pub message: String,
    /// From 1; null where no line is to blame.
    pub line: Option<u32>,
    pub column: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    Syntax,
    /// An error the script raised or ran into: wrong types, missing keys, `fail()`.
    Runtime,
    /// A server, tool or keyword that the key's stubs do not name.
    UnknownTool,
    Arguments,
    /// A tool call answered with an error that the script did not handle.
    ToolError,
    /// Ticks, heap, call stack, wall clock, logs, result or calls: the message names which.
    Limit,
    Nondeterminism,
    /// The sandbox process died (memory, parser stack) or is not available.
    Sandbox,
}

/// Write one frame: length as little-endian u32, then JSON.
///
/// # Errors
/// When the value is larger than [`MAX_FRAME`] or the pipe is closed.
pub fn write_frame<T: Serialize>(to: &mut impl Write, value: &T) -> io::Result<()> {
    let body = serde_json::to_vec(value)?;
    if body.len() > MAX_FRAME {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "frame too large"));
    }
    let length = u32::try_from(body.len()).map_err(io::Error::other)?;
    to.write_all(&length.to_le_bytes())?;
    to.write_all(&body)?;
    to.flush()
}

/// Read one frame; `None` at a clean end of the stream.
///
/// # Errors
/// On a frame over [`MAX_FRAME`], a stream that ends inside a frame, or JSON of another shape.
pub fn read_frame<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<Option<T>> {
    let mut length = [0u8; 4];
    match from.read_exact(&mut length) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(e) => return Err(e),
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_FRAME {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "frame too large"));
    }
    let mut body = vec![0u8; length];
    from.read_exact(&mut body)?;
    Ok(Some(serde_json::from_slice(&body)?))
}
