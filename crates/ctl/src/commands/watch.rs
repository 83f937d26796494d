use std::fmt;

use clap::Args;
use coordd_client::{Client, ErrorKind, EventType, PersistentWatcher, WatchEvent, WatchMode, WatchOptions};
use coordd_process::plain;
use serde::Serialize;

use crate::context::Context;
use crate::exit::Failure;
use crate::output::ValueOutput;

/// Prints the events of a znode as they happen, one a line: zxid, type, path, and the value if it was asked for.
///
/// Goes on until it is interrupted, over reconnects, without a gap. A line `RESYNC` says that events are missing, so that what was
/// known before has to be read again: the servers no longer had the events of the time in which no node was in reach, or the reader
/// of this output was so slow that more than 4,096 events, or 64 MiB of values, waited for it.
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
            write!(f, " {}", plain(path))?;
        }
        if let Some(value) = &self.value {
            write!(f, " {value}")?;
        }
        writeln!(f)
    }
}

impl Watch {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let client = context.client().await?;
        let mut watcher = self.watcher(context, client).await?;
        context.interrupts.are_the_end();
        let mut left = self.count.unwrap_or(u64::MAX);
        while left > 0 {
            let event = match watcher.next().await {
                Ok(event) => event,
                // The reader of the output was too slow. What was dropped is as good as what the servers no longer have; the next
                // watch is there before that is said, so that a reader who looks then misses nothing.
                Err(error) if error.kind == ErrorKind::WatcherLagged => {
                    watcher = self.watcher(context, client).await?;
                    WatchEvent::Resync { zxid: client.last_zxid() }
                }
                Err(error) => return Err(error.into()),
            };
            context.output().result(&EventOutput::from(event))?;
            left -= 1;
        }
        Ok(())
    }

    async fn watcher(&self, context: &Context, client: &Client) -> Result<PersistentWatcher, Failure> {
        let mode = if self.recursive { WatchMode::PersistentRecursive } else { WatchMode::Persistent };
        context.answer(client.watch(&self.path, WatchOptions::new(mode).with_value(self.values))).await
    }
}
