use std::collections::BTreeMap;
use std::fmt;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use coordd_client::recipes::registry::{InstanceStatus, RegistryOptions, ServiceProvider, ServiceRegistry};
use coordd_process::plain;
use serde::Serialize;

use crate::context::Context;
use crate::exit::Failure;
use crate::table::Table;

/// Prints the services, or the instances of one, and how they are called.
#[derive(Args, Debug)]
pub(crate) struct Services {
    /// Print the instances of this one.
    service: Option<String>,

    /// Print again whenever something has changed.
    #[arg(short, long, requires = "service")]
    watch: bool,

    /// Where the registry is.
    #[arg(long, env = "COORDCTL_REGISTRY", default_value = "/registry", value_parser = NonEmptyStringValueParser::new())]
    root: String,
}

#[derive(PartialEq, Serialize)]
struct InstanceOutput {
    id: String,
    address: String,
    /// The instance's own word, `stale` if it has not been heard for too long, `quarantined` if its monitors say so.
    status: &'static str,
    load: f64,
    weight: u32,
    metadata: BTreeMap<String, String>,
}

#[derive(PartialEq, Serialize)]
struct ServiceOutput {
    service: String,
    mode: &'static str,
    strategy: String,
    timeout_ms: u64,
    leader: Option<String>,
    /// How many of the instances take calls.
    healthy: usize,
    instances: Vec<InstanceOutput>,
}

impl ServiceOutput {
    fn of(provider: &ServiceProvider) -> Self {
        let (healthy, quarantined, config) =
            (provider.instances(), provider.quarantined(), provider.config());
        let instances = provider.all_instances().into_iter().map(|instance| {
            let is_in = |list: &[std::sync::Arc<_>]| list.contains(&instance);
            let status = match instance.status {
                _ if is_in(&healthy) => InstanceStatus::Healthy.name(),
                _ if is_in(&quarantined) => "quarantined",
                InstanceStatus::Healthy => "stale",
                other => other.name(),
            };
            InstanceOutput {
                id: instance.id.clone(),
                address: instance.address(),
                status,
                load: instance.load,
                weight: instance.weight,
                metadata: instance.metadata.clone(),
            }
        });
        Self {
            service: provider.service().to_owned(),
            mode: config.mode.name(),
            strategy: config.strategy.to_string(),
            timeout_ms: config.timeout_ms,
            leader: provider.leader(),
            healthy: healthy.len(),
            instances: instances.collect(),
        }
    }
}

impl fmt::Display for ServiceOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { service, mode, strategy, timeout_ms, .. } = self;
        write!(f, "{}: {mode}, {}, {timeout_ms} ms", plain(service), plain(strategy))?;
        if let Some(leader) = &self.leader {
            write!(f, ", led by {}", plain(leader))?;
        }
        writeln!(f, "; {} of {} take calls", self.healthy, self.instances.len())?;
        let mut table = Table::new(["ID", "ADDRESS", "STATUS", "LOAD", "WEIGHT", "METADATA"]);
        for instance in &self.instances {
            let metadata: Vec<_> =
                instance.metadata.iter().map(|(key, value)| format!("{key}={value}")).collect();
            table.row([
                instance.id.clone(),
                instance.address.clone(),
                instance.status.to_owned(),
                format!("{:.2}", instance.load),
                instance.weight.to_string(),
                metadata.join(","),
            ]);
        }
        table.fmt(f)
    }
}

#[derive(Serialize)]
struct ServicesOutput {
    services: Vec<ServiceOutput>,
}

impl fmt::Display for ServicesOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new(["SERVICE", "MODE", "STRATEGY", "HEALTHY", "LEADER"]);
        for service in &self.services {
            table.row([
                service.service.clone(),
                service.mode.to_owned(),
                service.strategy.clone(),
                format!("{}/{}", service.healthy, service.instances.len()),
                service.leader.clone().unwrap_or_else(|| "-".to_owned()),
            ]);
        }
        table.fmt(f)
    }
}

impl Services {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let sessions = context.sessions().await?;
        let client = sessions.newest()?;
        let registry = ServiceRegistry::new(sessions, &self.root, RegistryOptions::new())?;
        let Some(service) = &self.service else {
            let mut services = Vec::new();
            for service in context.answer_in(&client, registry.services()).await? {
                let provider = context.answer_in(&client, registry.provider(&service)).await?;
                services.push(ServiceOutput::of(&provider));
            }
            return context.output().result(&ServicesOutput { services });
        };
        let provider = context.answer_in(&client, registry.provider(service)).await?;
        let mut last = None;
        loop {
            let shown = ServiceOutput::of(&provider);
            if last.as_ref() != Some(&shown) {
                context.output().result(&shown)?;
                last = Some(shown);
            }
            if !self.watch {
                return Ok(());
            }
            let changed = provider.wait_until(|provider| last.as_ref() != Some(&ServiceOutput::of(provider)));
            context.interrupts.are_the_end();
            changed.await;
        }
    }
}
