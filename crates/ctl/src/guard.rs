use std::fmt;
use std::str::FromStr;

use coordd_client::{Check, Lineage};

/// The zxid that created a znode, and the history that this zxid belongs to if that is known: `EPOCH`,
/// `EPOCH@ENSEMBLE`, or `EPOCH@ENSEMBLE/RESTORE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EpochArg {
    epoch: u64,
    lineage: Option<Lineage>,
}

impl EpochArg {
    pub(crate) fn check(&self, path: &str) -> Check {
        Check::epoch(path, self.epoch).in_lineage(self.lineage.clone())
    }
}

impl fmt::Display for EpochArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.epoch.fmt(f)?;
        match &self.lineage {
            None => Ok(()),
            Some(Lineage { cluster_id, number: 0 }) => write!(f, "@{cluster_id}"),
            Some(Lineage { cluster_id, number }) => write!(f, "@{cluster_id}/{number}"),
        }
    }
}

impl FromStr for EpochArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let read = || {
            let Some((epoch, lineage)) = text.split_once('@') else {
                return Some(Self { epoch: text.parse().ok()?, lineage: None });
            };
            let (cluster_id, number) = match lineage.split_once('/') {
                Some((cluster_id, number)) => (cluster_id, number.parse().ok()?),
                None => (lineage, 0),
            };
            let lineage = Lineage { cluster_id: cluster_id.to_owned(), number };
            (!cluster_id.is_empty()).then_some(Self { epoch: epoch.parse().ok()?, lineage: Some(lineage) })
        };
        read().ok_or_else(|| format!("{text:?} is not EPOCH or EPOCH@ENSEMBLE"))
    }
}

/// A condition under which writes are done: the znode at the path was created by this zxid, and is still there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GuardArg {
    path: String,
    epoch: EpochArg,
}

impl GuardArg {
    /// Between several of them in the environment: no path that a person writes has it.
    pub(crate) const DELIMITER: char = '\n';

    pub(crate) fn new(path: &str, epoch: u64, lineage: Option<Lineage>) -> Self {
        Self { path: path.to_owned(), epoch: EpochArg { epoch, lineage } }
    }

    pub(crate) fn check(&self) -> Check {
        self.epoch.check(&self.path)
    }

    /// As the variable in the environment has them.
    pub(crate) fn join(guards: &[GuardArg]) -> String {
        let texts: Vec<_> = guards.iter().map(|guard| format!("{}:{}", guard.path, guard.epoch)).collect();
        texts.join(&Self::DELIMITER.to_string())
    }
}

impl FromStr for GuardArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not PATH:EPOCH or PATH:EPOCH@ENSEMBLE");
        let (path, epoch) = text.rsplit_once(':').ok_or_else(wrong)?;
        let epoch = epoch.parse().map_err(|_| wrong())?;
        if path.starts_with('/') { Ok(Self { path: path.to_owned(), epoch }) } else { Err(wrong()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lineage(number: u64) -> Option<Lineage> {
        Some(Lineage { cluster_id: "7f00a1".into(), number })
    }

    #[test]
    fn a_guard_is_read_as_it_is_written() {
        let guards = [
            GuardArg::new("/a:b@c/leader", 7, None),
            GuardArg::new("/c", 1 << 60, lineage(0)),
            GuardArg::new("/d", 1, lineage(2)),
        ];
        let joined = GuardArg::join(&guards);
        assert_eq!(joined, "/a:b@c/leader:7\n/c:1152921504606846976@7f00a1\n/d:1@7f00a1/2");
        let read: Vec<GuardArg> =
            joined.split(GuardArg::DELIMITER).map(|text| text.parse().unwrap()).collect();
        assert_eq!(read, guards);
        for wrong in
            ["", "/a", "/a:", "/a:x", "a:7", ":7", "/a:7@", "/a:@x", "/a:7@x/", "/a:7@x/y", "/a:7@/1"]
        {
            assert!(wrong.parse::<GuardArg>().is_err(), "{wrong}");
        }
    }
}
