use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::recipes::Strategy;

/// To which of its instances the calls of a service go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// To the caller's own process, which must offer it.
    Local,
    /// To the caller's own process if it offers the service and is healthy, else to one chosen by the strategy.
    LocalFirst,
    /// To the instance that leads the service's election.
    LeaderBased,
    /// To one chosen by the strategy.
    #[default]
    Distributed,
    /// To all of them.
    Replicated,
}

impl Mode {
    /// The word that stands in znodes.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Local => "local",
            Mode::LocalFirst => "local-first",
            Mode::LeaderBased => "leader-based",
            Mode::Distributed => "distributed",
            Mode::Replicated => "replicated",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How a service is called: what stands in `{root}/config/services/{service}`. Callers follow it while they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceConfig {
    /// To which instances calls go.
    pub mode: Mode,
    /// How one of several is chosen.
    pub strategy: Strategy,
    /// How long one call may take, a retry included; milliseconds.
    #[serde(alias = "timeout")]
    pub timeout_ms: u64,
}

impl Default for ServiceConfig {
    /// Distributed, round robin, 5 s.
    fn default() -> Self {
        Self { mode: Mode::default(), strategy: Strategy::default(), timeout_ms: 5_000 }
    }
}

impl ServiceConfig {
    /// A mode, with the default strategy and timeout.
    pub fn new(mode: Mode) -> Self {
        Self { mode, ..Self::default() }
    }

    /// How one of several is chosen.
    #[must_use]
    pub fn strategy(mut self, strategy: Strategy) -> Self {
        self.strategy = strategy;
        self
    }

    /// How long one call may take, a retry included.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX).max(1);
        self
    }

    /// How long one call may take, a retry included; at least a millisecond.
    pub fn call_timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_read_as_the_first_document_writes_it() {
        let read = |text: &str| serde_json::from_str::<ServiceConfig>(text).unwrap();
        let config = read(r#"{"mode": "leader-based", "timeout": 30000}"#);
        assert_eq!((config.mode, config.timeout_ms), (Mode::LeaderBased, 30_000));
        let config = read(r#"{"mode": "distributed", "replication": 3, "strategy": "least-loaded"}"#);
        assert_eq!((config.mode, config.strategy), (Mode::Distributed, Strategy::LeastLoaded));
        assert_eq!(read("{}"), ServiceConfig::default());
    }

    #[test]
    fn every_mode_is_read_as_it_is_named() {
        for mode in [Mode::Local, Mode::LocalFirst, Mode::LeaderBased, Mode::Distributed, Mode::Replicated] {
            let text = serde_json::to_string(&ServiceConfig::new(mode)).unwrap();
            assert!(text.contains(&format!("{:?}", mode.name())), "{text}");
            assert_eq!(serde_json::from_str::<ServiceConfig>(&text).unwrap().mode, mode);
        }
    }
}
