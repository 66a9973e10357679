//! Is the process alive, and may it be sent work? `/healthz` answers the first question by answering at all, `/readyz` the
//! second: every component that said it is needed must have said that it is ready.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use serde::Serialize;

use crate::telemetry::Metrics;

/// What one door knows about its own parts. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Health {
    components: Arc<Mutex<BTreeMap<String, Component>>>,
    metrics: Metrics,
}

/// One part's word about itself. The reason is for operators and is shown without authentication: no secrets in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Component {
    pub ready: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The body of `/readyz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    pub ready: bool,
    pub components: BTreeMap<String, Component>,
}

impl Health {
    pub fn new(metrics: Metrics) -> Self {
        Self { components: Arc::default(), metrics }
    }

    /// With a recorder that is nobody's: for tests, where several doors live in one process.
    pub fn detached() -> Self {
        Self::new(Metrics::detached())
    }

    /// Announces a part whose readiness counts, before it is ready; otherwise a process with slow parts would look ready
    /// until they first speak.
    pub fn expect(&self, component: &str) {
        self.not_ready(component, "starting");
    }

    pub fn ready(&self, component: &str) {
        self.set(component, Component { ready: true, reason: None });
    }

    pub fn not_ready(&self, component: &str, reason: impl Into<String>) {
        self.set(component, Component { ready: false, reason: Some(reason.into()) });
    }

    pub fn report(&self) -> Report {
        let components = self.components().clone();
        // Nothing known is not ready: an empty list must never mean "all is well".
        let ready = !components.is_empty() && components.values().all(|part| part.ready);
        Report { ready, components }
    }

    /// `/healthz`, `/readyz` and `/metrics`, to be merged into a door's own router.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(readyz).with_state(self.clone()))
            .route("/metrics", get(exposition).with_state(self.metrics.clone()))
    }

    fn set(&self, component: &str, state: Component) {
        let before = self.components().insert(component.to_owned(), state.clone());
        if before.as_ref() == Some(&state) {
            return;
        }
        match state.reason {
            Some(reason) => tracing::debug!(component, reason, "not ready"),
            None => tracing::debug!(component, "ready"),
        }
    }

    fn components(&self) -> MutexGuard<'_, BTreeMap<String, Component>> {
        self.components.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn readyz(State(health): State<Health>) -> impl IntoResponse {
    let report = health.report();
    let status = if report.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(report))
}

async fn exposition(State(metrics): State<Metrics>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics.render())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_known_is_not_ready() {
        assert!(!Health::detached().report().ready);
    }

    #[test]
    fn one_part_that_is_not_ready_is_enough() {
        let health = Health::detached();
        health.expect("database");
        health.ready("sandbox");
        assert!(!health.report().ready);
        health.ready("database");
        assert!(health.report().ready);
        health.not_ready("database", "connection lost");
        assert_eq!(health.report().components["database"].reason.as_deref(), Some("connection lost"));
    }
}
