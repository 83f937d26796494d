use std::str::FromStr;

use coordd_client::Check;

/// A condition under which writes are done: the znode at the path was created by this zxid, and is still there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GuardArg {
    path: String,
    epoch: u64,
}

impl GuardArg {
    /// Between several of them in the environment: no path that a person writes has it.
    pub(crate) const DELIMITER: char = '\n';

    pub(crate) fn new(path: &str, epoch: u64) -> Self {
        Self { path: path.to_owned(), epoch }
    }

    pub(crate) fn check(&self) -> Check {
        Check::epoch(&self.path, self.epoch)
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
        let wrong = || format!("{text:?} is not PATH:EPOCH");
        let (path, epoch) = text.rsplit_once(':').ok_or_else(wrong)?;
        let epoch = epoch.parse().map_err(|_| wrong())?;
        if path.starts_with('/') { Ok(Self::new(path, epoch)) } else { Err(wrong()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guard_is_read_as_it_is_written() {
        let guards = [GuardArg::new("/a:b/leader", 7), GuardArg::new("/c", 1 << 60)];
        let joined = GuardArg::join(&guards);
        let read: Vec<GuardArg> =
            joined.split(GuardArg::DELIMITER).map(|text| text.parse().unwrap()).collect();
        assert_eq!(read, guards);
        for wrong in ["", "/a", "/a:", "/a:x", "a:7", ":7"] {
            assert!(wrong.parse::<GuardArg>().is_err(), "{wrong}");
        }
    }
}
