//! The processes of clients, each on a host of its own.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::clients::STOPPED;
use crate::network::{FIRST_CLIENT, Host, HostId, Switch};

/// The last answers of all clients, after all faults are healed.
const LAST_ANSWERS: Duration = Duration::from_secs(60);

/// What all processes of clients are started with.
pub(crate) struct ClientSettings {
    pub(crate) endpoints: Vec<String>,
    pub(crate) history: PathBuf,
    pub(crate) seed: u64,
    pub(crate) session_timeout: Duration,
    pub(crate) pace: Duration,
    pub(crate) env: Vec<(String, String)>,
}

struct ClientProcess {
    /// Never given twice.
    number: u32,
    child: Child,
    input: Option<ChildStdin>,
    /// What it prints.
    lines: mpsc::Receiver<String>,
}

/// Hosts of clients with a process each.
pub(crate) struct ClientProcesses {
    settings: ClientSettings,
    hosts: Vec<Host>,
    /// By the place of the host.
    processes: Vec<ClientProcess>,
    next_number: u32,
}

impl ClientProcesses {
    pub(crate) fn start(
        switch: &Switch,
        count: u8,
        settings: ClientSettings,
    ) -> anyhow::Result<ClientProcesses> {
        let mut clients =
            ClientProcesses { settings, hosts: Vec::new(), processes: Vec::new(), next_number: 1 };
        for place in 0..count {
            let host = Host::start(switch, FIRST_CLIENT + place)?;
            clients.hosts.push(host);
            let process = clients.spawn(place.into())?;
            clients.processes.push(process);
        }
        Ok(clients)
    }

    fn spawn(&mut self, place: usize) -> anyhow::Result<ClientProcess> {
        let number = self.next_number;
        self.next_number += 1;
        let ClientSettings { endpoints, history, seed, session_timeout, pace, env } = &self.settings;
        let mut command = Command::new(std::env::current_exe().context("this program's own path")?);
        command.args(["clients", "--endpoints", &endpoints.join(","), "--process", &number.to_string()]);
        command.arg("--history").arg(history_file(history, number));
        command.args(["--seed", &seed.to_string(), "--pace", &humantime::format_duration(*pace).to_string()]);
        command.args(["--session-timeout", &humantime::format_duration(*session_timeout).to_string()]);
        command.envs(env.iter().cloned());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = self.hosts[place].spawn(command)?;
        let input = child.stdin.take();
        let output = child.stdout.take().context("the output of a process of clients")?;
        Ok(ClientProcess { number, child, input, lines: read_lines(output) })
    }

    pub(crate) fn places(&self) -> std::ops::Range<usize> {
        0..self.processes.len()
    }

    pub(crate) fn host(&self, place: usize) -> HostId {
        self.hosts[place].id()
    }

    /// The number of the process that is there now.
    pub(crate) fn number(&self, place: usize) -> u32 {
        self.processes[place].number
    }

    pub(crate) fn signal(&self, place: usize, signal: Signal) -> anyhow::Result<()> {
        Ok(kill_process(Pid::from_child(&self.processes[place].child), signal)?)
    }

    /// That no process has ended by itself.
    pub(crate) fn check_alive(&mut self) -> anyhow::Result<()> {
        for ClientProcess { number, child, .. } in &mut self.processes {
            if let Some(exit) = child.try_wait()? {
                bail!("clients {number} ended by themselves: {exit}");
            }
        }
        Ok(())
    }

    /// Kills a process and starts the next one in its place.
    pub(crate) fn replace(&mut self, place: usize) -> anyhow::Result<()> {
        self.check_alive()?;
        self.processes[place].child.kill()?;
        self.processes[place].child.wait()?;
        self.processes[place] = self.spawn(place)?;
        Ok(())
    }

    /// Tells all to stop, and waits until they have had their last answers. Returns those that have not.
    pub(crate) async fn stop(&mut self) -> anyhow::Result<Vec<u32>> {
        self.check_alive()?;
        for process in &mut self.processes {
            if let Some(input) = &mut process.input {
                input.write_all(b"stop\n")?;
            }
        }
        let deadline = std::time::Instant::now() + LAST_ANSWERS;
        let mut stuck = Vec::new();
        for process in &mut self.processes {
            loop {
                match process.lines.try_recv() {
                    Ok(line) if line == STOPPED => break,
                    Ok(_) => {}
                    Err(mpsc::TryRecvError::Empty) if std::time::Instant::now() < deadline => {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    Err(mpsc::TryRecvError::Empty) => {
                        stuck.push(process.number);
                        break;
                    }
                    Err(mpsc::TryRecvError::Disconnected) => {
                        bail!("clients {} ended by themselves", process.number);
                    }
                }
            }
        }
        Ok(stuck)
    }
}

impl Drop for ClientProcesses {
    fn drop(&mut self) {
        for process in &mut self.processes {
            // What cannot be killed goes with the namespace of all processes.
            drop(process.child.kill());
            drop(process.child.wait());
        }
    }
}

pub(crate) fn history_file(dir: &Path, process: u32) -> PathBuf {
    dir.join(format!("clients-{process:03}.jsonl"))
}

fn read_lines(output: ChildStdout) -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}
