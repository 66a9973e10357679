//! A tenant of a test's own, with short words for what most tests need in it.

use serde_json::{Value, json};
use uuid::Uuid;

use super::{Admin, Answer, Mcp, Tollgate};

#[derive(Debug, Clone)]
pub struct Tenant {
    pub id: String,
    /// The platform's admin.
    pub admin: Admin,
    gateway_url: String,
}

#[derive(Debug, Clone)]
pub struct Upstream {
    pub id: String,
    pub name: String,
    pub state: String,
    /// As `GET /tools` lists them.
    pub tools: Vec<Value>,
}

impl Upstream {
    #[track_caller]
    pub fn tool(&self, name: &str) -> &Value {
        let found = self.tools.iter().find(|tool| tool["name"] == name);
        found.unwrap_or_else(|| panic!("{} has no tool {name}, only {:?}", self.name, self.tool_names()))
    }

    pub fn tool_id(&self, name: &str) -> String {
        text(self.tool(name), "id")
    }

    /// In alphabetical order.
    pub fn tool_names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.tools.iter().map(|tool| text(tool, "name")).collect();
        names.sort();
        names
    }
}

#[derive(Debug, Clone)]
pub struct Group {
    pub id: String,
    pub slug: String,
}

#[derive(Debug, Clone)]
pub struct Key {
    pub id: String,
    pub secret: String,
}

/// A program of the configuration; see `Tollgate::programs`.
pub fn stdio(program: &str) -> Value {
    json!({"type": "stdio", "program": program})
}

pub fn http(url: &str) -> Value {
    json!({"type": "http", "url": url})
}

impl Tenant {
    pub async fn new(tollgate: &Tollgate, name: &str) -> Self {
        let admin = tollgate.admin();
        let slug = format!("t-{}", Uuid::new_v4().simple());
        let tenant = admin.post("/v1/tenants", json!({"name": name, "slug": slug})).await.expect(201);
        Self { id: text(&tenant, "id"), admin, gateway_url: tollgate.gateway_url.clone() }
    }

    /// The same tenant through the doors of another process of the installation.
    #[must_use]
    pub fn through(&self, admin: Admin, gateway_url: &str) -> Self {
        Self { id: self.id.clone(), admin, gateway_url: gateway_url.to_owned() }
    }

    /// `/v1/tenants/{id}/{rest}`
    pub fn path(&self, rest: &str) -> String {
        format!("/v1/tenants/{}/{rest}", self.id)
    }

    pub async fn get(&self, rest: &str) -> Answer {
        self.admin.get(&self.path(rest)).await
    }

    pub async fn post(&self, rest: &str, body: Value) -> Answer {
        self.admin.post(&self.path(rest), body).await
    }

    pub async fn patch(&self, rest: &str, body: Value) -> Answer {
        self.admin.patch(&self.path(rest), body).await
    }

    pub async fn delete(&self, rest: &str) -> Answer {
        self.admin.delete(&self.path(rest)).await
    }

    /// All items of a list of this tenant.
    pub async fn list(&self, rest: &str) -> Vec<Value> {
        self.admin.list(&self.path(rest)).await
    }

    /// A client with a service token of this role.
    pub async fn role(&self, role: &str) -> Admin {
        let made = self.post("service-tokens", json!({"name": role, "role": role})).await.expect(201);
        self.admin.with_token(&text(&made, "secret"))
    }

    /// An upstream that must connect at once, with its tools.
    pub async fn upstream(&self, name: &str, transport: Value, exposure: &str) -> Upstream {
        self.upstream_with(json!({"name": name, "transport": transport, "exposure": exposure})).await
    }

    pub async fn upstream_with(&self, body: Value) -> Upstream {
        let made = self.post("upstreams", body).await.expect(201);
        assert_eq!(made["state"], "connected", "{made}");
        let id = text(&made, "id");
        let tools = self.tools(&id).await;
        Upstream { id, name: text(&made, "name"), state: text(&made, "state"), tools }
    }

    pub async fn tools(&self, upstream_id: &str) -> Vec<Value> {
        self.list(&format!("tools?upstream_id={upstream_id}")).await
    }

    /// A group of all tools of these upstreams.
    pub async fn group(&self, upstreams: &[&Upstream]) -> Group {
        let members: Vec<_> = upstreams.iter().map(|u| json!({"upstream_id": u.id, "tools": ["*"]})).collect();
        self.group_with(json!(members)).await
    }

    pub async fn group_with(&self, members: Value) -> Group {
        let slug = format!("g-{}", Uuid::new_v4().simple());
        let made = self.post("tool-groups", json!({"name": "group", "slug": slug, "members": members})).await.expect(201);
        Group { id: text(&made, "id"), slug: text(&made, "slug") }
    }

    pub async fn key(&self, groups: &[&Group]) -> Key {
        let groups: Vec<_> = groups.iter().map(|group| &group.id).collect();
        self.key_with(json!({"name": "key", "tool_group_ids": groups})).await
    }

    pub async fn key_with(&self, body: Value) -> Key {
        let made = self.post("keys", body).await.expect(201);
        Key { id: text(&made, "id"), secret: text(&made, "secret") }
    }

    /// A key that may call everything of these upstreams, and a client that holds it.
    pub async fn open(&self, upstreams: &[&Upstream]) -> (Key, Mcp) {
        let group = self.group(upstreams).await;
        let key = self.key(&[&group]).await;
        let mcp = self.mcp(&key);
        (key, mcp)
    }

    /// A client of the model door, in the older era.
    pub fn mcp(&self, key: &Key) -> Mcp {
        Mcp::new(&self.gateway_url, &key.secret)
    }

    pub async fn price_tool(&self, tool_id: &str, amount: &str) -> Value {
        self.post("prices", json!({"tool_id": tool_id, "amount": amount, "unit": "call"})).await.expect(201)
    }

    pub async fn price_upstream(&self, upstream_id: &str, amount: &str) -> Value {
        self.post("prices", json!({"upstream_id": upstream_id, "amount": amount, "unit": "call"})).await.expect(201)
    }

    /// Rows of the audit trail, oldest first; `filter` like `key_id=..&outcome=ok`.
    pub async fn calls(&self, filter: &str) -> Vec<Value> {
        let mut rows = self.list(&format!("tool-calls?{filter}")).await;
        // Ids are in the order of time.
        rows.sort_by_key(|row| text(row, "id"));
        rows
    }

    /// The one row under an LLM request.
    pub async fn call_of(&self, llm_request_id: &str) -> Value {
        let mut rows = self.calls(&format!("llm_request_id={llm_request_id}")).await;
        assert_eq!(rows.len(), 1, "{rows:?}");
        rows.remove(0)
    }
}

#[track_caller]
pub fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_else(|| panic!("no {field} in {value}")).to_owned()
}
