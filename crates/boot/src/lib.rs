//! What every process of Tollgate needs before it does anything of its own: settings, logs and metrics, health, an
//! orderly end, and a listener. Knows nothing of tenants, tools or keys.

pub mod config;
pub mod health;
pub mod kms;
pub mod serve;
pub mod shutdown;
pub mod telemetry;

pub use config::{Config, ConfigArgs};
pub use health::Health;
pub use shutdown::Shutdown;
pub use telemetry::{Metrics, Telemetry};
