//! The process's counters and histograms, in Prometheus' text format. There is no listener of its own: the doors serve
//! `/metrics` beside their other routes.

use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use super::TelemetryError;

/// Seconds, from a lookup in memory to a slow upstream.
const LATENCY_BUCKETS: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];

/// Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Metrics(PrometheusHandle);

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    /// Makes this the recorder behind the `metrics` macros of the whole process.
    pub(super) fn install() -> Result<Self, TelemetryError> {
        let failed = |error: metrics_exporter_prometheus::BuildError| TelemetryError::Metrics(error.to_string());
        let handle = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &LATENCY_BUCKETS)
            .map_err(failed)?
            .install_recorder()
            .map_err(failed)?;
        Ok(Self(handle))
    }

    /// A recorder that is nobody's: for tests of routers, where several run in one process.
    pub fn detached() -> Self {
        Self(PrometheusBuilder::new().build_recorder().handle())
    }

    pub fn render(&self) -> String {
        self.0.render()
    }

    /// Folds recorded samples into their histograms. Rendering does it too, but a process that nobody scrapes would keep
    /// every sample in memory.
    pub async fn upkeep(self) {
        let mut interval = tokio::time::interval(Duration::from_secs(5));
        loop {
            interval.tick().await;
            self.0.run_upkeep();
        }
    }
}
