use std::time::Duration;

use clap::Args;
use coordd_client::Error;
use coordd_client::recipes::registry::{
    RegistryOptions, ServiceError, ServiceHost, ServiceInstance, ServiceRegistry,
};
use coordd_client::recipes::{Candidate, Sessions, lead};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::Connection;
use crate::commands::{Commands, unknown};
use crate::report::report;

/// An instance of services, each with the methods `who` (answers the name), `echo` (its arguments) and `sleep` (so many
/// milliseconds). Commands: `load N`, `drain`, `retire MILLISECONDS`. Where the input ends it deregisters.
#[derive(Args)]
pub(crate) struct Instance {
    #[arg(long, default_value = "/registry")]
    root: String,

    #[arg(long)]
    port: u16,

    #[arg(long, value_delimiter = ',')]
    services: Vec<String>,

    #[arg(long, default_value = "300ms", value_parser = humantime::parse_duration)]
    heartbeat: Duration,

    /// Campaigns for the leadership of this service.
    #[arg(long)]
    campaign: Option<String>,
}

impl Instance {
    pub(crate) async fn run(self, connection: &Connection, mut commands: Commands) -> Result<(), Error> {
        let id = connection.name.clone();
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await.expect("the port is free");
        let host = self.services.iter().fold(ServiceHost::new(), |host, service| {
            let id = id.clone();
            host.service(service, move |method, args| answer(id.clone(), method, args))
        });
        tokio::spawn(async move { host.serve(listener, std::future::pending()).await });

        let sessions = Sessions::connect(connection.endpoints.clone(), connection.options()).await?;
        let options = RegistryOptions::new().heartbeat(self.heartbeat).local(&id);
        let registry = ServiceRegistry::new(sessions.clone(), &self.root, options)?;
        if let Some(service) = &self.campaign {
            let (sessions, path) = (sessions.clone(), registry.leader_path(service));
            let candidate = Candidate::new(&id).address(format!("127.0.0.1:{}", self.port));
            tokio::spawn(async move {
                lead(&sessions, &path, &candidate, |leadership| async move {
                    report("leads", json!({ "epoch": leadership.epoch() }));
                    std::future::pending().await
                })
                .await
            });
        }
        let services = self.services.iter();
        let instance = services
            .fold(ServiceInstance::new(&id, "127.0.0.1", self.port), |instance, service| {
                instance.service(service)
            });
        let registration = registry.register(instance).await?;
        report("registered", json!({ "epoch": registration.epoch() }));
        while let Some(words) = commands.next().await {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            match words[..] {
                ["load", load] => registration.set_load(load.parse().expect("a load"))?,
                ["drain"] => {
                    registration.drain().await?;
                    report("draining", json!({}));
                }
                ["retire", grace] => {
                    let grace = Duration::from_millis(grace.parse().expect("milliseconds"));
                    registration.retire(grace).await?;
                    report("retired", json!({}));
                    return sessions.close().await;
                }
                _ => unknown(&words.iter().map(ToString::to_string).collect::<Vec<_>>()),
            }
        }
        registration.deregister().await;
        report("deregistered", json!({}));
        sessions.close().await
    }
}

async fn answer(id: String, method: String, args: Vec<Value>) -> Result<Value, ServiceError> {
    match method.as_str() {
        "who" => Ok(json!(id)),
        "echo" => Ok(json!(args)),
        "sleep" => {
            let Some(millis) = args.first().and_then(Value::as_u64) else {
                return Err(ServiceError::Refused("sleep takes milliseconds".to_owned()));
            };
            tokio::time::sleep(Duration::from_millis(millis)).await;
            Ok(json!(id))
        }
        _ => Err(ServiceError::NoMethod(method)),
    }
}
