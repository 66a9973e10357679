//! Around every answer: a request id, a problem body, a measured duration, and nothing of a panic but a 500.

use std::any::Any;

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderName, HeaderValue, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tollgate_domain::ids;
use tracing::Instrument;

use crate::{
    ctx::App,
    problem::{Kind, Problem},
};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The server's name for one HTTP request. A client's own id is not taken over: it would stand in logs and in evidence.
#[derive(Debug, Clone, Default)]
pub struct RequestId(pub String);

/// The outermost layer.
pub async fn finish(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let started = tokio::time::Instant::now();
    let id = RequestId(format!("http_{}", ids::encode(ids::mint(app.clock.now()))));
    request.extensions_mut().insert(id.clone());
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().map_or("none", |m| m.as_str()).to_owned();
    let span = tracing::info_span!("admin_request", request_id = id.0, %method, route);

    let mut answer = next.run(request).instrument(span.clone()).await;
    if let Some(problem) = answer.extensions_mut().remove::<Problem>() {
        let _entered = span.enter();
        tracing::debug!(code = problem.kind().code(), "refused");
        // What the layer below put there stands: Allow on a 405, for one.
        let mut rendered = problem.render(&id.0);
        for (name, value) in answer.headers() {
            if name != header::CONTENT_LENGTH && name != header::CONTENT_TYPE {
                rendered.headers_mut().append(name, value.clone());
            }
        }
        answer = rendered;
    }
    let headers = answer.headers_mut();
    if let Ok(value) = HeaderValue::try_from(&id.0) {
        headers.insert(REQUEST_ID, value);
    }
    // Answers hold one tenant's data, and secrets once: nobody in between keeps them.
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    measure(&route, method.as_str(), answer.status().as_u16(), started.elapsed());
    answer
}

fn measure(route: &str, method: &str, status: u16, took: std::time::Duration) {
    let labels = [("route", route.to_owned()), ("method", method.to_owned()), ("status", status.to_string())];
    metrics::counter!("tollgate_admin_requests_total", &labels).increment(1);
    metrics::histogram!("tollgate_admin_request_seconds", &labels[..2]).record(took.as_secs_f64());
}

/// What is left of a panic.
pub fn panicked(panic: Box<dyn Any + Send + 'static>) -> Response {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    tracing::error!(panic = text.unwrap_or("unknown"), "a handler panicked");
    Problem::new(Kind::Internal).into_response()
}
