use std::fmt;

use coordd_client::recipes::{Json, TaskEntry};
use coordd_process::plain;
use serde::Serialize;

use crate::json_text;
use crate::output::{ValueOutput, time};

/// Of what was put, for people.
const PAYLOAD_CHARS: usize = 80;

/// A task, as it is printed.
#[derive(Serialize)]
pub(super) struct EntryOutput {
    id: String,
    state: &'static str,
    priority: u16,
    attempts: u32,
    max_attempts: u32,
    since: String,
    due: Option<String>,
    worker: Option<String>,
    epoch: Option<u64>,
    progress: Option<Json>,
    last_error: Option<String>,
    payload: ValueOutput,
}

impl From<TaskEntry> for EntryOutput {
    fn from(entry: TaskEntry) -> Self {
        Self {
            id: entry.id,
            state: entry.state.name(),
            priority: entry.priority,
            attempts: entry.attempts,
            max_attempts: entry.max_attempts,
            since: time(entry.since_ms),
            due: entry.due_ms.map(time),
            worker: entry.worker,
            epoch: entry.epoch,
            progress: entry.progress,
            last_error: entry.last_error,
            payload: entry.payload.into(),
        }
    }
}

impl fmt::Display for EntryOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}  {}  attempts {}/{}", plain(&self.id), self.state, self.attempts, self.max_attempts)?;
        if let Some(due) = &self.due {
            write!(f, "  due {due}")?;
        }
        if let (Some(worker), Some(epoch)) = (&self.worker, self.epoch) {
            write!(f, "  by {} in epoch {epoch}", plain(&format!("{worker:?}")))?;
        }
        if let Some(progress) = &self.progress {
            write!(f, "  progress {}", json_text::shown(progress))?;
        }
        if let Some(error) = &self.last_error {
            write!(f, "  last error: {}", plain(&error.escape_debug().to_string()))?;
        }
        let payload = self.payload.to_string();
        let shown: String = payload.chars().take(PAYLOAD_CHARS).collect();
        let rest = if shown.len() < payload.len() { "..." } else { "" };
        writeln!(f, "  {shown}{rest}")
    }
}
