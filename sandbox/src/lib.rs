//! The process in which scripts run. `engine::step` is a pure function from a script, a catalog and a journal to an
//! outcome; `lockdown` takes everything from the process that the function does not need.

pub mod engine;
pub mod lockdown;
mod python;
mod typescript;

/// Name and revision of what runs the scripts of each language; a journal replays only on the engine that wrote it.
pub const ENGINES: [&str; 2] = ["starlark-0.14.2/3", "quickjs-ng-0.16.2/1"];
