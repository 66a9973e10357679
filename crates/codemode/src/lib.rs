//! Code Mode without a language: stubs from JSON Schema, the virtual files, the values a script sees, and the wire
//! protocol to the sandbox process. Knows neither Starlark nor MCP transports.
//!
//! Everything an upstream says (names, descriptions, schemas) is untrusted: names become identifiers by table, texts lose
//! their hidden characters and appear only in comments and indented blocks, schemas are read under limits.

mod docs;
pub mod excerpt;
mod language;
mod library;
mod meta;
mod names;
mod plain;
pub mod renamed;
mod search;
pub mod seen;
mod shape;
mod sheet;
mod text;
mod types;
pub mod value;
pub mod wire;

pub use language::Languages;
pub use library::{Binding, Library, LibraryError, ServerDef, ToolDef};
pub use meta::{meta_tools, meta_tools_in};
