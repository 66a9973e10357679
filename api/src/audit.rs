//! The audit trail: as a file, as a stream, as a log that can be proved, and as it is sent on; what a tenant keeps of it, and what
//! was taken out of it.

mod bundle;
pub mod consistency;
pub mod cursor;
pub mod erasures;
pub mod export;
pub mod export_jobs;
pub mod followers;
pub mod formats;
pub mod keys;
pub mod seals;
pub mod settings;
pub mod stream;

pub use formats::{Unwritable, csv, parquet};
