//! T37, T39, T40: every route of the admin API, knocked at by nobody, by strangers and by every role. The routes come from the
//! API's own table, so a new one is crawled at once; where the crawler lacks a word for it, it fails and says which.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use tollgate_api::RouteInfo;
use tollgate_domain::{Action, role::Role};

use crate::harness::{Admin, Answer, Key, Recorder, Tenant, Tollgate, http, text, until};

/// A tenant that has one of everything, each with a mark in it that no stranger may read.
struct Land {
    tenant: Tenant,
    mark: String,
    /// By the name of the path or query parameter.
    ids: BTreeMap<&'static str, String>,
    key: Key,
    revoked_token: String,
    _recorder: Recorder,
}

impl Land {
    async fn new(tollgate: &Tollgate, mark: &str) -> Self {
        let tenant = Tenant::new(tollgate, mark).await;
        let recorder = Recorder::start();
        let made = async |path: &str, body: Value| tenant.post(path, body).await.expect(201);
        let mut ids = BTreeMap::from([("tenant_id", tenant.id.clone())]);
        let token = made("service-tokens", json!({"name": mark, "role": "auditor"})).await;
        ids.insert("service_token_id", text(&token, "id"));
        let person = json!({"name": mark, "issuer": "https://id.example", "subject": mark, "role": "auditor"});
        ids.insert("admin_id", text(&made("admins", person).await, "id"));
        ids.insert("team_id", text(&made("teams", json!({"name": mark})).await, "id"));
        let body = json!({"name": "rec", "description": mark, "transport": recorder.transport(), "exposure": "code"});
        let upstream = tenant.upstream_with(body).await;
        ids.insert("upstream_id", upstream.id.clone());
        ids.insert("tool_id", upstream.tool_id("echo"));
        let members = json!([{"upstream_id": upstream.id, "tools": ["*"]}]);
        ids.insert("tool_group_id", text(&made("tool-groups", json!({"name": mark, "members": members})).await, "id"));
        tenant.price_upstream(&upstream.id, "0.5").await;
        ids.insert("price_id", text(&tenant.price_tool(&ids["tool_id"], "0.25").await, "id"));
        let key = json!({"name": mark, "team_id": ids["team_id"], "tool_group_ids": [ids["tool_group_id"]]});
        let key = tenant.key_with(key).await;
        ids.insert("key_id", key.id.clone());
        let reply =
            tenant.mcp(&key).call("executeToolCode", json!({"code": format!("result = rec.echo(text=\"{mark}\")")})).await;
        let run = reply.structured();
        assert_eq!(run["state"], "done", "{run}");
        ids.insert("script_run_id", text(&run, "script_run_id"));
        ids.insert("call_id", text(&run["calls"][0], "call_id"));
        ids.insert("llm_request_id", reply.request_id());
        let asks = json!([{"upstream_id": upstream.id, "tools": ["count"], "confirmations": 1}]);
        let asks = json!({"name": format!("{mark} asks"), "members": members, "approval": asks});
        let asking = text(&made("tool-groups", asks).await, "id");
        let asking = tenant.key_with(json!({"name": format!("{mark} asks"), "tool_group_ids": [asking]})).await;
        let waits = tenant.mcp(&asking).call("executeToolCode", json!({"code": "rec.count()"})).await.structured();
        ids.insert("approval_id", text(&waits["approvals"][0], "id"));
        // By which approvals are found.
        ids.insert("approvals.script_run_id", text(&waits, "script_run_id"));
        ids.insert("approvals.tool_id", upstream.tool_id("count"));
        ids.insert("approvals.key_id", asking.id);
        // One that finds nothing: what it would take away is looked at by others.
        let nothing = json!({"contains": "not there", "from": "2026-01-01T00:00:00Z", "to": "2026-02-01T00:00:00Z"});
        let erasure = made("audit/erasures", json!({"reason": mark, "selection": nothing})).await;
        ids.insert("erasure_id", text(&erasure, "id"));
        // One who has done something, to filter by.
        let owner = made("service-tokens", json!({"name": mark, "role": "owner"})).await;
        let acts = tenant.admin.with_token(&text(&owner, "secret"));
        let team = acts.post(&tenant.path("teams"), json!({"name": format!("{mark} 2")})).await.expect(201);
        ids.insert("target_id", text(&team, "id"));
        ids.insert("actor_id", text(&owner, "id"));
        ids.insert("tool_call_id", ids["call_id"].clone());
        let credit = json!({"tool_call_id": ids["call_id"], "amount": "0.01", "reason": mark});
        ids.insert("credit_id", text(&made("credits", credit).await, "id"));
        let tokens = json!({"model": mark, "input": "1", "output": "1"});
        ids.insert("llm_price_id", text(&made("llm-prices", tokens).await, "id"));
        // Wide enough for every call that this test makes.
        let budget = json!({"name": mark, "scope": {"tenant": true}, "limit": "1000", "period": "month"});
        ids.insert("budget_id", text(&made("budgets", budget).await, "id"));
        let limit = json!({"name": mark, "scope": {"tenant": true}, "max": 1_000_000, "per": "second"});
        ids.insert("rate_limit_id", text(&made("rate-limits", limit).await, "id"));
        let provider = json!({"name": mark, "kind": "openai", "base_url": "http://127.0.0.1:1/v1", "keys": [{"name": mark, "secret": mark}]});
        ids.insert("provider_id", text(&made("providers", provider).await, "id"));
        let route = json!({"name": mark, "targets": [{"provider_id": ids["provider_id"], "model": mark}]});
        ids.insert("model_route_id", text(&made("model-routes", route).await, "id"));
        let report = json!({"name": mark, "every": "month", "format": "csv", "destination": "lake"});
        ids.insert("report_schedule_id", text(&made("report-schedules", report).await, "id"));
        ids.insert("export_job_id", text(&made("audit/export-jobs", json!({"destination": "lake"})).await, "id"));
        let revoked = made("service-tokens", json!({"name": mark, "role": "owner"})).await;
        tenant.delete(&format!("service-tokens/{}", text(&revoked, "id"))).await.ok();
        let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while tenant.list("audit/seals").await.is_empty() {
            assert!(std::time::Instant::now() < until, "nothing is sealed");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        Self { tenant, mark: mark.to_owned(), ids, key, revoked_token: text(&revoked, "secret"), _recorder: recorder }
    }

    async fn roles(&self) -> Vec<(Role, Admin)> {
        let mut roles = Vec::new();
        for role in Role::ALL {
            roles.push((*role, self.tenant.role(role.as_str()).await));
        }
        roles
    }

    /// Everything that an admin may change, as it stands.
    async fn state(&self) -> BTreeMap<&'static str, Value> {
        let mut state = BTreeMap::new();
        for list in [
            "service-tokens",
            "admins",
            "teams",
            "keys",
            "tool-groups",
            "tools",
            "prices",
            "credits",
            "budgets",
            "rate-limits",
            "report-schedules",
            "providers",
            "model-routes",
            "script-runs",
            "tool-calls",
            "llm-requests",
            "audit/erasures",
            "approvals",
        ] {
            state.insert(list, self.tenant.list(list).await.into());
        }
        let tenant = self.tenant.admin.get(&format!("/v1/tenants/{}", self.tenant.id)).await;
        state.insert("tenant", tenant.expect(200));
        state.insert("audit/settings", self.tenant.get("audit/settings").await.expect(200));
        state.insert("script-limits", self.tenant.get("script-limits").await.expect(200));
        let upstreams = self.tenant.list("upstreams").await;
        state.insert("upstreams", upstreams.iter().map(|u| json!([u["id"], u["version"], u["updated_at"]])).collect());
        state
    }

