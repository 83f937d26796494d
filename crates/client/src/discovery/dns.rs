use std::net::SocketAddr;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::RData;

use super::Found;

/// After so long a question is asked again, up to [`ATTEMPTS`] times.
const ANSWER: Duration = Duration::from_millis(700);
const ATTEMPTS: usize = 4;

/// Made anew for each question: then neither an answer nor the system's list of name servers is older than it.
fn resolver(server: Option<SocketAddr>) -> Result<TokioResolver, String> {
    let builder = match server {
        None => TokioResolver::builder_tokio().map_err(|error| error.to_string())?,
        Some(server) => {
            let mut config = NameServerConfig::udp_and_tcp(server.ip());
            for connection in &mut config.connections {
                connection.port = server.port();
            }
            let config = ResolverConfig::from_name_servers(vec![config]);
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        }
    };
    let mut options = hickory_resolver::config::ResolverOpts::default();
    options.timeout = ANSWER;
    options.attempts = ATTEMPTS;
    builder.with_options(options).build().map_err(|error| error.to_string())
}

/// All addresses of a name.
pub(super) async fn addresses(host: &str, port: u16, server: SocketAddr) -> Result<Vec<Found>, String> {
    let label = format!("{host}:{port}");
    let found = resolver(Some(server))?.lookup_ip(host).await.map_err(|error| error.to_string())?;
    Ok(found.iter().map(|ip| Found::new(SocketAddr::new(ip, port), label.clone())).collect())
}

/// All addresses of all targets of a name's SRV records.
pub(super) async fn srv(name: &str, server: Option<SocketAddr>) -> Result<Vec<Found>, String> {
    let resolver = resolver(server)?;
    let answer = resolver.srv_lookup(name).await.map_err(|error| error.to_string())?;
    let records = answer.answers().iter().filter_map(|record| match &record.data {
        // "." says that there is no such service.
        RData::SRV(srv) if !srv.target.is_root() => Some(srv.clone()),
        _ => None,
    });
    let look_ups = records.map(|srv| {
        let resolver = &resolver;
        async move {
            let target = srv.target.to_utf8();
            let label = format!("{}:{}", target.trim_end_matches('.'), srv.port);
            match resolver.lookup_ip(srv.target.clone()).await {
                Ok(found) => found
                    .iter()
                    .map(|ip| Found {
                        priority: srv.priority,
                        weight: srv.weight,
                        ..Found::new(SocketAddr::new(ip, srv.port), label.clone())
                    })
                    .collect(),
                // One target that is gone must not hide the others.
                Err(error) => {
                    tracing::warn!(%error, name, target, "a target of SRV records has no address");
                    Vec::new()
                }
            }
        }
    });
    Ok(futures::future::join_all(look_ups).await.into_iter().flatten().collect())
}
