//! The audit trail: as a file, and as a log that can be proved.

mod bundle;
pub mod consistency;
pub mod export;
pub mod formats;
pub mod keys;
pub mod seals;

pub use formats::csv;
