use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{BlackHole, Ensemble, monotonic};

/// A debug build on a busy machine.
const EXIT: Duration = Duration::from_secs(20);

/// One thing that a process said on its standard output.
#[derive(Clone, Debug)]
pub struct Line {
    /// When, by [`monotonic`]: as the process says it in the field `at_ns`, otherwise when it was read.
    pub at: Duration,
    /// As it was said.
    pub text: String,
    /// If it is JSON, otherwise null.
    pub json: Value,
}

impl Line {
    fn new(text: String) -> Self {
        let json: Value = serde_json::from_str(&text).unwrap_or_default();
        let at = json["at_ns"].as_u64().map_or_else(monotonic, Duration::from_nanos);
        Line { at, text, json }
    }

    /// What happened: the field `event` of what a `contender` says, otherwise empty.
    pub fn event(&self) -> &str {
        self.json["event"].as_str().unwrap_or_default()
    }

    /// A field that has to be a number.
    pub fn number(&self, field: &str) -> u64 {
        self.json[field].as_u64().unwrap_or_else(|| panic!("no number {field:?} in {}", self.text))
    }

    /// A field that has to be a string.
    pub fn string(&self, field: &str) -> &str {
        self.json[field].as_str().unwrap_or_else(|| panic!("no string {field:?} in {}", self.text))
    }
}

/// A client in a process of its own, which can be killed, stopped, and cut off from the ensemble. It is killed when this is
/// dropped.
///
/// The program is `contender` (`tests/src/bin/contender`), one subcommand per recipe; [`start`](Contender::start) takes
/// any other.
pub struct Contender {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    said: Arc<Mutex<Vec<Line>>>,
    /// So many lines were returned by [`next`](Self::next) and [`wait_for`](Self::wait_for).
    read: usize,
    ways: Vec<BlackHole>,
    exited: Option<ExitStatus>,
}

impl Contender {
    /// Starts `contender RECIPE ARGS...`, connected to all nodes of the ensemble.
    pub async fn spawn(ensemble: &Ensemble, recipe: &str, args: &[&str]) -> Self {
        let mut command = Command::new(crate::contender());
        command.arg(recipe).args(args);
        Self::start(ensemble, command, "COORDD_ENDPOINTS").await
    }

    /// Starts any program that talks to the ensemble, and finds the endpoints in this variable of its environment.
    pub async fn start(ensemble: &Ensemble, mut command: Command, endpoints_variable: &str) -> Self {
        let mut ways = Vec::new();
        for endpoint in ensemble.endpoints() {
            ways.push(BlackHole::to(endpoint).await);
        }
        let endpoints: Vec<_> = ways.iter().map(BlackHole::endpoint).collect();
        command.env(endpoints_variable, endpoints.join(","));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let said = Arc::<Mutex<Vec<Line>>>::default();
        let name = format!("{:?}", command.get_args().collect::<Vec<_>>());
        let listener = said.clone();
        // Ends with the process: its end of the pipe is closed.
        std::thread::spawn(move || {
            for text in stdout.lines().map_while(Result::ok) {
                lock(&listener).push(Line::new(text));
            }
        });
        Contender { name, child, stdin, said, read: 0, ways, exited: None }
    }

    /// The process id.
    pub fn process_id(&self) -> u32 {
        self.child.id()
    }

    /// Gives it a command: one line on its standard input.
    pub fn send(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("its standard input is open");
        writeln!(stdin, "{line}").and_then(|()| stdin.flush()).expect("it reads its standard input");
    }

    /// Ends its standard input, which tells a `contender` to give up what it holds and to end.
    pub fn end_input(&mut self) {
        self.stdin = None;
    }

    /// All it has said so far.
    pub fn lines(&self) -> Vec<Line> {
        lock(&self.said).clone()
    }

    /// Those lines that tell of this event.
    pub fn events(&self, event: &str) -> Vec<Line> {
        self.lines().into_iter().filter(|line| line.event() == event).collect()
    }

    /// The next line that was not returned yet.
    pub async fn next(&mut self, within: Duration) -> Line {
        self.wait_for(within, "anything", |_| true).await
    }

    /// The next line, of those that were not returned yet, that satisfies a condition. Those before it are passed over; they
    /// are still in [`lines`](Self::lines).
    pub async fn wait_for(
        &mut self,
        within: Duration,
        what: &str,
        condition: impl Fn(&Line) -> bool,
    ) -> Line {
        let start = Instant::now();
        loop {
            // Asked before the lines are looked at, so that a process's last line is seen.
            let has_exited = self.exited().is_some();
            let lines = self.lines();
            if let Some(index) = lines.iter().skip(self.read).position(&condition) {
                self.read += index + 1;
                return lines[self.read - 1].clone();
            }
            let waited = start.elapsed();
            if waited > within || (has_exited && waited > Duration::from_millis(500)) {
                let said: Vec<_> = lines.iter().map(|line| line.text.as_str()).collect();
                let exited = self.exited;
                panic!(
                    "{} (exited: {exited:?}) did not say {what} within {waited:?}, but: {said:#?}",
                    self.name
                );
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// The next line that tells of this event.
    pub async fn event(&mut self, within: Duration, event: &str) -> Line {
        self.wait_for(within, event, |line| line.event() == event).await
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("the process is ours");
    }

    /// SIGSTOP.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// `kill -9`.
    pub fn kill9(&mut self) {
        if self.exited().is_none() {
            self.child.kill().expect("the process is ours");
            self.exited = Some(self.child.wait().expect("the process is ours"));
        }
    }

    /// SIGTERM; returns how it ended.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait_exit().await
    }

    /// How it ended, if it has.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        if self.exited.is_none() {
            self.exited = self.child.try_wait().expect("the process is ours");
        }
        self.exited
    }

    /// Waits until it ends.
    pub async fn wait_exit(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.exited() {
                return status;
            }
            assert!(start.elapsed() < EXIT, "{} does not end; it said {:#?}", self.name, self.lines());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Its ways to the nodes, in the order of their ids.
    pub fn ways(&self) -> &[BlackHole] {
        &self.ways
    }

    /// Nothing goes between it and the ensemble any more, in either direction; its connections stay open.
    pub fn cut_off(&self) {
        self.ways.iter().for_each(BlackHole::cut_off);
    }

    /// Ends a cut of any kind.
    pub fn heal(&self) {
        self.ways.iter().for_each(BlackHole::heal);
    }
}

impl Drop for Contender {
    fn drop(&mut self) {
        self.kill9();
        if std::thread::panicking() {
            eprintln!("--- what {} said", self.name);
            for line in self.lines() {
                eprintln!("{}", line.text);
            }
        }
    }
}

fn lock(said: &Mutex<Vec<Line>>) -> MutexGuard<'_, Vec<Line>> {
    said.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
