//! Traces over OTLP/HTTP, and the W3C `traceparent` that ties them to the caller's and the upstream's.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::{
    Context, global,
    propagation::{Extractor, Injector},
    trace::TracerProvider as _,
};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig};
use opentelemetry_sdk::{Resource, propagation::TraceContextPropagator, trace::SdkTracerProvider};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::{EnvFilter, Layer};

use super::{Base, TelemetryError};

pub(super) const FLUSH_LIMIT: Duration = Duration::from_secs(5);
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);

/// Spans worth exporting. The HTTP client is silenced because it also carries the export itself, which would trace
/// itself for ever.
const SPANS: &str =
    "info,hyper=off,hyper_util=off,h2=off,reqwest=off,opentelemetry=off,opentelemetry_sdk=off,opentelemetry_otlp=off";

/// Also sets the process-wide propagator and tracer. The exporter has a thread of its own, so a slow collector costs
/// spans, never requests.
pub(super) fn provider(endpoint: &str, service: &'static str) -> Result<SdkTracerProvider, TelemetryError> {
    let exporter = SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(traces_url(endpoint))
        .with_timeout(EXPORT_TIMEOUT)
        .build()
        .map_err(|error| TelemetryError::Traces { endpoint: endpoint.to_owned(), message: error.to_string() })?;
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(Resource::builder().with_service_name(service).build())
        .build();
    global::set_text_map_propagator(TraceContextPropagator::new());
    global::set_tracer_provider(provider.clone());
    Ok(provider)
}

pub(super) fn layer(provider: &SdkTracerProvider) -> impl Layer<Base> + Send + Sync + use<> {
    tracing_opentelemetry::layer().with_tracer(provider.tracer("tollgate")).with_filter(EnvFilter::new(SPANS))
}

/// The exporter takes the full address as it stands, collectors are named by their base.
fn traces_url(endpoint: &str) -> String {
    let bare = endpoint.trim_end_matches('/');
    if bare.ends_with("/v1/traces") { bare.to_owned() } else { format!("{bare}/v1/traces") }
}

/// Hangs `span` under the trace the caller named in its headers, if any.
pub fn extract_parent(span: &tracing::Span, headers: &HeaderMap) {
    let parent = global::get_text_map_propagator(|propagator| propagator.extract(&Incoming(headers)));
    // Fails only where no exporter is configured, and then there is nothing to tie.
    let _ = span.set_parent(parent);
}

/// Writes the current span into headers that go to an upstream. Does nothing where no exporter is configured.
pub fn inject_current(headers: &mut HeaderMap) {
    let context: Context = tracing::Span::current().context();
    global::get_text_map_propagator(|propagator| propagator.inject_context(&context, &mut Outgoing(headers)));
}

struct Incoming<'a>(&'a HeaderMap);

impl Extractor for Incoming<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

struct Outgoing<'a>(&'a mut HeaderMap);

impl Injector for Outgoing<'_> {
    fn set(&mut self, key: &str, value: String) {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(key), HeaderValue::try_from(value)) {
            self.0.insert(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_address_gets_the_path_and_a_full_one_keeps_it() {
        assert_eq!(traces_url("http://c:4318/"), "http://c:4318/v1/traces");
        assert_eq!(traces_url("http://c:4318/v1/traces"), "http://c:4318/v1/traces");
    }
}