    /// No answer that a stranger gets holds the mark, or an id that was not in the question.
    #[track_caller]
    fn says_nothing_of_it(&self, asked: &str, answer: &Answer) {
        assert!(!answer.text.contains(&self.mark), "{asked} shows another tenant's data: {}", answer.text);
        for id in self.ids.values().filter(|id| !asked.contains(id.as_str())) {
            assert!(!answer.text.contains(id.as_str()), "{asked} shows another tenant's {id}: {}", answer.text);
        }
        assert!(!answer.text.contains(&self.key.secret));
    }
}

/// What is admitted there does not end by itself; its own tests read it.
const ENDLESS: &str = "/audit/stream";

fn params(path: &str) -> Vec<&str> {
    path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')).collect()
}

/// The path with `tenant` and with all other ids from `ids`.
fn fill(path: &str, tenant: &str, ids: &BTreeMap<&'static str, String>) -> String {
    // A number within a tenant and no id: everyone has a first seal.
    let path = path.replace("{sequence}", "1");
    params(&path).into_iter().fold(path.clone(), |filled, name| {
        let known =
            ids.get(name).unwrap_or_else(|| panic!("the crawler has no id for {{{name}}} of {path}: make one in Land::new"));
        filled.replace(&format!("{{{name}}}"), if name == "tenant_id" { tenant } else { known })
    })
}

