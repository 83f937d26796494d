use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use coordd_process::plain;
use tokio::time::Instant;

/// Tells a person at a terminal that long work goes on: a line on the standard error that is rewritten. Says nothing
/// elsewhere, and nothing about work that is done within a second.
pub(crate) struct Progress {
    label: String,
    since: Instant,
    drawn_at: Option<Instant>,
    visible: bool,
}

const PATIENCE: Duration = Duration::from_secs(1);
const REDRAW: Duration = Duration::from_millis(200);

impl Progress {
    pub(crate) fn new(label: impl Into<String>) -> Self {
        let visible = std::io::stderr().is_terminal();
        Self { label: plain(&label.into()).into_owned(), since: Instant::now(), drawn_at: None, visible }
    }

    /// Somebody sees it.
    pub(crate) fn is_visible(&self) -> bool {
        self.visible
    }

    /// Says how far the work is.
    pub(crate) fn at(&mut self, done: u64, total: Option<u64>) {
        let total = total.map(|total| format!(" of {total}")).unwrap_or_default();
        self.draw(&format!("{done}{total}"));
    }

    /// Waits for work that does not say how far it is.
    pub(crate) async fn during<T>(mut self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            match tokio::time::timeout(PATIENCE, &mut work).await {
                Ok(done) => return done,
                Err(_) => self.draw(&format!("{} s", self.since.elapsed().as_secs())),
            }
        }
    }

    fn draw(&mut self, state: &str) {
        let due = self.drawn_at.map_or(self.since.elapsed() >= PATIENCE, |at| at.elapsed() >= REDRAW);
        if self.visible && due {
            self.drawn_at = Some(Instant::now());
            // A terminal that cannot be written to does not show progress; the work goes on.
            let _ = write!(std::io::stderr(), "\r\x1b[K{}: {state}", self.label);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.drawn_at.is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
