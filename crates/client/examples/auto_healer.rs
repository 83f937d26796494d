//! Keeps copies of a command running across hosts: one agent, of which you start several, on one machine or on many.
//!
//! `cargo run -p coordd-client --example auto_healer -- ENDPOINTS HOST [COPIES COMMAND...]`
//!
//! The first one says what is to run, for example `127.0.0.1:7401 host-1 3 cat`; the others need `ENDPOINTS HOST`. (`cat` ends when
//! its agent does; see `ProcessRunner` for what does not, and `coordctl supervise` for what ends in any case.) Then kill a copy, or
//! an agent with `kill -9`, or stop one with SIGSTOP, and see its copies come back elsewhere. The agent that leads prints where
//! everything runs whenever that changes, and each what becomes of its connection: kill the node of the ensemble that it is
//! connected to. Ctrl-C leaves in good order.

mod common;

use std::time::Duration;

use coordd_client::recipes::Sessions;
use coordd_client::recipes::auto_healer::{
    Agent, AgentOptions, AutoHealer, Exit, HealerSpec, HealerStatus, Job, ProcessRunner, Runner,
};
use coordd_client::{ConnectOptions, Error, ErrorKind};
use futures::StreamExt as _;

const PATH: &str = "/examples/auto-healer";
const SESSION_TIMEOUT: Duration = Duration::from_secs(3);

/// Starts processes, and says so.
struct Talkative {
    host: String,
}

impl Runner for Talkative {
    async fn run(&self, job: Job) -> Exit {
        let (copy, epoch) = (job.copy, job.grant.epoch());
        println!("[{}] starts copy {copy} under epoch {epoch}", self.host);
        let exit = ProcessRunner.run(job).await;
        match &exit {
            Exit::Ended(how) => println!("[{}] copy {copy} has ended: {how}", self.host),
            Exit::Stopped => println!("[{}] has stopped copy {copy}", self.host),
        }
        exit
    }
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let mut args = std::env::args().skip(1);
    let (Some(endpoints), Some(host)) = (args.next(), args.next()) else {
        return Err(Error::new(ErrorKind::BadArguments, "ENDPOINTS HOST [COPIES COMMAND...]"));
    };
    let options = ConnectOptions::new().session_timeout(SESSION_TIMEOUT).client_name(&host);
    let sessions = Sessions::connect(endpoints.split(','), options).await?;
    if let Some(copies) = args.next() {
        let not_a_number = |error| Error::new(ErrorKind::BadArguments, format!("{copies:?} copies: {error}"));
        let spec = HealerSpec::new(copies.parse().map_err(not_a_number)?, args);
        AutoHealer::new(&sessions.live().await?, PATH)?.define(&spec).await?;
        println!("[{host}] wants {} of {:?}", spec.copies, spec.command.join(" "));
    }
    let agent =
        Agent::start(&sessions, PATH, AgentOptions::new(&host), Talkative { host: host.clone() }).await?;
    println!("[{host}] takes part");
    tokio::select! {
        result = tell(&sessions, &host) => result?,
        () = common::tell_connection(&host, &sessions) => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    println!("[{host}] leaves");
    agent.stop().await;
    sessions.close().await
}

/// Prints where everything runs, as long as this host leads, in one session after the other.
async fn tell(sessions: &Sessions, host: &str) -> Result<(), Error> {
    let mut clients = sessions.stream();
    while let Some(client) = clients.next().await {
        let mut statuses = AutoHealer::new(&client, PATH)?.statuses();
        while let Some(status) = statuses.next().await {
            if status.leader.as_deref() == Some(host) {
                print(&status);
            }
        }
    }
    Ok(())
}

fn print(status: &HealerStatus) {
    let leader = status.leader.as_deref().unwrap_or("nobody");
    let wanted = status.spec.as_ref().map_or(0, |spec| spec.copies);
    let agents: Vec<_> =
        status.agents.iter().map(|agent| format!("{} ({})", agent.id, agent.copies)).collect();
    println!("{} of {wanted} run; {leader} leads; agents: {}", status.running(), agents.join(", "));
    for copy in &status.copies {
        print!("  copy {}: {}", copy.copy, copy.state);
        if let Some(agent) = &copy.agent {
            print!(" on {agent}");
        }
        if let Some(pid) = copy.pid {
            print!(", process {pid}");
        }
        if let Some(epoch) = copy.epoch {
            print!(", epoch {epoch}");
        }
        if copy.restarts > 0 {
            print!(", restarted {} times", copy.restarts);
        }
        println!();
    }
}
