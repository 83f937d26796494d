use std::str::FromStr;

use coordd_client::Check;

/// A condition under which writes are done: the znode at the path was created by this zxid, and is still there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GuardArg {
    /// `None`: no condition. It is what an empty variable in the environment means.
    condition: Option<(String, u64)>,
}

impl GuardArg {
    /// Between several of them in the environment: no path that a person writes has it.
    pub(crate) const DELIMITER: char = '\n';

    pub(crate) fn new(path: &str, epoch: u64) -> Self {
        Self { condition: Some((path.to_owned(), epoch)) }
    }

    pub(crate) fn check(&self) -> Option<Check> {
        self.condition.as_ref().map(|(path, epoch)| Check::epoch(path, *epoch))
    }

    /// As the variable in the environment has them.
    pub(crate) fn join(guards: &[GuardArg]) -> String {
        let conditions = guards.iter().filter_map(|guard| guard.condition.as_ref());
        let texts: Vec<_> = conditions.map(|(path, epoch)| format!("{path}:{epoch}")).collect();
        texts.join(&Self::DELIMITER.to_string())
    }
}

impl FromStr for GuardArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self { condition: None });
        }
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
        assert_eq!("".parse::<GuardArg>().unwrap().check(), None);
        for wrong in ["/a", "/a:", "/a:x", "a:7", ":7"] {
            assert!(wrong.parse::<GuardArg>().is_err(), "{wrong}");
        }
    }
}
