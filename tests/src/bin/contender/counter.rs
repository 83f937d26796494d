use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use coordd_client::recipes::{self, Sessions, SharedValue};
use coordd_client::{Client, Error, Outcome};
use serde_json::json;

use crate::Connection;
use crate::commands::Commands;
use crate::report::report;

/// Adds one to a counter, again and again and in one session after the other, until the next command. Says `added` with each sum, `lost`
/// when a session ends with what became of the sum that was under way, and at the end `finished` with how many counted.
#[derive(Args)]
pub(crate) struct Counter {
    #[arg(long)]
    path: String,

    /// The number is a shared value.
    #[arg(long)]
    shared: bool,
}

impl Counter {
    pub(crate) async fn run(self, connection: &Connection, mut commands: Commands) -> Result<(), Error> {
        let sessions = Sessions::connect(connection.endpoints.clone(), connection.options()).await?;
        let is_told = Arc::new(AtomicBool::new(false));
        let told = is_told.clone();
        tokio::spawn(async move {
            commands.next().await;
            told.store(true, Ordering::Relaxed);
        });
        let mut counted = 0;
        while !is_told.load(Ordering::Relaxed) {
            let client = sessions.live().await?;
            report("connected", json!({ "session_id": client.session_id() }));
            let counter = recipes::Counter::new(&client, &self.path);
            let value = SharedValue::new(&client, &self.path);
            while !is_told.load(Ordering::Relaxed) {
                let added = match self.shared {
                    true => value
                        .update_json(|sum: Option<i64>| Ok(sum.unwrap_or(0) + 1))
                        .await
                        .map(|sum| sum.value),
                    false => counter.add(1).await,
                };
                match added {
                    Ok(sum) => {
                        counted += 1;
                        report("added", json!({ "sum": sum }));
                    }
                    Err(failure) if failure.is_terminal() => {
                        let has_counted = has_counted(&sessions, &client, &failure).await?;
                        counted += u64::from(has_counted);
                        report("lost", json!({ "counted": has_counted }));
                        break;
                    }
                    Err(failure) => return Err(failure),
                }
            }
        }
        report("finished", json!({ "counted": counted }));
        sessions.close().await
    }
}

/// Whether a write that met the end of its session was carried out.
async fn has_counted(sessions: &Sessions, ended: &Client, failure: &Error) -> Result<bool, Error> {
    let Some(write_seq) = failure.write_seq else { return Ok(false) };
    let token = ended.session_token().expect("it was connected");
    match sessions.live().await?.outcome(&token, write_seq).await? {
        Outcome::Applied { result, .. } => Ok(result.is_ok()),
        Outcome::Never => Ok(false),
        other => panic!("write {write_seq} of a session that has ended: {other:?}"),
    }
}
