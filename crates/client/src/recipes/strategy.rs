use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind};

/// How one of several instances, or workers, is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// One after the other, in the order of their ids.
    #[default]
    RoundRobin,
    /// Whoever has the least load for its weight.
    LeastLoaded,
    /// At random, in proportion to the weights.
    WeightedRandom,
    /// By a hash of a key, so that the same key meets the same one as long as it is there.
    ConsistentHash,
    /// Whoever was chosen before, as long as it is there.
    Sticky,
}

impl Strategy {
    /// All of them.
    pub const ALL: [Strategy; 5] = [
        Strategy::RoundRobin,
        Strategy::LeastLoaded,
        Strategy::WeightedRandom,
        Strategy::ConsistentHash,
        Strategy::Sticky,
    ];

    /// The name, as it stands in znodes and on command lines.
    pub fn name(self) -> &'static str {
        match self {
            Strategy::RoundRobin => "round-robin",
            Strategy::LeastLoaded => "least-loaded",
            Strategy::WeightedRandom => "weighted-random",
            Strategy::ConsistentHash => "consistent-hash",
            Strategy::Sticky => "sticky",
        }
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Strategy {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Strategy::ALL.into_iter().find(|strategy| strategy.name() == name).ok_or_else(|| {
            let names = Strategy::ALL.map(Strategy::name).join(", ");
            Error::new(ErrorKind::BadArguments, format!("no strategy {name:?}; there are {names}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strategy_is_read_as_it_is_written() {
        for strategy in Strategy::ALL {
            assert_eq!(strategy.name().parse(), Ok(strategy));
            assert_eq!(serde_json::to_value(strategy).unwrap(), strategy.name());
        }
        assert_eq!("best".parse::<Strategy>().unwrap_err().kind, ErrorKind::BadArguments);
    }
}
