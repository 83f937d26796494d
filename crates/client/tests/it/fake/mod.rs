//! An ensemble in this process: one world, and any number of nodes that show it. Nodes do as they are told: lose
//! replies, cut streams, say nothing, refuse.

mod service;
mod world;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use coordd_client::{Client, ConnectOptions, Error};
use tokio_stream::wrappers::TcpListenerStream;

pub(crate) use world::{Fault, World, refusal};

pub(crate) struct Fake {
    world: Arc<Mutex<World>>,
    addresses: Vec<SocketAddr>,
}

impl Fake {
    pub(crate) async fn start(node_count: u64) -> Self {
        let world = Arc::new(Mutex::new(World::default()));
        let mut addresses = Vec::new();
        for node_id in 1..=node_count {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            addresses.push(listener.local_addr().unwrap());
            let server = tonic::transport::Server::builder()
                .add_service(service::service(node_id, world.clone()))
                .serve_with_incoming(TcpListenerStream::new(listener));
            tokio::spawn(server);
        }
        Self { world, addresses }
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    /// The next stream or frame meets this.
    pub(crate) fn fault(&self, fault: Fault) {
        self.world().faults.push_back(fault);
    }

    pub(crate) fn endpoints(&self) -> Vec<String> {
        self.addresses.iter().map(ToString::to_string).collect()
    }

    pub(crate) async fn connect(&self) -> Client {
        self.connect_with(ConnectOptions::new()).await.unwrap()
    }

    pub(crate) async fn connect_with(&self, options: ConnectOptions) -> Result<Client, Error> {
        options.connect(self.endpoints()).await
    }

    /// Waits until the world is as described. Fails the test after ten seconds.
    pub(crate) async fn until(&self, what: &str, mut holds: impl FnMut(&World) -> bool) {
        let waiting = async {
            loop {
                let mut changed = self.world().changes();
                if holds(&self.world()) {
                    return;
                }
                changed.changed().await.unwrap();
            }
        };
        let limit = std::time::Duration::from_secs(10);
        assert!(tokio::time::timeout(limit, waiting).await.is_ok(), "never happened: {what}");
    }
}
