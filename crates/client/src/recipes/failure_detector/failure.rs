use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::recipes::registry::ServiceInstance;

/// How a node was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureCause {
    /// Its registration is gone: its session has ended, or it deregistered without a word.
    Gone,
    /// Its session lives, but its heartbeat was too old; its registration was removed for that.
    Silent,
}

impl FailureCause {
    /// The word that stands in znodes.
    pub fn name(self) -> &'static str {
        match self {
            FailureCause::Gone => "gone",
            FailureCause::Silent => "silent",
        }
    }
}

/// The loss of a node: what stands in its record, and what an alert is given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFailure {
    /// The node's id in the registry.
    pub id: String,
    /// The epoch of the registration that was lost. A node that comes back has another.
    pub epoch: u64,
    /// Where it was reached.
    #[serde(default)]
    pub address: String,
    /// What it offered.
    #[serde(default)]
    pub services: Vec<String>,
    /// Those of them that nobody offered any more when the loss was noticed.
    #[serde(default)]
    pub unavailable: Vec<String>,
    /// How it was lost.
    pub cause: FailureCause,
    /// The tasks that came back because of it, by queue: those that a detector has seen it have. A task that somebody has
    /// completed since may be left out.
    #[serde(default)]
    pub requeued: BTreeMap<String, Vec<String>>,
    /// The items that were taken from it because of it, by group: those of a silent node. Those of one whose session is gone went
    /// with that.
    #[serde(default)]
    pub reassigned: BTreeMap<String, Vec<String>>,
    /// The detector that handled it.
    #[serde(default)]
    pub detector: String,
    /// The session of the lost registration. As a string, because not every reader of JSON has 64-bit integers.
    #[serde(with = "hexadecimal")]
    pub session_id: u64,
    pub(super) state: FailureState,
}

impl NodeFailure {
    /// How many tasks came back.
    pub fn requeued_count(&self) -> usize {
        self.requeued.values().map(Vec::len).sum()
    }
}

/// How far a failure has been handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum FailureState {
    /// It was noticed, and its services counted out.
    Recovering,
    /// What it had has been given back.
    Recovered,
    /// The alert has been raised.
    Reported,
}

/// A node that is watched, as it was last seen: what outlives both the node and the detector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Known {
    pub(super) epoch: u64,
    #[serde(with = "hexadecimal")]
    pub(super) session_id: u64,
    pub(super) address: String,
    pub(super) services: Vec<String>,
}

impl Known {
    pub(super) fn new(instance: &ServiceInstance, epoch: u64, session_id: u64) -> Self {
        Self { epoch, session_id, address: instance.address(), services: instance.services.clone() }
    }

    pub(super) fn failure(&self, id: &str, cause: FailureCause, detector: &str) -> NodeFailure {
        NodeFailure {
            id: id.to_owned(),
            epoch: self.epoch,
            address: self.address.clone(),
            services: self.services.clone(),
            unavailable: Vec::new(),
            cause,
            requeued: BTreeMap::new(),
            reassigned: BTreeMap::new(),
            detector: detector.to_owned(),
            session_id: self.session_id,
            state: FailureState::Recovering,
        }
    }
}

/// Session ids as coordctl prints them.
mod hexadecimal {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(id: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{id:#x}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = String::deserialize(deserializer)?;
        let id = text.strip_prefix("0x").and_then(|digits| u64::from_str_radix(digits, 16).ok());
        id.ok_or_else(|| D::Error::custom(format!("{text:?} is not the id of a session")))
    }
}

/// What stands at a service, for whoever wants to know without counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ServiceHealth {
    pub(super) status: ServiceStatus,
    /// Healthy ones.
    pub(super) instances: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ServiceStatus {
    Healthy,
    Unavailable,
}

impl ServiceHealth {
    pub(super) fn of(instances: usize) -> Self {
        let status = if instances == 0 { ServiceStatus::Unavailable } else { ServiceStatus::Healthy };
        Self { status, instances }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_read_as_it_is_written() {
        let instance = ServiceInstance::new("node-1", "10.0.1.10", 3001).service("caching");
        let known = Known::new(&instance, 7, 0xd877_057f_6469_e46f);
        let mut failure = known.failure("node-1", FailureCause::Silent, "node-2");
        failure.requeued.insert("/q".into(), vec!["100-p0000000001".into()]);
        let json = serde_json::to_value(&failure).unwrap();
        assert_eq!(json["session_id"], "0xd877057f6469e46f");
        assert_eq!((&json["cause"], &json["state"]), (&"silent".into(), &"recovering".into()));
        assert_eq!(serde_json::from_value::<NodeFailure>(json).unwrap(), failure);
        assert_eq!(failure.requeued_count(), 1);
        let known_again = serde_json::from_slice(&serde_json::to_vec(&known).unwrap());
        assert_eq!(known_again.ok(), Some(known));
        assert!(serde_json::from_str::<Known>(r#"{"epoch": 7, "session_id": "12", "address": ""}"#).is_err());
    }

    #[test]
    fn a_service_is_unavailable_when_nobody_offers_it() {
        let text = |instances| serde_json::to_string(&ServiceHealth::of(instances)).unwrap();
        assert_eq!(text(0), r#"{"status":"unavailable","instances":0}"#);
        assert_eq!(text(2), r#"{"status":"healthy","instances":2}"#);
    }
}
