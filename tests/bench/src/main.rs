//! `tollgate-bench`: what the audit trail costs, how fast it is exported and searched (`make bench-audit`), what a prompt costs
//! (`make bench-tokens`), what a script costs (`make bench-script`), what it costs to ask a budget (`make bench-spend`), and what the LLM door costs a request (`make bench-llm`).
//!
//! Numbers are printed and never asserted: a machine is what it is. What is asserted is that the numbers mean something:
//! every call that was answered is in the trail, every row that was asked for is in the export.

mod admin;
mod calls;
mod dice;
mod installation;
mod llm;
mod load;
mod process;
mod script;
mod spend;
mod table;
mod tokens;
mod trail;
mod upstream;
mod words;
mod worker;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

/// The gateway's own, so that its worker runs here as it does there.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Debug, Parser)]
#[command(name = "tollgate-bench", about = "Measures the audit trail, prompts and scripts")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Calls per second and latency: strict, relaxed, unaudited, and the upstream alone
    Calls(calls::Calls),
    /// Exports, reports and searches over generated rows, in the empty database that DATABASE_URL names
    Trail(trail::Trail),
    /// Reservations per second of one hot budget, and counts per second of one hot rate limit, in the database that DATABASE_URL names
    Spend(spend::Spend),
    /// What the LLM door adds to requests of models, and what streams that are open hold of its memory
    Llm(llm::Llm),
    /// Tokens of the prompts of the same tasks, with all tools in each and with Code Mode
    Tokens(tokens::Tokens),
    /// Microseconds of scripts and their calls, scripts at once, and the memory of those that wait
    Script(script::Script),
    /// The upstream that `calls` calls
    #[command(hide = true)]
    Upstream,
    /// The provider of models that `llm` calls
    #[command(hide = true)]
    Provider,
    /// The worker that `calls` and `llm` measure
    #[command(hide = true)]
    Worker(worker::Worker),
}

fn main() -> ExitCode {
    // As the gateway does.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    // Before anything can open a TLS connection: with two providers in the graph rustls refuses to choose by itself.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tollgate-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")?;
    runtime.block_on(async {
        match command {
            Command::Calls(args) => Box::pin(calls::run(args)).await,
            Command::Trail(args) => Box::pin(trail::run(args)).await,
            Command::Spend(args) => Box::pin(spend::run(args)).await,
            Command::Llm(args) => Box::pin(llm::run(args)).await,
            Command::Tokens(args) => Box::pin(tokens::run(args)).await,
            Command::Script(args) => Box::pin(script::run(args)).await,
            Command::Upstream => upstream::run().await,
            Command::Provider => llm::provider::run().await,
            Command::Worker(args) => worker::run(args).await,
        }
    })
}