/// A body that the route would take, with ids of `ids`.
fn body_of(route: &RouteInfo, ids: &BTreeMap<&'static str, String>) -> Option<Value> {
    if route.method == Method::GET || route.method == Method::DELETE {
        return None;
    }
    let members = json!([{"upstream_id": ids["upstream_id"], "tools": ["*"]}]);
    let rest = route.path.trim_start_matches("/v1/tenants").trim_start_matches("/{tenant_id}");
    Some(match (route.method.as_str(), rest) {
        ("POST" | "PATCH", "") => json!({"name": "stranger"}),
        ("POST", "/service-tokens") => json!({"name": "stranger", "role": "auditor"}),
        ("POST", "/admins") => {
            json!({"name": "stranger", "issuer": "https://id.example", "subject": "stranger", "role": "auditor"})
        }
        ("POST", "/teams") | ("PATCH", "/teams/{team_id}") => json!({"name": "stranger"}),
        ("POST", "/keys") => json!({"name": "stranger", "tool_group_ids": [ids["tool_group_id"]], "team_id": ids["team_id"]}),
        ("PATCH", "/keys/{key_id}") => json!({"name": "stranger"}),
        ("POST", "/keys/{key_id}/rotate") => json!({"overlap_seconds": 0}),
        ("POST", "/tool-groups") => json!({"name": "stranger", "members": members}),
        ("PATCH", "/tool-groups/{tool_group_id}") => json!({"name": "stranger", "members": []}),
        ("POST", "/upstreams") => json!({"name": "stranger", "transport": http("http://127.0.0.1:1/mcp"), "exposure": "code"}),
        ("PATCH", "/upstreams/{upstream_id}") => json!({"description": "stranger"}),
        ("POST", "/tools/{tool_id}/approve") => json!({"definition_sha256": "0".repeat(64)}),
        ("POST", "/prices") => json!({"upstream_id": ids["upstream_id"], "amount": "0", "unit": "call"}),
        // No CSV: where it is let in, it is refused for that.
        ("POST", "/rate-card/import") => json!("upstream,tool,unit,amount"),
        ("POST", "/llm-prices") => json!({"model": "stranger", "input": "0", "output": "0"}),
        ("POST", "/credits") => json!({"key_id": ids["key_id"], "amount": "1", "reason": "stranger"}),
        ("POST", "/budgets") => json!({"scope": {"key_id": ids["key_id"]}, "limit": "0", "period": "day"}),
        ("PATCH", "/budgets/{budget_id}") => json!({"limit": "0"}),
        ("POST", "/rate-limits") => json!({"scope": {"key_id": ids["key_id"]}, "max": 1, "per": "day"}),
        ("PATCH", "/rate-limits/{rate_limit_id}") => json!({"max": 1}),
        ("POST", "/providers") => {
            json!({"name": "stranger", "kind": "openai", "base_url": "http://127.0.0.1:1/v1", "keys": [{"name": "k", "secret": "s"}]})
        }
        ("PATCH", "/providers/{provider_id}") => json!({"timeout_ms": 1}),
        ("POST", "/model-routes") => {
            json!({"name": "stranger", "targets": [{"provider_id": ids["provider_id"], "model": "stranger"}]})
        }
        ("PATCH", "/model-routes/{model_route_id}") => {
            json!({"targets": [{"provider_id": ids["provider_id"], "model": "stranger"}]})
        }
        ("PATCH", "/script-limits") => json!({"calls": 1}),
        ("PATCH", "/audit/settings") => json!({"durability": "relaxed", "redaction": {"detectors": ["email"]}}),
        ("POST", "/approvals/{approval_id}/approve" | "/approvals/{approval_id}/deny") => json!({"reason": "stranger"}),
        ("POST", "/audit/erasures") => json!({"reason": "stranger", "selection": {"call_ids": [ids["call_id"]]}}),
        ("POST", "/report-schedules") => json!({"name": "stranger", "every": "day", "format": "csv", "destination": "lake"}),
        ("PATCH", "/report-schedules/{report_schedule_id}") => json!({"enabled": false}),
        ("POST", "/report-schedules/{report_schedule_id}/retry") => return None,
        ("POST", "/audit/export-jobs") => json!({"destination": "lake"}),
        ("POST", "/audit/export-jobs/{export_job_id}/cancel") => return None,
        ("POST", "/keys/{key_id}/revoke" | "/upstreams/{upstream_id}/sync" | "/tools/{tool_id}/quarantine") => return None,
        _ => panic!("the crawler knows no body of {} {}: add one to body_of", route.method, route.path),
    })
}

