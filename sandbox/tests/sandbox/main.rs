//! One binary for all tests of the sandbox: what scripts mean (in this process) and what they cannot do (in theirs).

#![allow(clippy::unwrap_used)] // clippy.toml exempts `#[test]` functions, not their helpers

mod attacks;
mod corpus;
mod hints;
mod hostile;
mod language;
mod limits;
mod lockdown;
mod replay;
mod stubs;
mod support;
mod typescript;
