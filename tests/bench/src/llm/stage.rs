//! What is measured: one provider, one database with durable commits, a tenant for each level of durability, and a worker.

use std::{collections::HashMap, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use serde_json::json;
use tempfile::TempDir;

use super::{commits::Commits, provider::SLOW};
use crate::{
    admin::text,
    dice::Dice,
    installation::{self, Installation},
    load::{Target, holds},
    process::{self, Process},
    table::{count, line, note},
    words::Vocabulary,
};

/// Bytes of what is asked, and of what is answered.
pub const PROMPT: usize = 2_000;
/// Different requests that a caller sends in turn.
const VARIETY: usize = 64;

/// Over what a request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Way {
    /// The provider, without a gateway.
    Direct,
    Relaxed,
    Strict,
}

/// How it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Shape {
    Whole,
    Streamed,
}

/// One way to ask for one kind of answer.
#[derive(Debug)]
pub struct Lane {
    pub way: Way,
    pub shape: Shape,
    pub target: Target,
}

pub struct Stage {
    pub lanes: Vec<Lane>,
    pub commits: Commits,
    pub postgres_version: String,
    pub installation: Installation,
    worker: Process,
    provider: Process,
    tenants: Vec<Tenant>,
    up: Process,
    // Removed at the end, after the processes that use it.
    _dir: TempDir,
}

#[derive(Debug)]
struct Tenant {
    way: Way,
    id: String,
    key: String,
}

impl Way {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Relaxed => "relaxed",
            Self::Strict => "strict",
        }
    }

    /// Commits that a request waits for.
    pub const fn commits(self) -> f64 {
        match self {
            Self::Direct => 0.0,
            Self::Relaxed => 1.0,
            Self::Strict => 2.0,
        }
    }
}

impl Shape {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::Streamed => "streamed",
        }
    }
}

impl Stage {
    pub async fn start(dir: Option<PathBuf>) -> Result<Self> {
        let dir = installation::folder(dir)?;
        let mut provider = Process::start("provider", &std::env::current_exe()?, &["provider"], &[])?;
        let at = provider.address().await?;
        note(format_args!("starting a database in {}", dir.path().display()));
        let (up, installation) = Installation::start(&dir.path().join("data")).await?;
        let postgres_version = installation.durable_postgres().await?;
        let mut tenants = Vec::new();
        for way in [Way::Relaxed, Way::Strict] {
            tenants.push(Tenant::new(&installation, way, at).await?);
        }
        let (mut worker, door) = installation.worker(false).await?;
        let mut lanes = Vec::new();
        for shape in [Shape::Whole, Shape::Streamed] {
            lanes.push(Lane { way: Way::Direct, shape, target: target(at, None, "bench", shape)? });
            for tenant in &tenants {
                let target = target(door, Some(&tenant.key), "bench", shape)?;
                until_ready(&mut worker, &target).await?;
                lanes.push(Lane { way: tenant.way, shape, target });
            }
        }
        let commits = Commits::new(&installation, &tenants[0].id).await?;
        Ok(Self { lanes, commits, postgres_version, installation, worker, provider, tenants, up, _dir: dir })
    }

    /// Callers (this process), worker, Postgres, provider.
    pub fn cpu(&self) -> [Duration; 4] {
        let of = |process: &Process| process::cpu(process.pid(), false);
        let own = process::cpu(std::process::id(), false);
        [own, of(&self.worker), process::cpu(self.installation.postgres_pid, true), of(&self.provider)]
    }

    /// A worker of its own under the strict tenant: streams that never end, and answers that do.
    pub async fn fresh(&self) -> Result<(Process, Target, Target)> {
        let tenant = self.tenants.iter().find(|tenant| tenant.way == Way::Strict).context("a strict tenant")?;
        let (mut worker, door) = self.installation.worker(false).await?;
        let ending = target(door, Some(&tenant.key), "bench", Shape::Streamed)?;
        until_ready(&mut worker, &ending).await?;
        Ok((worker, target(door, Some(&tenant.key), SLOW, Shape::Streamed)?, ending))
    }

