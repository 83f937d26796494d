use std::time::Duration;

use clap::Args;
use coordd_client::recipes::Sessions;
use coordd_client::{Admin, Check, Client, ConnectOptions, Credential, Endpoints, Error, ErrorKind};
use tokio::sync::OnceCell;

use crate::exit::Failure;
use crate::guard::GuardArg;
use crate::output::{Format, Output};
use crate::progress::Progress;
use crate::supervised::Signals;

/// Giving back at the end what a session holds is a courtesy: it goes with the session.
pub(crate) const GOODBYE: Duration = Duration::from_secs(2);

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
        value_name = "ENDPOINT,..."
    )]
    pub(crate) endpoints: Vec<String>,

    /// For people, or for programs.
    #[arg(long, global = true, value_enum, default_value_t = Format::Text)]
    pub(crate) output: Format,

    /// How long to look for a node that answers.
    #[arg(long, global = true, default_value = "10s", value_parser = humantime::parse_duration)]
    pub(crate) timeout: Duration,

    /// The timeout of the session that the command opens.
    #[arg(long, global = true, default_value = "10s", value_parser = humantime::parse_duration)]
    pub(crate) session_timeout: Duration,

    /// An identity of the digest scheme.
    #[arg(long, global = true, env = "COORDCTL_AUTH", hide_env_values = true, value_name = "USER:PASSWORD")]
    pub(crate) auth: Vec<String>,

    /// Write only while the znode at PATH is the one that was created by the zxid EPOCH: a lock or leadership that is still
    /// held. May be repeated. Commands that run under `elect` and `lock` have it from the environment.
    #[arg(
        long,
        global = true,
        env = "COORDCTL_GUARD",
        value_delimiter = GuardArg::DELIMITER,
        value_name = "PATH:EPOCH"
    )]
    pub(crate) guard: Vec<GuardArg>,
}

/// The options of this run and its session, which is opened by the first command that needs it.
pub(crate) struct Context {
    pub(crate) options: GlobalOptions,
    client: OnceCell<Client>,
    /// The session outlives the command.
    pub(crate) in_shell: bool,
}

impl Context {
    pub(crate) fn new(options: GlobalOptions) -> Self {
        Self { options, client: OnceCell::new(), in_shell: false }
    }

    /// For the commands of a shell: they share one session.
    pub(crate) fn for_shell(options: GlobalOptions) -> Self {
        Self { in_shell: true, ..Self::new(options) }
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
        self.options.guard.iter().filter_map(GuardArg::check)
    }

    async fn connect(&self) -> Result<Client, Failure> {
        let connecting = self.connect_options().connect(self.options.endpoints.clone());
        Ok(Progress::new("looking for a node").during(connecting).await?)
    }

    /// One session after the other, for what goes on when one has ended. Their writes are guarded as those of `writer`.
    pub(crate) async fn sessions(&self) -> Result<Sessions, Failure> {
        let connecting = Sessions::connect(self.options.endpoints.clone(), self.connect_options());
        Ok(Progress::new("looking for a node").during(connecting).await?.guarded(self.guards()))
    }

    /// The same, for what goes on until it is ended: a signal that asks for that ends the search for a node.
    pub(crate) async fn sessions_until(&self, signals: &mut Signals) -> Result<Sessions, Failure> {
        tokio::select! {
            sessions = self.sessions() => sessions,
            signal = signals.end() => Err(Failure::ended_by(signal)),
        }
    }

    /// Runs what needs one session after the other until it is ended, and closes the last one.
    pub(crate) async fn in_sessions(
        &self,
        run: impl AsyncFnOnce(&Sessions, &mut Signals) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut signals = Signals::new()?;
        let sessions = self.sessions_until(&mut signals).await?;
        let result = run(&sessions, &mut signals).await;
        // If no node is in reach the session expires by itself, and the result is what matters.
        let _ = tokio::time::timeout(GOODBYE, sessions.close()).await;
        result
    }

    fn connect_options(&self) -> ConnectOptions {
        let name =
            std::env::var("USER").map_or_else(|_| "coordctl".into(), |user| format!("coordctl {user}"));
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
                Err(Error::new(ErrorKind::ConnectionLoss, message).into())
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

    /// A connection for questions to one node: the first endpoint that answers.
    pub(crate) async fn admin(&self) -> Result<Admin, Failure> {
        let mut last = None;
        for endpoint in &self.options.endpoints {
            match Admin::connect(endpoint.as_str(), self.options.timeout).await {
                Ok(admin) => return Ok(admin),
                Err(error) => last = Some(error),
            }
        }
        Err(last.map_or_else(|| Failure::Usage("no endpoints given".into()), Failure::from))
    }

    /// Closes the session, so that nothing of it stays behind.
    pub(crate) async fn close(&self) {
        let Some(client) = self.client.get() else { return };
        // If no node is in reach the session expires by itself, and the command's own result is what matters.
        let _ = tokio::time::timeout(self.options.timeout.min(Duration::from_secs(2)), client.close()).await;
    }
}
