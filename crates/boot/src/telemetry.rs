//! Logs, metrics and traces of one process. Started once, first thing in `main`; the handle it returns flushes what is
//! buffered when it goes.

mod lines;
mod metrics;
mod traces;

use std::io::{self, IsTerminal};

use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use crate::config::{LogFormat, Telemetry as Settings};

pub use lines::OneLine;
pub use metrics::Metrics;
pub use traces::{extract_parent, inject_current};

/// Keep it until the end of `main`.
#[must_use = "dropping it stops traces"]
#[derive(Debug)]
pub struct Telemetry {
    metrics: Metrics,
    provider: Option<SdkTracerProvider>,
}

#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("the log filter cannot be read: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    #[error("logging was set up twice in one process")]
    Twice,
    #[error("metrics cannot be set up: {0}")]
    Metrics(String),
    #[error("traces cannot be sent to {endpoint}: {message}")]
    Traces { endpoint: String, message: String },
}

impl Telemetry {
    /// Sets the process-wide logger, recorder and propagator. `service` names the process in traces.
    pub fn start(settings: &Settings, service: &'static str) -> Result<Self, TelemetryError> {
        let provider = match &settings.otlp_endpoint {
            Some(endpoint) => Some(traces::provider(endpoint, service)?),
            None => None,
        };
        tracing_subscriber::registry()
            .with(provider.as_ref().map(traces::layer))
            .with(log_layer(settings)?)
            .try_init()
            .map_err(|_| TelemetryError::Twice)?;
        Ok(Self { metrics: Metrics::install()?, provider })
    }

    pub fn metrics(&self) -> Metrics {
        self.metrics.clone()
    }

    /// Sends what is buffered. Also done on drop; called by hand where the process is about to `exit`.
    pub fn flush(&mut self) {
        if let Some(provider) = self.provider.take()
            && let Err(error) = provider.shutdown_with_timeout(traces::FLUSH_LIMIT)
        {
            tracing::warn!(%error, "the last traces were not sent");
        }
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Logs go to standard error: standard output belongs to what a command answers.
fn log_layer<S>(settings: &Settings) -> Result<Box<dyn Layer<S> + Send + Sync>, TelemetryError>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    let filter = EnvFilter::builder().parse(&settings.log)?;
    Ok(match settings.log_format {
        LogFormat::Json => fmt::layer().json().flatten_event(true).with_writer(io::stderr).with_filter(filter).boxed(),
        LogFormat::Text => {
            let colours = io::stderr().is_terminal();
            let writer = move || OneLine::new(io::stderr(), colours);
            fmt::layer().with_ansi(colours).with_writer(writer).with_filter(filter).boxed()
        }
    })
}

/// The subscriber type the layers are stacked on; named so that signatures elsewhere stay readable.
pub(crate) type Base = Registry;
