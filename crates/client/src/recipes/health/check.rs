use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::http::HttpCheck;
use super::{command, grpc};
use crate::{Error, ErrorKind};

/// A check that ends so much after its timeout was not timed out by its target: this process, or its machine, stood still.
pub(super) const STALL: Duration = Duration::from_secs(1);

/// How it is found out whether something works.
///
/// Written as text it is `tcp://HOST:PORT`, `http://HOST:PORT/PATH`, `grpc://HOST:PORT/SERVICE` or `cmd:COMMAND LINE`.
///
/// * **TCP**: a connection is accepted. This is what the kernel of the target says: a process that stands still passes it.
/// * **HTTP**: an answer 2xx to a GET, or what an [`HttpCheck`] expects. Without TLS.
/// * **gRPC**: `grpc.health.v1.Health/Check` of the service, or of the server as a whole if none is named, answers `SERVING`.
/// * **Command**: `sh -c` of the line ends with exit code 0. It runs on this machine, with this process's rights, and is killed
///   with what it has started when its time is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Tcp { address: String },
    Http(HttpCheck),
    Grpc { address: String, service: String },
    Command { line: String },
}

/// How one check went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckOutcome {
    /// The target works.
    Passed {
        /// How long its answer took.
        latency: Duration,
    },
    /// It does not.
    Failed {
        /// What was seen instead, for people.
        why: String,
    },
    /// This process stood still for so long that its timeouts say nothing about the target.
    Inconclusive,
}

impl HealthCheck {
    /// That `host:port` accepts connections.
    ///
    /// # Errors
    ///
    /// `BadArguments` if it is no address.
    pub fn tcp(address: impl Into<String>) -> Result<Self, Error> {
        let address = checked(address.into())?;
        Ok(Self { kind: Kind::Tcp { address } })
    }

    /// That the gRPC server at `host:port` says of a service that it serves; of the server as a whole if `service` is empty.
    ///
    /// # Errors
    ///
    /// `BadArguments` if it is no address.
    pub fn grpc(address: impl Into<String>, service: impl Into<String>) -> Result<Self, Error> {
        let address = checked(address.into())?;
        Ok(Self { kind: Kind::Grpc { address, service: service.into() } })
    }

    /// That a shell command ends with exit code 0.
    ///
    /// # Errors
    ///
    /// `BadArguments` if it is empty.
    pub fn command(line: impl Into<String>) -> Result<Self, Error> {
        let line = line.into();
        match line.trim() {
            "" => Err(bad("a check by a command needs a command".to_owned())),
            _ => Ok(Self { kind: Kind::Command { line } }),
        }
    }

    /// Makes the check once.
    ///
    /// # Cancellation
    ///
    /// Ends connections, and kills a command.
    pub async fn run(&self, within: Duration) -> CheckOutcome {
        let start = Instant::now();
        let result = timeout(within, self.attempt()).await;
        let elapsed = start.elapsed();
        let why = match result {
            Ok(Ok(())) => return CheckOutcome::Passed { latency: elapsed },
            _ if elapsed > within.saturating_add(STALL) => return CheckOutcome::Inconclusive,
            Ok(Err(why)) => why,
            Err(_) => format!("no answer within {within:?}"),
        };
        CheckOutcome::Failed { why }
    }

    async fn attempt(&self) -> Result<(), String> {
        match &self.kind {
            Kind::Tcp { address } => match TcpStream::connect(address.as_str()).await {
                Ok(_) => Ok(()),
                Err(error) => Err(error.to_string()),
            },
            Kind::Http(check) => check.attempt().await,
            Kind::Grpc { address, service } => grpc::attempt(address, service).await,
            Kind::Command { line } => command::attempt(line).await,
        }
    }
}

impl From<HttpCheck> for HealthCheck {
    fn from(check: HttpCheck) -> Self {
        Self { kind: Kind::Http(check) }
    }
}

impl FromStr for HealthCheck {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if let Some(line) = text.strip_prefix("cmd:") {
            return Self::command(line.trim());
        }
        match text.split_once("://") {
            Some(("tcp", address)) => Self::tcp(address.trim_end_matches('/')),
            Some(("http", _)) => HttpCheck::new(text).map(Self::from),
            Some(("grpc", rest)) => {
                let (address, service) = rest.split_once('/').unwrap_or((rest, ""));
                Self::grpc(address, service)
            }
            _ => Err(bad(format!(
                "{text:?} is no check: tcp://HOST:PORT, http://HOST:PORT/PATH, grpc://HOST:PORT/SERVICE or cmd:COMMAND"
            ))),
        }
    }
}

