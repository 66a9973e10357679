//! `tollgate-demo-shop`: two small MCP servers over standard input and output, for the demo and for tests.
//!
//! `shop` is the back office of an invented shop: customers, orders, stock, discounts and e-mail. Its data is made up by
//! a fixed rule and lives in memory, so every start shows the same world. `clock` is a handful of classic tools.

mod clock;
mod model;
mod seed;
mod shop;
mod tools;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use rmcp::{ServiceExt, transport::stdio};

#[derive(Parser)]
#[command(version, about = "Demo MCP servers over stdio")]
struct Cli {
    #[arg(value_enum, default_value = "shop")]
    server: Server,
}

#[derive(Clone, Copy, ValueEnum)]
enum Server {
    /// Customers, orders, stock, discounts and e-mail of an invented shop
    Shop,
    /// The time, time zones by offset, days between dates
    Clock,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    match Cli::parse().server {
        Server::Shop => shop::Shop::new().serve(stdio()).await?.waiting().await?,
        Server::Clock => clock::Clock.serve(stdio()).await?.waiting().await?,
    };
    Ok(())
}
