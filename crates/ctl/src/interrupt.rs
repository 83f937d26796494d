use std::sync::atomic::{AtomicU8, Ordering};

use rustix::process::Signal;
use tokio::signal::unix::{Signal as Incoming, SignalKind, signal};

use crate::exit::Failure;

/// What a signal that asks this program to end means for the command that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Meaning {
    /// The command is given up.
    Failure,
    /// That is how such a command ends.
    End,
    /// The command has its own way with signals.
    Ignored,
}

/// What signals mean at this moment of a command.
#[derive(Debug)]
pub(crate) struct Interrupts {
    meaning: AtomicU8,
}

impl Default for Interrupts {
    fn default() -> Self {
        Self { meaning: AtomicU8::new(Meaning::Failure as u8) }
    }
}

/// Why a command was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Interrupted {
    pub(crate) signal: Signal,
    /// It had done what it was asked for, and was only to be ended.
    pub(crate) is_end: bool,
}

impl Interrupts {
    fn mean(&self, meaning: Meaning) {
        self.meaning.store(meaning as u8, Ordering::Relaxed);
    }

    /// Another command begins.
    pub(crate) fn reset(&self) {
        self.mean(Meaning::Failure);
    }

    /// From here on the command goes on until it is ended by a signal, and that is its success.
    pub(crate) fn are_the_end(&self) {
        self.mean(Meaning::End);
    }

    /// From here on the command looks after signals itself.
    pub(crate) fn are_taken(&self) {
        self.mean(Meaning::Ignored);
    }

    /// Waits for a signal that is not the command's own. Safe to cancel.
    pub(crate) async fn next(&self) -> Interrupted {
        let mut signals = EndSignals::new();
        loop {
            let signal = signals.next().await;
            match self.meaning.load(Ordering::Relaxed) {
                meaning if meaning == Meaning::Ignored as u8 => {}
                meaning => return Interrupted { signal, is_end: meaning == Meaning::End as u8 },
            }
        }
    }
}

impl Interrupted {
    /// What the command comes to.
    pub(crate) fn result(self) -> Result<(), Failure> {
        if self.is_end { Ok(()) } else { Err(Failure::ended_by(self.signal)) }
    }
}

/// The signals that ask this program to end.
pub(crate) struct EndSignals(Vec<(Signal, Incoming)>);

impl EndSignals {
    pub(crate) fn new() -> Self {
        let ignored = ignored_signals();
        let ends = [Signal::TERM, Signal::INT, Signal::HUP];
        // What was ignored at the start, by `nohup` for example, stays so. Where a handler cannot be installed the signal ends the
        // program, as it does without one.
        let wanted = ends.into_iter().filter(|signal| ignored & (1 << (signal.as_raw() - 1)) == 0);
        let incoming =
            wanted.filter_map(|number| Some((number, signal(SignalKind::from_raw(number.as_raw())).ok()?)));
        Self(incoming.collect())
    }

    /// The next one. Safe to cancel.
    pub(crate) async fn next(&mut self) -> Signal {
        std::future::poll_fn(|cx| {
            for (number, incoming) in &mut self.0 {
                if incoming.poll_recv(cx).is_ready() {
                    return std::task::Poll::Ready(*number);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}

/// A bit for each signal that this process ignores; none where there is no /proc.
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A signal gives a command up, ends one that has nothing else to do, and is none of ours where the command takes it.
    #[tokio::test]
    async fn signals_mean_what_the_command_says() {
        let interrupts = Interrupts::default();
        let raised = async || {
            let mut next = std::pin::pin!(interrupts.next());
            assert!(futures::poll!(&mut next).is_pending());
            rustix::process::kill_process(rustix::process::getpid(), Signal::TERM).expect("a signal");
            tokio::time::timeout(std::time::Duration::from_millis(300), next).await
        };
        assert_eq!(raised().await, Ok(Interrupted { signal: Signal::TERM, is_end: false }));
        interrupts.are_the_end();
        assert_eq!(raised().await, Ok(Interrupted { signal: Signal::TERM, is_end: true }));
        interrupts.are_taken();
        assert!(raised().await.is_err());
        interrupts.reset();
        assert_eq!(raised().await, Ok(Interrupted { signal: Signal::TERM, is_end: false }));
    }
}
