use std::fmt;
use std::time::Duration;

use clap::Args;
use coordd_client::recipes::Sessions;
use coordd_client::recipes::auto_healer::{
    Agent, AgentOptions, AutoHealer, CopyStatus, Exit, HealerSpec, HealerStatus, Job, Runner,
};
use coordd_process::plain;
use rustix::process::Signal;
use serde::Serialize;

use crate::context::{Context, GlobalOptions};
use crate::durations::duration;
use crate::exit::Failure;
use crate::notes::note;
use crate::owner::machine_name;
use crate::supervised::{CommandLine, Ending, Signals, run_beside};

/// After so long it is told what is waited for.
const PATIENCE: Duration = Duration::from_secs(1);

const ENVIRONMENT: &str = "\
Each copy finds in its environment:
  COORDD_COPY, COORDD_AGENT         its number, from 0, and the agent that runs it
  COORDD_EPOCH, COORDD_GRANT_PATH   what it runs under: the epoch is higher than every earlier one's of the same copy
  COORDD_SESSION, COORDD_ENDPOINTS  the session of the agent, and where the nodes are
  COORDCTL_ENDPOINTS, COORDCTL_AUTH, COORDCTL_GUARD
                                    so each coordctl that it runs reaches the same ensemble with the same credentials, and its
                                    writes are refused once the copy may run elsewhere
A copy is stopped, with all it has started, before it can run elsewhere: also if coordctl is killed or stands still.";

/// Keeps so many copies of a command running across hosts: an agent of this host.
///
/// Every agent of the same path takes part; one of them is elected and decides which agent runs which copy. A copy that ends is
/// started again after a pause, and goes to another agent if it keeps failing; those of an agent that is gone go to others. The
/// first agent says what is to run, the others need no command. The agent runs until it is ended by a signal; then its copies go
/// to the others.
#[derive(Args, Debug)]
#[command(after_help = ENVIRONMENT)]
pub(crate) struct Supervise {
    /// What is to be kept running: all agents of the same path do it together.
    path: String,

    /// How many copies.
    #[arg(long, requires = "command")]
    copies: Option<u32>,

    /// The agent's name, as others see it. Default: the name of the machine.
    #[arg(long, value_parser = clap::builder::NonEmptyStringValueParser::new())]
    host: Option<String>,

    /// How many copies this agent takes at most.
    #[arg(long, value_name = "COPIES")]
    capacity: Option<u32>,

    /// The pause before a copy that has ended is started again; it doubles with each end in a row, up to 30 s.
    #[arg(
        long,
        requires = "command",
        value_parser = duration,
        default_value = "500ms",
        value_name = "DURATION"
    )]
    pause: Duration,

    /// After so many ends in a row a copy goes to an agent on which it has not failed.
    #[arg(long, requires = "command", default_value_t = 3, value_name = "ENDS")]
    failures: u32,

    /// Say what is to run from now on, and end. Another command replaces the running copies.
    #[arg(long, requires = "copies", conflicts_with_all = ["host", "capacity"])]
    define: bool,

    /// Change the number of copies, and end.
    #[arg(long, value_name = "COPIES", conflicts_with_all = ["host", "capacity", "pause", "failures", "command", "copies", "define"])]
    scale: Option<u32>,

    /// Print what runs where, instead.
    #[arg(long, conflicts_with_all = ["host", "capacity", "pause", "failures", "command", "copies", "define", "scale"])]
    status: bool,

    #[command(flatten)]
    line: CommandLine,
}

impl Supervise {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        if self.status {
            let healer = AutoHealer::new(context.client().await?, &self.path)?;
            let status = context.answer(healer.status()).await?;
            return context.output().result(&StatusOutput::from(status));
        }
        if let Some(copies) = self.scale {
            let healer = AutoHealer::new(&context.writer().await?, &self.path)?;
            return context.answer(healer.scale(copies)).await;
        }
        let spec = self.spec()?;
        if let (true, Some(spec)) = (self.define, &spec) {
            let healer = AutoHealer::new(&context.writer().await?, &self.path)?;
            return context.answer(healer.define(spec)).await;
        }
        context
            .in_sessions(async |sessions, signals| self.take_part(context, spec, sessions, signals).await)
            .await
    }

    fn spec(&self) -> Result<Option<HealerSpec>, Failure> {
        if self.line.command.is_empty() {
            return Ok(None);
        }
        let words = self.line.command.iter().map(|word| {
            let text = word.to_str().map(str::to_owned);
            text.ok_or_else(|| Failure::Usage(format!("{} is not UTF-8", word.display())))
        });
        let command: Vec<String> = words.collect::<Result<_, _>>()?;
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Ok(Some(HealerSpec {
            grace_ms: millis(self.line.grace),
            pause_ms: millis(self.pause),
            failures_max: self.failures,
            ..HealerSpec::new(self.copies.unwrap_or(1), command)
        }))
    }

    async fn take_part(
        &self,
        context: &Context,
        spec: Option<HealerSpec>,
        sessions: &Sessions,
        signals: &mut Signals,
    ) -> Result<(), Failure> {
        if let Some(spec) = spec {
            let healer = AutoHealer::new(&sessions.live().await?, &self.path)?;
            let defined = tokio::select! {
                defined = healer.define_first(&spec) => defined?,
                signal = signals.end() => return Err(Failure::ended_by(signal)),
            };
            if defined.command != spec.command {
                let message =
                    format!("another command is to run at {}: give none, or --define this one", self.path);
                return Err(Failure::Usage(message));
            }
            // A host that starts again must not undo what was changed since, nor stay away because of it.
            if defined != spec {
                note!("what is defined at {} holds, and differs from what was given here", self.path);
            }
        }
        let host = self.host.clone().unwrap_or_else(machine_name);
        let mut options = AgentOptions::new(&host);
        if let Some(copies) = self.capacity {
            options = options.capacity(copies);
        }
        let runner = KeptRunner { options: context.options.clone() };
        let mut starting = std::pin::pin!(Agent::start(sessions, &self.path, options, runner));
        let mut is_told = false;
        let mut agent = loop {
            tokio::select! {
                agent = &mut starting => break agent?,
                () = tokio::time::sleep(PATIENCE), if !is_told => {
                    is_told = true;
                    note!("there is an agent {host} in {}, which may be the last life of this one; waiting", self.path);
                }
                signal = signals.end() => return Err(Failure::ended_by(signal)),
            }
        };
        note!("agent {host} takes part in {}", self.path);
        let ended = tokio::select! {
            ended = agent.ended() => ended,
            _ = signals.end() => {
                note!("agent {host} leaves {}", self.path);
                // While no node is in reach it is not known when the others may have the copies: a second signal ends that.
                tokio::select! {
                    () = agent.stop() => {}
                    signal = signals.end() => return Err(Failure::ended_by(signal)),
                }
                Ok(())
            }
        };
        Ok(ended?)
    }
}

