//! What the end-to-end tests stand on: a running Tollgate, clients for its two doors, tenants to work in, and an upstream
//! that remembers what it was asked.
//!
//! Most tests share one Tollgate ([`Tollgate::shared`]) and keep out of each other's way by a tenant of their own
//! ([`Tenant::new`]). A test that breaks something starts its own ([`Tollgate::start`]).

#![allow(dead_code, unused_imports, reason = "a vocabulary: not every word of it is in use at every time")]

mod admin;
mod cluster;
mod evidence;
mod mcp;
mod models;
mod models_native;
mod peers;
mod process;
mod recorder;
mod redis;
mod tenant;
mod tollgate;

pub use admin::{Admin, Answer};
pub use cluster::Cluster;
pub use evidence::{Verdict, all_sealed, every_row_is_sealed_once, verify};
pub use mcp::{LEGACY, MODERN, Mcp, Reply, Stream};
pub use models::{Asked, LEAK, Models};
pub use peers::{FastMcp, Peer, free_port, peers};
pub use process::{Process, binary, python, root, until};
pub use recorder::{ODD, Received, Recorder};
pub use redis::Redis;
pub use tenant::{Group, Key, Tenant, Upstream, http, stdio, text};
pub use tollgate::{Options, Scratch, Tollgate, clean_command};

/// A client for servers on this machine: no proxy, no certificates, and a limit that turns a hang into a failure. It is
/// made anew for every test, because its connections live on the test's own runtime.
pub fn http_client() -> reqwest::Client {
    reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([])
        .redirect(reqwest::redirect::Policy::none())
        .timeout(std::time::Duration::from_secs(60))
        .build()
        .expect("an HTTP client")
}

/// The time, a little later.
#[expect(clippy::disallowed_methods, reason = "a test's own clock")]
pub fn in_millis(millis: i64) -> String {
    (chrono::Utc::now() + chrono::TimeDelta::milliseconds(millis)).to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}
