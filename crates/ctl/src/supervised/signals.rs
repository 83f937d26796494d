use std::io::IsTerminal as _;

use rustix::process::Signal;
use tokio::signal::unix::{Signal as Incoming, SignalKind, signal};
use tokio::sync::mpsc;

use crate::exit::Failure;

/// The signals that `coordctl` hands on. What a terminal sends to the whole group reaches a command there by itself.
const HANDED_ON: [(Signal, bool); 7] = [
    (Signal::TERM, false),
    (Signal::USR1, false),
    (Signal::USR2, false),
    (Signal::INT, true),
    (Signal::HUP, true),
    (Signal::QUIT, true),
    (Signal::WINCH, true),
];

/// The command shares the process group of `coordctl`, and so what the terminal sends to it.
pub(super) fn shares_terminal() -> bool {
    std::io::stdin().is_terminal()
}

/// Signals that this process was sent. From the first moment on they do not end it any more.
pub(crate) struct Signals {
    incoming: Vec<(Signal, Incoming)>,
    /// Where they are not the process's own but somebody's within it.
    relayed_rx: Option<mpsc::UnboundedReceiver<Signal>>,
    ended_by: Option<Signal>,
}

impl Signals {
    pub(crate) fn new() -> Result<Self, Failure> {
        let mut incoming = Vec::new();
        for (number, _) in HANDED_ON {
            let kind = SignalKind::from_raw(number.as_raw());
            let handler = signal(kind).map_err(|error| Failure::io("handling signals", error))?;
            incoming.push((number, handler));
        }
        Ok(Self { incoming, relayed_rx: None, ended_by: None })
    }

    /// Those that are sent by the other end, and none of the process's.
    pub(crate) fn relayed() -> (mpsc::UnboundedSender<Signal>, Self) {
        let (relayed_tx, relayed_rx) = mpsc::unbounded_channel();
        (relayed_tx, Self { incoming: Vec::new(), relayed_rx: Some(relayed_rx), ended_by: None })
    }

    /// The next one. Safe to cancel.
    pub(crate) async fn next(&mut self) -> Signal {
        let signal = std::future::poll_fn(|cx| {
            for (number, incoming) in &mut self.incoming {
                if incoming.poll_recv(cx).is_ready() {
                    return std::task::Poll::Ready(*number);
                }
            }
            if let Some(relayed_rx) = &mut self.relayed_rx
                && let std::task::Poll::Ready(Some(number)) = relayed_rx.poll_recv(cx)
            {
                return std::task::Poll::Ready(number);
            }
            std::task::Poll::Pending
        })
        .await;
        if asks_to_end(signal) {
            self.ended_by.get_or_insert(signal);
        }
        signal
    }

    /// The next one that asks this process to end, while no command runs.
    pub(crate) async fn end(&mut self) -> Signal {
        loop {
            let signal = self.next().await;
            if asks_to_end(signal) {
                return signal;
            }
        }
    }

    /// The first one that has asked this process to end, also while a command ran.
    pub(crate) fn ended_by(&self) -> Option<Signal> {
        self.ended_by
    }
}

fn asks_to_end(signal: Signal) -> bool {
    [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT].contains(&signal)
}

/// The command has it from the terminal already.
pub(super) fn comes_from_terminal(signal: Signal) -> bool {
    shares_terminal() && HANDED_ON.iter().any(|(number, by_terminal)| *number == signal && *by_terminal)
}
