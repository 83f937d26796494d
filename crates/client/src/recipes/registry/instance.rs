use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::layout::check_name;
use crate::{Error, ErrorKind};

/// Whether an instance takes calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InstanceStatus {
    /// It takes calls.
    #[default]
    Healthy,
    /// It takes no calls, by its own or somebody else's finding.
    Unhealthy,
    /// It finishes what it has and takes no new calls: it is about to go.
    Draining,
    /// A word that this version does not know. No calls go there.
    #[serde(other)]
    Unknown,
}

impl InstanceStatus {
    /// The word that stands in znodes.
    pub fn name(self) -> &'static str {
        match self {
            InstanceStatus::Healthy => "healthy",
            InstanceStatus::Unhealthy => "unhealthy",
            InstanceStatus::Draining => "draining",
            InstanceStatus::Unknown => "unknown",
        }
    }
}

impl std::fmt::Display for InstanceStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A process that offers services: what it says about itself, as it stands in its znodes.
///
/// Curator calls it `ServiceInstance` too; one of Curator's is an instance of one service, this one of several.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceInstance {
    /// Its name, unique below the registry's root.
    pub id: String,
    /// Where it is reached.
    pub host: String,
    /// Where it is reached.
    pub port: u16,
    /// What it offers.
    #[serde(default)]
    pub services: Vec<String>,
    /// The share of its capacity that is in use: 0 is idle, 1 is full. The first document calls it `capacity`.
    #[serde(default, alias = "capacity")]
    pub load: f64,
    /// Its size in comparison with others; at least 1.
    #[serde(default = "one")]
    pub weight: u32,
    /// Whether it takes calls.
    #[serde(default)]
    pub status: InstanceStatus,
    /// Whatever else is worth knowing.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    /// When it was registered first: milliseconds since the Unix epoch by its own clock.
    #[serde(default)]
    pub start_time: u64,
    /// When it wrote last: milliseconds since the Unix epoch by its own clock. For people; whether a heartbeat is stale
    /// is judged by the server's stamps.
    #[serde(default)]
    pub last_heartbeat: u64,
}

fn one() -> u32 {
    1
}

impl ServiceInstance {
    /// An instance without services, with weight 1.
    pub fn new(id: impl Into<String>, host: impl Into<String>, port: u16) -> Self {
        Self {
            id: id.into(),
            host: host.into(),
            port,
            services: Vec::new(),
            load: 0.0,
            weight: 1,
            status: InstanceStatus::Healthy,
            metadata: BTreeMap::new(),
            start_time: 0,
            last_heartbeat: 0,
        }
    }

    /// Offers a service.
    #[must_use]
    pub fn service(mut self, name: impl Into<String>) -> Self {
        let name = name.into();
        if !self.services.contains(&name) {
            self.services.push(name);
        }
        self
    }

    /// Its size in comparison with others.
    #[must_use]
    pub fn weight(mut self, weight: u32) -> Self {
        self.weight = weight;
        self
    }

    /// The share of its capacity that is in use at the start.
    #[must_use]
    pub fn load(mut self, load: f64) -> Self {
        self.load = load;
        self
    }

    /// Something else worth knowing.
    #[must_use]
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(key.into(), value.into());
        self
    }

    /// "host:port", with an IPv6 address in brackets.
    pub fn address(&self) -> String {
        match self.host.contains(':') && !self.host.starts_with('[') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    /// Whether it is fit to be registered.
    pub(crate) fn validate(&self) -> Result<(), Error> {
        // One multi registers all; the server takes 1,000 operations.
        const MAX_SERVICES: usize = 400;
        let bad = |message: String| Err(Error::new(ErrorKind::BadArguments, message));
        check_name("the id of an instance", &self.id)?;
        self.services.iter().try_for_each(|service| check_name("the name of a service", service))?;
        if self.host.is_empty() || self.port == 0 {
            return bad(format!(
                "instance {:?} needs a host and a port, and has {:?}",
                self.id,
                self.address()
            ));
        }
        if self.weight == 0 {
            return bad(format!("instance {:?} has weight 0; the least is 1", self.id));
        }
        check_load(self.load)?;
        match self.services.len() {
            count if count > MAX_SERVICES => {
                bad(format!("instance {:?} offers {count} services; the limit is {MAX_SERVICES}", self.id))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn to_json(&self) -> Vec<u8> {
        // A struct of strings and numbers, with a load that `validate` has found finite, always has a JSON form.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// From a znode `name`. What another hand wrote may be anything.
    pub(crate) fn from_json(name: &str, data: &[u8]) -> Result<Self, String> {
        let mut instance: Self = serde_json::from_slice(data).map_err(|error| error.to_string())?;
        if instance.id != name {
            return Err(format!("the instance calls itself {:?}", instance.id));
        }
        instance.weight = instance.weight.max(1);
        instance.load = if instance.load.is_finite() { instance.load.max(0.0) } else { 0.0 };
        Ok(instance)
    }
}

pub(crate) fn check_load(load: f64) -> Result<(), Error> {
    match load.is_finite() && load >= 0.0 {
        true => Ok(()),
        false => Err(Error::new(ErrorKind::BadArguments, format!("{load} is not a load; the least is 0"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_is_read_as_the_first_document_writes_it() {
        let text =
            br#"{"id": "node-1", "host": "10.0.1.10", "port": 3001, "services": ["caching", "logging"],
            "capacity": 0.65, "status": "healthy", "startTime": 7, "last_heartbeat": 1699123456789}"#;
        let instance = ServiceInstance::from_json("node-1", text).unwrap();
        assert_eq!(instance.load, 0.65);
        assert_eq!(instance.weight, 1);
        assert_eq!(instance.last_heartbeat, 1_699_123_456_789);
        assert_eq!(instance.services, ["caching", "logging"]);
    }

    #[test]
    fn an_instance_is_read_as_it_is_written() {
        let instance =
            ServiceInstance::new("a", "::1", 80).service("s").weight(3).load(0.5).metadata("k", "v");
        assert_eq!(ServiceInstance::from_json("a", &instance.to_json()), Ok(instance.clone()));
        assert_eq!(instance.address(), "[::1]:80");
    }

    #[test]
    fn what_another_hand_wrote_does_no_harm() {
        assert!(ServiceInstance::from_json("a", b"{").is_err());
        assert!(ServiceInstance::from_json("a", br#"{"id":"b","host":"h","port":1}"#).is_err());
        assert!(ServiceInstance::from_json("a", br#"{"id":"a","host":"h","port":70000}"#).is_err());
        let odd = br#"{"id":"a","host":"h","port":1,"weight":0,"load":-4,"status":"dancing"}"#;
        let odd = ServiceInstance::from_json("a", odd).unwrap();
        assert_eq!((odd.weight, odd.load, odd.status), (1, 0.0, InstanceStatus::Unknown));
    }

    #[test]
    fn what_cannot_be_registered_is_refused_with_the_reason() {
        let good = || ServiceInstance::new("a", "h", 1);
        assert_eq!(good().validate(), Ok(()));
        let bad = [
            ServiceInstance::new("a/b", "h", 1),
            ServiceInstance::new("a", "", 1),
            ServiceInstance::new("a", "h", 0),
            good().weight(0),
            good().load(f64::NAN),
            good().service(""),
            (0..401).fold(good(), |instance, number| instance.service(format!("s{number}"))),
        ];
        for instance in bad {
            assert_eq!(instance.validate().unwrap_err().kind, ErrorKind::BadArguments);
        }
    }
}
