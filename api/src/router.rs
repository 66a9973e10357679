//! Every route of the admin API on one screen.
//!
//! **To add a route:** write the handler in a file of its own (`<resource>/<verb>.rs`, `pub async fn handle(ctx: Ctx, ..) -> Answer`),
//! annotate it with `#[utoipa::path(<method>, path = "<the same path>", request_body = .., responses((status = .., body = ..)))]`
//! under a doc comment (its first line becomes the summary), and add one line to the table. The line names an
//! [`Action`], and there is no way to serve a handler without one. What the line brings by itself:
//!
//! - in front of the handler: the bearer, the `{tenant_id}` of the path (another tenant's is 404), the role (403);
//! - in the description: tag, operation id, path parameters, `Idempotency-Key` on POST, `If-Match` on PATCH and DELETE, the
//!   common refusals. The annotation states only what is its own: body, success, query parameters, further refusals.
//!
//! A handler takes [`Ctx`], `Id<T>` for the last id of the path, `Json<T>` / `MaybeJson<T>` for a body, `List<F>` or `Query<F>` for
//! query parameters, and writes through `ctx.post(&body.sha256)` or `ctx.change()` (see `ctx.rs`; `teams/` is an example of each).

use axum::{
    Router,
    extract::{ConnectInfo, RawPathParams, Request, State},
    http::{HeaderMap, Method, header, request::Parts},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::MethodRouter,
};
use tollgate_domain::{Action, TenantId};
use tollgate_store::auth;
use utoipa_axum::router::UtoipaMethodRouter;

use crate::{
    admin::{Admin, Refusal},
    ctx::{Admission, App, Ctx, PLATFORM},
    denials::Denial,
    layers::RequestId,
    problem::{Kind, Problem},
};

macro_rules! table {
    ($($method:ident $path:literal $action:ident $handler:path;)+) => {
        vec![$(Entry {
            route: RouteInfo { method: Method::$method, path: $path, action: Action::$action },
            name: stringify!($handler),
            docs: utoipa_axum::routes!($handler),
        },)+]
    };
}

