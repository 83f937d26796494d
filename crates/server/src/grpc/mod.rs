//! The public API over gRPC: messages in, calls of the rest, messages out. No rules live here.

mod admin;
mod attach;
mod confirmations;
mod metered;
mod subscribe;
mod unary;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use coordd_proto::status::into_status;
use coordd_proto::v1;
use tonic::{Request, Status};

use self::confirmations::Confirmations;
use crate::incoming::ClientInfo;
use crate::service::Service;

pub(crate) use admin::AdminApi;
pub(crate) use metered::MeterLayer;

/// Implements the service `Coordd`; the calls are in the files of this module.
pub(crate) struct CoorddApi {
    service: Arc<Service>,
    confirmations: Confirmations,
}

impl CoorddApi {
    /// Must be called in a tokio runtime.
    pub(crate) fn new(service: Arc<Service>) -> Self {
        let confirmations = Confirmations::new(service.clone());
        Self { service, confirmations }
    }
}

fn refuse(error: v1::Error) -> Status {
    into_status(error)
}

fn client_address<T>(request: &Request<T>) -> Option<SocketAddr> {
    request.extensions().get::<ClientInfo>().and_then(|client| client.0.address())
}

fn client_ip<T>(request: &Request<T>) -> Option<IpAddr> {
    client_address(request).map(|address| address.ip())
}
