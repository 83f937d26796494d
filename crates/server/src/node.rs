//! One `coordd`: wired together, run, and taken down in the reverse order.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use coordd_proto::v1::FILE_DESCRIPTOR_SET;
use coordd_proto::v1::admin_server::AdminServer;
use coordd_proto::v1::coordd_server::CoorddServer;
use coordd_raft::{Replica, ReplicaOptions};
use rand::Rng as _;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::announce::Announcer;
use crate::client_memory::{ClientMemory, run_client_memory};
use crate::descriptors::fit_connections;
use crate::duties::{
    run_leader_duties, run_memory_watch, run_renewals, run_serving_watch, run_watch_cleaning,
};
use crate::grpc::{AdminApi, CoorddApi, MeterLayer};
use crate::hub::Hub;
use crate::incoming::{
    CONNECTION_WINDOW, Clients, ConnectionLimits, HEADER_BYTES, STREAM_WINDOW, accept, run_clients,
};
use crate::memory::usable_bytes;
use crate::options::Options;
use crate::service::Service;
use crate::starting::{answer_while_starting, not_for_peers};
use crate::watchdog::run_watchdog;

/// Calls at the same time on one connection.
pub(crate) const STREAMS_PER_CONNECTION: u32 = 100;
/// How long calls have to end when the node stops.
const DRAIN: Duration = Duration::from_secs(3);

/// A running node.
pub struct Node {
    service: Arc<Service>,
    stop: CancellationToken,
    api: JoinHandle<anyhow::Result<()>>,
    tasks: Vec<JoinHandle<()>>,
}

/// Where clients reach this node, as far as it knows: where it listens. If that is every address of the machine, the host is the one
/// under which its peers reach it.
fn client_address(listen: SocketAddr, options: &Options) -> Option<String> {
    if !listen.ip().is_unspecified() {
        return Some(listen.to_string());
    }
    let (host, _) = options.members.get(&options.id)?.peer_address.rsplit_once(':')?;
    (!host.is_empty()).then(|| format!("{host}:{}", listen.port()))
}

impl Node {
    /// Starts a node. Both addresses are bound before anything else, so that a wrong one is told at once; clients are
    /// answered from the start, with `NOT_SERVING` until the ensemble is formed and has a leader.
    ///
    /// # Errors
    ///
    /// An address or the data directory is not usable, or the ensemble cannot be joined.
    pub async fn start(options: Options) -> anyhow::Result<Node> {
        let bind = async |option: &str, address| {
            TcpListener::bind(address).await.with_context(|| format!("{option}: cannot listen on {address}"))
        };
        let clients = bind("--listen", options.listen).await?;
        let peers = bind("--peer-listen", options.peer_listen).await?;
        let clients_at = clients.local_addr()?;
        let join = |group| {
            Announcer::join(group, options.id, clients_at)
                .with_context(|| format!("--announce: cannot join {group}"))
        };
        let announcer = options.announce.map(join).transpose()?;
        tracing::info!(
            node = options.id,
            listen = %clients_at,
            peer_listen = %peers.local_addr()?,
            data_dir = %options.data_dir.display(),
            nodes = options.members.len(),
            version = env!("CARGO_PKG_VERSION"),
            "starting"
        );
        for warning in options.warnings() {
            tracing::warn!("{warning}");
        }
        let replica_options = ReplicaOptions {
            node_id: options.id,
            members: options.members.clone(),
            client_address: clients_at.to_string(),
            data_dir: options.data_dir.clone(),
            timing: options.timing,
            snapshot_log_bytes: options.snapshot_log_bytes,
            keep_log_bytes: options.keep_log_bytes,
            disk_reserve_bytes: options.disk_reserve_bytes,
        };
        let new_cluster_id = format!("{:016x}", rand::rng().random::<u64>());
        let limits = options.limits;
        let usable = usable_bytes();
        let client_memory = usize::try_from(limits.client_memory(usable)).unwrap_or(usize::MAX);
        let memory = ClientMemory::new(client_memory);
        let connections = ConnectionLimits {
            connections: fit_connections(limits.connections, options.members.len(), client_memory),
            per_address: limits.connections_per_address,
            first_request: limits.first_request,
        };
        let connections = Clients::new(connections, memory.clone());
        // From the first connection on, which may come long before this node serves.
        let closing_silent = tokio::spawn(run_clients(connections.clone()));
        let answering = answer_while_starting(&clients, &options, connections.clone())?;
        let budget = memory.clone();
        let replica = Replica::start(replica_options, peers, new_cluster_id, |_| Hub::new(budget)).await?;
        drop(answering);
        if let Some(address) = client_address(clients_at, &options) {
            replica.set_client_address(&address);
        }
        let wrong_port = not_for_peers(&options);
        let service = Service::new(replica, options, connections.clone());
        service.fit_memory(usable);

        let stop = CancellationToken::new();
        let (health, health_service) = tonic_health::server::health_reporter();
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        // Older clients, grpcurl 1.8 among them, ask in the words of v1alpha.
        let (reflection, reflection_alpha) = (reflection().build_v1()?, reflection().build_v1alpha()?);
        let coordd = CoorddServer::new(CoorddApi::new(service.clone()))
            .max_decoding_message_size(limits.frame_bytes)
            .max_encoding_message_size(usize::MAX);
        let admin =
            AdminServer::new(AdminApi { service: service.clone() }).max_decoding_message_size(64 << 10);
        let server = tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(Duration::from_secs(10)))
            .http2_keepalive_timeout(Some(Duration::from_secs(10)))
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_concurrent_streams(STREAMS_PER_CONNECTION)
            .http2_max_header_list_size(HEADER_BYTES)
            .layer(MeterLayer)
            .add_service(health_service)
            .add_service(reflection)
            .add_service(reflection_alpha)
            .add_service(coordd)
            .add_service(admin)
            .add_service(wrong_port);
        let incoming = accept(clients, connections.clone());
        let stopped = stop.clone();
        let api = tokio::spawn(async move {
            server
                .serve_with_incoming_shutdown(incoming, stopped.cancelled_owned())
                .await
                .context("the client API")
        });

