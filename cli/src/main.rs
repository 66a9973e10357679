//! `tollgate`: every part of Tollgate in one binary.

mod args;
mod costs;
mod data_dir;
mod keys;
mod parts;
mod postgres;
mod progress;
mod ready;
mod sandbox;
mod secrets;
mod seed;
mod serve;
mod up;
mod verify;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;

use args::{Cli, Command};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Of a page of 2 MiB all is resident once a byte is used, and most of what connections have ready is not: with such pages a stream that
    // is open holds half as much again. Sandboxes inherit it.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    // Before anything can open a TLS connection: with two providers in the graph rustls refuses to choose by itself.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let (outcome, failure) = match Cli::parse().command {
        // No runtime: it reads files. What cannot be read is told from what is not sound.
        Command::Verify(args) => (verify::run(args), ExitCode::from(2)),
        Command::Costs(args::Costs::Check(args)) => (on_runtime(costs::check(args)), ExitCode::FAILURE),
        Command::Secrets(args) => (on_runtime(keys::run(args)), ExitCode::FAILURE),
        command => (on_runtime(run(command)).map(|()| ExitCode::SUCCESS), ExitCode::FAILURE),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("tollgate: {error:#}");
        failure
    })
}

fn on_runtime<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")?.block_on(work)
}

async fn run(command: Command) -> Result<()> {
    match command {
        // Boxed: it holds the whole start.
        Command::Up(args) => Box::pin(up::run(args)).await,
        Command::Api(args) => serve::api(args).await,
        Command::Worker(args) => serve::worker(args).await,
        Command::Migrate(database) => migrate(&database.require()?).await,
        Command::MintAdmin(args) => mint_admin(args).await,
        Command::Openapi => {
            progress::say(parts::openapi_json());
            Ok(())
        }
        // Those of which `main` tells the outcome.
        Command::Costs(args::Costs::Check(args)) => costs::check(args).await.map(drop),
        Command::Secrets(args) => keys::run(args).await.map(drop),
        Command::Verify(args) => verify::run(args).map(drop),
    }
}

async fn migrate(url: &str) -> Result<()> {
    progress::say(parts::migrate(url).await?);
    Ok(())
}

/// Only the token goes to standard output, so that it can be piped into a secret store.
async fn mint_admin(args: args::MintAdmin) -> Result<()> {
    let secrets = parts::secrets(args.secret.load()?);
    // It writes no row of the trail: whichever key it holds signs nothing.
    let keys = parts::key_ring(&tollgate_boot::Config::default(), &secrets)?;
    let store = parts::connect(&args.database.require()?, 1, keys).await?;
    let token = parts::new_admin_token();
    parts::admit_admin(&store, &secrets, &token).await?;
    progress::say(token);
    Ok(())
}