/// Has a keeper between this process and each copy.
struct KeptRunner {
    options: GlobalOptions,
}

impl Runner for KeptRunner {
    async fn run(&self, job: Job) -> Exit {
        let (copy, epoch) = (job.copy, job.grant.epoch());
        let command = job.command.iter().map(Into::into).collect();
        let line = CommandLine { grace: job.grace, command };
        let (tell, mut signals) = Signals::relayed();
        let started = |pid: i32| {
            note!("copy {copy} runs as process {pid} with epoch {epoch}");
            job.started(pid.unsigned_abs());
        };
        let under = (&*job.grant, &job.client);
        let running = run_beside(under, &line, &self.options, job.environment(), &mut signals, started);
        let mut running = std::pin::pin!(running);
        let ending = tokio::select! {
            ending = &mut running => ending,
            _ = job.stopped() => {
                // It knows itself how much time there is.
                let _ = tell.send(Signal::TERM);
                running.await
            }
        };
        let exit = match ending {
            Ok(Ending::Exited(code)) => Exit::Ended(format!("exit code {code}")),
            Ok(Ending::Lost(_) | Ending::AskedToEnd(_)) => Exit::Stopped,
            Err(failure) => Exit::Ended(failure.to_string()),
        };
        match &exit {
            Exit::Ended(how) => note!("copy {copy} has ended: {how}"),
            Exit::Stopped => note!("copy {copy} was stopped"),
        }
        exit
    }
}

#[derive(Serialize)]
struct StatusOutput {
    spec: Option<HealerSpec>,
    leader: Option<String>,
    agents: Vec<AgentOutput>,
    copies: Vec<CopyOutput>,
}

#[derive(Serialize)]
struct AgentOutput {
    id: String,
    capacity: Option<u32>,
    copies: u32,
}

#[derive(Serialize)]
struct CopyOutput {
    copy: u32,
    state: String,
    agent: Option<String>,
    pid: Option<u32>,
    epoch: Option<u64>,
    restarts: u64,
    last_exit: Option<String>,
}

impl From<HealerStatus> for StatusOutput {
    fn from(status: HealerStatus) -> Self {
        let HealerStatus { spec, leader, agents, copies } = status;
        let agents = agents.into_iter().map(|agent| AgentOutput {
            id: agent.id,
            capacity: agent.capacity,
            copies: agent.copies,
        });
        let copies = copies.into_iter().map(|status| {
            let CopyStatus { copy, state, agent, pid, epoch, restarts, last_exit } = status;
            CopyOutput { copy, state: state.to_string(), agent, pid, epoch, restarts, last_exit }
        });
        Self { spec, leader, agents: agents.collect(), copies: copies.collect() }
    }
}

impl fmt::Display for StatusOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.spec {
            Some(spec) => writeln!(f, "spec   {} of {}", spec.copies, plain(&spec.command.join(" ")))?,
            None => writeln!(f, "spec   nobody has said what is to run")?,
        }
        writeln!(f, "leads  {}", plain(self.leader.as_deref().unwrap_or("nobody")))?;
        for agent in &self.agents {
            write!(f, "agent  {}  {}", plain(&agent.id), agent.copies)?;
            match agent.capacity {
                Some(capacity) => writeln!(f, " of {capacity}")?,
                None => writeln!(f)?,
            }
        }
        for copy in &self.copies {
            write!(f, "copy   {}  {}", copy.copy, plain(&copy.state))?;
            if let Some(agent) = &copy.agent {
                write!(f, "  {}", plain(agent))?;
            }
            if let Some(pid) = copy.pid {
                write!(f, "  process {pid}")?;
            }
            if let Some(epoch) = copy.epoch {
                write!(f, "  epoch {epoch}")?;
            }
            if copy.restarts > 0 {
                write!(f, "  restarts {}", copy.restarts)?;
            }
            if let Some(last_exit) = &copy.last_exit {
                write!(f, "  {}", plain(last_exit))?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