    /// The numbers mean something only if the rows are there, and each has its end.
    pub async fn recorded(&self, answered: &HashMap<Way, usize>) -> Result<()> {
        for tenant in &self.tenants {
            let asked = answered.get(&tenant.way).copied().unwrap_or(0);
            let path = format!("/v1/tenants/{}/reports/costs", tenant.id);
            let report = self.installation.admin.get(&path).await?;
            let total = &report["total"];
            let number = |field: &str| total[field].as_u64().and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
            let (rows, paid) = (number("llm_requests"), &total["llm_amount"]);
            line(format_args!("- {}: {} requests answered, {} rows, {paid} spent", tenant.way.name(), count(asked), count(rows)));
            ensure!(rows >= asked && paid.as_str().is_some_and(|paid| paid != "0"), "answered requests are missing: {report}");
        }
        line("");
        Ok(())
    }

    pub async fn stop(self) -> Result<()> {
        self.worker.stop().await?;
        self.up.stop().await
    }
}

impl Tenant {
    /// A tenant with the provider, prices, a budget that nobody exhausts, and a key.
    async fn new(installation: &Installation, way: Way, provider: SocketAddr) -> Result<Self> {
        let (admin, name) = (&installation.admin, way.name());
        let tenant = admin.post("/v1/tenants", &json!({"name": name, "slug": format!("bench-{name}")})).await?;
        let id = text(&tenant, "id")?;
        let path = |rest: &str| format!("/v1/tenants/{id}/{rest}");
        let level = json!({"durability": name});
        ensure!(admin.try_patch(&path("audit/settings"), &level).await?, "this build has no levels of durability");
        let keys = json!([{"name": "main", "secret": "sk-bench-0123456789abcdef"}]);
        let provider = json!({"name": "bench", "kind": "openai", "base_url": format!("http://{provider}/v1"), "keys": keys});
        admin.post(&path("providers"), &provider).await?;
        admin.post(&path("llm-prices"), &json!({"model": "*", "input": "1", "output": "2"})).await?;
        let budget = json!({"scope": {"tenant": true}, "limit": "1000000", "period": "total", "thresholds": []});
        admin.post(&path("budgets"), &budget).await?;
        let key = admin.post(&path("keys"), &json!({"name": "bench", "tool_group_ids": []})).await?;
        Ok(Self { way, key: text(&key, "secret")?, id })
    }
}

fn target(address: SocketAddr, key: Option<&str>, model: &str, shape: Shape) -> Result<Target> {
    let (vocabulary, mut dice) = (Vocabulary::new(), Dice::new(11));
    let body = |_| {
        let words = vocabulary.object(&mut dice, PROMPT);
        let message = json!({"role": "user", "content": String::from_utf8_lossy(&words)});
        let mut body = json!({"model": model, "messages": [message], "max_tokens": 1000});
        if shape == Shape::Streamed {
            // The gateway asks for it in any case.
            (body["stream"], body["stream_options"]) = (true.into(), json!({"include_usage": true}));
        }
        Bytes::from(body.to_string())
    };
    let bodies = (0..VARIETY).map(body).collect();
    let good = match shape {
        Shape::Whole => |text: &[u8]| holds(text, br#""finish_reason":"stop""#),
        Shape::Streamed => |text: &[u8]| text.ends_with(b"data: [DONE]\n\n"),
    };
    let bearer = key.map(|key| format!("Bearer {key}"));
    Target::to(address, "/v1/chat/completions", bearer.as_deref(), bodies, good)
}

/// Ready when a request goes through: the worker has seen the tenant.
async fn until_ready(worker: &mut Process, target: &Target) -> Result<()> {
    let ready = async || {
        let round = target.round(1, Duration::from_millis(50)).await.ok()?;
        (round.answered > 0 && round.failed == 0).then_some(())
    };
    worker.until(ready).await.context("no request goes through the worker")
}
