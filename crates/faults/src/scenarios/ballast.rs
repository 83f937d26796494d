//! Writes that are there to fill logs and snapshots: on a slow machine the workloads alone write too little for that.

use coordd_client::{Client, ConnectOptions, CreateMode, ErrorKind};

use crate::ensemble::endpoint;
use crate::network::HostId;

/// What is written at once: some of it for a log, and about as much as a value may have.
const BYTES: usize = 64 << 10;
const LARGE_BYTES: usize = 900 << 10;

/// A client that writes to znodes of no workload.
pub(super) struct Ballast(Client);

impl Ballast {
    /// Of these nodes: the others may be about to break.
    pub(super) async fn on(ids: Vec<HostId>) -> anyhow::Result<Ballast> {
        Ok(Ballast(ConnectOptions::new().connect(ids.into_iter().map(endpoint).collect::<Vec<_>>()).await?))
    }

    pub(super) async fn write(&self) -> anyhow::Result<()> {
        self.put("/ballast", BYTES).await
    }

    /// The last one of each number stays in the tree.
    pub(super) async fn write_large(&self, number: u32) -> anyhow::Result<()> {
        self.put(&format!("/ballast-{number}"), LARGE_BYTES).await
    }

    async fn put(&self, path: &str, bytes: usize) -> anyhow::Result<()> {
        match self.0.set(path, vec![0; bytes], None).await {
            Err(error) if error.kind == ErrorKind::NoNode => {
                self.0.create(path, vec![0; bytes], CreateMode::Persistent).await?;
            }
            set => drop(set?),
        }
        Ok(())
    }

    pub(super) async fn close(self) -> anyhow::Result<()> {
        Ok(self.0.close().await?)
    }
}