impl fmt::Display for HealthCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Tcp { address } => write!(f, "tcp://{address}"),
            Kind::Http(check) => check.fmt(f),
            Kind::Grpc { address, service } if service.is_empty() => write!(f, "grpc://{address}"),
            Kind::Grpc { address, service } => write!(f, "grpc://{address}/{service}"),
            Kind::Command { line } => write!(f, "cmd:{line}"),
        }
    }
}

pub(super) fn bad(message: String) -> Error {
    Error::new(ErrorKind::BadArguments, message)
}

/// `host:port`; an IPv6 address stands in brackets.
fn checked(address: String) -> Result<String, Error> {
    let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
    match address.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && !host.contains('/') && is_port(port) => Ok(address),
        _ => Err(bad(format!("{address:?} is no address: HOST:PORT"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_is_read_as_it_is_written() {
        for text in [
            "tcp://10.0.0.1:9669",
            "tcp://[::1]:9669",
            "http://shop:80/health?deep=1",
            "grpc://shop:443",
            "grpc://shop:443/shop.Cart",
            "cmd:test -f /run/ready && true",
        ] {
            assert_eq!(text.parse::<HealthCheck>().unwrap().to_string(), text);
        }
        assert_eq!("http://shop".parse::<HealthCheck>().unwrap().to_string(), "http://shop/");
    }

    #[test]
    fn what_is_no_check_is_refused_with_the_reason() {
        for (text, reason) in [
            ("10.0.0.1:80", "is no check"),
            ("tcp://10.0.0.1", "HOST:PORT"),
            ("tcp://:80", "HOST:PORT"),
            ("tcp://a:0", "HOST:PORT"),
            ("tcp://a:70000", "HOST:PORT"),
            ("https://shop/", "is no check"),
            ("http://", "http://HOST"),
            ("grpc://shop/x", "HOST:PORT"),
            ("cmd:  ", "needs a command"),
        ] {
            let error = text.parse::<HealthCheck>().unwrap_err();
            assert_eq!(error.kind, ErrorKind::BadArguments);
            assert!(error.message.contains(reason), "{text}: {error}");
        }
    }

    #[tokio::test]
    async fn a_command_passes_fails_and_is_killed_with_what_it_has_started() {
        let run =
            async |line: &str| HealthCheck::command(line).unwrap().run(Duration::from_millis(500)).await;
        assert!(matches!(run("exit 0").await, CheckOutcome::Passed { .. }));
        assert_eq!(run("exit 3").await, CheckOutcome::Failed { why: "exit code 3".into() });
        assert_eq!(run("kill -9 $$").await, CheckOutcome::Failed { why: "ended by signal 9".into() });
        let directory = std::env::temp_dir().join(format!("coordd-check-{}", std::process::id()));
        let line = format!("sleep 60 & echo $! > {}; wait", directory.display());
        assert_eq!(run(&line).await, CheckOutcome::Failed { why: "no answer within 500ms".into() });
        let sleeper = std::fs::read_to_string(&directory).unwrap();
        std::fs::remove_file(&directory).unwrap();
        let stat = format!("/proc/{}/stat", sleeper.trim());
        let runs = || std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z "));
        let start = Instant::now();
        while runs() {
            assert!(start.elapsed() < Duration::from_secs(5), "the sleeper goes on");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn a_connection_is_accepted_or_not() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let check = HealthCheck::tcp(listener.local_addr().unwrap().to_string()).unwrap();
        assert!(matches!(check.run(Duration::from_secs(5)).await, CheckOutcome::Passed { .. }));
        drop(listener);
        let CheckOutcome::Failed { why } = check.run(Duration::from_secs(5)).await else {
            panic!("it passed")
        };
        assert!(why.contains("refused"), "{why}");
        let longest = check.run(Duration::MAX).await;
        assert!(matches!(longest, CheckOutcome::Failed { .. }), "{longest:?}");
    }

    #[tokio::test]
    async fn a_timeout_that_comes_late_says_nothing() {
        // One thread, and it stands still in the middle of the check.
        let check = HealthCheck::command("sleep 60").unwrap();
        let stall = async {
            tokio::task::yield_now().await;
            std::thread::sleep(STALL + Duration::from_millis(300));
        };
        let (outcome, ()) = tokio::join!(check.run(Duration::from_millis(50)), stall);
        assert_eq!(outcome, CheckOutcome::Inconclusive);
    }
}
