use crate::{Error, ErrorKind};

/// Where the registry keeps what, below its root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    root: String,
}

impl Layout {
    pub(crate) fn new(root: impl Into<String>) -> Self {
        let root: String = root.into();
        Self { root: root.trim_end_matches('/').to_owned() }
    }

    pub(crate) fn root(&self) -> &str {
        &self.root
    }

    pub(crate) fn node(&self, id: &str) -> String {
        format!("{}/nodes/{id}", self.root)
    }

    pub(crate) fn nodes(&self) -> String {
        format!("{}/nodes", self.root)
    }

    pub(crate) fn services(&self) -> String {
        format!("{}/services", self.root)
    }

    /// What belongs to a service; also where its monitors report, in the layout of `HealthMonitor`.
    pub(crate) fn service(&self, service: &str) -> String {
        format!("{}/services/{service}", self.root)
    }

    pub(crate) fn instances(&self, service: &str) -> String {
        format!("{}/services/{service}/instances", self.root)
    }

    pub(crate) fn instance(&self, service: &str, id: &str) -> String {
        format!("{}/services/{service}/instances/{id}", self.root)
    }

    pub(crate) fn leader(&self, service: &str) -> String {
        format!("{}/services/{service}/leader", self.root)
    }

    /// The znode of who leads, in the layout of `LeaderElection`.
    pub(crate) fn leader_znode(&self, service: &str) -> String {
        format!("{}/leader", self.leader(service))
    }

    /// How many offer a service, as a failure detector finds it.
    pub(crate) fn health(&self, service: &str) -> String {
        format!("{}/services/{service}/health", self.root)
    }

    pub(crate) fn config(&self, service: &str) -> String {
        format!("{}/config/services/{service}", self.root)
    }
}

/// The longest name that becomes one element of a path.
pub(crate) const NAME_BYTES_MAX: usize = 200;

/// A name that becomes one element of a path.
pub(crate) fn check_name(what: &str, name: &str) -> Result<(), Error> {
    let reason = match name {
        "" => "it is empty".to_owned(),
        "." | ".." => "it means another path".to_owned(),
        _ if name.contains('/') => "it contains '/'".to_owned(),
        _ if name.chars().any(char::is_control) => "it contains a control character".to_owned(),
        _ if name.len() > NAME_BYTES_MAX => {
            format!("it has {} bytes, the limit is {NAME_BYTES_MAX}", name.len())
        }
        _ => return Ok(()),
    };
    Err(Error::new(ErrorKind::BadArguments, format!("{name:?} cannot be {what}: {reason}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_may_be_the_top_of_the_tree() {
        assert_eq!(Layout::new("/").node("a"), "/nodes/a");
        assert_eq!(Layout::new("/shop/").instance("cart", "a"), "/shop/services/cart/instances/a");
    }

    #[test]
    fn a_name_is_one_element_of_a_path() {
        assert_eq!(check_name("an id", "node-1:3001"), Ok(()));
        for bad in ["", ".", "..", "a/b", "a\n", &"x".repeat(201)] {
            let error = check_name("an id", bad).unwrap_err();
            assert_eq!(error.kind, ErrorKind::BadArguments);
            assert!(error.message.contains("an id"), "{error}");
        }
    }
}
