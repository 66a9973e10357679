//! Reports over the audit trail. There is no second ledger: a report is a sum over its rows.

pub mod costs;
mod files;
mod focus;
mod lines;
mod table;
