use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use coordd_client::recipes::Sessions;
use coordd_client::{Admin, Check, Client, ConnectOptions, Credential, Endpoints, Error, ErrorKind};
use tokio::sync::OnceCell;

use crate::cli::Command;
use crate::durations::duration;
use crate::exit::Failure;
use crate::guard::GuardArg;
use crate::interrupt::Interrupts;
use crate::output::{Format, Output};
use crate::progress::Progress;
use crate::supervised::Signals;

/// Giving back at the end what a session holds is a courtesy: it goes with the session.
pub(crate) const GOODBYE: Duration = Duration::from_secs(2);
/// A command that has not ended so long after a signal does not notice it.
const STUCK: Duration = Duration::from_millis(500);

/// What all commands share.
#[derive(Args, Clone, Debug)]
pub(crate) struct GlobalOptions {
    /// Where the nodes are: host:port, srv:NAME, multicast:GROUP:PORT or file:PATH, separated by commas.
    #[arg(
        long,
        global = true,
        env = "COORDCTL_ENDPOINTS",
        value_delimiter = ',',
        default_value = "127.0.0.1:7401",
        value_name = "ENDPOINT,...",
        value_parser = NonEmptyStringValueParser::new()
    )]
    pub(crate) endpoints: Vec<String>,

    /// For people, or for programs.
    #[arg(long, global = true, value_enum, default_value_t = Format::Text)]
    pub(crate) output: Format,

    /// How long to look for a node that answers.
    #[arg(long, global = true, default_value = "10s", value_parser = duration)]
    pub(crate) timeout: Duration,

    /// The timeout of the session that the command opens.
    #[arg(long, global = true, default_value = "10s", value_parser = duration)]
    pub(crate) session_timeout: Duration,

    /// An identity of the digest scheme. May be repeated; in the environment several stand on lines of their own.
    #[arg(
        long,
        global = true,
        env = "COORDCTL_AUTH",
        hide_env_values = true,
        value_delimiter = AUTH_DELIMITER,
        value_name = "USER:PASSWORD",
        value_parser = NonEmptyStringValueParser::new()
    )]
    pub(crate) auth: Vec<String>,

    /// Write only while the znode at PATH is the one that was created by the zxid EPOCH: a lock or leadership
    /// that is still held. With @ENSEMBLE, a cluster id as `status` shows it, the epoch holds in that
    /// ensemble only. May be repeated. Commands that run under `elect` and `lock` have it from the
    /// environment.
    #[arg(
        long,
        global = true,
        env = "COORDCTL_GUARD",
        value_delimiter = GuardArg::DELIMITER,
        value_name = "PATH:EPOCH[@ENSEMBLE]"
    )]
    pub(crate) guard: Vec<GuardArg>,
}

/// Between several identities in the environment.
const AUTH_DELIMITER: char = '\n';

impl GlobalOptions {
    /// What a command finds in its environment, so that each coordctl that it runs reaches the same ensemble as the same client.
    /// What is not said here it inherits.
    pub(crate) fn environment(&self) -> Vec<(&'static str, String)> {
        let endpoints = self.endpoints.join(",");
        let mut environment =
            vec![("COORDD_ENDPOINTS", endpoints.clone()), ("COORDCTL_ENDPOINTS", endpoints)];
        if !self.auth.is_empty() {
            environment.push(("COORDCTL_AUTH", self.auth.join(&AUTH_DELIMITER.to_string())));
        }
        environment
    }
}

/// The options of this run and its sessions. The first command that needs one opens it; all are closed at the end, however that
/// comes.
pub(crate) struct Context {
    pub(crate) options: GlobalOptions,
    client: OnceCell<Client>,
    /// Those that follow each other: of the command that runs.
    sessions: Mutex<Vec<Sessions>>,
    /// The session outlives the command.
    pub(crate) in_shell: bool,
    pub(crate) interrupts: Interrupts,
}

impl Context {
    pub(crate) fn new(options: GlobalOptions) -> Self {
        Self {
            options,
            client: OnceCell::new(),
            sessions: Mutex::default(),
            in_shell: false,
            interrupts: Interrupts::default(),
        }
    }

    /// For the commands of a shell: they share one session.
    pub(crate) fn for_shell(options: GlobalOptions) -> Self {
        Self { in_shell: true, ..Self::new(options) }
    }

    /// Carries out one command, until it has ended or a signal asks for its end, and closes the sessions that are its own.
    pub(crate) async fn carry_out(self: &Arc<Self>, command: Command) -> Result<(), Failure> {
        self.interrupts.reset();
        let last_resort = tokio::spawn(self.clone().exit_if_stuck());
        let result = tokio::select! {
            biased;
            result = command.run(self) => result,
            interrupted = self.interrupts.next() => interrupted.result(),
        };
        match self.in_shell {
            true => self.close_sessions().await,
            false => self.close().await,
        }
        last_resort.abort();
        result
    }

    /// Ends the program on a signal that the command does not notice because it is held up: by a write to a pipe that nobody reads.
    async fn exit_if_stuck(self: Arc<Self>) {
        let interrupted = self.interrupts.next().await;
        tokio::time::sleep(GOODBYE + STUCK).await;
        self.close().await;
        let code = interrupted.result().err().map_or(0, |failure| failure.exit_code());
        std::process::exit(code.into());
    }

