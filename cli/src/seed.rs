//! The demo: one tenant with two small servers, two keys that see different things, and prices. All of it goes through the
//! admin API of the server that has just started, as any client would do it. Every step first looks whether its thing is
//! there, so a second start, or one after a crash half-way, ends in the same place.

mod client;

use std::{collections::BTreeSet, path::Path, time::Duration};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tollgate_boot::{Config, config::Program};

use crate::{data_dir::DataDir, progress::Step, ready::Demo, sandbox, secrets::InstallationSecrets};

use client::{Client, text};

const SERVERS: &str = "tollgate-demo-shop";
/// Discovery is waited for by the API itself; this is for a machine that is slow to start a process.
const DISCOVERY_ATTEMPTS: u32 = 40;
const DISCOVERY_PAUSE: Duration = Duration::from_millis(500);

/// Adds the two demo servers to the operator's programs. One that already has the name wins: it was put there on purpose.
pub fn register_programs(config: &mut Config) -> Result<()> {
    let command = sandbox::beside(SERVERS).context("the demo needs its servers; or start with --seed none")?;
    for (name, mode) in [("demo-shop", "shop"), ("demo-clock", "clock")] {
        if config.program(name).is_none() {
            config.programs.push(program(name, &command, mode));
        }
    }
    Ok(())
}

fn program(name: &str, command: &Path, mode: &str) -> Program {
    Program {
        name: name.to_owned(),
        command: command.to_owned(),
        args: vec![mode.to_owned()],
        env: std::collections::BTreeMap::new(),
        cwd: None,
    }
}

/// Makes the demo, or finds it, and answers what people need to try it.
pub async fn plant(api_url: &str, secrets: &mut InstallationSecrets, dir: &DataDir) -> Result<Demo> {
    let mut step = Step::begin("demo");
    let planting = async {
        let api = Client::new(api_url, &secrets.admin_token)?;
        let tenant = api.find_or_create("/v1/tenants", "slug", json!({"name": "Demo", "slug": "demo"})).await?;
        let tenant_id = text(&tenant, "id")?;
        let garden = Garden { api, base: format!("/v1/tenants/{tenant_id}") };
        let tools = garden.tools().await?;
        garden.prices(&tools).await?;
        let [full, readonly] = garden.groups(&tools).await?;
        let (virtual_key_id, virtual_key) = garden.key("demo", &full, secrets, dir).await?;
        let (_, readonly_key) = garden.key("demo-readonly", &readonly, secrets, dir).await?;
        Ok(Demo { tenant_id, virtual_key, virtual_key_id, readonly_key })
    };
    let demo = step.watch(planting).await;
    if demo.is_ok() {
        step.done("tenant, servers, prices and keys are there");
    }
    demo
}

/// The demo's tenant.
struct Garden {
    api: Client,
    base: String,
}

/// What discovery found, by server.
struct Tools {
    shop_id: String,
    clock_id: String,
    shop: Vec<Value>,
    clock: Vec<Value>,
}

impl Garden {
    fn path(&self, noun: &str) -> String {
        format!("{}/{noun}", self.base)
    }

    async fn tools(&self) -> Result<Tools> {
        let shop_id = self.upstream("shop", "demo-shop", "code").await?;
        let clock_id = self.upstream("clock", "demo-clock", "classic").await?;
        let (shop, clock) = (self.discovered(&shop_id).await?, self.discovered(&clock_id).await?);
        Ok(Tools { shop_id, clock_id, shop, clock })
    }

    async fn upstream(&self, name: &str, program: &str, exposure: &str) -> Result<String> {
        let body = json!({
            "name": name,
            "transport": {"type": "stdio", "program": program},
            "exposure": exposure,
        });
        text(&self.api.find_or_create(&self.path("upstreams"), "name", body).await?, "id")
    }

    async fn discovered(&self, upstream_id: &str) -> Result<Vec<Value>> {
        let path = self.path(&format!("tools?upstream_id={upstream_id}"));
        for _ in 0..DISCOVERY_ATTEMPTS {
            let tools = self.api.list(&path).await?;
            if !tools.is_empty() {
                return Ok(tools);
            }
            tokio::time::sleep(DISCOVERY_PAUSE).await;
        }
        bail!("no tools of {upstream_id} were discovered; does its program start?")
    }

    /// A tool that has a price keeps it: prices are appended to, and a start is no reason for a new one.
    async fn prices(&self, tools: &Tools) -> Result<()> {
        let prices = self.path("prices");
        let listed = self.api.list(&prices).await?;
        let priced: BTreeSet<&str> = listed.iter().filter_map(|price| price["tool_id"].as_str()).collect();
        for tool in tools.shop.iter().chain(&tools.clock) {
            let id = text(tool, "id")?;
            if !priced.contains(id.as_str()) {
                let amount = price_of(&text(tool, "name")?, is_read_only(tool));
                self.api.create(&prices, &json!({"tool_id": id, "amount": amount, "unit": "call"})).await?;
            }
        }
        Ok(())
    }

    async fn groups(&self, tools: &Tools) -> Result<[String; 2]> {
        let Tools { shop_id, clock_id, shop, .. } = tools;
        let reads: Vec<String> =
            shop.iter().filter(|tool| is_read_only(tool)).map(|tool| text(tool, "name")).collect::<Result<_>>()?;
        let everything = [shop_id, clock_id].map(|id| json!({"upstream_id": id, "tools": ["*"]}));
        let full = json!({"name": "Everything", "slug": "full", "members": everything});
        let members = [json!({"upstream_id": shop_id, "tools": reads})];
        let readonly = json!({"name": "Shop, read only", "slug": "readonly", "members": members});
        let groups = self.path("tool-groups");
        let full = self.api.find_or_create(&groups, "slug", full).await?;
        let readonly = self.api.find_or_create(&groups, "slug", readonly).await?;
        Ok([text(&full, "id")?, text(&readonly, "id")?])
    }

    /// A key whose secret we kept is shown again. One that exists without (the data directory is new, the database is
    /// not) gets a new secret.
    async fn key(&self, name: &str, group: &str, secrets: &mut InstallationSecrets, dir: &DataDir) -> Result<(String, String)> {
        let keys = self.path("keys");
        let body = json!({"name": name, "tool_group_ids": [group]});
        let found = self.api.find_or_create(&keys, "name", body).await?;
        let id = text(&found, "id")?;
        let secret = match (found["secret"].as_str(), secrets.demo_key(&id)) {
            (Some(new), _) => new.to_owned(),
            (None, Some(kept)) => return Ok((id.clone(), kept.to_owned())),
            (None, None) => text(&self.api.create(&format!("{keys}/{id}/rotate"), &json!({})).await?, "secret")?,
        };
        secrets.keep_demo_key(&id, &secret);
        secrets.save(dir)?;
        Ok((id, secret))
    }
}

fn is_read_only(tool: &Value) -> bool {
    tool["annotations"]["readOnlyHint"].as_bool().unwrap_or(false)
}

/// In dollars a call: looking is cheap, changing costs more, what leaves the house costs most.
fn price_of(tool: &str, read_only: bool) -> &'static str {
    match (tool, read_only) {
        ("send_email", _) => "0.01",
        (_, true) => "0.0005",
        (_, false) => "0.002",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_hint_is_no_permission_to_read() {
        assert!(is_read_only(&json!({"annotations": {"readOnlyHint": true}})));
        assert!(!is_read_only(&json!({"annotations": null})));
        assert!(!is_read_only(&json!({})));
    }
}