#[rustfmt::skip]
pub(crate) fn entries() -> Vec<Entry> {
    use crate::*;
    table! {
        // --- tenants
        POST   "/v1/tenants"                                              Platform        tenants::create::handle;
        GET    "/v1/tenants"                                              Platform        tenants::list::handle;
        GET    "/v1/tenants/{tenant_id}"                                  ReadTenant      tenants::get::handle;
        PATCH  "/v1/tenants/{tenant_id}"                                  WriteTenant     tenants::update::handle;
        DELETE "/v1/tenants/{tenant_id}"                                  DeleteTenant    tenants::delete::handle;
        // --- who may come in
        POST   "/v1/tenants/{tenant_id}/service-tokens"                   WriteAdmins     service_tokens::create::handle;
        GET    "/v1/tenants/{tenant_id}/service-tokens"                   ReadAdmins      service_tokens::list::handle;
        GET    "/v1/tenants/{tenant_id}/service-tokens/{service_token_id}" ReadAdmins     service_tokens::get::handle;
        DELETE "/v1/tenants/{tenant_id}/service-tokens/{service_token_id}" WriteAdmins    service_tokens::revoke::handle;
        POST   "/v1/tenants/{tenant_id}/admins"                           WriteAdmins     admins::create::handle;
        GET    "/v1/tenants/{tenant_id}/admins"                           ReadAdmins      admins::list::handle;
        GET    "/v1/tenants/{tenant_id}/admins/{admin_id}"                ReadAdmins      admins::get::handle;
        DELETE "/v1/tenants/{tenant_id}/admins/{admin_id}"                WriteAdmins     admins::delete::handle;
        // --- teams, keys, tool groups
        POST   "/v1/tenants/{tenant_id}/teams"                            WriteTeams      teams::create::handle;
        GET    "/v1/tenants/{tenant_id}/teams"                            ReadConfig      teams::list::handle;
        GET    "/v1/tenants/{tenant_id}/teams/{team_id}"                  ReadConfig      teams::get::handle;
        PATCH  "/v1/tenants/{tenant_id}/teams/{team_id}"                  WriteTeams      teams::update::handle;
        DELETE "/v1/tenants/{tenant_id}/teams/{team_id}"                  WriteTeams      teams::delete::handle;
        POST   "/v1/tenants/{tenant_id}/keys"                             WriteKeys       keys::create::handle;
        GET    "/v1/tenants/{tenant_id}/keys"                             ReadConfig      keys::list::handle;
        GET    "/v1/tenants/{tenant_id}/keys/{key_id}"                    ReadConfig      keys::get::handle;
        PATCH  "/v1/tenants/{tenant_id}/keys/{key_id}"                    WriteKeys       keys::update::handle;
        POST   "/v1/tenants/{tenant_id}/keys/{key_id}/revoke"             RevokeKeys      keys::revoke::handle;
        POST   "/v1/tenants/{tenant_id}/keys/{key_id}/rotate"             WriteKeys       keys::rotate::handle;
        GET    "/v1/tenants/{tenant_id}/keys/{key_id}/scope"              ReadConfig      keys::scope::handle;
        GET    "/v1/tenants/{tenant_id}/keys/{key_id}/explain"            ReadConfig      keys::explain::handle;
        POST   "/v1/tenants/{tenant_id}/tool-groups"                      WriteToolGroups tool_groups::create::handle;
        GET    "/v1/tenants/{tenant_id}/tool-groups"                      ReadConfig      tool_groups::list::handle;
        GET    "/v1/tenants/{tenant_id}/tool-groups/{tool_group_id}"      ReadConfig      tool_groups::get::handle;
        PATCH  "/v1/tenants/{tenant_id}/tool-groups/{tool_group_id}"      WriteToolGroups tool_groups::update::handle;
        DELETE "/v1/tenants/{tenant_id}/tool-groups/{tool_group_id}"      WriteToolGroups tool_groups::delete::handle;
        // --- what admins did
        GET    "/v1/tenants/{tenant_id}/admin-events"                     ReadAdminEvents admin_events::list::handle;
        GET    "/v1/admin-events"                                         Platform        admin_events::platform::handle;
        // --- upstreams and their tools
        POST   "/v1/tenants/{tenant_id}/upstreams"                        WriteUpstreams  upstreams::create::handle;
        GET    "/v1/tenants/{tenant_id}/upstreams"                        ReadConfig      upstreams::list::handle;
        GET    "/v1/tenants/{tenant_id}/upstreams/{upstream_id}"          ReadConfig      upstreams::get::handle;
        PATCH  "/v1/tenants/{tenant_id}/upstreams/{upstream_id}"          WriteUpstreams  upstreams::update::handle;
        DELETE "/v1/tenants/{tenant_id}/upstreams/{upstream_id}"          WriteUpstreams  upstreams::delete::handle;
        POST   "/v1/tenants/{tenant_id}/upstreams/{upstream_id}/sync"     WriteUpstreams  upstreams::sync::handle;
        GET    "/v1/tenants/{tenant_id}/tools"                            ReadConfig      tools::list::handle;
        GET    "/v1/tenants/{tenant_id}/tools/{tool_id}"                  ReadConfig      tools::get::handle;
        POST   "/v1/tenants/{tenant_id}/tools/{tool_id}/approve"          ApproveTools    tools::approve::handle;
        POST   "/v1/tenants/{tenant_id}/tools/{tool_id}/quarantine"       WriteUpstreams  tools::quarantine::handle;
        // --- language models
        POST   "/v1/tenants/{tenant_id}/providers"                        WriteUpstreams  providers::create::handle;
        GET    "/v1/tenants/{tenant_id}/providers"                        ReadConfig      providers::list::handle;
        GET    "/v1/tenants/{tenant_id}/providers/{provider_id}"          ReadConfig      providers::get::handle;
        PATCH  "/v1/tenants/{tenant_id}/providers/{provider_id}"          WriteUpstreams  providers::update::handle;
        DELETE "/v1/tenants/{tenant_id}/providers/{provider_id}"          WriteUpstreams  providers::delete::handle;
        POST   "/v1/tenants/{tenant_id}/model-routes"                     WriteUpstreams  model_routes::create::handle;
        GET    "/v1/tenants/{tenant_id}/model-routes"                     ReadConfig      model_routes::list::handle;
        GET    "/v1/tenants/{tenant_id}/model-routes/{model_route_id}"    ReadConfig      model_routes::get::handle;
        PATCH  "/v1/tenants/{tenant_id}/model-routes/{model_route_id}"    WriteUpstreams  model_routes::update::handle;
        DELETE "/v1/tenants/{tenant_id}/model-routes/{model_route_id}"    WriteUpstreams  model_routes::delete::handle;
        // --- scripts
        GET    "/v1/tenants/{tenant_id}/script-limits"                    ReadConfig      script_limits::get::handle;
        PATCH  "/v1/tenants/{tenant_id}/script-limits"                    WriteTenant     script_limits::update::handle;
        // --- calls that wait for people
        GET    "/v1/tenants/{tenant_id}/approvals"                        ReadApprovals   approvals::list::handle;
        GET    "/v1/tenants/{tenant_id}/approvals/{approval_id}"          ReadApprovals   approvals::get::handle;
        POST   "/v1/tenants/{tenant_id}/approvals/{approval_id}/approve"  DecideApprovals approvals::approve::handle;
        POST   "/v1/tenants/{tenant_id}/approvals/{approval_id}/deny"     DecideApprovals approvals::deny::handle;
        // --- money
        POST   "/v1/tenants/{tenant_id}/prices"                           WritePrices     prices::create::handle;
        GET    "/v1/tenants/{tenant_id}/prices"                           ReadPrices      prices::list::handle;
        GET    "/v1/tenants/{tenant_id}/prices/{price_id}"                ReadPrices      prices::get::handle;
        GET    "/v1/tenants/{tenant_id}/rate-card"                        ReadPrices      prices::rate_card::handle;
        POST   "/v1/tenants/{tenant_id}/rate-card/import"                 WritePrices     prices::import::handle;
        POST   "/v1/tenants/{tenant_id}/llm-prices"                       WritePrices     llm_prices::create::handle;
        GET    "/v1/tenants/{tenant_id}/llm-prices"                       ReadPrices      llm_prices::list::handle;
        GET    "/v1/tenants/{tenant_id}/llm-prices/{llm_price_id}"        ReadPrices      llm_prices::get::handle;
        POST   "/v1/tenants/{tenant_id}/credits"                          WritePrices     credits::create::handle;
        GET    "/v1/tenants/{tenant_id}/credits"                          ReadReports     credits::list::handle;
        GET    "/v1/tenants/{tenant_id}/credits/{credit_id}"              ReadReports     credits::get::handle;
        POST   "/v1/tenants/{tenant_id}/budgets"                          WriteBudgets    budgets::create::handle;
        GET    "/v1/tenants/{tenant_id}/budgets"                          ReadPrices      budgets::list::handle;
        GET    "/v1/tenants/{tenant_id}/budgets/{budget_id}"              ReadPrices      budgets::get::handle;
        PATCH  "/v1/tenants/{tenant_id}/budgets/{budget_id}"              WriteBudgets    budgets::update::handle;
        DELETE "/v1/tenants/{tenant_id}/budgets/{budget_id}"              WriteBudgets    budgets::delete::handle;
        POST   "/v1/tenants/{tenant_id}/rate-limits"                      WriteBudgets    rate_limits::create::handle;
        GET    "/v1/tenants/{tenant_id}/rate-limits"                      ReadPrices      rate_limits::list::handle;
        GET    "/v1/tenants/{tenant_id}/rate-limits/{rate_limit_id}"      ReadPrices      rate_limits::get::handle;
        PATCH  "/v1/tenants/{tenant_id}/rate-limits/{rate_limit_id}"      WriteBudgets    rate_limits::update::handle;
        DELETE "/v1/tenants/{tenant_id}/rate-limits/{rate_limit_id}"      WriteBudgets    rate_limits::delete::handle;
        GET    "/v1/tenants/{tenant_id}/reports/costs"                    ReadReports     reports::costs::handle;
        POST   "/v1/tenants/{tenant_id}/report-schedules"                 WriteBudgets    report_schedules::create::handle;
        GET    "/v1/tenants/{tenant_id}/report-schedules"                 ReadReports     report_schedules::list::handle;
        GET    "/v1/tenants/{tenant_id}/report-schedules/{report_schedule_id}" ReadReports report_schedules::get::handle;
        PATCH  "/v1/tenants/{tenant_id}/report-schedules/{report_schedule_id}" WriteBudgets report_schedules::update::handle;
        DELETE "/v1/tenants/{tenant_id}/report-schedules/{report_schedule_id}" WriteBudgets report_schedules::delete::handle;
        GET    "/v1/tenants/{tenant_id}/report-schedules/{report_schedule_id}/deliveries" ReadReports report_schedules::deliveries::handle;
        POST   "/v1/tenants/{tenant_id}/report-schedules/{report_schedule_id}/retry" WriteBudgets report_schedules::retry::handle;
        // --- what has happened
        GET    "/v1/tenants/{tenant_id}/llm-requests"                     ReadAudit       llm_requests::list::handle;
        GET    "/v1/tenants/{tenant_id}/llm-requests/{llm_request_id}"    ReadAudit       llm_requests::get::handle;
        GET    "/v1/tenants/{tenant_id}/script-runs"                      ReadAudit       script_runs::list::handle;
        GET    "/v1/tenants/{tenant_id}/script-runs/{script_run_id}"      ReadAudit       script_runs::get::handle;
        GET    "/v1/tenants/{tenant_id}/tool-calls"                       ReadAudit       tool_calls::list::handle;
        GET    "/v1/tenants/{tenant_id}/tool-calls/{call_id}"             ReadAudit       tool_calls::get::handle;
        GET    "/v1/tenants/{tenant_id}/tool-calls/{call_id}/proof"       ReadAudit       tool_calls::proof::handle;
        // --- the trail as a log
        GET    "/v1/tenants/{tenant_id}/audit/export"                     ReadAudit       audit::export::handle;
        GET    "/v1/tenants/{tenant_id}/audit/seals"                      ReadAudit       audit::seals::list::handle;
        GET    "/v1/tenants/{tenant_id}/audit/seals/{sequence}"           ReadAudit       audit::seals::get::handle;
        GET    "/v1/tenants/{tenant_id}/audit/consistency"                ReadAudit       audit::consistency::handle;
        GET    "/v1/tenants/{tenant_id}/audit/keys"                       ReadAudit       audit::keys::handle;
        GET    "/v1/tenants/{tenant_id}/audit/settings"                   ReadAudit       audit::settings::get::handle;
        PATCH  "/v1/tenants/{tenant_id}/audit/settings"                   WriteAudit      audit::settings::update::handle;
        POST   "/v1/tenants/{tenant_id}/audit/erasures"                   WriteAudit      audit::erasures::create::handle;
        GET    "/v1/tenants/{tenant_id}/audit/erasures"                   ReadAudit       audit::erasures::list::handle;
        GET    "/v1/tenants/{tenant_id}/audit/erasures/{erasure_id}"      ReadAudit       audit::erasures::get::handle;
        GET    "/v1/tenants/{tenant_id}/audit/stream"                     ReadAudit       audit::stream::handle;
        POST   "/v1/tenants/{tenant_id}/audit/export-jobs"                ExportAudit     audit::export_jobs::create::handle;
        GET    "/v1/tenants/{tenant_id}/audit/export-jobs"                ReadAudit       audit::export_jobs::list::handle;
        GET    "/v1/tenants/{tenant_id}/audit/export-jobs/{export_job_id}" ReadAudit      audit::export_jobs::get::handle;
        POST   "/v1/tenants/{tenant_id}/audit/export-jobs/{export_job_id}/cancel" ExportAudit audit::export_jobs::cancel::handle;
        GET    "/v1/tenants/{tenant_id}/audit/followers"                  ReadAudit       audit::followers::list::handle;
    }
}

