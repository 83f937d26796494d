use std::time::Duration;

use clap::Args;
use coordd_client::{Check, CreateMode, Error};
use serde_json::json;

use crate::Connection;

/// Pauses between writes.
const BEAT: Duration = Duration::from_millis(50);

/// A copy of what an auto-healer keeps running: writes under its epoch for as long as it lives, and goes on when it is refused. Says
/// nothing: its standard output is that of its agent.
#[derive(Args)]
pub(crate) struct Copy {
    /// Below this it appends sequential znodes.
    #[arg(long)]
    log: String,

    #[arg(long, env = "COORDD_COPY")]
    copy: u32,

    #[arg(long, env = "COORDD_EPOCH")]
    epoch: u64,

    #[arg(long, env = "COORDD_GRANT_PATH")]
    grant_path: String,
}

impl Copy {
    pub(crate) async fn run(self, connection: &Connection) -> Result<(), Error> {
        let client = connection.options().connect(connection.endpoints.clone()).await?;
        let guarded = client.guarded([Check::epoch(self.grant_path, self.epoch)]);
        for number in 0u64.. {
            let pid = std::process::id();
            let value =
                json!({ "copy": self.copy, "epoch": self.epoch, "number": number, "pid": pid }).to_string();
            let written =
                guarded.create(format!("{}/", self.log), value, CreateMode::PersistentSequential).await;
            if written.as_ref().is_err_and(Error::is_terminal) {
                return written.map(drop);
            }
            tokio::time::sleep(BEAT).await;
        }
        Ok(())
    }
}
