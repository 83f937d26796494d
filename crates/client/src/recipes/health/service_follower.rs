use std::collections::BTreeSet;
use std::sync::Arc;

use futures::StreamExt as _;

use super::roster::Roster;
use super::{HealthCheck, HealthTarget};
use crate::Error;
use crate::recipes::PathCache;
use crate::recipes::registry::ServiceInstance;

/// Makes the instances that are announced below a path targets, as they come and go. Each one's announcement is its heartbeat.
pub(super) async fn follow(
    roster: Arc<Roster>,
    instances: PathCache,
    check: impl Fn(&ServiceInstance) -> Result<HealthCheck, Error> + Send + 'static,
) {
    let mut views = instances.views();
    let mut known = BTreeSet::new();
    while let Some(view) = views.next().await {
        let mut present = BTreeSet::new();
        for znode in view.iter() {
            let name = instances.name(znode);
            let watched = ServiceInstance::from_json(name, &znode.data)
                .map_err(|reason| format!("it is no instance: {reason}"))
                .and_then(|instance| check(&instance).map_err(|error| error.to_string()))
                .map(|check| HealthTarget::new(name, check).heartbeat(&*znode.path))
                .and_then(|target| roster.watch(target).map_err(|error| error.to_string()));
            match watched {
                Ok(()) => drop(present.insert(name.to_owned())),
                Err(reason) => tracing::warn!(path = &*znode.path, reason, "an instance is not checked"),
            }
        }
        for gone in known.difference(&present) {
            roster.remove(gone);
        }
        known = present;
    }
}