/// One line of the table.
pub(crate) struct Entry {
    pub route: RouteInfo,
    /// Module path of the handler.
    pub name: &'static str,
    pub docs: UtoipaMethodRouter<App>,
}

/// What a test needs to knock at a route.
#[derive(Debug, Clone)]
pub struct RouteInfo {
    pub method: Method,
    pub path: &'static str,
    pub action: Action,
}

/// All routes, in the table's order.
#[must_use]
pub fn table() -> Vec<RouteInfo> {
    entries().into_iter().map(|entry| entry.route).collect()
}

/// The routes of the table, each behind its gate.
pub(crate) fn build(app: &App) -> Router {
    let mut router = Router::new();
    for Entry { route, docs: (_, _, handler), .. } in entries() {
        let handler: MethodRouter<App> = handler;
        let gate = from_fn_with_state((app.clone(), route.clone()), gate);
        router = router.route(route.path, handler.route_layer(gate));
    }
    router.with_state(app.clone())
}

type Gate = (App, RouteInfo);

/// In front of every handler: who are you, whose is this, may you.
async fn gate(State((app, route)): State<Gate>, params: RawPathParams, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let written = params.iter().find(|(name, _)| *name == "tenant_id").map(|(_, text)| text.parse::<TenantId>().ok());
    match admit(app, route, written, &parts).await {
        Ok(ctx) => {
            // The bearer has been read; nobody behind this looks at it again, or can print it.
            parts.headers.remove(header::AUTHORIZATION);
            parts.extensions.insert(ctx);
            next.run(Request::from_parts(parts, body)).await
        }
        Err(problem) => problem.into_response(),
    }
}

