use std::time::Duration;

use clap::{Args, ValueEnum};
use coordd_client::recipes::{Grant, MultiLock, Owner, ReadWriteLock, ReentrantLock, Semaphore};
use coordd_client::{Client, CreateMode, Error, recipes};
use serde_json::json;

use crate::Connection;
use crate::commands::{Commands, unknown};
use crate::holding::{Held, Several, hold};
use crate::report::{error, report};

/// How long one stays inside.
const STAY: Duration = Duration::from_millis(5);

/// Asks for a lock or a permit once and says `locked`, and then what everybody says who [holds](hold) a grant. With `--inside` it
/// does so again and again, as a reader or a writer at random, until its session ends.
#[derive(Args)]
pub(crate) struct Lock {
    #[arg(long)]
    path: String,

    #[arg(long, value_enum, default_value_t)]
    kind: Kind,

    /// A permit of a semaphore that has so many.
    #[arg(long)]
    permits: Option<u32>,

    /// While it has the lock there is an ephemeral `read-`, `write-` or `permit-` below this znode, made and deleted under the epoch.
    #[arg(long)]
    inside: Option<String>,
}

/// What kind of lock, where it is no permit.
#[derive(Clone, Copy, Default, ValueEnum)]
enum Kind {
    #[default]
    Lock,
    Reentrant,
    /// Of the path, and of another one that ends with `-2`.
    Multi,
    Read,
    Write,
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
        let owner = Owner::new(&connection.name);
        match self.kind {
            Kind::Reentrant => {
                let lock = ReentrantLock::new(&client, &self.path).owner(owner);
                let again = async {
                    // Let go of as soon as there is another, with which the lock stays.
                    let _first = lock.lock().await?;
                    lock.lock().await
                };
                if let Some(grant) = in_turn(again, connection, &mut commands).await? {
                    grant.release().await?;
                }
            }
            Kind::Multi => {
                let lock =
                    MultiLock::new(&client, [self.path.clone(), format!("{}-2", self.path)])?.owner(owner);
                let all = async { lock.lock().await.map(Several) };
                if let Some(Several(grant)) = in_turn(all, connection, &mut commands).await? {
                    grant.release().await?;
                }
            }
            Kind::Write => {
                let lock = ReadWriteLock::new(&client, &self.path).owner(owner);
                if let Some(grant) = in_turn(lock.write(), connection, &mut commands).await? {
                    grant.release().await?;
                }
            }
            Kind::Lock | Kind::Read => {
                let how = if matches!(self.kind, Kind::Read) { "read" } else { "write" };
                let one = async { self.ask(how, &client, connection).await.map(Box::new) };
                if let Some(grant) = in_turn(one, connection, &mut commands).await? {
                    grant.release().await?;
                }
            }
        }
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

/// Waits for a grant, says so, and holds it until it is told to give it back. `None`: it was told to end before that.
async fn in_turn<G: Held>(
    asking: impl Future<Output = Result<G, Error>>,
    connection: &Connection,
    commands: &mut Commands,
) -> Result<Option<G>, Error> {
    let grant = tokio::select! {
        grant = asking => grant?,
        words = commands.next() => match words {
            Some(words) => unknown(&words),
            None => return Ok(None),
        },
    };
    hold("locked", grant, connection, commands).await.map(Some)
}
