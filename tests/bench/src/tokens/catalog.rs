//! The real tool definitions that the rounds are made of. `data/README.md` says whose they are.

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

const SERVERS: &[u8] = include_bytes!("../../data/servers.json.zst");
/// Unpacked, it is less than a tenth of this.
const MAX_BYTES: usize = 16 << 20;

/// The published rounds: tools, servers, and what was published of them (input tokens against classic, in percent).
pub const ROUNDS: [Round; 3] = [
    Round { number: 1, tools: 96, servers: 6, published: -58.2, target: -80.0 },
    Round { number: 2, tools: 251, servers: 11, published: -84.5, target: -93.0 },
    Round { number: 3, tools: 508, servers: 16, published: -92.8, target: -97.0 },
];

#[derive(Debug, Clone, Copy)]
pub struct Round {
    pub number: u8,
    pub tools: usize,
    pub servers: usize,
    pub published: f64,
    pub target: f64,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Server {
    pub name: String,
    pub description: String,
    /// The first round that it takes part in; it stays for the later ones.
    pub round: u8,
    /// As the package answered `tools/list`.
    pub tools: Vec<Value>,
}

/// All servers, in the order of the rounds.
///
/// # Errors
/// When the data is not what the rounds say.
pub fn servers() -> Result<Vec<Server>> {
    let text = zstd::bulk::decompress(SERVERS, MAX_BYTES).context("servers.json.zst does not unpack")?;
    let servers: Vec<Server> = serde_json::from_slice(&text).context("servers.json.zst is not what it should be")?;
    for round in ROUNDS {
        let of: Vec<&Server> = servers.iter().filter(|server| server.round <= round.number).collect();
        let tools: usize = of.iter().map(|server| server.tools.len()).sum();
        anyhow::ensure!(of.len() == round.servers && tools == round.tools, "round {} has {tools} tools", round.number);
    }
    Ok(servers)
}
