//! The audit trail as a file, as a stream, and written to where the operator lets it be.

pub mod cursor;
pub mod export;
pub mod export_jobs;
pub mod formats;
pub mod stream;

pub use formats::csv;
