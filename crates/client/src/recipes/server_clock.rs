use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::{Client, CreateMode, CreateOptions, Error, ErrorKind};

/// What time it is at the ensemble, at the earliest: the stamp of the newest write of ours, and what has passed here since
/// its answer. Stamps never go back, and an answer comes after its stamp, so this is never ahead of the ensemble as
/// long as clocks tick alike; it is behind by no more than the way of an answer.
#[derive(Debug, Default)]
pub(crate) struct ServerClock {
    newest: Mutex<Option<(u64, Instant)>>,
}

impl ServerClock {
    /// Takes note of the stamp of a write that was answered at `now`.
    pub(crate) fn observe(&self, stamp_ms: u64, now: Instant) {
        *self.newest.lock().expect("no panics while it is held") = Some((stamp_ms, now));
    }

    /// Milliseconds since the Unix epoch. `None` before the first stamp.
    pub(crate) fn at(&self, now: Instant) -> Option<u64> {
        let newest = *self.newest.lock().expect("no panics while it is held");
        newest.map(|(stamp_ms, since)| {
            stamp_ms.saturating_add(now.saturating_duration_since(since).as_millis() as u64)
        })
    }

    /// The time now, from a stamp that is no older than `age`; writes the znode at `path` for a new one.
    ///
    /// # Errors
    ///
    /// Those of a write.
    pub(crate) async fn now(&self, client: &Client, path: &str, age: Duration) -> Result<u64, Error> {
        let newest = *self.newest.lock().expect("no panics while it is held");
        if newest.is_none_or(|(_, since)| since.elapsed() > age) {
            let stamp_ms = match client.set(path, "", None).await {
                Ok(stat) => stat.mtime,
                Err(error) if error.kind == ErrorKind::NoNode => {
                    let options = CreateOptions::new(CreateMode::Persistent).parents(true);
                    match client.create(path, "", options).await {
                        Ok(created) => created.stat.mtime,
                        Err(error) if error.kind == ErrorKind::NodeExists => {
                            client.set(path, "", None).await?.mtime
                        }
                        Err(error) => return Err(error),
                    }
                }
                Err(error) => return Err(error),
            };
            self.observe(stamp_ms, Instant::now());
        }
        Ok(self.at(Instant::now()).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_on_from_the_newest_stamp() {
        let (clock, start) = (ServerClock::default(), Instant::now());
        assert_eq!(clock.at(start), None);
        clock.observe(5_000, start);
        assert_eq!(clock.at(start + Duration::from_millis(250)), Some(5_250));
        // A local clock that ran ahead is set right by the next stamp.
        clock.observe(5_100, start + Duration::from_millis(250));
        assert_eq!(clock.at(start + Duration::from_millis(300)), Some(5_150));
    }
}
