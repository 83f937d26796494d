use std::error::Error;
use std::time::Duration;

use coordd_client::recipes::{PersistentEphemeral, Sessions};
use futures::StreamExt as _;
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};

use crate::head_servers::HeadServer;
use crate::{GOODBYE, terminated};

#[derive(clap::Args)]
pub(crate) struct Announcement {
    /// The name of the head server.
    pub(crate) id: String,

    /// Where it is reached, HOST:PORT. It listens there.
    address: String,

    /// From one heartbeat to the next. Monitors think it fails when the last one is older than their --stale-after.
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    heartbeat: Duration,
}

/// Is a head server, as far as monitors can see: it takes connections, and its ephemeral znode is there as long as it is. That
/// it does not stand still is shown by the time at which it has last written the znode, by the servers' clock.
pub(crate) async fn announce(
    sessions: &Sessions,
    root: &str,
    announcement: Announcement,
) -> Result<(), Box<dyn Error>> {
    let Announcement { id, address, heartbeat } = announcement;
    let server = HeadServer::parse(&address)?;
    let listener = TcpListener::bind(server.address()).await?;
    let path = format!("{root}/head_servers/{id}");
    let presence = PersistentEphemeral::create(sessions, path, server.to_bytes()).await?;

    let takes_connections = async {
        loop {
            // That it is taken is all that a check asks for.
            drop(listener.accept().await);
        }
    };
    let beats = async {
        loop {
            sleep(heartbeat).await;
            if let Err(error) = presence.set_data(server.to_bytes()).await {
                println!("{id} cannot send its heartbeat: {error}");
            }
        }
    };
    let tells = async {
        let mut changes = presence.changes();
        while let Some(created) = changes.next().await {
            match created {
                Some(created) => println!("{id} is announced at {address}, epoch {}", created.stat.czxid),
                // The session has ended, or somebody has unregistered it.
                None => println!("{id} is announced no more"),
            }
        }
    };
    tokio::select! {
        () = takes_connections => {}
        () = beats => {}
        () = tells => {}
        () = terminated() => {}
    }
    // Where no node is in reach it goes with the session.
    let _ = timeout(GOODBYE, presence.close()).await;
    println!("{id} has left");
    Ok(())
}
