use clap::Args;
use coordd_client::{Check, CreateMode, CreateOptions, Error};
use serde_json::json;

use crate::Connection;
use crate::commands::{Commands, unknown};
use crate::report::{error, report};
use crate::writes::Writes;

/// A session that owns an ephemeral. Commands: `set PATH COUNT` and `append PATH COUNT` write under the epoch of the
/// ephemeral; `put PATH VALUE` sets without a guard, and answers `put` or `refused`.
#[derive(Args)]
pub(crate) struct Session {
    /// The ephemeral.
    #[arg(long)]
    path: String,
}

impl Session {
    pub(crate) async fn run(self, connection: &Connection, mut commands: Commands) -> Result<(), Error> {
        let client = connection.connect().await?;
        let options = CreateOptions::new(CreateMode::Ephemeral).parents(true);
        let created = client.create(&self.path, connection.name.clone(), options).await?;
        let epoch = created.stat.czxid;
        report("created", json!({ "path": created.path, "epoch": epoch }));
        let guarded = client.guarded([Check::epoch(created.path, epoch)]);
        let mut writes = Writes::new(&connection.name);
        while let Some(words) = commands.next().await {
            if writes.carry_out(&words, epoch, || Ok(guarded.clone())).await {
                continue;
            }
            match &words[..] {
                [put, path, value] if put == "put" => match client.set(path, value.clone(), None).await {
                    Ok(stat) => report("put", json!({ "path": path, "version": stat.version })),
                    Err(failure) => report("refused", error(&failure)),
                },
                words => unknown(words),
            }
        }
        client.close().await?;
        report("closed", json!({}));
        Ok(())
    }
}
