//! A `coordctl` that waits says on its standard error what it waits for.

use std::process::Stdio;
use std::time::Duration;

use coordd_client::{CreateMode, ReadLevel};
use coordd_tests::{Ensemble, coordctl, eventually};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};

const SOON: Duration = Duration::from_secs(20);

struct Running {
    child: Child,
    stdout: Lines<BufReader<ChildStdout>>,
    /// `None` once it is closed.
    stderr: Option<Lines<BufReader<ChildStderr>>>,
}

impl Running {
    fn start(ensemble: &Ensemble, args: &[&str]) -> Self {
        let mut command = Command::new(coordctl());
        command.env_remove("COORDCTL_AUTH").env("COORDCTL_ENDPOINTS", ensemble.endpoints().join(","));
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn().expect("coordctl starts");
        let stdout = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let stderr = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        Running { child, stdout, stderr: Some(stderr) }
    }

    /// Waits for a line on the standard error that contains this.
    async fn says(&mut self, what: &str) -> String {
        let stderr = self.stderr.as_mut().expect("it is open");
        let said = async {
            loop {
                let line = stderr.next_line().await.expect("UTF-8");
                let line = line.unwrap_or_else(|| panic!("it ended and did not say {what:?}"));
                if line.contains(what) {
                    return line;
                }
            }
        };
        tokio::time::timeout(SOON, said).await.unwrap_or_else(|_| panic!("it did not say {what:?}"))
    }

    async fn end(mut self) {
        let pid = Pid::from_raw(self.child.id().expect("it runs").cast_signed()).expect("a process");
        kill_process(pid, Signal::TERM).expect("a signal");
        self.child.wait().await.expect("it ends");
    }
}

/// A second registration of an id says who holds it, and takes over when that one ends, also if nobody reads
/// what it says.
#[tokio::test(flavor = "multi_thread")]
async fn taken_ids_are_told() {
    let ensemble = Ensemble::start(1).await;
    let client = ensemble.client(Duration::from_secs(60)).await;
    let register = ["register", "cart", "--host", "h", "--port", "1", "--id", "a"];
    let mut first = Running::start(&ensemble, &register);
    first.says("a is registered").await;
    let mut second = Running::start(&ensemble, &register);
    let line = second.says("somebody else holds the id").await;
    assert!(line.starts_with("coordctl: ") && line.contains("path=/registry/nodes/a, session=0x"), "{line}");
    let mut unread = Running::start(&ensemble, &register);
    drop(unread.stderr.take());
    second.end().await;
    first.end().await;
    eventually(SOON, "the third one is registered", async || {
        let stat = client.exists("/registry/nodes/a", ReadLevel::Linearizable).await.expect("a read");
        stat.is_some()
    })
    .await;
    assert!(unread.child.try_wait().expect("a process").is_none(), "it runs");
    unread.end().await;
}

/// A member whose name is taken says so, at the start and when somebody takes it later.
#[tokio::test(flavor = "multi_thread")]
async fn taken_names_are_told() {
    let ensemble = Ensemble::start(1).await;
    let client = ensemble.client(Duration::from_secs(60)).await;
    let mut member = Running::start(&ensemble, &["members", "/group", "--join", "m"]);
    let path = tokio::time::timeout(SOON, member.stdout.next_line()).await.expect("in time").expect("UTF-8");
    assert_eq!(path.as_deref(), Some("/group/m"));
    let taken = client.multi().delete("/group/m", None).create("/group/m", "", CreateMode::Persistent);
    taken.commit().await.expect("both or none");
    member.says("a znode that is not ephemeral has the path").await;
    client.create("/group/n", "", CreateMode::Ephemeral).await.expect("a create");
    let mut other = Running::start(&ensemble, &["members", "/group", "--join", "n"]);
    other.says("n is not a member of /group yet").await;
}
