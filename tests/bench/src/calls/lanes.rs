//! What is measured: one upstream, one database with durable commits, a tenant and a worker for each mode.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use futures::TryStreamExt;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    admin::{Admin, text},
    installation::{self, Installation},
    load::Target,
    process::Process,
    table::note,
    upstream::TOOL,
    worker::HAS_BASELINE,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The upstream, without a gateway.
    Direct,
    Unaudited,
    Relaxed,
    Strict,
}

/// One way to make calls.
#[derive(Debug)]
pub struct Lane {
    pub kind: Kind,
    pub target: Target,
    /// None where there is no gateway.
    pub worker: Option<Process>,
    tenant: String,
}

pub struct Stage {
    pub lanes: Vec<Lane>,
    pub upstream: Process,
    pub postgres_pid: u32,
    pub postgres_version: String,
    /// Whether this build lets a tenant choose.
    pub has_durability: bool,
    up: Process,
    admin: Admin,
    // Removed at the end, after the processes that use it.
    dir: TempDir,
}

/// Rows of the trail.
pub struct Recorded {
    pub calls: usize,
    pub open: usize,
}

impl Kind {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Unaudited => "unaudited",
            Self::Relaxed => "relaxed",
            Self::Strict => "strict",
        }
    }
}

impl Stage {
    pub async fn start(dir: Option<PathBuf>) -> Result<Self> {
        let dir = installation::folder(dir)?;
        let mut upstream = Process::start("upstream", &std::env::current_exe()?, &["upstream"], &[])?;
        let address = upstream.address().await?;
        note(format_args!("starting a database in {}", dir.path().display()));
        let (up, installation) = Installation::start(&dir.path().join("data")).await?;
        let postgres_version = installation.durable_postgres().await?;
        let direct = Lane { kind: Kind::Direct, target: Target::new(address, None, TOOL)?, worker: None, tenant: String::new() };
        let (mut lanes, mut has_durability) = (vec![direct], false);
        for kind in [Kind::Unaudited, Kind::Relaxed, Kind::Strict] {
            let tenant = tenant(&installation, kind, address).await?;
            let level = if kind == Kind::Relaxed { "relaxed" } else { "strict" };
            let settings = format!("/v1/tenants/{}/audit/settings", tenant.id);
            has_durability = installation.admin.try_patch(&settings, &json!({"durability": level})).await?;
            if (kind == Kind::Unaudited && !HAS_BASELINE) || (kind == Kind::Relaxed && !has_durability) {
                continue;
            }
            lanes.push(lane(&installation, kind, tenant).await?);
        }
        let Installation { admin, postgres_pid, .. } = installation;
        Ok(Self { lanes, upstream, postgres_pid, postgres_version, has_durability, up, admin, dir })
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What the trail holds of a lane's calls, once completions that trail have come.
    pub async fn recorded(&self, lane: &Lane) -> Result<Recorded> {
        let path = format!("/v1/tenants/{}/reports/costs?group_by=outcome", lane.tenant);
        let mut tries = 0;
        loop {
            let report = self.admin.get(&path).await?;
            let number = |value: &Value| value.as_u64().and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
            let open = report["items"].as_array().into_iter().flatten().find(|item| item["outcome"].is_null());
            let open = open.map_or(0, |item| number(&item["calls"]));
            tries += 1;
            if open == 0 || tries == 20 {
                return Ok(Recorded { calls: number(&report["total"]["calls"]), open });
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// Export the strict tenant's sealed rows as one archive: the rows of the log, the bytes and the seconds; `None` without
    /// such a lane.
    pub async fn bundle(&self) -> Result<Option<(u64, usize, f64)>> {
        let Some(lane) = self.lanes.iter().find(|lane| lane.kind == Kind::Strict) else { return Ok(None) };
        let audit = format!("/v1/tenants/{}/audit", lane.tenant);
        let head = self.admin.get(&format!("{audit}/seals?limit=1")).await?;
        let seal = &head["items"][0]["seal"];
        let rows = seal["first"].as_u64().zip(seal["count"].as_u64()).map_or(0, |(first, count)| first + count);
        let begun = std::time::Instant::now();
        let answer = self.admin.open(&format!("{audit}/export?format=bundle")).await?;
        ensure!(answer.status().is_success(), "no bundle: {}", answer.status());
        let (mut body, mut bytes) = (answer.bytes_stream(), 0);
        while let Some(piece) = body.try_next().await.context("the bundle broke off")? {
            bytes += piece.len();
        }
        Ok(Some((rows, bytes, begun.elapsed().as_secs_f64())))
    }

    pub async fn stop(self) -> Result<()> {
        for worker in self.lanes.into_iter().filter_map(|lane| lane.worker) {
            worker.stop().await?;
        }
        self.up.stop().await
    }
}

/// A tenant with the upstream and a key that may call it.
struct Tenant {
    id: String,
    key: String,
    tool: String,
}

/// A tenant with the upstream and a key that may call it.
async fn tenant(installation: &Installation, kind: Kind, upstream: SocketAddr) -> Result<Tenant> {
    let admin = &installation.admin;
    let name = kind.name();
    let tenant = admin.post("/v1/tenants", &json!({"name": name, "slug": format!("bench-{name}")})).await?;
    let id = text(&tenant, "id")?;
    let path = |rest: &str| format!("/v1/tenants/{id}/{rest}");
    let transport = json!({"type": "http", "url": format!("http://{upstream}/mcp")});
    let upstream = json!({"name": "bench", "transport": transport, "exposure": "classic"});
    let upstream = admin.post(&path("upstreams"), &upstream).await?;
    ensure!(upstream["state"] == "connected", "the upstream is not connected: {upstream}");
    let members = json!([{"upstream_id": upstream["id"], "tools": ["*"]}]);
    let group = json!({"name": "all", "slug": "all", "members": members});
    let group = admin.post(&path("tool-groups"), &group).await?;
    let key = admin.post(&path("keys"), &json!({"name": "bench", "tool_group_ids": [group["id"]]})).await?;
    Ok(Tenant { key: text(&key, "secret")?, tool: format!("bench__{TOOL}"), id })
}

/// A worker of the lane's own, and callers that reach it.
async fn lane(installation: &Installation, kind: Kind, tenant: Tenant) -> Result<Lane> {
    let (mut worker, address) = installation.worker(kind == Kind::Unaudited).await?;
    let target = Target::new(address, Some(format!("Bearer {}", tenant.key)), &tenant.tool)?;
    // Ready when a call goes through: the worker has seen the tenant and reached its upstream.
    worker
        .until(async || {
            let round = target.round(1, Duration::from_millis(50)).await.ok()?;
            (round.answered > 0 && round.failed == 0).then_some(())
        })
        .await
        .with_context(|| format!("no call goes through the {} worker", kind.name()))?;
    Ok(Lane { kind, target, worker: Some(worker), tenant: tenant.id })
}