async fn knock(admin: &Admin, route: &RouteInfo, path: &str, body: Option<&Value>) -> Answer {
    let asks =
        if matches!(route.method, Method::PATCH | Method::DELETE) { admin.with_header("if-match", "*") } else { admin.clone() };
    asks.send(route.method.clone(), path, body).await.unwrap_or_else(|error| panic!("{} {path}: {error:?}", route.method))
}

async fn description(tollgate: &Tollgate) -> Value {
    tollgate.admin().anonymous().get("/openapi.json").await.expect(200)
}

#[tokio::test]
async fn t37_the_served_description_and_the_table_name_the_same_routes() {
    let api = description(Tollgate::shared().await).await;
    let described: BTreeSet<String> = api["paths"]
        .as_object()
        .expect("paths")
        .iter()
        .flat_map(|(path, item)| {
            let methods = item
                .as_object()
                .expect("methods")
                .keys()
                .filter(|key| ["get", "put", "post", "delete", "patch", "head", "options", "trace"].contains(&key.as_str()));
            methods.map(move |method| format!("{} {path}", method.to_uppercase()))
        })
        .collect();
    let table: BTreeSet<String> = tollgate_api::table().iter().map(|route| format!("{} {}", route.method, route.path)).collect();
    assert_eq!(described, table);
    assert!(table.len() >= 50, "{}", table.len());
}

#[tokio::test]
async fn t37_nobody_gets_in_anywhere() {
    let tollgate = Tollgate::shared().await;
    let land = Land::new(tollgate, "mark-anonymous").await;
    let before = land.state().await;
    let admin = tollgate.admin();
    let forged = format!("{}x", &admin.token.as_ref().expect("a token")[..admin.token.as_ref().expect("a token").len() - 1]);
    let nobodies = [
        ("no token", admin.anonymous()),
        ("garbage", admin.with_token("garbage")),
        ("a virtual key", admin.with_token(&land.key.secret)),
        ("a revoked owner", admin.with_token(&land.revoked_token)),
        ("a forged platform token", admin.with_token(&forged)),
        ("two tokens", admin.with_header("authorization", "Bearer x")),
    ];
    let routes = tollgate_api::table();
    for (who, nobody) in &nobodies {
        let answers = join_all(routes.iter().map(async |route| {
            let path = fill(route.path, &land.tenant.id, &land.ids);
            (route, knock(nobody, route, &path, body_of(route, &land.ids).as_ref()).await)
        }));
        for (route, answer) in answers.await {
            let asked = format!("{who}: {} {}", route.method, route.path);
            assert_eq!(
                (answer.status, answer.json()["code"].as_str()),
                (401, Some("unauthenticated")),
                "{asked}: {}",
                answer.text
            );
            land.says_nothing_of_it(&asked, &answer);
        }
    }
    // Paths that are no route, and methods that are none of theirs.
    for path in ["/v1", "/v1/", "/v1/tenants/", "/v2/tenants", "/v1/tenants/x/../..", "/V1/TENANTS", "//v1/tenants", "/v1/admin"]
    {
        let answer = admin.anonymous().get(path).await;
        assert!(matches!(answer.status, 401 | 404), "{path}: {} {}", answer.status, answer.text);
    }
    assert_eq!(land.state().await, before);
}

