use std::collections::BTreeMap;

use coordd_client::recipes::health::{HealthCheck, HealthMonitor, HealthTarget};
use coordd_client::recipes::{CacheView, PathCache};
use coordd_client::{Error, ErrorKind};
use futures::StreamExt as _;
use serde::{Deserialize, Serialize};

/// What stands in the znode of a head server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct HeadServer {
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl HeadServer {
    pub(crate) fn parse(address: &str) -> Result<Self, Error> {
        let bad = || Error::new(ErrorKind::BadArguments, format!("{address:?} is no HOST:PORT"));
        let (host, port) = address.rsplit_once(':').ok_or_else(bad)?;
        Ok(Self { host: host.to_owned(), port: port.parse().map_err(|_| bad())? })
    }

    /// What stands in its znode.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    pub(crate) fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

/// The name of a head server. The lowest is that with the lowest number at its end, if it has one: 2 is before 10.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ServerId {
    prefix: String,
    number: Option<u64>,
    pub(crate) name: String,
}

impl ServerId {
    pub(crate) fn new(name: &str) -> Self {
        let prefix = name.trim_end_matches(|character: char| character.is_ascii_digit());
        let number = name[prefix.len()..].parse().ok();
        Self { prefix: prefix.to_owned(), number, name: name.to_owned() }
    }
}

/// The head servers that are registered, the lowest id first.
pub(crate) fn registered(heads: &PathCache, view: &CacheView) -> BTreeMap<ServerId, HeadServer> {
    let one = |name: &str, data: &[u8]| Some((ServerId::new(name), serde_json::from_slice(data).ok()?));
    view.iter().filter_map(|znode| one(heads.name(znode), &znode.data)).collect()
}

/// Has the head servers checked, as they come and go.
pub(crate) async fn follow(heads: &PathCache, monitor: &HealthMonitor) {
    let mut views = heads.views();
    while let Some(view) = views.next().await {
        let servers = registered(heads, &view);
        for (id, server) in &servers {
            let Ok(check) = HealthCheck::tcp(server.address()) else {
                println!("{} has no address that can be checked: {:?}", id.name, server.address());
                // What was found at its former address is no verdict on this one.
                monitor.remove(&id.name);
                continue;
            };
            let mut target = HealthTarget::new(&id.name, check);
            let path = format!("{}/{}", heads.path(), id.name);
            // One that announces itself has to go on doing so.
            if view.get(&path).is_some_and(|znode| znode.stat.ephemeral_owner != 0) {
                target = target.heartbeat(path);
            }
            if let Err(error) = monitor.watch(target) {
                println!("{} is not checked: {error}", id.name);
                monitor.remove(&id.name);
            }
        }
        for target in monitor.targets() {
            if !servers.contains_key(&ServerId::new(target.id())) {
                println!("{} is registered no more", target.id());
                monitor.remove(target.id());
            }
        }
    }
}
