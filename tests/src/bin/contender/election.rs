use clap::Args;
use coordd_client::Error;
use coordd_client::recipes::{Candidate, LeaderElection};
use serde_json::json;

use crate::Connection;
use crate::commands::{Commands, unknown};
use crate::holding::hold;
use crate::report::report;

/// Campaigns once, and leads until that is lost. Says `elected`, and then what everybody says who [holds](hold) a grant.
#[derive(Args)]
pub(crate) struct Election {
    #[arg(long)]
    path: String,

    #[arg(long, default_value_t = 0)]
    priority: u16,
}

impl Election {
    pub(crate) async fn run(self, connection: &Connection, mut commands: Commands) -> Result<(), Error> {
        let client = connection.connect().await?;
        let election = LeaderElection::new(&client, &self.path);
        let candidate = Candidate::new(&connection.name).priority(self.priority);
        let leadership = tokio::select! {
            leadership = election.campaign(&candidate) => leadership?,
            words = commands.next() => match words {
                Some(words) => unknown(&words),
                None => return client.close().await,
            },
        };
        hold("elected", leadership, connection, &mut commands).await?.resign().await?;
        report("resigned", json!({}));
        client.close().await
    }
}
