use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Latency, TargetHealth};

/// How a target is, in the eyes of one monitor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthStatus {
    /// It passes its checks.
    Healthy,
    /// Its last checks failed, and not so many yet that it is out.
    Suspect,
    /// It is out: too many checks in a row have failed, and it has not been back for long enough.
    Quarantined,
    /// Not known yet; also a word that this version does not know.
    #[default]
    #[serde(other)]
    Unknown,
}

impl HealthStatus {
    /// The word that stands in znodes.
    pub fn name(self) -> &'static str {
        match self {
            HealthStatus::Healthy => "healthy",
            HealthStatus::Suspect => "suspect",
            HealthStatus::Quarantined => "quarantined",
            HealthStatus::Unknown => "unknown",
        }
    }
}

impl fmt::Display for HealthStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What one monitor says of one target: what stands in its znode.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthReport {
    /// The monitor's name; in the tree it is that of the znode.
    #[serde(default)]
    pub monitor: String,
    /// How the target is.
    pub status: HealthStatus,
    /// Why: what the newest failure was, or how it came back. For people.
    #[serde(default)]
    pub why: String,
    /// The check that is made, for people.
    #[serde(default)]
    pub check: String,
    /// How many of the newest checks failed in a row.
    #[serde(default)]
    pub failures_in_row: u32,
    /// How many of the newest checks passed in a row.
    #[serde(default)]
    pub successes_in_row: u32,
    /// How many checks were made.
    #[serde(default)]
    pub checks: u64,
    /// How many of them failed.
    #[serde(default)]
    pub failures: u64,
    /// How often it was put in quarantine.
    #[serde(default)]
    pub quarantines: u64,
    /// Of the newest checks that passed; `None` if none has.
    #[serde(default)]
    pub latency: Option<Latency>,
}

impl HealthReport {
    pub(super) fn new(monitor: &str, check: String, health: &TargetHealth) -> Self {
        Self {
            monitor: monitor.to_owned(),
            status: health.status(),
            why: health.why().to_owned(),
            check,
            failures_in_row: health.failures_in_row(),
            successes_in_row: health.successes_in_row(),
            checks: health.checks(),
            failures: health.failures(),
            quarantines: health.quarantines(),
            latency: health.latency(),
        }
    }

    pub(super) fn to_json(&self) -> Vec<u8> {
        // A struct of strings and numbers always has a JSON form.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_of_another_hand_needs_a_status_only() {
        let read = |text: &str| serde_json::from_str::<HealthReport>(text);
        assert_eq!(
            read(r#"{"status": "quarantined", "by": "hand"}"#).unwrap().status,
            HealthStatus::Quarantined
        );
        assert_eq!(read(r#"{"status": "dancing"}"#).unwrap().status, HealthStatus::Unknown);
        assert!(read("{}").is_err());
        let report = HealthReport { monitor: "m".into(), ..read(r#"{"status": "suspect"}"#).unwrap() };
        assert_eq!(serde_json::from_slice::<HealthReport>(&report.to_json()).unwrap(), report);
    }
}
