use std::convert::Infallible;
use std::ffi::OsString;
use std::time::{Duration, Instant};

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use coordd_client::recipes::Sessions;
use coordd_client::recipes::health::{HealthCheck, HealthPolicy, HealthStatus, TargetHealth};
use coordd_client::recipes::registry::{
    InstanceStatus, Registration, RegistryOptions, ServiceInstance, ServiceRegistry,
};
use coordd_client::{Error, ErrorKind};
use futures::future::join_all;
use rustix::process::Signal;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::context::{Context, GOODBYE};
use crate::durations::{duration, positive_duration};
use crate::exit::Failure;
use crate::notes::note;
use crate::supervised::{FreeCommand, Signals};

const ENVIRONMENT: &str = "\
The command finds in its environment:
  COORDD_SERVICE, COORDD_INSTANCE   the service, and the instance's id
  COORDD_GRANT_PATH, COORDD_EPOCH   its record, and the epoch of that in the session of its start; it is registered anew, with
                                    a higher epoch, when that session has ended
  COORDD_ENDPOINTS                  where the nodes are
  COORDCTL_ENDPOINTS, COORDCTL_AUTH, COORDCTL_REGISTRY
                                    so each coordctl that it runs reaches the same registry with the same credentials
It goes on while the ensemble is out of reach. It is stopped, with all it has started, if coordctl is killed. SIGTERM takes the
instance out of rotation and then stops it; INT, HUP, QUIT, USR1, USR2 and WINCH are handed on.";

/// Registers an instance of a service, and keeps it registered, with a heartbeat, until the program or the command ends.
///
/// Callers see the instance while its session lives, and call it while it is healthy. With checks it is unhealthy until all have
/// passed, and again after failures in a row. When the command ends by itself the instance is deregistered, and its exit code
/// is that of coordctl.
#[derive(Args, Debug)]
#[command(after_help = ENVIRONMENT)]
pub(crate) struct Register {
    /// The service it offers; several with commas between them.
    #[arg(required = true, value_delimiter = ',', value_name = "SERVICE,...")]
    services: Vec<String>,

    /// Where callers reach it.
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    host: String,

    /// Where callers reach it.
    #[arg(long)]
    port: u16,

    /// Its name, of which there is one below the root: a second one waits until the first is gone. Default: HOST:PORT.
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    id: Option<String>,

    /// Whatever else callers should know. May be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    meta: Vec<(String, String)>,

    /// Its size in comparison with others.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    weight: u32,

    /// How to find out whether it works: tcp://HOST:PORT, http://HOST:PORT/PATH, grpc://HOST:PORT/SERVICE or 'cmd:COMMAND LINE'. May be
    /// repeated.
    #[arg(long)]
    check: Vec<HealthCheck>,

    /// From one check to the next.
    #[arg(long, requires = "check", default_value = "5s", value_parser = positive_duration)]
    interval: Duration,

    /// A check that takes longer has failed.
    #[arg(long, requires = "check", default_value = "2s", value_parser = positive_duration)]
    check_timeout: Duration,

    /// So many failures in a row make it unhealthy.
    #[arg(long, requires = "check", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    failures: u32,

    /// How often the heartbeat is written.
    #[arg(long, default_value = "5s", value_parser = positive_duration)]
    heartbeat: Duration,

    /// Where the registry is.
    #[arg(long, env = "COORDCTL_REGISTRY", default_value = "/registry", value_parser = NonEmptyStringValueParser::new())]
    root: String,

    /// How long the command and all it has started may take to end after SIGTERM, before SIGKILL.
    #[arg(
        long,
        requires = "command",
        value_parser = duration,
        default_value = "5s",
        value_name = "DURATION"
    )]
    grace: Duration,

    /// The command and its arguments.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("it is not of the form KEY=VALUE".to_owned()),
    }
}

