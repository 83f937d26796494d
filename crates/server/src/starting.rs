//! The client port before there is anything to serve: a node that waits for the others says so, instead of leaving its clients
//! without an answer.

use std::sync::Arc;

use coordd_proto::peer::peer_server::PeerServer;
use coordd_proto::status::into_status;
use coordd_proto::v1::admin_server::AdminServer;
use coordd_proto::v1::coordd_server::CoorddServer;
use coordd_proto::{WrongPort, v1};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Status;

use crate::convert::error;
use crate::grpc::MeterLayer;
use crate::incoming::{Clients, HEADER_BYTES, accept};
use crate::options::Options;

/// The answer to a peer that takes the client port for the peers'.
pub(crate) fn not_for_peers(options: &Options) -> WrongPort<PeerServer<()>> {
    let own = options.members.get(&options.id).map_or("", |own| own.peer_address.as_str());
    let peer_address = if own.is_empty() { options.peer_listen.to_string() } else { own.to_owned() };
    WrongPort::new(Status::failed_precondition(format!(
        "this is the client port of node {}; peers use {peer_address}: check --ensemble",
        options.id
    )))
}

/// Answers on a client port until the guard is dropped.
pub(crate) fn answer_while_starting(
    listener: &TcpListener,
    options: &Options,
    clients: Arc<Clients>,
) -> std::io::Result<DropGuard> {
    // Another handle of the same socket: what is not accepted by then waits for the node.
    let listener = rustix::io::dup(listener)?;
    let listener = TcpListener::from_std(std::net::TcpListener::from(listener))?;
    let incoming = accept(listener, clients);
    let starting = || into_status(error(v1::ErrorCode::NotServing, "this node is starting"));
    // The layer notes that something was asked on a connection: it is not silent.
    let server = tonic::transport::Server::builder()
        .http2_max_header_list_size(HEADER_BYTES)
        .layer(MeterLayer)
        .add_service(WrongPort::<CoorddServer<()>>::new(starting()))
        .add_service(WrongPort::<AdminServer<()>>::new(starting()))
        .add_service(not_for_peers(options));
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    tokio::spawn(async move {
        if let Err(error) = server.serve_with_incoming_shutdown(incoming, stopped.cancelled_owned()).await {
            tracing::warn!(%error, "clients get no answer while this node starts");
        }
    });
    Ok(stop.drop_guard())
}
