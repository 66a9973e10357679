//! The product from outside: every test here talks to a running Tollgate, through its two doors.

mod harness;

mod audit_away;
mod clients;
mod code_mode;
mod door;
mod oidc;
mod openapi;
mod peers;
mod up;
mod upstreams;