impl Register {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        context.in_sessions(async |sessions, signals| self.register(context, sessions, signals).await).await
    }

    async fn register(
        &self,
        context: &Context,
        sessions: &Sessions,
        signals: &mut Signals,
    ) -> Result<(), Failure> {
        let options = RegistryOptions::new().heartbeat(self.heartbeat);
        let registry = ServiceRegistry::new(sessions.clone(), &self.root, options)?;
        let instance = self.instance();
        let (id, address) = (instance.id.clone(), instance.address());
        let registration = tokio::select! {
            registration = registry.register(instance) => registration?,
            signal = signals.end() => return Err(Failure::ended_by(signal)),
        };
        note!("{id} is registered for {} at {address}", self.services.join(", "));
        let result = self.attend(&registration, &self.environment(context, &registration), signals).await;
        // The command is gone by now.
        let _ = tokio::time::timeout(GOODBYE, registration.deregister()).await;
        note!("{id} is deregistered");
        match result? {
            0 => Ok(()),
            code => Err(Failure::Exit(code)),
        }
    }

    fn instance(&self) -> ServiceInstance {
        let id = self.id.clone().unwrap_or_else(|| format!("{}:{}", self.host, self.port));
        let mut instance = ServiceInstance::new(id, &self.host, self.port).weight(self.weight);
        for service in &self.services {
            instance = instance.service(service);
        }
        for (key, value) in &self.meta {
            instance = instance.metadata(key, value);
        }
        if !self.check.is_empty() {
            instance.status = InstanceStatus::Unhealthy;
        }
        instance
    }

    fn environment(&self, context: &Context, registration: &Registration) -> Vec<(&'static str, String)> {
        let id = registration.instance().id;
        let path = format!("{}/nodes/{id}", self.root.trim_end_matches('/'));
        let mut environment = context.options.environment();
        environment.extend([
            ("COORDD_SERVICE", self.services.join(",")),
            ("COORDD_INSTANCE", id),
            ("COORDD_GRANT_PATH", path),
            ("COORDD_EPOCH", registration.epoch().unwrap_or_default().to_string()),
            ("COORDCTL_REGISTRY", self.root.clone()),
        ]);
        environment
    }

    /// Runs the command, if there is one, and the checks; returns the exit code.
    async fn attend(
        &self,
        registration: &Registration,
        environment: &[(&'static str, String)],
        signals: &mut Signals,
    ) -> Result<u8, Failure> {
        let passing = watch::Sender::new(vec![false; self.check.len()]);
        let checking = join_all((0..self.check.len()).map(|index| self.keep_checking(index, &passing)));
        tokio::select! {
            code = self.keep_company(registration, environment, signals) => code,
            () = tell(registration, passing.subscribe()) => Err(closed()),
            // None of them ends; without any there is nothing to wait for.
            _ = checking, if !self.check.is_empty() => Err(closed()),
        }
    }

    /// Until the command has ended; without one, until this program is asked to end.
    async fn keep_company(
        &self,
        registration: &Registration,
        environment: &[(&'static str, String)],
        signals: &mut Signals,
    ) -> Result<u8, Failure> {
        if self.command.is_empty() {
            signals.end().await;
            return Ok(0);
        }
        let mut command = FreeCommand::start(&self.command, environment)?;
        loop {
            let signal = tokio::select! {
                code = command.ended() => return code,
                signal = signals.next() => signal,
            };
            if signal != Signal::TERM {
                command.signal(signal);
                continue;
            }
            if tokio::time::timeout(GOODBYE, registration.drain()).await.is_err() {
                note!("callers cannot be told that it goes: no node is in reach");
            }
            return command.stop(self.grace).await;
        }
    }

    /// Makes one of the checks again and again.
    async fn keep_checking(&self, index: usize, passing: &watch::Sender<Vec<bool>>) -> Infallible {
        let check = &self.check[index];
        let mut health = TargetHealth::new(HealthPolicy {
            failures: self.failures,
            quarantine: Duration::ZERO,
            successes: 1,
        });
        let mut turns = tokio::time::interval(self.interval);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            turns.tick().await;
            let outcome = check.run(self.check_timeout).await;
            if let Some(change) = health.on_outcome(&outcome, Instant::now()) {
                note!("{check} is {}: {}", change.new, health.why());
                let passes = matches!(change.new, HealthStatus::Healthy | HealthStatus::Suspect);
                passing.send_if_modified(|all| std::mem::replace(&mut all[index], passes) != passes);
            }
        }
    }
}

/// Makes the status what the checks say. Ends when the sessions are closed.
async fn tell(registration: &Registration, mut passing: watch::Receiver<Vec<bool>>) {
    while passing.changed().await.is_ok() {
        let status = match passing.borrow_and_update().iter().all(|passes| *passes) {
            true => InstanceStatus::Healthy,
            false => InstanceStatus::Unhealthy,
        };
        let now = registration.instance().status;
        // Who is about to go stays so.
        if now != status && now != InstanceStatus::Draining && registration.set_status(status).await.is_err()
        {
            return;
        }
    }
}

fn closed() -> Failure {
    Error::new(ErrorKind::SessionClosed, "the sessions were closed").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_has_a_key() {
        assert_eq!(key_value("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(key_value("a="), Ok(("a".into(), String::new())));
        assert!(key_value("=b").is_err() && key_value("a").is_err());
    }
}
