//! The audit trail as a file, and as it is sent on.

pub mod export;
pub mod followers;
pub mod formats;

pub use formats::csv;
