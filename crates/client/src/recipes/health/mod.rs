//! Health: checks of targets by several monitors, their reports in the tree, and what a majority of them says. See
//! [`HealthMonitor`].

mod check;
mod checker;
mod command;
mod grpc;
mod http;
mod latency;
mod monitor;
mod options;
mod publisher;
mod report;
mod reports;
mod roster;
mod service_follower;
mod target_health;
#[cfg(test)]
mod target_health_tests;

pub use check::{CheckOutcome, HealthCheck};
pub use http::HttpCheck;
pub use latency::{Latency, LatencyWindow};
pub use monitor::{HealthChange, HealthMonitor, HealthStatistics, HealthTarget};
pub use options::{HealthOptions, HealthPolicy};
pub use report::{HealthReport, HealthStatus};
pub use reports::{HealthReports, HealthView, Verdict};
pub use target_health::{TargetHealth, Transition};