/// Another tenant's path, and another tenant's ids in one's own path.
#[tokio::test]
async fn t39_strangers_find_nothing_of_another_tenant() {
    let tollgate = Tollgate::shared().await;
    let (a, b) = tokio::join!(Land::new(tollgate, "mark-of-a-9c41"), Land::new(tollgate, "mark-of-b-77e0"));
    let before = a.state().await;
    let roles = b.roles().await;
    let (mut crossed, mut mixed) = (0, 0);
    for route in tollgate_api::table() {
        let names = params(route.path);
        for (role, admin) in &roles {
            let who = format!("{role}: {} {}", route.method, route.path);
            let body = body_of(&route, &a.ids);
            if names.is_empty() {
                let answer = knock(admin, &route, route.path, body.as_ref()).await;
                assert_eq!(answer.status, 403, "{who}: the platform's: {}", answer.text);
                a.says_nothing_of_it(&who, &answer);
                continue;
            }
            let path = fill(route.path, &a.tenant.id, &a.ids);
            let answer = knock(admin, &route, &path, body.as_ref()).await;
            assert_eq!((answer.status, answer.json()["code"].as_str()), (404, Some("not_found")), "{who}: {}", answer.text);
            a.says_nothing_of_it(&format!("{who} {path}"), &answer);
            crossed += 1;
            if names.len() > 1 && !names.contains(&"sequence") {
                let path = fill(route.path, &b.tenant.id, &a.ids);
                let answer = knock(admin, &route, &path, body.as_ref()).await;
                let expected = if role.may(route.action) { 404 } else { 403 };
                assert_eq!(answer.status, expected, "{who} with another tenant's ids: {}", answer.text);
                a.says_nothing_of_it(&format!("{who} {path}"), &answer);
                mixed += 1;
            }
        }
    }
    assert!(crossed >= 5 * 45 && mixed >= 5 * 20, "{crossed} {mixed}");
    assert_eq!(a.state().await, before, "nothing of the other tenant has changed");
    // The same questions about what is one's own are answered: what refused above was the tenant.
    let owner = &roles.iter().find(|(role, _)| *role == Role::Owner).expect("owner").1;
    for route in tollgate_api::table().iter().filter(|route| route.method == Method::GET && !params(route.path).is_empty()) {
        if route.path.ends_with(ENDLESS) {
            continue;
        }
        let mut path = fill(route.path, &b.tenant.id, &b.ids);
        if route.path.ends_with("/explain") {
            path.push_str("?tool=rec.echo");
        }
        let answer = knock(owner, route, &path, None).await;
        assert_eq!(answer.status, 200, "{}: {}", route.path, answer.text);
    }
}

#[tokio::test]
async fn t39_filters_and_page_tokens_do_not_reach_across() {
    let tollgate = Tollgate::shared().await;
    let (a, b) = tokio::join!(Land::new(tollgate, "mark-of-a-filters"), Land::new(tollgate, "mark-of-b-filters"));
    let owner = b.tenant.role("owner").await;
    let api = description(tollgate).await;
    let mut filters = 0;
    for (path, item) in api["paths"].as_object().expect("paths").iter().filter(|(path, _)| !params(path).is_empty()) {
        for parameter in item["get"]["parameters"].as_array().into_iter().flatten() {
            let name = parameter["name"].as_str().expect("a name");
            if parameter["in"] != "query" || !(name.ends_with("_id") || name.ends_with("_ids")) {
                continue;
            }
            let ids = |land: &Land| {
                let own = path.ends_with("/approvals").then(|| land.ids.get(format!("approvals.{name}").as_str())).flatten();
                own.or_else(|| land.ids.get(name))
                    .cloned()
                    .unwrap_or_else(|| panic!("the crawler has no id for the filter {name} of {path}"))
            };
            let url = format!("{}?{name}={}", fill(path, &b.tenant.id, &b.ids), ids(&a));
            let answer = owner.get(&url).await;
            assert!(matches!(answer.status, 200 | 404 | 422), "{url}: {} {}", answer.status, answer.text);
            a.says_nothing_of_it(&url, &answer);
            assert!(nothing_found(&answer), "{url}: {}", answer.text);
            let own = owner.get(&format!("{}?{name}={}", fill(path, &b.tenant.id, &b.ids), ids(&b))).await;
            assert!(own.status == 200 && !nothing_found(&own), "{path}?{name}: one's own is found: {}", own.text);
            filters += 1;
        }
    }
    assert!(filters >= 15, "{filters}");

    // A position in another tenant's list is no position.
    for list in ["tools", "service-tokens"] {
        let first = a.tenant.get(&format!("{list}?limit=1")).await.expect(200);
        let token = first["next_page"].as_str().unwrap_or_else(|| panic!("{list} has one page: {first}"));
        let answer = owner.get(&b.tenant.path(&format!("{list}?limit=1&page_token={token}"))).await;
        assert!(matches!(answer.status, 400 | 422), "{list}: {} {}", answer.status, answer.text);
        a.says_nothing_of_it(list, &answer);
        let own = a.tenant.get(&format!("{list}?limit=1&page_token={token}")).await;
        assert_eq!(own.status, 200, "{}", own.text);
    }
}

