//! The only SQL. Every query runs inside a transaction that has taken one of three roles; the ones of a tenant take the
//! tenant as their first argument, and row-level security is the second wall behind it.

pub mod admins;
pub mod approvals;
pub mod audit;
pub mod auth;
pub mod bundle;
pub mod calls;
pub mod change;
pub mod costs;
pub mod erasures;
pub mod error;
pub mod events;
pub mod export;
pub mod export_jobs;
pub mod follow;
pub mod followers;
pub mod groups;
pub mod idempotency;
pub mod keys;
mod ledger;
mod locks;
pub mod log;
pub mod page;
pub mod payload;
pub mod prices;
pub mod retention;
pub mod runs;
pub mod sealer;
pub mod seals;
pub mod search;
pub mod settings;
pub mod snapshot;
pub mod sync;
pub mod teams;
pub mod tenants;
pub mod tokens;
pub mod tools;
pub mod tx;
pub mod upstreams;
pub mod waiting;
pub mod workers;

pub use change::{Actor, Change};
pub use error::{StoreError, StoreResult};
pub use page::{Page, PageRequest};
pub use tx::{MIGRATOR, MigrateReport, Store, Tx, connect, migrate};