        let mut serving = service.serving();
        let health_task = tokio::spawn(async move {
            loop {
                let status = match *serving.borrow_and_update() {
                    Ok(()) => tonic_health::ServingStatus::Serving,
                    Err(_) => tonic_health::ServingStatus::NotServing,
                };
                health.set_service_status("", status).await;
                health.set_service_status("coordd.v1.Coordd", status).await;
                if serving.changed().await.is_err() {
                    return;
                }
            }
        });
        let mut tasks = vec![
            health_task,
            tokio::spawn(run_serving_watch(service.clone())),
            tokio::spawn(run_leader_duties(service.clone())),
            tokio::spawn(run_renewals(service.clone())),
            tokio::spawn(run_memory_watch(service.clone())),
            tokio::spawn(run_client_memory(memory)),
            tokio::spawn(run_watch_cleaning(service.clone())),
            closing_silent,
            tokio::spawn(run_watchdog(service.stalls().clone())),
        ];
        if let Some(announcer) = announcer {
            tasks.push(tokio::spawn(announcer.run(service.replica().cluster_id().to_owned())));
        }
        Ok(Node { service, stop, api, tasks })
    }

    /// Runs until `stop` is done, then stops in order: hands the leadership over, takes no new requests and answers those
    /// under way, closes the log.
    ///
    /// # Errors
    ///
    /// The client API has failed.
    pub async fn run_until(mut self, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
        tokio::select! {
            () = stop => {}
            ended = &mut self.api => return ended.context("the client API panicked")?,
        }
        tracing::info!("stopping");
        for task in self.tasks {
            task.abort();
        }
        // First the leadership, while everything still works: writes under way go on at the next leader.
        self.service.replica().hand_over().await;
        // Streams take nothing new, answer what they have, and end; their clients go to other nodes and lose nothing.
        self.service.stopping().cancel();
        self.stop.cancel();
        if tokio::time::timeout(DRAIN, &mut self.api).await.is_err() {
            tracing::warn!("some calls did not end in time");
            self.api.abort();
        }
        self.service.set_serving(Err("this node is stopping".to_owned()));
        self.service.replica().shutdown().await;
        tracing::info!("stopped");
        Ok(())
    }
}
