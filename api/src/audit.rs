//! The audit trail as a file.

pub mod csv;
pub mod export;
