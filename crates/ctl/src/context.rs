use std::time::Duration;

use clap::Args;
use coordd_client::{Admin, Client, ConnectOptions, Credential, Error, ErrorKind};
use tokio::sync::OnceCell;

use crate::exit::Failure;
use crate::output::{Format, Output};
use crate::progress::Progress;

/// What all commands share.
#[derive(Args, Clone, Debug)]
pub(crate) struct GlobalOptions {
    /// Where the nodes are: host:port, separated by commas.
    #[arg(
        long,
        global = true,
        env = "COORDCTL_ENDPOINTS",
        value_delimiter = ',',
        default_value = "127.0.0.1:7401",
        value_name = "HOST:PORT,..."
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

    async fn connect(&self) -> Result<Client, Failure> {
        let name =
            std::env::var("USER").map_or_else(|_| "coordctl".into(), |user| format!("coordctl {user}"));
        let mut connect = ConnectOptions::new()
            .session_timeout(self.options.session_timeout)
            .connect_timeout(self.options.timeout)
            .client_name(name);
        for auth in &self.options.auth {
            connect = connect.credential(Credential::new("digest", auth.clone()));
        }
        let connecting = connect.connect(self.options.endpoints.clone());
        Ok(Progress::new("looking for a node").during(connecting).await?)
    }

    /// Waits for an answer as long as some node holds the session, and for the timeout where none does.
    pub(crate) async fn answer<T>(&self, call: impl Future<Output = Result<T, Error>>) -> Result<T, Failure> {
        let client = self.client().await?;
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
