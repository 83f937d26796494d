//! The lock in Python of docs/api.md: what the page shows is the script, and the script works beside locks in Rust.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use coordd_client::recipes::Lock;
use coordd_tests::{Ensemble, eventually};
use tokio::process::Command;

const TIMEOUT: Duration = Duration::from_secs(10);
const IN_TIME: Duration = Duration::from_secs(60);

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the root of the repository")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).expect(path)
}

/// Each block of Python in the section on the lock stands in the script, word for word.
#[test]
fn page_shows_the_script() {
    let (page, script) = (read("docs/api.md"), read("docs/python/lock.py"));
    let section = page.split("\n## A lock in Python\n").nth(1).expect("the section");
    let section = section.split("\n## ").next().unwrap_or_default();
    let blocks: Vec<_> =
        section.split("```python\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(blocks.len() >= 3, "{} blocks", blocks.len());
    for block in blocks {
        assert!(script.contains(block), "docs/python/lock.py does not contain:\n{block}");
    }
}

/// A Python with the packages that the page names. `PYTHON` is one; the default is `python3`.
async fn python() -> Option<String> {
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".into());
    let imports = ["-c", "import grpc, grpc_tools, grpc_status"];
    let found = Command::new(&python).args(imports).stderr(Stdio::null()).status().await;
    found.is_ok_and(|status| status.success()).then_some(python)
}

struct Script {
    python: String,
    generated: PathBuf,
    endpoints: String,
}

impl Script {
    async fn new(python: String, ensemble: &Ensemble) -> Self {
        let generated = ensemble.scratch();
        let mut protoc = Command::new(&python);
        protoc.args(["-m", "grpc_tools.protoc", "-I"]).arg(root().join("proto"));
        protoc.args(["--python_out=.", "--grpc_python_out=.", "coordd/v1/coordd.proto"]);
        assert!(protoc.current_dir(&generated).status().await.expect("a protoc").success());
        Script { python, generated, endpoints: ensemble.endpoints().join(",") }
    }

    /// Python code that runs in the place of the script.
    fn code(&self, code: &str) -> Command {
        let mut command = Command::new(&self.python);
        command.env("PYTHONPATH", root().join("docs/python")).args(["-c", code, &self.endpoints]);
        command.current_dir(&self.generated).stdout(Stdio::piped()).kill_on_drop(true);
        command
    }

    /// A process that takes the lock and holds it for so many seconds.
    fn lock(&self, path: &str, seconds: &str) -> Command {
        let mut command = Command::new(&self.python);
        command.arg(root().join("docs/python/lock.py")).args([&self.endpoints, path, seconds]);
        command.current_dir(&self.generated).stdout(Stdio::piped()).kill_on_drop(true);
        command
    }
}

fn lines(output: &Output) -> Vec<String> {
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

/// Skipped where the packages are missing.
#[tokio::test(flavor = "multi_thread")]
async fn lock_in_python() {
    let Some(python) = python().await else { return };
    let mut ensemble = Ensemble::start(3).await;
    let client = ensemble.client(TIMEOUT).await;
    let script = Script::new(python, &ensemble).await;

    // It waits for a lock in Rust, and Rust waits for it.
    let lock = Lock::new(&client, "/app/lock");
    let ours = lock.lock().await.expect("the lock");
    let theirs = script.lock("/app/lock", "1").spawn().expect("a process");
    eventually(IN_TIME, "it waits in line", async || lock.queue().await.is_ok_and(|line| line.len() == 2))
        .await;
    let epoch = ours.epoch();
    ours.release().await.expect("released");
    let next = tokio::time::timeout(IN_TIME, lock.lock()).await.expect("in time").expect("the lock");
    let output = theirs.wait_with_output().await.expect("an end");
    let printed = lines(&output);
    assert!(output.status.success(), "{printed:?}");
    let their_epoch: u64 =
        printed[1].strip_prefix("locked with epoch ").and_then(|n| n.parse().ok()).expect("an epoch");
    assert!(epoch < their_epoch && their_epoch < next.epoch(), "{printed:?}");
    assert_eq!((printed[0].as_str(), printed[3].as_str()), ("waiting", "released"), "{printed:?}");
    next.release().await.expect("released");

    // A holder that is killed is followed by the next one, although the leader dies at the same time. The details of a refusal
    // are decoded.
    let mut first = script.lock("/app/lock", "600").spawn().expect("a process");
    eventually(IN_TIME, "it holds the lock", async || lock.queue().await.is_ok_and(|line| line.len() == 1))
        .await;
    let second = script.lock("/app/lock", "1").spawn().expect("a process");
    eventually(IN_TIME, "it waits in line", async || lock.queue().await.is_ok_and(|line| line.len() == 2))
        .await;
    ensemble.kill9(ensemble.leader().await);
    first.kill().await.expect("killed");
    let output =
        tokio::time::timeout(IN_TIME, second.wait_with_output()).await.expect("in time").expect("an end");
    let printed = lines(&output);
    assert!(output.status.success(), "{printed:?}");
    let refused = "refused with ERROR_CODE_NODE_EXISTS: ";
    assert!(printed.iter().any(|line| line.starts_with(refused)), "{printed:?}");
    assert_eq!(printed.last().map(String::as_str), Some("released"));
}

/// The script ends if its session has ended after it acquired the lock, before the first confirmation that
/// the session is alive. Skipped where the packages are missing.
#[tokio::test(flavor = "multi_thread")]
async fn lock_is_lost_before_the_first_confirmation() {
    const EARLY_END: &str = r#"
import sys, threading
sys.path.insert(0, "")
import lock
from coordd.v1 import coordd_pb2 as pb

acquired = threading.Event()
keep_alive, acquire = lock.Session.keep_alive, lock.Lock.acquire

def keep_alive_late(session):
    acquired.wait()
    session.write("CloseSession", pb.CloseSessionRequest())
    keep_alive(session)

def acquire_and_tell(self):
    epoch = acquire(self)
    acquired.set()
    return epoch

lock.Session.keep_alive, lock.Lock.acquire = keep_alive_late, acquire_and_tell
sys.exit(lock.main(sys.argv[1], "/app/lock", "1"))
"#;
    let Some(python) = python().await else { return };
    let ensemble = Ensemble::start(1).await;
    let script = Script::new(python, &ensemble).await;
    let output = script.code(EARLY_END).output();
    let output = tokio::time::timeout(IN_TIME, output).await.expect("it ends").expect("a process");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(lines(&output), ["waiting", "lost"]);
}
