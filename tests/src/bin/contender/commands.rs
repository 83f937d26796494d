use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::report::report;

/// The commands of the test, in order.
pub(crate) struct Commands {
    lines_rx: mpsc::UnboundedReceiver<Vec<String>>,
}

impl Commands {
    /// Begins to read. SIGTERM ends the commands as the end of the standard input does.
    pub(crate) fn read() -> Self {
        let (lines_tx, lines_rx) = mpsc::unbounded_channel();
        let mut terminate = signal(SignalKind::terminate()).expect("a handler of SIGTERM");
        let (read_tx, mut read_rx) = mpsc::unbounded_channel();
        // A thread, because a read of the standard input cannot be cancelled; it ends with the process.
        std::thread::spawn(move || {
            for line in std::io::stdin().lines().map_while(Result::ok) {
                let words: Vec<String> = line.split_whitespace().map(Into::into).collect();
                if !words.is_empty() && read_tx.send(words).is_err() {
                    return;
                }
            }
        });
        tokio::spawn(async move {
            loop {
                let words = tokio::select! {
                    words = read_rx.recv() => words,
                    _ = terminate.recv() => None,
                };
                match words {
                    Some(words) => drop(lines_tx.send(words)),
                    None => return,
                }
            }
        });
        Self { lines_rx }
    }

    /// The words of the next command; `None` when there is no more, and it is time to end. Safe to cancel.
    pub(crate) async fn next(&mut self) -> Option<Vec<String>> {
        let words = self.lines_rx.recv().await?;
        report("command", serde_json::json!({ "words": words }));
        Some(words)
    }
}

/// A command that the recipe does not know: a mistake in the test, which must not go unnoticed.
pub(crate) fn unknown(words: &[String]) -> ! {
    report("unknown", serde_json::json!({ "words": words }));
    panic!("unknown command {words:?}");
}
