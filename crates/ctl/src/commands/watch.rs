use std::fmt;

use clap::Args;
use coordd_client::{EventType, WatchEvent, WatchMode, WatchOptions};
use serde::Serialize;

use crate::context::Context;
use crate::exit::Failure;
use crate::interrupt::interrupted;
use crate::output::ValueOutput;

/// Prints the events of a znode as they happen, one a line: zxid, type, path, and the value if it was asked for.
///
/// Goes on until it is interrupted, over reconnects, without a gap. A line `RESYNC` says that the servers no longer had
/// the events that were missed while no node was in reach.
#[derive(Args, Debug)]
pub(crate) struct Watch {
    /// The path. It need not exist.
    path: String,

    /// Everything below it, too.
    #[arg(short, long)]
    recursive: bool,

    /// With the new values.
    #[arg(long)]
    values: bool,

    /// Stop after so many events.
    #[arg(short = 'n', long)]
    count: Option<u64>,
}

#[derive(Serialize)]
struct EventOutput {
    zxid: u64,
    #[serde(rename = "type")]
    event_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(flatten)]
    value: Option<ValueOutput>,
}

impl From<WatchEvent> for EventOutput {
    fn from(event: WatchEvent) -> Self {
        match event {
            WatchEvent::Resync { zxid } => Self { zxid, event_type: "RESYNC", path: None, value: None },
            WatchEvent::Event(event) => Self {
                zxid: event.zxid,
                event_type: match event.event_type {
                    EventType::NodeCreated => "NodeCreated",
                    EventType::NodeDeleted => "NodeDeleted",
                    EventType::NodeDataChanged => "NodeDataChanged",
                    EventType::NodeChildrenChanged => "NodeChildrenChanged",
                },
                path: Some(event.path),
                value: event.value.map(|(data, _)| data.into()),
            },
        }
    }
}

impl fmt::Display for EventOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.zxid, self.event_type)?;
        if let Some(path) = &self.path {
            write!(f, " {path}")?;
        }
        if let Some(value) = &self.value {
            write!(f, " {value}")?;
        }
        writeln!(f)
    }
}

impl Watch {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let mode = if self.recursive { WatchMode::PersistentRecursive } else { WatchMode::Persistent };
        let options = WatchOptions::new(mode).with_value(self.values);
        let client = context.client().await?;
        let mut watcher = context.answer(client.watch(&self.path, options)).await?;
        let mut left = self.count.unwrap_or(u64::MAX);
        while left > 0 {
            let event = tokio::select! {
                event = watcher.next() => event?,
                () = interrupted() => return Ok(()),
            };
            context.output().result(&EventOutput::from(event))?;
            left -= 1;
        }
        Ok(())
    }
}
