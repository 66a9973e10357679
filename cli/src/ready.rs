//! `ready.json`, for programs that start Tollgate and wait for it, and the same for people on standard output.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Result;
use serde::Serialize;

use crate::{data_dir::DataDir, progress::say};

pub const FILE: &str = "ready.json";

#[derive(Debug, Serialize)]
pub struct Ready {
    pub api_url: String,
    pub gateway_url: String,
    pub admin_token: String,
    pub demo: Option<Demo>,
    pub pid: u32,
}

#[derive(Debug, Serialize)]
pub struct Demo {
    pub tenant_id: String,
    pub virtual_key: String,
    pub virtual_key_id: String,
    /// Sees the shop's read-only tools and nothing else.
    pub readonly_key: String,
}

/// An address one can connect to: "all interfaces" is none.
pub fn url(address: SocketAddr) -> String {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    format!("http://{}", SocketAddr::new(ip, address.port()))
}

impl Ready {
    pub fn write(&self, dir: &DataDir) -> Result<()> {
        dir.write_private(FILE, &format!("{}\n", serde_json::to_string_pretty(self)?))
    }

    pub fn print(&self, dir: &DataDir) {
        say(format_args!(
            "\nTollgate is running. Ctrl-C stops it; the data stays in {}.\n\n  \
             admin API    {}  (description: /docs)\n  \
             gateway      {}  (MCP: /mcp)\n  \
             admin token  {}",
            dir.path().display(),
            self.api_url,
            self.gateway_url,
            self.admin_token,
        ));
        if let Some(demo) = &self.demo {
            say(format_args!(
                "  tenant       {}\n  demo key     {}\n  read-only    {}",
                demo.tenant_id, demo.virtual_key, demo.readonly_key
            ));
            say(self.examples(demo));
        }
    }

    /// Each can be pasted into a shell as it stands.
    fn examples(&self, demo: &Demo) -> String {
        let Self { api_url, gateway_url, admin_token, .. } = self;
        let Demo { tenant_id, virtual_key, .. } = demo;
        let headers = "-H 'content-type: application/json' -H 'accept: application/json, text/event-stream' \
                       -H 'mcp-protocol-version: 2025-06-18'";
        let script = script_call();
        format!(
            r#"
Give it to an MCP client (mcp.json):

  {{"mcpServers": {{"tollgate": {{"type": "http", "url": "{gateway_url}/mcp", "headers": {{"Authorization": "Bearer {virtual_key}"}}}}}}}}

Which tools does the demo key see?

  curl -s {gateway_url}/mcp -H 'authorization: Bearer {virtual_key}' {headers} \
    -d '{{"jsonrpc": "2.0", "id": 1, "method": "tools/list"}}'

One script, four tool calls:

  curl -s {gateway_url}/mcp -H 'authorization: Bearer {virtual_key}' {headers} \
    -d '{script}'

What did it cost, and what was recorded?

  curl -s -H 'authorization: Bearer {admin_token}' '{api_url}/v1/tenants/{tenant_id}/reports/costs?group_by=tool'
  curl -s -H 'authorization: Bearer {admin_token}' '{api_url}/v1/tenants/{tenant_id}/audit/export?format=ndjson'
"#
        )
    }
}

/// Double quotes only inside the script: the whole stands between single quotes in a shell.
const SCRIPT: &str = r#"customer = shop.find_customer(email="ada.adler@example.com")["customers"][0]
orders = shop.list_orders(customer_id=customer["id"], limit=5)["orders"]
history = shop.order_history(order_id=orders[0]["id"])["events"]
mail = shop.send_email(to=customer["email"], subject="Your order " + orders[0]["id"], body="It is " + history[-1]["status"] + ".")
result = {"customer": customer["name"], "order": orders[0]["id"], "mail": mail["id"]}
"#;

fn script_call() -> serde_json::Value {
    serde_json::json!({
        "jsonrpc": "2.0",
        "id": 2,
        "method": "tools/call",
        "params": {"name": "executeToolCode", "arguments": {"code": SCRIPT}},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_interfaces_are_reached_by_the_loopback_one() {
        assert_eq!(url("0.0.0.0:8080".parse().expect("address")), "http://127.0.0.1:8080");
        assert_eq!(url("[::]:8080".parse().expect("address")), "http://[::1]:8080");
        assert_eq!(url("10.1.2.3:8080".parse().expect("address")), "http://10.1.2.3:8080");
    }

    #[test]
    fn the_example_survives_a_shell() {
        assert!(!script_call().to_string().contains('\''));
    }
}
