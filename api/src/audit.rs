//! The audit trail as a file.

pub mod export;
pub mod formats;

pub use formats::csv;
