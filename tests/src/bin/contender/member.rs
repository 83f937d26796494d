use clap::Args;
use coordd_client::Error;
use coordd_client::recipes::{GroupMembership, PersistentEphemeral, Sessions};
use serde_json::json;

use crate::Connection;
use crate::commands::Commands;
use crate::report::report;

/// A member of a group, under its name, for as long as it lives. Says `joined` when it is one for the first time.
#[derive(Args)]
pub(crate) struct Member {
    #[arg(long)]
    path: String,

    /// It is there by the znode alone.
    #[arg(long)]
    ephemeral: bool,
}

impl Member {
    pub(crate) async fn run(self, connection: &Connection, mut commands: Commands) -> Result<(), Error> {
        let sessions = Sessions::connect(connection.endpoints.clone(), connection.options()).await?;
        if self.ephemeral {
            let path = format!("{}/{}", self.path, connection.name);
            let ephemeral = PersistentEphemeral::create(&sessions, path, "").await?;
            report("joined", json!({ "epoch": ephemeral.created().map(|created| created.stat.czxid) }));
            commands.next().await;
            ephemeral.close().await;
        } else {
            let membership = GroupMembership::new(&sessions, &self.path).join(&connection.name, "").await?;
            report("joined", json!({ "epoch": membership.epoch() }));
            commands.next().await;
            membership.leave().await;
        }
        sessions.close().await
    }
}
