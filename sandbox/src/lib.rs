//! The process in which scripts run. `engine::step` is a pure function from a script, a catalog and a journal to an
//! outcome; `lockdown` takes everything from the process that the function does not need.

pub mod engine;
pub mod lockdown;
mod python;

/// Name and revision of the language the scripts are run by; a journal replays only on the engine that wrote it.
pub const ENGINE: &str = "starlark-0.14.2/3";
