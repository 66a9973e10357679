//! The admin door: what people and their programs manage through REST. It translates, checks who asks, and leaves the
//! rules to `domain` and the rows to `store`.

pub mod admin;
pub mod check;
pub mod ctx;
mod denials;
pub mod idempotency;
pub mod json;
mod layers;
pub mod oidc;
pub mod openapi;
mod page;
pub mod precondition;
pub mod problem;
pub mod router;

// One folder per resource, one file per verb.
pub mod admin_events;
pub mod admins;
pub mod approvals;
pub mod audit;
pub mod budgets;
pub mod credits;
pub mod keys;
pub mod llm_prices;
pub mod llm_requests;
pub mod model_routes;
pub mod prices;
pub mod providers;
pub mod rate_limits;
pub mod report_schedules;
pub mod reports;
pub mod script_limits;
pub mod script_runs;
pub mod service_tokens;
pub mod teams;
pub mod tenants;
pub mod tool_calls;
pub mod tool_groups;
pub mod tools;
pub mod upstreams;

use std::{sync::Arc, time::Duration};

use axum::{
    http::{HeaderValue, header},
    middleware::from_fn_with_state,
    routing::get,
};
use tokio::net::TcpListener;
use tollgate_boot::{Config, Health, Shutdown, serve::ServeLimits};
use tollgate_domain::{Secrets, clock::SharedClock};
use tollgate_store::{Store, counters::Counters};
use tower_http::catch_panic::CatchPanicLayer;
use utoipa_swagger_ui::SwaggerUi;

pub use ctx::App;
pub use openapi::json as openapi_json;
pub use router::{RouteInfo, table};

/// What the door is made of.
#[derive(Debug)]
pub struct ApiParts {
    pub store: Store,
    pub config: Arc<Config>,
    pub secrets: Secrets,
    pub clock: SharedClock,
    /// Where workers count what rate limits limit.
    pub counters: Counters,
    pub listener: TcpListener,
    pub shutdown: Shutdown,
    pub health: Health,
}

/// Serve until the end is asked for.
///
/// # Errors
/// When a follower of the audit log cannot work as configured.
pub async fn serve(parts: ApiParts) -> anyhow::Result<()> {
    let ApiParts { store, config, secrets, clock, counters, listener, shutdown, health } = parts;
    let limits = ServeLimits::from(&config.limits);
    let app = App { shutdown: shutdown.clone(), counters, ..App::new(store, config, secrets, clock) };
    audit::followers::start(&app, &shutdown, audit::followers::Pace::default())?;
    health.expect("api");
    let upkeep = tokio::spawn(upkeep(app.clone(), health.clone(), shutdown.clone()));
    let refresh = tokio::spawn(refresh_keys(app.clone()));
    shutdown.spawn(approvals::notices::Runner::new(app.clone())?.run());
    shutdown.spawn(report_schedules::runner::Runner::new(app.clone())?.run());
    shutdown.spawn(audit::export_jobs::runner::Runner::new(app.clone()).run());
    let router = router(app.clone()).merge(health.router());
    tollgate_boot::serve::serve(listener, router, limits, &shutdown).await;
    upkeep.abort();
    refresh.abort();
    app.flush_denials(app.clock.now()).await;
    Ok(())
}

/// The door without a listener: the API and its description, not the health routes.
pub fn router(app: App) -> axum::Router {
    router::build(&app)
        .route("/openapi.json", get(description))
        .merge(SwaggerUi::new("/docs").config(utoipa_swagger_ui::Config::from("/openapi.json")))
        .fallback(router::not_found)
        .method_not_allowed_fallback(router::method_not_allowed)
        .layer(CatchPanicLayer::custom(layers::panicked))
        .layer(from_fn_with_state(app, layers::finish))
}

async fn description() -> impl axum::response::IntoResponse {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], openapi_json())
}

/// What the door does between requests: keeps its readiness true, writes down refusals that are still uncounted, forgets
/// old answers.
async fn upkeep(app: App, health: Health, shutdown: Shutdown) {
    let mut tick = tokio::time::interval(Duration::from_secs(2));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut round = 0u64;
    while !shutdown.is_requested() {
        tick.tick().await;
        match app.store.ping().await {
            Ok(()) => health.ready("api"),
            Err(error) => {
                tracing::debug!(%error, "the database does not answer");
                health.not_ready("api", "the database does not answer");
            }
        }
        app.flush_denials(app.clock.now()).await;
        // Every ten minutes.
        if round % 300 == 1
            && let Err(error) = tollgate_store::idempotency::forget(&app.store, app.clock.now() - idempotency::kept()).await
        {
            tracing::warn!(%error, "old answers were not forgotten");
        }
        round += 1;
    }
}

/// Read the identity providers' keys, now and then again. Apart from the rest: a provider that hangs holds up nothing.
async fn refresh_keys(app: App) {
    while !app.oidc.is_empty() {
        app.oidc.refresh().await;
        tokio::time::sleep(oidc::REFRESH_EVERY).await;
    }
}
