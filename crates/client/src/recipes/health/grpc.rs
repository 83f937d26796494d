use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::recipes::registry::causes;

/// Asks a gRPC server, on a new connection, whether a service of it serves.
pub(super) async fn attempt(address: &str, service: &str) -> Result<(), String> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|error| causes(&error))?;
    let channel = endpoint.connect().await.map_err(|error| causes(&error))?;
    let request = HealthCheckRequest { service: service.to_owned() };
    match HealthClient::new(channel).check(request).await {
        Ok(answer) => match answer.into_inner().status() {
            ServingStatus::Serving => Ok(()),
            status => Err(format!("it answers {}", status.as_str_name())),
        },
        Err(status) => Err(format!("it answers {:?}: {}", status.code(), status.message())),
    }
}