/// An empty list, an empty export, a sum of nothing.
fn nothing_found(answer: &Answer) -> bool {
    if answer.status != 200 || answer.text.trim().is_empty() {
        return true;
    }
    match serde_json::from_str::<Value>(&answer.text) {
        Ok(body) if body.get("total").is_some() => body["total"]["calls"] == 0,
        Ok(body) if body.get("items").is_some() => body["items"].as_array().is_some_and(Vec::is_empty),
        // A line of an export.
        _ => false,
    }
}

/// T40: the matrix, in one's own tenant, on the routes that need nothing else. (Those with further ids are walked above.)
#[tokio::test]
async fn t40_each_role_does_what_the_matrix_says_and_no_more() {
    let tollgate = Tollgate::shared().await;
    let land = Land::new(tollgate, "mark-roles").await;
    let (mut allowed, mut refused) = (0, 0);
    for (role, admin) in land.roles().await {
        for route in tollgate_api::table().iter().filter(|route| params(route.path) == ["tenant_id"]) {
            if route.path.ends_with(ENDLESS) && role.may(route.action) {
                continue;
            }
            let path = fill(route.path, &land.tenant.id, &land.ids);
            // Without If-Match or with nothing in it, so that what is allowed does no harm.
            let body = (route.method != Method::GET).then(|| json!({}));
            let answer = admin.send(route.method.clone(), &path, body.as_ref()).await.expect("an answer");
            let who = format!("{role}: {} {} ({:?}): {}", route.method, route.path, route.action, answer.text);
            if role.may(route.action) {
                let expected: &[u16] = match route.method {
                    Method::GET => &[200],
                    // It takes CSV.
                    _ if route.path.ends_with("/rate-card/import") => &[415],
                    _ => &[422, 428],
                };
                assert!(expected.contains(&answer.status), "{} {who}", answer.status);
                allowed += 1;
            } else {
                assert_eq!((answer.status, answer.json()["code"].as_str()), (403, Some("forbidden")), "{who}");
                assert!(!answer.text.contains("mark-roles"), "{who}");
                refused += 1;
            }
        }
    }
    assert!(allowed > 50 && refused > 30, "{allowed} {refused}");
    // Every action but the platform's stands behind some route.
    let used: BTreeSet<String> = tollgate_api::table().iter().map(|route| format!("{:?}", route.action)).collect();
    let all: BTreeSet<String> = Action::ALL.iter().map(|action| format!("{action:?}")).collect();
    assert_eq!(used, all, "an action without a route, or a route without an action");
}

