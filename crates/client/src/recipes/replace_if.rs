use std::time::Duration;

use bytes::Bytes;
use rand::Rng as _;

use super::znode::unless_changed;
use crate::{Check, Client, CreateMode, CreateOptions, Error, ErrorKind, MultiResult, Stat};

const PAUSE_FIRST: Duration = Duration::from_millis(16);
const PAUSE_MIN: Duration = Duration::from_millis(1);

/// Replaces the data of a znode if it is as it was seen; creates it, with missing parents, if it was seen absent. `None`:
/// somebody else was faster, and the node of this session has applied what they did, so that a local read shows it.
pub(super) async fn replace_if(
    client: &Client,
    path: &str,
    seen: Option<&Stat>,
    data: impl Into<Bytes>,
) -> Result<Option<Stat>, Error> {
    let replaced = match seen {
        None => create(client, path, data.into()).await,
        // The version alone would take a znode that was deleted and created again for the same. A check and not a guard:
        // guards that fail are those of the caller's handle.
        Some(seen) => {
            let multi = client.multi().check(Check::epoch(path, seen.czxid));
            multi.set(path, data, Some(seen.version)).commit().await.and_then(|results| {
                match results.last() {
                    Some(MultiResult::Set(stat)) => Ok(*stat),
                    other => {
                        Err(Error::new(ErrorKind::Protocol, format!("a set was answered with {other:?}")))
                    }
                }
            })
        }
    };
    unless_changed(replaced)
}

/// Sets the data of a znode, or creates it with missing parents.
pub(super) async fn put(client: &Client, path: &str, data: impl Into<Bytes>) -> Result<Stat, Error> {
    let data = data.into();
    loop {
        match client.set(path, data.clone(), None).await {
            Err(error) if error.kind == ErrorKind::NoNode => {}
            answer => return answer,
        }
        match create(client, path, data.clone()).await {
            Err(error) if error.kind == ErrorKind::NodeExists => {}
            answer => return answer,
        }
    }
}

async fn create(client: &Client, path: &str, data: Bytes) -> Result<Stat, Error> {
    let options = CreateOptions::new(CreateMode::Persistent).parents(true);
    Ok(client.create(path, data, options).await?.stat)
}

/// Pauses between attempts of which somebody's always succeeds: spread at random, so that not all try again together, and shorter
/// with each loss. Who has just succeeded may begin again without any, and longer pauses would leave who has lost often behind.
#[derive(Debug)]
pub(super) struct BackOff {
    next: Duration,
}

impl Default for BackOff {
    fn default() -> Self {
        Self { next: PAUSE_FIRST }
    }
}

impl BackOff {
    pub(super) async fn pause(&mut self) {
        let spread = rand::rng().random_range(0.0..1.0);
        tokio::time::sleep(self.next.mul_f64(spread)).await;
        self.next = (self.next / 2).max(PAUSE_MIN);
    }
}
