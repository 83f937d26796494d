//! The processes of the rig: one that lives under strace, one that opens what is left.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use super::trace::{Trace, parse, strace_args};
use crate::probe::example_path;

/// Longer than any open takes, on any machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// A process opens so many directories, so that nothing gathers in it.
const CHECKS_PER_PROCESS: usize = 300;

/// How a life ends, if not by a loss of power.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    /// In order.
    Close,
    /// The process exits in the middle of its work.
    Stop,
    /// kill -9 as some thread of it makes its n-th call that changes a file.
    Kill(usize),
}

/// What a life does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) steps: usize,
    pub(crate) end: End,
}

/// Where the store is, below the root of the disk. Of two levels, because both are made by the first start.
pub(crate) const DATA: &str = "var/data";

/// Lives the life on the directory `root`, and tells what it did.
pub(crate) fn live(root: &Path, sizes: &str, plan: Plan, first: usize) -> Trace {
    let trace_path = root.with_extension("trace");
    let mut strace = Command::new("strace");
    strace.args(strace_args(&trace_path));
    if let End::Kill(when) = plan.end {
        let calls = "write,pwrite64,fsync,fdatasync,rename,ftruncate,unlink,mkdir";
        strace.arg("-e").arg(format!("inject={calls}:signal=SIGKILL:when={when}"));
    }
    let end = if matches!(plan.end, End::Close) { "close" } else { "stop" };
    strace.arg(example_path("power_probe")).arg("live").arg(root.join(DATA));
    strace.args([sizes, &plan.seed.to_string(), &plan.steps.to_string(), end]);
    let output =
        strace.stdin(Stdio::null()).output().expect("this test needs strace: apt-get install -y strace");
    let killed = matches!(plan.end, End::Kill(_));
    assert!(
        output.status.success() || killed,
        "{plan:?} in {}: {}",
        root.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    let text = std::fs::read(&trace_path).expect("strace wrote it");
    if let Some(dir) = std::env::var_os("COORDD_POWER_LOSS_KEEP") {
        // The last one, for whoever looks into a failure.
        std::fs::copy(&trace_path, Path::new(&dir).join("trace")).expect("room for a trace");
    }
    std::fs::remove_file(&trace_path).expect("it was there");
    parse(&text, root, first)
}

/// What a directory is to a node that starts in it.
#[derive(Clone, Debug)]
pub(crate) enum Verdict {
    /// The state, as the probe describes it.
    Opens(String),
    /// The node says why it does not start.
    Refused(String),
    /// The process died of it.
    Died(String),
    /// It opened, and did not work.
    Broken(String),
}

/// Opens directories, one after the other.
#[derive(Debug)]
pub(crate) struct Checker {
    sizes: String,
    process: Option<Process>,
}

#[derive(Debug)]
struct Process {
    child: Child,
    ask: ChildStdin,
    answers: Receiver<String>,
    stderr: PathBuf,
    checks: usize,
}

impl Checker {
    pub(crate) fn new(sizes: &str) -> Checker {
        Checker { sizes: sizes.to_owned(), process: None }
    }

    /// Opens the store below `root`; with `again` it is also used, closed and opened again.
    pub(crate) fn check(&mut self, root: &Path, again: bool) -> Verdict {
        if self.process.as_ref().is_some_and(|process| process.checks >= CHECKS_PER_PROCESS) {
            self.end();
        }
        let stderr = root.with_extension("stderr");
        let process = self.process.get_or_insert_with(|| Process::start(&self.sizes, &stderr));
        process.checks += 1;
        let again = if again { " again" } else { "" };
        // A process that is gone says so by its missing answer.
        let _ = writeln!(process.ask, "{}{again}", root.join(DATA).display());
        let answer = process.answers.recv_timeout(PATIENCE);
        let Ok(answer) = answer else {
            let stderr = self.end();
            let panic = stderr.lines().skip_while(|line| !line.contains("panicked at")).take(2);
            return Verdict::Died(panic.collect::<Vec<_>>().join(" "));
        };
        let (word, rest) = answer.split_once(' ').unwrap_or((&answer, ""));
        match word {
            "found" => Verdict::Opens(rest.to_owned()),
            "refused" => Verdict::Refused(rest.to_owned()),
            _ => Verdict::Broken(answer),
        }
    }

    /// Ends the process, and returns what it said.
    fn end(&mut self) -> String {
        let Some(process) = self.process.take() else { return String::new() };
        let Process { mut child, ask, stderr, .. } = process;
        drop(ask);
        // It may hang; it was not, if it is dead already.
        let _ = child.kill();
        child.wait().expect("it was started here");
        std::fs::read_to_string(stderr).unwrap_or_default()
    }
}

impl Drop for Checker {
    fn drop(&mut self) {
        self.end();
    }
}

impl Process {
    fn start(sizes: &str, stderr: &Path) -> Process {
        let mut child = Command::new(example_path("power_probe"))
            .args(["check", sizes])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(stderr).expect("a file for its errors"))
            .spawn()
            .expect("the probe starts");
        let (ask, out) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        let (send, answers) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        Process { child, ask, answers, stderr: stderr.to_owned(), checks: 0 }
    }
}
