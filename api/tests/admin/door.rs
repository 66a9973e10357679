//! Every route, as everybody.

use serde_json::json;
use sqlx::PgPool;
use tollgate_api::table;
use tollgate_domain::{Action, Role, TenantId};

use crate::world::{Reply, World};

const ID: &str = "00000000000000000000000000";

/// The path with an id in every place. Ids of the right kind that name nothing are 404, later than the gate.
fn path(template: &str, tenant: &str) -> String {
    let kinds = [
        ("team_id", "team"),
        ("key_id", "vk"),
        ("tool_group_id", "tg"),
        ("upstream_id", "ups"),
        ("tool_id", "tool"),
        ("price_id", "price"),
        ("service_token_id", "svc"),
        ("admin_id", "adm"),
        ("llm_request_id", "req"),
        ("script_run_id", "run"),
        ("call_id", "call"),
        ("erasure_id", "era"),
        ("export_job_id", "exp"),
        ("report_schedule_id", "rps"),
        ("approval_id", "apr"),
        ("budget_id", "bud"),
        ("rate_limit_id", "rl"),
        ("provider_id", "prov"),
        ("model_route_id", "route"),
        ("llm_price_id", "llmp"),
        ("credit_id", "crd"),
    ];
    let mut path = template.replace("/v1/tenants/{tenant_id}", tenant);
    for (name, prefix) in kinds {
        path = path.replace(&format!("{{{name}}}"), &format!("{prefix}_{ID}"));
    }
    // Seals have numbers; nobody has so many.
    path = path.replace("{sequence}", "999999999");
    assert!(!path.contains('{'), "a parameter that this test does not know: {path}");
    path
}

/// A request that passes the gate where it may and then fails harmlessly.
async fn knock(world: &World, token: &str, method: &str, path: &str) -> Reply {
    let body = (method != "GET").then(|| json!({"no_such_field": 1}));
    // What is admitted there does not end.
    let path = if path.ends_with("/audit/stream") { format!("{path}?no_such_field=1") } else { path.to_owned() };
    world.call(token, method, &path, body, &[("if-match", "\"none\"")]).await
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn t36_t37_t40_the_matrix_holds_on_every_route(pool: PgPool) {
    let world = World::new(pool).await;
    let tenant = world.tenant("Acme").await;
    let mut tokens = Vec::new();
    for role in Role::ALL {
        tokens.push((*role, world.token(&tenant, role.as_str()).await));
    }
    let routes = table();
    assert!(routes.len() > 30);
    let (mut refused, mut denied) = (0, 0);
    for route in &routes {
        let (method, path) = (route.method.as_str(), path(route.path, &tenant));
        for nobody in ["", "x", "a.b.c", &"A".repeat(20_000)] {
            knock(&world, nobody, method, &path).await.is(401, "unauthenticated");
            denied += 1;
        }
        for (role, token) in &tokens {
            let reply = knock(&world, token, method, &path).await;
            let may = route.action != Action::Platform && role.may(route.action);
            if may {
                assert!(![401, 403, 500].contains(&reply.status.as_u16()), "{role} {method} {path}: {}", reply.text);
            } else {
                reply.is(403, "forbidden");
                refused += 1;
            }
        }
        let reply = knock(&world, &world.root, method, &path).await;
        assert!(![401, 403, 500].contains(&reply.status.as_u16()), "platform {method} {path}: {}", reply.text);
    }
    // t57: each refusal is counted once.
    let sum = "SELECT COALESCE(sum((detail->>'count')::bigint), 0)::bigint FROM admin_events WHERE action = 'access.denied' AND detail->>'status' = '403'";
    assert_eq!(world.count(sum).await, refused);
    // The clock stands still, so the ceiling holds; the next second's row counts what was over.
    world.pass(chrono::Duration::seconds(1));
    knock(&world, "x", "GET", &tenant).await.is(401, "unauthenticated");
    let sum = "SELECT COALESCE(sum((detail->>'count')::bigint), 0)::bigint FROM admin_events WHERE action = 'access.denied' AND detail->>'status' = '401'";
    assert_eq!(world.count(sum).await, denied + 1);
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn t39_another_tenant_an_unknown_one_and_nonsense_look_the_same(pool: PgPool) {
    let world = World::new(pool).await;
    let (a, b) = (world.tenant("A").await, world.tenant("B").await);
    let owner = world.token(&b, "owner").await;
    let unknown = format!("/v1/tenants/{}", TenantId::from_uuid(uuid::Uuid::from_u128(5)));
    for route in table().iter().filter(|r| r.path.contains("{tenant_id}")) {
        let mut bodies = Vec::new();
        for tenant in [
            a.as_str(),
            unknown.as_str(),
            "/v1/tenants/nonsense",
            "/v1/tenants/%2e%2e",
            "/v1/tenants/ten_00000000000000000000000000",
        ] {
            let mut reply = knock(&world, &owner, route.method.as_str(), &path(route.path, tenant)).await;
            reply.is(404, "not_found");
            reply.json["request_id"].take();
            bodies.push(reply.json);
        }
        assert!(bodies.windows(2).all(|w| w[0] == w[1]), "{} {}", route.method, route.path);
    }
    // The platform is nowhere a stranger, but what is not there is not there.
    world.get(&world.root, &unknown).await.is(404, "not_found");
    // The other tenant's things are not found in one's own.
    let team = world.post(&world.root, &format!("{a}/teams"), json!({"name": "x"})).await.id();
    world.get(&owner, &format!("{b}/teams/{team}")).await.is(404, "not_found");
    let group = world.post(&world.root, &format!("{a}/tool-groups"), json!({"name": "x", "members": []})).await.id();
    let key = world.post(&owner, &format!("{b}/keys"), json!({"name": "x", "tool_group_ids": [group]})).await;
    assert_eq!(key.is(422, "invalid").pointer(), "/tool_group_ids/0");
    let key = world.post(&owner, &format!("{b}/keys"), json!({"name": "x", "tool_group_ids": [], "team_id": team})).await;
    assert_eq!(key.is(422, "invalid").pointer(), "/team_id");
}

#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn what_is_not_a_route_is_a_problem_too(pool: PgPool) {
    let world = World::new(pool).await;
    let tenant = world.tenant("A").await;
    for (method, path, status, code) in [
        ("GET", "/".to_owned(), 404, "not_found"),
        ("GET", "/v2/tenants".to_owned(), 404, "not_found"),
        ("GET", format!("{tenant}/teams/"), 404, "not_found"),
        ("GET", format!("{tenant}//teams"), 404, "not_found"),
        ("PUT", format!("{tenant}/teams"), 405, "method_not_allowed"),
    ] {
        let reply = world.call(&world.root, method, &path, None, &[("x-request-id", "mine\r")].map(|(n, _)| (n, "mine"))).await;
        reply.is(status, code);
        let id = reply.headers["x-request-id"].to_str().unwrap();
        assert!(id.starts_with("http_") && reply.json["request_id"] == id, "{id}");
        assert_eq!(reply.headers["content-type"], "application/problem+json");
    }
    let reply = world.call("", "GET", &tenant, None, &[]).await;
    assert_eq!(reply.headers["www-authenticate"], "Bearer");
    let docs = world.get("", "/openapi.json").await;
    assert_eq!(docs.status, 200);
    assert_eq!(docs.text, tollgate_api::openapi_json());
    let page = world.get("", "/docs/").await;
    assert!(page.status == 200 && !page.text.contains("https://"), "no CDN: {}", page.text);
}