/// `written` is the path's tenant: none, malformed, or an id.
async fn admit(app: App, route: RouteInfo, written: Option<Option<TenantId>>, request: &Parts) -> Result<Ctx, Problem> {
    let now = app.clock.now();
    let request_id = request.extensions.get::<RequestId>().cloned().unwrap_or_default().0;
    let denial = Denial {
        reason: "",
        method: route.method.as_str(),
        route: route.path,
        request_id: &request_id,
        peer: request.extensions.get::<ConnectInfo<std::net::SocketAddr>>().map(|peer| peer.0.ip().to_string()),
    };
    let admin = match app.authenticate(&request.headers, written.flatten(), now).await {
        Ok(admin) => admin,
        Err(Refusal::Store(error)) => return Err(error.into()),
        Err(Refusal::Unknown(reason)) => {
            app.record_unauthenticated(&Denial { reason, ..denial }, now).await;
            return Err(Problem::new(Kind::Unauthenticated));
        }
    };
    let tenant = tenant_of(&app, &admin, written).await?;
    let mut headers = request.headers.clone();
    let mut bearer = HeaderMap::new();
    if let Some(value) = headers.remove(header::AUTHORIZATION) {
        bearer.insert(header::AUTHORIZATION, value);
    }
    let ctx = Ctx {
        app: app.clone(),
        admin,
        tenant,
        request_id: request_id.clone(),
        now,
        route: route.path,
        method: request.method.clone(),
        path: request.uri.path().to_owned(),
        headers,
        admission: Admission { bearer, action: route.action },
    };
    if !may(&ctx, route.action) {
        // Where the path names no tenant, the refusal stands with the one who was refused.
        let home = if tenant == PLATFORM { ctx.admin.tenant.unwrap_or(PLATFORM) } else { tenant };
        app.record_forbidden(home, ctx.actor(), &Denial { reason: "role", ..denial }, now).await?;
        return Err(Problem::new(Kind::Forbidden));
    }
    Ok(ctx)
}

