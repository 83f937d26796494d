use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

/// What crosses a [`BlackHole`] at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Cut {
    requests: bool,
    replies: bool,
    /// Raised to end every connection there is.
    resets: u64,
}

/// A way to one node that a test can cut: a proxy that clients are given in place of the node.
///
/// While it is cut, connections stay open and nothing comes through, new ones are accepted and not answered, and the end of
/// a connection is not told to the other side. What was sent arrives after the healing, late: so it is with dropped
/// packets, which TCP sends again.
pub struct BlackHole {
    address: SocketAddr,
    cut: Arc<watch::Sender<Cut>>,
    listening: AbortHandle,
}

impl BlackHole {
    /// A way to the node at `to`, on this runtime, until it is dropped.
    pub async fn to(to: impl Into<String>) -> Self {
        Self::at((Ipv4Addr::LOCALHOST, 0), to).await
    }

    /// The same, at an address that the clients know already.
    pub async fn at(address: (Ipv4Addr, u16), to: impl Into<String>) -> Self {
        let to = to.into();
        let listener = TcpListener::bind(address).await.expect("a port for a proxy");
        let address = listener.local_addr().expect("it is bound");
        let cut = Arc::new(watch::Sender::new(Cut::default()));
        let listening = tokio::spawn(listen(listener, to, cut.clone())).abort_handle();
        BlackHole { address, cut, listening }
    }

    /// What clients are given: `host:port`.
    pub fn endpoint(&self) -> String {
        self.address.to_string()
    }

    /// Nothing comes through, in either direction.
    pub fn cut_off(&self) {
        self.cut.send_modify(|cut| (cut.requests, cut.replies) = (true, true));
    }

    /// The node hears nothing; what it sends arrives.
    pub fn cut_requests(&self) {
        self.cut.send_modify(|cut| cut.requests = true);
    }

    /// The client hears nothing; what it sends arrives.
    pub fn cut_replies(&self) {
        self.cut.send_modify(|cut| cut.replies = true);
    }

    /// Everything comes through, what was held up first.
    pub fn heal(&self) {
        self.cut.send_modify(|cut| (cut.requests, cut.replies) = (false, false));
    }

    /// Ends all connections, and what was held up in them is lost. Before [`heal`](Self::heal) it makes a partition that was
    /// so long that TCP has given up.
    pub fn reset(&self) {
        self.cut.send_modify(|cut| cut.resets += 1);
    }
}

impl Drop for BlackHole {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

async fn listen(listener: TcpListener, to: String, cut: Arc<watch::Sender<Cut>>) {
    // Dropped, and so ended, together with the listener.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                // A client that has gone again, or no file descriptor left: the next one may come through.
                let Ok((client, _)) = accepted else { continue };
                connections.spawn(connection(client, to.clone(), cut.subscribe()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(client: TcpStream, to: String, cut: watch::Receiver<Cut>) {
    let resets = cut.borrow().resets;
    let mut reset = cut.clone();
    tokio::select! {
        // Errors end both directions: the other side sees a connection that breaks, as it would without a proxy.
        _ = pass(client, to, cut) => {}
        _ = reset.wait_for(|cut| cut.resets != resets) => {}
    }
}

async fn pass(client: TcpStream, to: String, mut cut: watch::Receiver<Cut>) -> std::io::Result<()> {
    // A connection is two-way from its first packet on.
    wait(&mut cut, |cut| !cut.requests && !cut.replies).await?;
    let node = TcpStream::connect(to).await?;
    client.set_nodelay(true)?;
    node.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_node, to_node) = node.into_split();
    tokio::try_join!(
        pump(from_client, to_node, cut.clone(), |cut| cut.requests),
        pump(from_node, to_client, cut, |cut| cut.replies),
    )?;
    Ok(())
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut cut: watch::Receiver<Cut>,
    is_cut: fn(&Cut) -> bool,
) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let mut noticed = cut.clone();
        let read = tokio::select! {
            read = from.read(&mut buffer) => Some(read),
            cut = wait(&mut noticed, is_cut) => {
                cut?;
                None
            }
        };
        // Also the end of a connection, and its breaking, wait until they can cross.
        wait(&mut cut, |cut| !is_cut(cut)).await?;
        match read.transpose()? {
            None => {}
            Some(0) => return to.shutdown().await,
            Some(length) => to.write_all(&buffer[..length]).await?,
        }
    }
}

/// Waits until what is cut satisfies a condition. Fails when the proxy is gone.
async fn wait(cut: &mut watch::Receiver<Cut>, condition: impl Fn(&Cut) -> bool) -> std::io::Result<()> {
    let waited = cut.wait_for(|cut| condition(cut)).await;
    waited.map(drop).map_err(std::io::Error::other)
}
