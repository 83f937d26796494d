use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// One node: its place, and its process while it has one.
pub(crate) struct Node {
    pub(crate) id: u64,
    pub(crate) client_port: u16,
    pub(crate) peer_address: String,
    pub(crate) data_dir: PathBuf,
    pub(crate) log: PathBuf,
    child: Option<Child>,
    pub(crate) is_paused: bool,
}

impl Node {
    pub(crate) fn new(id: u64, dir: &Path, client_port: u16, peer_address: String) -> Self {
        let data_dir = dir.join(format!("node-{id}"));
        let log = dir.join(format!("node-{id}.log"));
        Node { id, client_port, peer_address, data_dir, log, child: None, is_paused: false }
    }

    pub(crate) fn client_address(&self) -> String {
        format!("127.0.0.1:{}", self.client_port)
    }

    /// The command that starts it, with nothing of coordd's in the environment but `env` and a planted bug: see
    /// scripts/faults/planted-bugs.sh.
    pub(crate) fn command(&self, ensemble: &str, env: &[(String, String)]) -> Command {
        let mut command = Command::new(crate::coordd());
        let is_ours = |name: &str| name.starts_with("COORDD_") && name != "COORDD_PLANTED_BUG";
        for (name, _) in std::env::vars().filter(|(name, _)| is_ours(name)) {
            command.env_remove(name);
        }
        command.envs(env.iter().cloned());
        command.args(["--id", &self.id.to_string(), "--listen", &self.client_address()]);
        command.arg("--data-dir").arg(&self.data_dir);
        if !ensemble.is_empty() {
            command.args(["--ensemble", ensemble]);
        }
        command
    }

    pub(crate) fn spawn(&mut self, ensemble: &str, env: &[(String, String)]) {
        assert!(self.child.is_none(), "node {} runs already", self.id);
        let log = File::options().create(true).append(true).open(&self.log).expect("the log opens");
        let mut command = self.command(ensemble, env);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().expect("coordd starts"));
        self.is_paused = false;
    }

    pub(crate) fn is_running(&self) -> bool {
        self.child.is_some()
    }

    pub(crate) fn process_id(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().unwrap_or_else(|| panic!("node {} does not run", self.id));
        kill_process(Pid::from_child(child), signal).expect("the process is ours");
    }

    /// Waits until none of its threads runs: each of them stops when it has its turn on a processor.
    pub(crate) fn wait_stopped(&self) {
        let tasks = format!("/proc/{}/task", self.process_id().unwrap_or_default());
        let runs = |task: std::io::Result<std::fs::DirEntry>| {
            let stat = task.and_then(|task| std::fs::read_to_string(task.path().join("stat")));
            // The state stands behind the name, which is in parentheses.
            stat.is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().starts_with(" T"))
        };
        let start = Instant::now();
        while std::fs::read_dir(&tasks).is_ok_and(|mut tasks| tasks.any(runs)) {
            assert!(start.elapsed() < Duration::from_secs(10), "node {} does not stop", self.id);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub(crate) fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("the process is ours");
            child.wait().expect("the process is ours");
        }
    }

    /// How it ended, if it has.
    pub(crate) fn exited(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.try_wait().expect("the process is ours")?;
        self.child = None;
        Some(status)
    }

    pub(crate) async fn wait_exit(&mut self, within: Duration) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.exited() {
                return status;
            }
            assert!(start.elapsed() < within, "node {} does not end within {within:?}", self.id);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) fn log_text(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }
}
