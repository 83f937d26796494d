use coordd_client::recipes::health::{HealthMonitor, HealthReports};
use coordd_client::recipes::{PathCache, Sessions};
use coordd_client::{CreateMode, CreateOptions, Error, ErrorKind, ReadLevel};
use tokio::sync::mpsc;

use crate::acting::Elected;
use crate::head_servers::{HeadServer, registered};

/// What a person asks and is told.
pub(crate) struct Console<'a> {
    pub(crate) sessions: &'a Sessions,
    pub(crate) root: &'a str,
    pub(crate) monitor: &'a HealthMonitor,
    pub(crate) heads: &'a PathCache,
    pub(crate) reports: &'a HealthReports,
}

impl Console<'_> {
    /// Carries commands out until `quit`, or the end of the input. Does nothing, for ever, if nobody is there to ask.
    pub(crate) async fn run(&self, is_interactive: bool) {
        if !is_interactive {
            std::future::pending::<()>().await;
        }
        let mut lines = lines();
        while let Some(line) = lines.recv().await {
            let words: Vec<&str> = line.split_whitespace().collect();
            let done = match words[..] {
                [] => Ok(()),
                ["quit" | "exit"] => return,
                ["register", id, address] => self.register(id, address).await,
                ["register", id, host, port] => self.register(id, &format!("{host}:{port}")).await,
                ["unregister", id] => self.unregister(id).await,
                ["status"] => {
                    self.status();
                    Ok(())
                }
                ["leader"] => self.leader().await,
                ["health"] => {
                    self.health();
                    Ok(())
                }
                ["check", id] => self.check(id).await,
                _ => {
                    println!(
                        "commands: register ID HOST:PORT | unregister ID | status | leader | health | check ID | quit"
                    );
                    Ok(())
                }
            };
            if let Err(error) = done {
                println!("{line}: {error}");
            }
        }
    }

    async fn register(&self, id: &str, address: &str) -> Result<(), Error> {
        let data = HeadServer::parse(address)?.to_bytes();
        let client = self.sessions.live().await?;
        let path = self.path(id);
        let options = CreateOptions::new(CreateMode::Persistent).parents(true);
        match client.create(&path, data.clone(), options).await {
            Ok(_) => {}
            // It has moved.
            Err(error) if error.kind == ErrorKind::NodeExists => drop(client.set(&path, data, None).await?),
            Err(error) => return Err(error),
        }
        println!("registered {id} at {address}");
        Ok(())
    }

    async fn unregister(&self, id: &str) -> Result<(), Error> {
        self.sessions.live().await?.delete(self.path(id), None).await?;
        println!("unregistered {id}");
        Ok(())
    }

    /// The head servers: what most monitors say, and what each of them says.
    fn status(&self) {
        let health = self.reports.view();
        println!("{:<20} {:<22} {:<10} MONITORS", "HEAD SERVER", "ADDRESS", "VERDICT");
        for (id, server) in registered(self.heads, &self.heads.view()) {
            let reports = health.reports(&id.name).iter();
            let said: Vec<_> =
                reports.map(|report| format!("{}: {}", report.monitor, report.status)).collect();
            let verdict = health.verdict(&id.name).name();
            println!("{:<20} {:<22} {verdict:<10} {}", id.name, server.address(), said.join(", "));
        }
        println!("end of status");
    }

    async fn leader(&self) -> Result<(), Error> {
        let client = self.sessions.live().await?;
        let data = match client.get(format!("{}/leader", self.root), ReadLevel::Linearizable).await {
            Ok((data, _)) => data,
            Err(error) if error.kind == ErrorKind::NoNode => Default::default(),
            Err(error) => return Err(error),
        };
        println!("{}", Elected::parse(&data));
        Ok(())
    }

    /// What this monitor has seen.
    fn health(&self) {
        println!(
            "{:<20} {:<12} {:>7} {:>9} {:>10} {:>10}  WHY",
            "HEAD SERVER", "STATUS", "CHECKS", "FAILURES", "AVERAGE", "P99"
        );
        let millis = |micros: u32| format!("{}.{:03} ms", micros / 1_000, micros % 1_000);
        for (id, report) in self.monitor.reports() {
            let average = report.latency.map_or_else(|| "-".into(), |latency| millis(latency.average_us));
            let p99 = report.latency.map_or_else(|| "-".into(), |latency| millis(latency.p99_us));
            let (status, checks, failures) = (report.status.name(), report.checks, report.failures);
            println!(
                "{id:<20} {status:<12} {checks:>7} {failures:>9} {average:>10} {p99:>10}  {}",
                report.why
            );
        }
        let statistics = self.monitor.statistics();
        println!("{} of {} are healthy", statistics.healthy, statistics.targets);
    }

    async fn check(&self, id: &str) -> Result<(), Error> {
        let report = self.monitor.check_now(id).await?;
        println!("checked {id}: {}: {}", report.status, report.why);
        Ok(())
    }

    fn path(&self, id: &str) -> String {
        format!("{}/head_servers/{id}", self.root)
    }
}

/// The lines of the standard input. A thread reads them, because such a read cannot be cancelled; it ends with the program.
fn lines() -> mpsc::Receiver<String> {
    let (lines_tx, lines_rx) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if lines_tx.blocking_send(line).is_err() {
                return;
            }
        }
    });
    lines_rx
}
