use std::collections::HashMap;

use rustix::process::{Pid, Signal, kill_process};

/// One process, as /proc knows it.
struct Process {
    pid: i32,
    parent: i32,
    /// It has ended, and its parent has not asked how.
    is_zombie: bool,
}

impl Process {
    /// Of the contents of /proc/PID/stat: `pid (name) state ppid ...`, where the name may hold anything.
    fn parse(stat: &str) -> Option<Self> {
        let (pid, rest) = stat.split_once(" (")?;
        let (_, rest) = rest.rsplit_once(") ")?;
        let mut fields = rest.split(' ');
        let state = fields.next()?;
        Some(Self { pid: pid.parse().ok()?, parent: fields.next()?.parse().ok()?, is_zombie: state == "Z" })
    }
}

/// All that a process has started, directly and through others, and that still runs. Empty where there is no /proc.
pub(super) fn descendants(root: Pid) -> Vec<Pid> {
    descendants_but(root, &[])
}

/// The same without these processes and what they have started.
pub(super) fn descendants_but(root: Pid, but: &[Pid]) -> Vec<Pid> {
    let mut children: HashMap<i32, Vec<Process>> = HashMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        // What ends while this is read is none.
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        if let Some(process) = Process::parse(&stat) {
            children.entry(process.parent).or_default().push(process);
        }
    }
    let (mut found, mut parents) = (Vec::new(), vec![root.as_raw_nonzero().get()]);
    while let Some(parent) = parents.pop() {
        for process in children.remove(&parent).unwrap_or_default() {
            let Some(pid) = Pid::from_raw(process.pid).filter(|pid| !but.contains(pid)) else { continue };
            parents.push(process.pid);
            found.extend(Some(pid).filter(|_| !process.is_zombie));
        }
    }
    found
}

/// Sends a signal to everything that a process has started. Whoever has ended meanwhile does not need it, and who may not
/// be signalled (it has become another user) cannot be helped.
pub(super) fn signal_descendants(root: Pid, signal: Signal) {
    for pid in descendants(root) {
        let _ = kill_process(pid, signal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_its_name_is() {
        let process = Process::parse("42 (a b) S (c) R 7 42 42 0").unwrap();
        assert_eq!((process.pid, process.parent, process.is_zombie), (42, 7, false));
        assert!(Process::parse("42 (gone) Z 7 42 42 0").unwrap().is_zombie);
        assert!(Process::parse("").is_none());
    }

    #[test]
    fn children_and_grandchildren_are_found_and_signalled() {
        let mut shell = std::process::Command::new("sh")
            .args(["-c", "sleep 60 & sleep 60 & wait"])
            .stdin(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let root = Pid::from_child(&shell);
        let start = std::time::Instant::now();
        while descendants(root).len() < 2 {
            assert!(start.elapsed().as_secs() < 10, "the shell starts two processes");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let both = descendants(root);
        assert_eq!(descendants_but(root, &both[..1]), both[1..]);
        signal_descendants(root, Signal::KILL);
        shell.wait().unwrap();
        assert!(descendants(root).is_empty());
    }
}