/// Fields of bodies that name something: all of them, so that a new one is noticed.
const NAMES: [&str; 27] = [
    "PATCH /v1/tenants/{tenant_id}/keys/{key_id} /team_id",
    "PATCH /v1/tenants/{tenant_id}/keys/{key_id} /tool_group_ids",
    "PATCH /v1/tenants/{tenant_id}/model-routes/{model_route_id} /targets/provider_id",
    "PATCH /v1/tenants/{tenant_id}/tool-groups/{tool_group_id} /approval/upstream_id",
    "PATCH /v1/tenants/{tenant_id}/tool-groups/{tool_group_id} /members/upstream_id",
    "POST /v1/tenants/{tenant_id}/audit/erasures /selection/call_ids",
    "POST /v1/tenants/{tenant_id}/audit/erasures /selection/key_id",
    "POST /v1/tenants/{tenant_id}/budgets /scope/key_id",
    "POST /v1/tenants/{tenant_id}/budgets /scope/team_id",
    "POST /v1/tenants/{tenant_id}/budgets /scope/tool_id",
    "POST /v1/tenants/{tenant_id}/budgets /scope/upstream_id",
    "POST /v1/tenants/{tenant_id}/credits /key_id",
    "POST /v1/tenants/{tenant_id}/credits /team_id",
    "POST /v1/tenants/{tenant_id}/credits /tool_call_id",
    "POST /v1/tenants/{tenant_id}/credits /tool_id",
    "POST /v1/tenants/{tenant_id}/credits /upstream_id",
    "POST /v1/tenants/{tenant_id}/keys /team_id",
    "POST /v1/tenants/{tenant_id}/keys /tool_group_ids",
    "POST /v1/tenants/{tenant_id}/model-routes /targets/provider_id",
    "POST /v1/tenants/{tenant_id}/prices /tool_id",
    "POST /v1/tenants/{tenant_id}/prices /upstream_id",
    "POST /v1/tenants/{tenant_id}/rate-limits /scope/key_id",
    "POST /v1/tenants/{tenant_id}/rate-limits /scope/team_id",
    "POST /v1/tenants/{tenant_id}/rate-limits /scope/tool_id",
    "POST /v1/tenants/{tenant_id}/rate-limits /scope/upstream_id",
    "POST /v1/tenants/{tenant_id}/tool-groups /approval/upstream_id",
    "POST /v1/tenants/{tenant_id}/tool-groups /members/upstream_id",
];

fn names_in(api: &Value, schema: &Value, at: &str, found: &mut BTreeSet<String>, depth: u32) {
    assert!(depth < 20, "schemas without end at {at}");
    if let Some(name) = schema["$ref"].as_str() {
        let target = api.pointer(name.trim_start_matches('#')).expect("the schema");
        return names_in(api, target, at, found, depth + 1);
    }
    for key in ["oneOf", "anyOf", "allOf"] {
        for one in schema[key].as_array().into_iter().flatten() {
            names_in(api, one, at, found, depth + 1);
        }
    }
    names_in_some(api, &schema["items"], at, found, depth);
    for (name, of) in schema["properties"].as_object().into_iter().flatten() {
        let here = format!("{at}/{name}");
        if name.ends_with("_id") || name.ends_with("_ids") {
            found.insert(here.clone());
        }
        names_in(api, of, &here, found, depth + 1);
    }
}

fn names_in_some(api: &Value, schema: &Value, at: &str, found: &mut BTreeSet<String>, depth: u32) {
    if schema.is_object() {
        names_in(api, schema, at, found, depth + 1);
    }
}

