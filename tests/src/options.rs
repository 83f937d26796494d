use crate::Ensemble;

/// What an ensemble is started with.
#[derive(Clone, Debug)]
pub struct EnsembleOptions {
    pub(crate) nodes: u64,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) wait: bool,
    pub(crate) peer_host: Option<String>,
}

impl EnsembleOptions {
    /// So many nodes, with the defaults of coordd.
    pub fn new(nodes: u64) -> Self {
        EnsembleOptions { nodes, env: Vec::new(), wait: true, peer_host: None }
    }

    /// An option of coordd, as it stands in the environment: `COORDD_*`.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The nodes talk to each other at this host, at port 7500 and the node's id: for data directories that were made before, which
    /// name their members.
    #[must_use]
    pub fn peer_host(mut self, host: &str) -> Self {
        self.peer_host = Some(host.to_owned());
        self
    }

    /// No node is started: the test starts them by [`Ensemble::restart`].
    #[must_use]
    pub fn not_started(mut self) -> Self {
        self.wait = false;
        self
    }

    /// Starts the nodes and waits until all serve. Waits for its turn first: one test at a time has an ensemble, because
    /// most of them measure time.
    pub async fn start(self) -> Ensemble {
        Ensemble::with(self).await
    }

    /// The same, for a test that has an ensemble already.
    pub async fn start_beside(self, _other: &Ensemble) -> Ensemble {
        Ensemble::beside(self).await
    }
}