/// The tenant that the request is about. Another's, an unknown, a deleted and a malformed one look the same.
async fn tenant_of(app: &App, admin: &Admin, written: Option<Option<TenantId>>) -> Result<TenantId, Problem> {
    let not_found = || Problem::new(Kind::NotFound);
    let Some(written) = written else { return Ok(PLATFORM) };
    let tenant = written.ok_or_else(not_found)?;
    match admin.tenant {
        // Authentication has just seen that this tenant lives.
        Some(own) if own == tenant => Ok(tenant),
        Some(_) => Err(not_found()),
        None if auth::is_live(&app.store, tenant).await? => Ok(tenant),
        None => Err(not_found()),
    }
}

/// The one question of authority. A path without a tenant is the platform's, whatever a role may do elsewhere.
fn may(ctx: &Ctx, action: Action) -> bool {
    match ctx.admin.tenant {
        None => action == Action::Platform || ctx.admin.role.may(action),
        Some(_) => ctx.tenant != PLATFORM && ctx.admin.role.may(action),
    }
}

/// For everything that is not in the table.
pub(crate) async fn not_found() -> Problem {
    Problem::new(Kind::NotFound)
}

pub(crate) async fn method_not_allowed() -> Problem {
    Problem::new(Kind::MethodNotAllowed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_table_and_the_annotations_name_the_same_routes() {
        for entry in entries() {
            let (_, paths, _) = &entry.docs;
            let (path, item) = paths.paths.iter().next().unwrap();
            assert_eq!(path, entry.route.path, "{}", entry.name);
            let methods = crate::openapi::methods(item);
            assert_eq!(methods, [entry.route.method.as_str().to_lowercase()], "{}", entry.name);
        }
    }

    #[test]
    fn t37_every_path_without_a_tenant_is_the_platforms_and_no_route_comes_twice() {
        let mut seen = BTreeSet::new();
        for route in table() {
            assert!(seen.insert((route.path, route.method.to_string())), "{} {}", route.method, route.path);
            assert!(route.path.starts_with("/v1/tenants/{tenant_id}") || route.action == Action::Platform, "{}", route.path);
            let writes = route.method != Method::GET;
            let reading = matches!(
                route.action,
                Action::ReadTenant
                    | Action::ReadAdmins
                    | Action::ReadConfig
                    | Action::ReadApprovals
                    | Action::ReadPrices
                    | Action::ReadReports
                    | Action::ReadAudit
                    | Action::ReadAdminEvents
            );
            assert!(
                route.action == Action::Platform || writes != reading,
                "{} {} is {:?}",
                route.method,
                route.path,
                route.action
            );
        }
    }
}
