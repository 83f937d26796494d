use std::time::Duration;

use clap::Args;
use coordd_client::recipes::{Grant, Owner, ReadWriteLock, Semaphore};
use coordd_client::{Client, CreateMode, Error, recipes};
use serde_json::json;

use crate::Connection;
use crate::commands::{Commands, unknown};
use crate::holding::hold;
use crate::report::{error, report};

/// How long one stays inside.
const STAY: Duration = Duration::from_millis(5);

/// Asks for a lock or a permit once and says `locked`, and then what everybody says who [holds](hold) a grant. With `--inside` it
/// does so again and again, as a reader or a writer at random, until its session ends.
#[derive(Args)]
pub(crate) struct Lock {
    #[arg(long)]
    path: String,

    /// A permit of a semaphore that has so many.
    #[arg(long)]
    permits: Option<u32>,

    /// While it has the lock there is an ephemeral `read-`, `write-` or `permit-` below this znode, made and deleted under the epoch.
    #[arg(long)]
    inside: Option<String>,
}

impl Lock {
    pub(crate) async fn run(self, connection: &Connection, mut commands: Commands) -> Result<(), Error> {
        let client = connection.connect().await?;
        if let Some(inside) = &self.inside {
            return tokio::select! {
                end = self.go_in_and_out(&client, connection, inside) => {
                    report("ended", error(&end));
                    Ok(())
                }
                _ = commands.next() => client.close().await,
            };
        }
        let grant = tokio::select! {
            grant = self.ask("write", &client, connection) => grant?,
            words = commands.next() => match words {
                Some(words) => unknown(&words),
                None => return client.close().await,
            },
        };
        report("locked", json!({ "epoch": grant.epoch() }));
        hold(Box::new(grant), connection, &mut commands).await?.release().await?;
        report("released", json!({}));
        client.close().await
    }

    async fn ask(&self, how: &str, client: &Client, connection: &Connection) -> Result<Grant, Error> {
        let owner = Owner::new(&connection.name);
        match (self.permits, how) {
            (Some(permits), _) => Semaphore::new(client, &self.path, permits)?.owner(owner).acquire().await,
            (None, "read") => ReadWriteLock::new(client, &self.path).owner(owner).read().await,
            (None, _) => recipes::Lock::new(client, &self.path).owner(owner).lock().await,
        }
    }

    /// Returns why that came to an end.
    async fn go_in_and_out(&self, client: &Client, connection: &Connection, inside: &str) -> Error {
        loop {
            let how = match self.permits {
                Some(_) => "permit",
                None if rand::random() => "read",
                None => "write",
            };
            let turn = async {
                let grant = self.ask(how, client, connection).await?;
                let prefix = format!("{inside}/{how}-");
                let create = |client: &Client| client.create(&prefix, "", CreateMode::EphemeralSequential);
                let created = grant.write(create).await?;
                report("inside", json!({ "how": how, "epoch": grant.epoch() }));
                tokio::time::sleep(STAY).await;
                grant.write(|client| client.delete(&created.path, None)).await?;
                grant.release().await
            };
            match turn.await {
                Err(error) if error.is_terminal() => return error,
                Err(failure) => report("failed", error(&failure)),
                Ok(()) => {}
            }
        }
    }
}
