//! The admin door, in process, over a real Postgres. Small and fast; the black-box suite is in `/tests`.

mod auth;
mod bodies;
mod door;
mod idempotency;
mod lists;
mod resources;
mod trail;
mod upstreams;
mod world;
