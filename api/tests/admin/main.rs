//! The admin door, in process, over a real Postgres. Small and fast; the black-box suite is in `/tests`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod approvals;
mod auth;
mod bodies;
mod bundle_jobs;
mod deliveries;
mod door;
mod exports;
mod followers;
mod idempotency;
mod keeping;
mod limits;
mod lists;
mod money;
mod resources;
mod schedules;
mod stream;
mod trail;
mod upstreams;
mod world;
