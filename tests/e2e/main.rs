//! The product from outside: every test here talks to a running Tollgate, through its two doors.

mod harness;

mod agent_loops;
mod approvals;
mod audit_away;
mod audit_proof;
mod audit_soak;
mod clients;
mod code_mode;
mod crash;
mod crawl;
mod door;
mod keeping;
mod limits;
mod llm;
mod llm_agent;
mod llm_kinds;
mod oidc;
mod openapi;
mod parents;
mod peers;
mod prices;
mod quarantine;
mod results;
mod revocation;
mod script_limits;
mod scripts;
mod second_worker;
mod secrets;
mod shapes;
mod spend;
mod typescript;
mod up;
mod upstreams;
mod verify;