    pub(crate) fn output(&self) -> Output {
        Output::new(self.options.output)
    }

    pub(crate) async fn client(&self) -> Result<&Client, Failure> {
        self.client.get_or_try_init(|| self.connect()).await
    }

    /// The same session; its writes are guarded by what `--guard` says.
    pub(crate) async fn writer(&self) -> Result<Client, Failure> {
        Ok(self.client().await?.guarded(self.guards()))
    }

    fn guards(&self) -> impl Iterator<Item = Check> {
        self.options.guard.iter().map(GuardArg::check)
    }

    async fn connect(&self) -> Result<Client, Failure> {
        let connecting = self.connect_options().connect(self.options.endpoints.clone());
        Ok(Progress::new("looking for a node").during(connecting).await?)
    }

    /// One session after the other, for what goes on when one has ended. Their writes are guarded as those of `writer`. The
    /// present one is closed when the command has ended.
    pub(crate) async fn sessions(&self) -> Result<Sessions, Failure> {
        let connecting = Sessions::connect(self.options.endpoints.clone(), self.connect_options());
        let sessions = Progress::new("looking for a node").during(connecting).await?;
        lock(&self.sessions).push(sessions.clone());
        Ok(sessions.guarded(self.guards()))
    }

    /// Runs what needs one session after the other and has its own way with signals. One that asks for the end ends the search
    /// for a node.
    pub(crate) async fn in_sessions(
        &self,
        run: impl AsyncFnOnce(&Sessions, &mut Signals) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut signals = Signals::new()?;
        self.interrupts.are_taken();
        let sessions = tokio::select! {
            sessions = self.sessions() => sessions?,
            signal = signals.end() => return Err(Failure::ended_by(signal)),
        };
        run(&sessions, &mut signals).await
    }

    fn connect_options(&self) -> ConnectOptions {
        let user = std::env::var("USER").ok().filter(|user| !user.is_empty());
        let name = user.map_or_else(|| "coordctl".into(), |user| format!("coordctl {user}"));
        let mut connect = ConnectOptions::new()
            .session_timeout(self.options.session_timeout)
            .connect_timeout(self.options.timeout)
            .client_name(name);
        for auth in &self.options.auth {
            connect = connect.credential(Credential::new("digest", auth.clone()));
        }
        connect
    }

    /// Waits for an answer as long as some node holds the session, and for the timeout where none does.
    pub(crate) async fn answer<T>(&self, call: impl Future<Output = Result<T, Error>>) -> Result<T, Failure> {
        self.answer_in(self.client().await?, call).await
    }

    /// The same for a call in another session.
    pub(crate) async fn answer_in<T>(
        &self,
        client: &Client,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Failure> {
        let cut_off = async {
            loop {
                tokio::time::sleep(Duration::from_millis(100)).await;
                if client.suspended_for().is_some_and(|time| time > self.options.timeout) {
                    return;
                }
            }
        };
        tokio::select! {
            answer = call => Ok(answer?),
            () = cut_off => {
                let message = format!("no node was in reach for {:?}", self.options.timeout);
                Err(out_of_reach(client, message).into())
            }
        }
    }

    /// The nodes that the endpoints name, one by one. What is written as host:port stays as it is.
    pub(crate) async fn nodes(&self) -> Result<Vec<String>, Failure> {
        let (mut nodes, mut last) = (Vec::new(), None);
        for endpoint in &self.options.endpoints {
            let mut source = Endpoints::parse([endpoint])?;
            if source.is_one_host() {
                nodes.push(endpoint.clone());
                continue;
            }
            match source.resolve(self.options.timeout.min(Duration::from_secs(3))).await {
                Ok(found) => nodes.extend(found),
                Err(error) => last = Some(error),
            }
        }
        match last {
            Some(error) if nodes.is_empty() => Err(error.into()),
            _ => Ok(nodes),
        }
    }

    /// A way to ask for what needs no session: of one endpoint after the other, until one answers.
    pub(crate) async fn admin(&self) -> Result<Admin, Failure> {
        Ok(Admin::connect_any(self.options.endpoints.clone(), self.options.timeout).await?)
    }

    /// Closes all sessions, so that nothing of them stays behind.
    pub(crate) async fn close(&self) {
        self.close_sessions().await;
        let Some(client) = self.client.get() else { return };
        // If no node is in reach the session expires by itself, and the command's own result is what matters.
        let _ = tokio::time::timeout(self.options.timeout.min(GOODBYE), client.close()).await;
    }

    /// Closes the sessions of the command that has ended.
    async fn close_sessions(&self) {
        let sessions = std::mem::take(&mut *lock(&self.sessions));
        let closing = futures::future::join_all(sessions.iter().map(Sessions::close));
        let _ = tokio::time::timeout(self.options.timeout.min(GOODBYE), closing).await;
    }
}

/// The error of a call that no node has answered: `message`, and why no node takes the session if that is
/// known.
pub(crate) fn out_of_reach(client: &Client, message: String) -> Error {
    let error = client.connection_failure();
    let error = error.unwrap_or_else(|| Error::new(ErrorKind::ConnectionLoss, ""));
    let message = match error.message.is_empty() {
        true => message,
        false => format!("{message}: {}", error.message),
    };
    Error { message, ..error }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