#[tokio::test]
async fn t39_bodies_cannot_name_what_is_anothers() {
    let tollgate = Tollgate::shared().await;
    let api = description(tollgate).await;
    let mut found = BTreeSet::new();
    for (path, item) in api["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("methods") {
            let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
            let mut here = BTreeSet::new();
            names_in_some(&api, schema, "", &mut here, 0);
            // Those of a job or a report narrow what is read of one's own, as in a query.
            if path.ends_with("/audit/export-jobs") || path.contains("/report-schedules") {
                continue;
            }
            found.extend(here.into_iter().map(|at| format!("{} {path} {at}", method.to_uppercase())));
        }
    }
    assert_eq!(
        found.iter().map(String::as_str).collect::<Vec<_>>(),
        NAMES,
        "a field that names something and that this test does not try"
    );

    let (a, b) = tokio::join!(Land::new(tollgate, "mark-of-a-bodies"), Land::new(tollgate, "mark-of-b-bodies"));
    let before = b.state().await;
    let owner = b.tenant.role("owner").await;
    let entry = |of: &Land| json!([{"upstream_id": of.ids["upstream_id"], "tools": ["*"]}]);
    let rule = |of: &Land| json!([{"upstream_id": of.ids["upstream_id"], "tools": ["*"], "confirmations": 1}]);
    let (key, group) = (format!("keys/{}", b.ids["key_id"]), format!("tool-groups/{}", b.ids["tool_group_id"]));
    let route = format!("model-routes/{}", b.ids["model_route_id"]);
    let budget = |scope: Value| (Method::POST, "budgets".to_owned(), json!({"scope": scope, "limit": "1000", "period": "week"}));
    let limit = |scope: Value| (Method::POST, "rate-limits".to_owned(), json!({"scope": scope, "max": 100_000, "per": "second"}));
    let credit = |of: Value| {
        let mut body = json!({"amount": "0.001", "reason": "x"});
        body.as_object_mut().expect("an object").extend(of.as_object().expect("an object").clone());
        (Method::POST, "credits".to_owned(), body)
    };
    let tries = |of: &Land| {
        vec![
            credit(json!({"key_id": of.ids["key_id"]})),
            credit(json!({"team_id": of.ids["team_id"]})),
            credit(json!({"tool_call_id": of.ids["call_id"]})),
            credit(json!({"tool_id": of.ids["tool_id"]})),
            credit(json!({"upstream_id": of.ids["upstream_id"]})),
            budget(json!({"key_id": of.ids["key_id"]})),
            budget(json!({"team_id": of.ids["team_id"]})),
            budget(json!({"tool_id": of.ids["tool_id"]})),
            budget(json!({"upstream_id": of.ids["upstream_id"]})),
            limit(json!({"key_id": of.ids["key_id"]})),
            limit(json!({"team_id": of.ids["team_id"]})),
            limit(json!({"tool_id": of.ids["tool_id"]})),
            limit(json!({"upstream_id": of.ids["upstream_id"]})),
            (Method::PATCH, key.clone(), json!({"team_id": of.ids["team_id"]})),
            (Method::PATCH, key.clone(), json!({"tool_group_ids": [of.ids["tool_group_id"]]})),
            (Method::PATCH, group.clone(), json!({"approval": rule(of)})),
            (Method::PATCH, group.clone(), json!({"members": entry(of)})),
            (Method::POST, "audit/erasures".to_owned(), json!({"reason": "x", "selection": {"call_ids": [of.ids["call_id"]]}})),
            (Method::POST, "audit/erasures".to_owned(), json!({"reason": "x", "selection": {"key_id": of.ids["key_id"]}})),
            (Method::POST, "keys".to_owned(), json!({"name": "x", "tool_group_ids": [], "team_id": of.ids["team_id"]})),
            (Method::POST, "keys".to_owned(), json!({"name": "x", "tool_group_ids": [of.ids["tool_group_id"]]})),
            (Method::PATCH, route.clone(), json!({"targets": [{"provider_id": of.ids["provider_id"], "model": "x"}]})),
            (
                Method::POST,
                "model-routes".to_owned(),
                json!({"name": "x", "targets": [{"provider_id": of.ids["provider_id"], "model": "x"}]}),
            ),
            (Method::POST, "prices".to_owned(), json!({"tool_id": of.ids["tool_id"], "amount": "1", "unit": "call"})),
            (Method::POST, "prices".to_owned(), json!({"upstream_id": of.ids["upstream_id"], "amount": "1", "unit": "call"})),
            (Method::POST, "tool-groups".to_owned(), json!({"name": "x", "members": entry(&b), "approval": rule(of)})),
            (Method::POST, "tool-groups".to_owned(), json!({"name": "x", "members": entry(of)})),
        ]
    };
    assert_eq!(tries(&a).len(), NAMES.len());
    let sent = owner.with_header("if-match", "*");
    for (method, path, body) in tries(&a) {
        let answer = sent.send(method.clone(), &b.tenant.path(&path), Some(&body)).await.expect("an answer");
        assert!(matches!(answer.status, 404 | 422), "{method} {path} {body}: {} {}", answer.status, answer.text);
        a.says_nothing_of_it(&format!("{method} {path} {body}"), &answer);
    }
    let mut after = b.state().await;
    // The token that was made for this.
    after.get_mut("service-tokens").and_then(Value::as_array_mut).expect("tokens").pop();
    assert_eq!(after, before, "nothing was taken");
    for (method, path, body) in tries(&b) {
        let answer = sent.send(method.clone(), &b.tenant.path(&path), Some(&body)).await.expect("an answer");
        assert!(answer.status < 300, "{method} {path} {body}: one's own is taken: {} {}", answer.status, answer.text);
    }
    // Fresh ids that nobody has read alike.
    until("the worker has heard of it", Duration::from_secs(5), async || {
        (!b.tenant.mcp(&b.key).tool_names().await.is_empty()).then_some(())
    })
    .await;
}
